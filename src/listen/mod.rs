//! Client connections: accepted in one place, served by the worker with the fewest, ended gently.
//!
//! `accept` takes them in, `worker` is a thread with its own runtime, gate and upstream pools, `connection` speaks TLS and
//! HTTP on one of them, `client_addr` says whom it speaks for, `worker_state` is what requests are served by now, `drain`
//! ends them. For one connection: `proxy_protocol` reads who is behind a balancer, `monitored` is its stream, `watch` says how long
//! a client may take, `serving` has one request, `http1_turns` those of HTTP/1.1 one after the other, `streams` those of HTTP/2.
//! `refusal` and `descriptors` are for when there is no more capacity, `heartbeat` and `poll_on_wake` keep timers and rare work
//! cheap.

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
