//! Limits as pure arithmetic: windows, buckets, and what a request asks of them. No clock, no I/O, no tokio, no redis.
//!
//! `window` is what a configuration says; `ask` is the question one request puts to a store and the answer it gets, `asks` how
//! it lies in memory; `bucket` is what a store keeps; `spend` is the arithmetic, `fold` takes an answer to several apart. The same
//! arithmetic stands once more in Lua (`store/redis/scripts/decide.lua`); a differential test holds the two together.

pub mod ask;
pub mod asks;
pub mod bucket;
pub mod fold;
pub mod spend;
pub mod window;

pub use ask::{
    Answer, Ask, Believed, BucketAsk, BucketsNow, Document, Member, Outcome, Question, WindowNow, WindowsNow,
};
pub use asks::{Asks, Text};
pub use bucket::Bucket;
pub use spend::spend;
pub use window::{Algorithm, Window, Windows, WindowsError};
