//! Everything that sidegate shows from outside: the built binary, a real `redis-server`, real clients, a recording upstream.
//!
//! One test program, so that it links once. `support` holds what the tests stand on; `systems` drives each row of the five
//! real APIs against its profile; the other files take one theme each.

mod access_log;
mod answers;
mod app_probes;
mod backends;
mod batching;
mod bounds;
mod broken;
mod config;
mod connections;
mod cors;
mod credentials;
mod demo;
mod exactness;
mod floods;
mod forwarding;
mod frames;
mod gone;
mod grpc;
mod h2_clients;
mod h2_upstreams;
mod inject;
mod keys_life;
mod life;
mod limits;
mod logs;
mod manage;
mod marked;
mod mutual_tls;
mod observe;
mod operators;
mod outages;
mod paths;
mod prometheus;
mod proxied;
mod reload;
mod rotation;
mod shapes;
mod skew;
mod smuggling;
mod standing;
mod store;
mod streams;
mod support;
mod systems;
mod telemetry;
mod tls;
mod tools;
mod topology;
mod traces;
mod unreadable;
mod upgrades;
mod upstreams;
mod usage;
