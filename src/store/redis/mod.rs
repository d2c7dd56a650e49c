//! The shared store: one Redis that all sidecars decide in.

mod dial;
pub mod documents;
pub mod script;
mod settings;

pub use documents::RedisDocuments;
pub use settings::{Settings, UrlError};
