//! Limits as pure arithmetic: windows, buckets, and what a request asks of them. No clock, no I/O, no tokio, no redis.
//!
//! `window` is what a configuration says; `question` is what one request puts to a store and the answer it gets, `ask` the part of it in one
//! slot, `asks` and `text` how those lie in memory; `bucket` is what a store keeps; `spend` is the arithmetic, `fold` takes an answer to several apart. The same
//! arithmetic stands once more in Lua (`store/redis/scripts/decide.lua`); a differential test holds the two together.

pub mod ask;
pub mod asks;
pub mod bucket;
pub mod fold;
pub mod question;
pub mod spend;
pub mod text;
pub mod window;

pub use ask::{Ask, Believed, BucketAsk, Document, Member};
pub use asks::Asks;
pub use bucket::Bucket;
pub use question::{Answer, BucketsNow, Outcome, Question, WindowNow, WindowsNow};
pub use spend::spend;
pub use text::Text;
pub use window::{Algorithm, Window, Windows, WindowsError};
