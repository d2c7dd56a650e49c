//! How many keys one user may create: counted in the store, so that all sidecars share it exactly.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::gate::Denial;
use crate::limit::{Algorithm, Ask, BucketAsk, Outcome, Question, Windows};
use crate::store::layout::{count_name, user_slot};
use crate::store::{Store, StoreError};

/// Not a valid name of a configured limit.
const NAME: &str = "@create";
/// Longer than a request's, since a person waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct CreateRate {
    windows: Arc<Windows>,
}

impl CreateRate {
    pub fn new(windows: Arc<Windows>) -> Self {
        Self { windows }
    }

    /// Counts a new key of this user, or denies it. During an outage it is denied.
    pub async fn spend(&self, store: &Store, user: &str) -> Result<(), Denial> {
        let bucket = BucketAsk {
            name: count_name(NAME, user).into(),
            algorithm: Algorithm::Fixed,
            windows: self.windows.clone(),
            observes: false,
        };
        let ask = Ask { slot: user_slot(user).into(), buckets: [bucket].into(), ..Ask::default() };
        let question = Question { asks: [ask].into(), cost: 1, n: 1 };
        let now = Instant::now();
        let answer = store.decide(&question, now, now + PATIENCE).await?;
        let Outcome::Spent { granted, windows, .. } = answer.outcome else {
            return Err(StoreError::Broken(format!("the count of the keys that {user} creates")).into());
        };
        if granted > 0 {
            return Ok(());
        }
        let wait_ms = windows.iter().flatten().filter_map(|window| window.wait_ms).max();
        let retry_after = wait_ms.map(|ms| ms.div_ceil(1000).max(1));
        Err(Denial::RateLimited { retry_after, violated: vec!["create-rate".to_owned()] })
    }
}
