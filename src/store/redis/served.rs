//! After a refusal, or an answer that did not come: asks for the like of what failed, until that is served. Without it a gate that is
//! no longer ready gets no requests, and would never learn that it could be.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::sleep;

use crate::limit::{Algorithm, Ask, BucketAsk, Question, Windows};
use crate::store::layout::count_name;
use crate::store::probing::Probing;
use crate::store::{StoreError, breaker};

pub(super) type Asking = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// What failed, as far as it matters to a server whether to serve it.
#[derive(Debug)]
pub(super) enum Like {
    /// GET of this key.
    Lookup(String),
    /// The script, which would have written nothing.
    Reading(u16),
    /// The script, which would have counted.
    Counting(u16),
}

impl Like {
    pub(super) fn of(slot: u16, questions: &[Question]) -> Self {
        let counts = |question: &Question| question.cost > 0 && question.buckets().next().is_some();
        if questions.iter().any(counts) { Self::Counting(slot) } else { Self::Reading(slot) }
    }
}

/// Asks again and again, until that is served. The future is boxed, since what asks may itself be refused, and begin this.
pub(super) fn begin(probing: Probing, ask: impl Fn() -> Asking + Send + 'static) {
    tokio::spawn(async move {
        let _probing = probing;
        for pause in breaker::pauses() {
            sleep(pause).await;
            match ask().await {
                Err(error) if error.is_outage() => {}
                _ => return,
            }
        }
    });
}

/// A count of the gate's own, which ends by itself soon after.
pub(super) fn counted(tag: &str) -> Vec<Question> {
    let windows = Windows::parse(["1000/1s"]).expect("the window is a valid one");
    let bucket = BucketAsk {
        name: count_name("probe", "gate").into(),
        algorithm: Algorithm::Fixed,
        windows: Arc::new(windows),
        observes: false,
    };
    let ask = Ask { slot: tag.into(), buckets: [bucket].into_iter().collect(), ..Ask::default() };
    vec![Question { asks: [ask].into(), cost: 1, n: 1 }]
}
