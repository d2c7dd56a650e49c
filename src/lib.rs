//! sidegate stands beside a service and decides which requests reach it: a reverse proxy that terminates TLS, reads an API key,
//! asks Redis whether it stands, maps the route to the scopes that it needs, and enforces limits that all sidecars share.
//!
//! # The way of one request
//!
//! ```text
//! listen     accept → TLS → HTTP/1.1 or HTTP/2 → client address
//! gate       path → route → credential → record → standing (plan, business, scope) → limits  ⇒  Permit | Denial
//!            (a denial that is only observed is a Permit that says so)
//! proxy      Permit → header hygiene and identity → upstream → response with rate-limit headers
//! observe    one metric update, one log line, one span
//! ```
//!
//! Walk it yourself: [`listen::connection`] has the bytes, [`proxy::service`] is the pipeline on one screen, [`gate::decide`]
//! asks the questions in their order, [`store`] answers in one call, [`proxy::upstream`] forwards what the gate permitted,
//! [`proxy::open`] asks again about what stays open, and [`proxy::respond`] words what the gate did not permit.
//!
//! # The rooms, from the ground up
//!
//! A room names only those above it in this list, and within a room no files name each other in a circle; `tests/walls` holds
//! both.
//!
//! - [`secret`], [`clock`], [`log_throttle`], [`network`], [`keep_alive`], [`client_tls`]: text that is never printed; time as
//!   documents write it; what a log need not say again so soon; networks as everybody writes them; how connections to servers are
//!   kept, and TLS towards them.
//! - [`limit`]: windows, buckets, and what a request asks of them. Pure arithmetic; the same stands in Lua, and a differential
//!   test keeps the two alike.
//! - [`keys`]: how a key looks, how one is minted, what a new one must have. Only digests go further than the gate.
//! - [`policy`]: what the YAML means, compiled: routes, scopes, plans, the words of a denial.
//! - [`store`]: where keys and counts live: Redis, or a file beside one process.
//! - [`gate`]: the decision. It alone makes a [`gate::Permit`], and without one nothing is forwarded; nor is it where denials are
//!   only observed, which one file there (`gate/observed`) turns into permits.
//! - [`observe`]: metrics, logs and traces.
//! - [`proxy`]: from a request to its answer.
//! - [`listen`]: connections, workers, and how they end.
//! - [`admin`]: the operators' listeners.
//! - [`manage`]: keeping keys over HTTP by those who are signed in, and what needs the gate's eyes: what is left of a key's limits.
//! - [`inject`]: the gate put into pods, by an admission webhook or offline.
//! - [`config`]: one YAML file into each room's settings, or everything that is wrong with it.
//! - [`reload`]: when that file says something else, and what of it can act at once.
//! - [`process`]: one process from its settings to its exit.
//! - [`cli`]: the command line.
//!
//! # Threads
//!
//! One worker per core, each with a runtime, a gate, a memory of keys, a store connection and upstream pools of its own, so that
//! a request meets no lock that is held across an await and wakes no other thread. Accepting, operators and signals have the
//! main thread, key management over HTTP one of its own.

#![forbid(unsafe_code)]
// They panic when their reader has gone; `cli::out` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod cli;
pub mod client_tls;
pub mod clock;
pub mod config;
pub mod gate;
pub mod inject;
pub mod keep_alive;
pub mod keys;
pub mod limit;
pub mod listen;
pub mod log_throttle;
pub mod manage;
pub mod network;
pub mod observe;
pub mod policy;
pub mod process;
pub mod proxy;
pub mod reload;
pub mod secret;
pub mod store;
