//! How many keys one user may create, and how often change some: counted in the store, so that all sidecars share it exactly.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::gate::Denial;
use crate::limit::{Algorithm, Ask, BucketAsk, Outcome, Question, Windows};
use crate::store::layout::{count_name, user_slot};
use crate::store::{Store, StoreError};

/// No valid names of configured limits.
const CREATE: &str = "@create";
const CHANGE: &str = "@change";
/// Changes of one user: more than anybody needs, and so few that the audit, which keeps ten thousand, still tells what somebody
/// did some days ago.
const CHANGES: [&str; 2] = ["300/1m", "3000/1d"];
/// Longer than a request's, since a person waits for it.
const PATIENCE: Duration = Duration::from_secs(2);

pub struct UserRate {
    name: &'static str,
    /// As a denial names it.
    policy: &'static str,
    windows: Arc<Windows>,
}

impl UserRate {
    /// Of new keys.
    pub fn of_creations(windows: Arc<Windows>) -> Self {
        Self { name: CREATE, policy: "create-rate", windows }
    }

    /// Of changes and revocations.
    pub fn of_changes() -> Self {
        let windows = Arc::new(Windows::parse(CHANGES).expect("they are windows"));
        Self { name: CHANGE, policy: "change-rate", windows }
    }

    /// Counts what this user does, or denies it. During an outage it is denied.
    pub async fn spend(&self, store: &Store, user: &str) -> Result<(), Denial> {
        let bucket = BucketAsk {
            name: count_name(self.name, user).into(),
            algorithm: Algorithm::Fixed,
            windows: self.windows.clone(),
            observes: false,
        };
        let ask = Ask { slot: user_slot(user).into(), buckets: [bucket].into(), ..Ask::default() };
        let question = Question { asks: [ask].into(), cost: 1, n: 1 };
        let now = Instant::now();
        let answer = store.decide(&question, now, now + PATIENCE).await?;
        let Outcome::Spent { granted, windows, .. } = answer.outcome else {
            return Err(StoreError::Broken(format!("the count of what {user} does with keys")).into());
        };
        if granted > 0 {
            return Ok(());
        }
        let wait_ms = windows.iter().flatten().filter_map(|window| window.wait_ms).max();
        let retry_after = wait_ms.map(|ms| ms.div_ceil(1000).max(1));
        Err(Denial::RateLimited { retry_after, violated: vec![self.policy.to_owned()] })
    }
}
