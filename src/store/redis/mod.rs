//! The shared store: one Redis that all sidecars decide in.

mod dial;
pub mod documents;
mod settings;

pub use documents::RedisDocuments;
pub use settings::{Settings, UrlError};
