//! From a request to its answer: `service` is the pipeline, one screen; the gate decides in its middle.
//!
//! The files in the order in which a request meets them, each naming only those before it: `head` checks what HTTP itself demands,
//! and `management` takes what is for key management. What is permitted streams up through `upload`, with its `headers` kept clean;
//! `upstream` gets it an answer, whose 101 `upgrade` grants or not. `open` ends what is open when its key no longer stands, `body`
//! is what the client gets, and `tunnel` what an upgraded connection becomes. `respond` puts a denial into words, `cors` lets
//! browsers read what the gate says, and `request_record` tells of each request once, however it ends.
//!
//! Nothing is buffered: `truncated_body` tells a body that broke off from one that ended. `connector` and `resolve` reach a server,
//! `exchange` asks one thing of it.

pub mod arrival;
pub mod body;
pub mod close_reason;
pub mod connector;
pub mod cors;
pub mod exchange;
pub mod grpc;
pub mod head;
pub mod headers;
mod hygiene;
pub mod management;
pub mod on_this_thread;
pub mod open;
pub mod request_body;
pub mod request_id;
pub mod request_info;
pub mod request_record;
pub mod resolve;
pub mod respond;
pub mod service;
pub mod settings;
pub mod truncated_body;
pub mod tunnel;
pub mod upgrade;
pub mod upload;
pub mod upstream;

pub use arrival::Arrival;
pub use management::ManagementQueue;
pub use open::OpenRequests;
pub use service::Service;
pub use upstream::Upstreams;
