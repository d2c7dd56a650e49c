//! From a request to its answer: `service` is the pipeline, one screen; the gate decides in its middle.
//!
//! `head` checks what HTTP itself demands, `headers` keeps them clean, `upstream` forwards a `Permit`, `respond` puts a
//! denial into words. Nothing is buffered: bodies stream up through `upload` and back through `body`, `cut` tells one that
//! broke off from one that ended, `upgrade` opens tunnels, and `open` ends what is open when its key no longer stands. `request_record`
//! tells of each request once, however it ends. `cors` lets browsers read what the gate says. `management` takes what is for key
//! management.

pub mod arrival;
pub mod body;
pub mod connector;
pub mod cors;
pub mod cut;
pub mod ending;
pub mod exchange;
pub mod grpc;
pub mod head;
pub mod headers;
mod hygiene;
pub mod management;
pub mod open;
pub mod request_body;
pub mod request_id;
pub mod request_info;
pub mod request_record;
pub mod respond;
pub mod service;
pub mod settings;
pub mod upgrade;
pub mod upload;
pub mod upstream;

pub use arrival::Arrival;
pub use management::ManagementQueue;
pub use open::OpenRequests;
pub use service::Service;
pub use upstream::Upstreams;
