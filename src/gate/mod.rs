//! The decision: may this request pass, and if not, why. One file per question, in the order they are asked.
//!
//! `path` → `preflight` → (policy's routes) → `query` → `business` → `credential` → `standing` → `asks` ⇒ `permit` or `denial`. The rule
//! files are pure functions over plain data (`documents`, `trail`), `weigh` puts them together; `decide` alone awaits the store, for
//! keys in `decide/confirm`.
//! What gates remember stands in `records` (a worker's), `known`, `guessing` and `unknown` (the process's). Only this room can make a
//! `Permit`; of a denial that is only observed `observed` makes one.

pub mod asks;
pub mod business;
pub mod credential;
pub mod decide;
pub mod denial;
pub mod documents;
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
pub mod weigh;

pub use decide::{Gate, GateRequest, Oversize, SharedState};
pub use denial::Denial;
pub use guessing::Guessing;
pub use known::KnownKeys;
pub use permit::{Basis, Permit, Recheck};
pub use trail::{LimitNow, LimitsNow, Trail};
pub use unknown::UnknownNames;
