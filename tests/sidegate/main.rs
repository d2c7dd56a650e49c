//! Everything that sidegate shows from outside: the built binary, a real `redis-server`, real clients, a recording upstream.
//!
//! One test program, so that it links once. `support` holds what the tests stand on; `systems` drives each row of the five
//! real APIs against its profile; the other files take one theme each.

mod answers;
mod batching;
mod config;
mod connections;
mod cors;
mod credentials;
mod demo;
mod exactness;
mod forwarding;
mod grpc;
mod h2_upstreams;
mod limits;
mod operators;
mod outages;
mod paths;
mod shapes;
mod smuggling;
mod standing;
mod store;
mod streams;
mod support;
mod systems;
mod tls;
mod upgrades;
mod upstreams;
