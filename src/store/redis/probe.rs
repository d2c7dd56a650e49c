//! After a refusal or a missed deadline: repeats a call of the kind that failed until it is served. Without it a gate that is no
//! longer ready gets no requests, and would never learn that it could be.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::sleep;

use crate::limit::{Algorithm, Ask, BucketAsk, Question, Windows};
use crate::store::layout::count_name;
use crate::store::probing::ProbeGuard;
use crate::store::{StoreError, breaker};

pub(super) type ProbeFuture = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// What kind of call failed, as far as it matters to a server whether to serve it.
#[derive(Debug)]
pub(super) enum ProbeKind {
    /// GET of this key.
    Lookup(String),
    /// The script, which would have written nothing.
    Read(u16),
    /// The script, which would have counted.
    Count(u16),
}

impl ProbeKind {
    pub(super) fn of(slot: u16, questions: &[Question]) -> Self {
        let counts = |question: &Question| question.cost > 0 && question.buckets().next().is_some();
        if questions.iter().any(counts) { Self::Count(slot) } else { Self::Read(slot) }
    }
}

/// Calls `probe` with pauses until it is served. The future is boxed, since a probe may itself be refused, and spawn another.
pub(super) fn spawn(guard: ProbeGuard, probe: impl Fn() -> ProbeFuture + Send + 'static) {
    tokio::spawn(async move {
        let _guard = guard;
        for pause in breaker::pauses() {
            sleep(pause).await;
            match probe().await {
                Err(error) if error.is_outage() => {}
                _ => return,
            }
        }
    });
}

/// A count of the gate's own, which ends by itself soon after.
pub(super) fn counting_question(tag: &str) -> Vec<Question> {
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
