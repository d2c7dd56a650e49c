//! The decision: may this request pass, and if not, why. One file per check, in the order they are made.
//!
//! `path` → `preflight` → (policy's routes) → `query` → `business` → `credential` → `standing` → `asks` ⇒ `permit` or `denial`.
//! The rule files are pure functions over plain data (`documents`, `trail`), `evaluate` puts them together; `decide` alone awaits
//! the store, for keys in `decide/confirm`. State is kept in `records` (per worker), `known`, `guessing` and `unknown` (per
//! process). Only this module can make a `Permit`; from an observed denial `observed` makes one.

pub mod asks;
pub mod business;
pub mod credential;
pub mod decide;
pub mod denial;
pub mod documents;
pub mod evaluate;
pub mod guessing;
pub mod known;
pub mod observed;
pub mod path;
pub mod permit;
pub mod preflight;
pub mod query;
pub mod records;
pub mod sharded;
pub mod standing;
pub mod trail;
pub mod unknown;

pub use decide::{Gate, GateRequest, Oversize, SharedState};
pub use denial::Denial;
pub use guessing::Guessing;
pub use known::KnownKeys;
pub use permit::{Basis, Permit, Recheck};
pub use trail::{LimitNow, LimitsNow, Trail};
pub use unknown::UnknownNames;
