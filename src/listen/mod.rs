//! Client connections: accepted in one place, served by the worker with the fewest, ended gently.
//!
//! `accept` takes them in, `worker` is a thread with its own runtime, gate and upstream pools, `connection` speaks TLS and
//! HTTP on one of them, `client_addr` says whom it speaks for, `live` is what requests are served by now, `heartbeat` keeps
//! their timers cheap, `drain` ends them.

pub mod accept;
pub mod client_addr;
pub mod connection;
pub mod drain;
pub mod heartbeat;
pub mod live;
pub mod settings;
pub mod tls;
pub mod worker;
