//! Client connections: accepted in one place, served by the worker with the fewest, drained at shutdown.
//!
//! `accept` is the accept loop, `worker` a thread with its own runtime, gate and upstream pools, `connection` speaks TLS and HTTP
//! on one connection, `client_addr` finds the client's address, `worker_state` holds the current context, `drain` signals
//! shutdown. For one connection: `proxy_protocol` reads a load balancer's header, `monitored` is its stream, `watch` enforces
//! timeouts, `serving` serves one request, `http1_turns` is the state of HTTP/1.1, `streams` that of HTTP/2. `refusal` and
//! `descriptors` deal with too many connections, `heartbeat` and `poll_on_wake` keep timers and rare events cheap.

pub mod accept;
pub mod client_addr;
pub mod connection;
pub mod descriptors;
pub mod drain;
pub mod heartbeat;
mod http1_turns;
pub mod monitored;
pub mod poll_on_wake;
pub mod proxy_protocol;
pub mod pulse;
pub mod refusal;
pub mod serving;
pub mod settings;
pub mod streams;
pub mod tls;
pub mod watch;
pub mod worker;
pub mod worker_state;
