//! From a request to its answer: `service` is the pipeline, one screen; the gate decides in its middle.
//!
//! The files in the order in which a request meets them, each naming only those before it: `head` checks what HTTP requires, and
//! `management` takes requests to the key-management API. `headers` sets what the upstream gets, `upload` streams the request's
//! body, `upstream` exchanges it for an answer, and `upgrade` checks a 101. `open` ends an open request whose key is no longer
//! valid, `body` is the response body, `tunnel` an upgraded connection. `respond` turns denials into answers, `cors` lets
//! browsers read them, and `request_record` logs and counts each request once, however it ends.
//!
//! Bodies are streamed, not buffered: `truncated_body` tells one that broke off from one that ended. `connector` and `resolve`
//! reach a server, `exchange` makes a single request to one.

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
