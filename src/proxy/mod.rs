//! From a request to its answer: `service` is the pipeline, one screen; the gate decides in its middle.
//!
//! `head` checks what HTTP itself demands, `headers` keeps them clean, `upstream` forwards a `Permit`, `respond` puts a
//! denial into words. Nothing is buffered: bodies stream both ways through `body`. What is for key management goes to `desk`.

pub mod arrival;
pub mod arriving;
pub mod body;
pub mod connector;
pub mod desk;
pub mod head;
pub mod headers;
mod hygiene;
pub mod request_id;
pub mod respond;
pub mod service;
pub mod settings;
pub mod upstream;

pub use arrival::Arrival;
pub use desk::Desk;
pub use service::Service;
pub use upstream::Upstreams;
