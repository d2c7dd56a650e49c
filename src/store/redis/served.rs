//! After a refusal, or an answer that did not come: asks for the like of what failed, until that is served. Without it a gate that is
//! no longer ready gets no requests, and would never learn that it could be.

use std::pin::Pin;
use std::sync::Arc;

use redis::cmd;
use tokio::time::{Instant, sleep};

use super::cluster::slot_of;
use super::line::Line;
use crate::limit::{Algorithm, Ask, BucketAsk, Question, Windows};
use crate::store::layout::count_name;
use crate::store::refusal::Probing;
use crate::store::{StoreError, breaker};

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

    async fn ask(&self, line: &Line) -> Result<(), StoreError> {
        let deadline = Instant::now() + line.health().probe_deadline();
        match self {
            Self::Lookup(key) => line.get(slot_of(key), cmd("GET").arg(key), deadline).await.map(drop),
            Self::Reading(slot) => line.ask_slot(*slot, &[], deadline).await.map(drop),
            Self::Counting(slot) => {
                let question = counted(&line.tag_in(*slot));
                // Twice: a count that is there already is changed by another command than the one that begins it.
                line.ask_slot(*slot, &question, deadline).await?;
                line.ask_slot(*slot, &question, deadline).await.map(drop)
            }
        }
    }
}

/// Probes on a worker's line. Boxed, since what probes may itself be refused, and begin this.
pub(super) fn begin(line: Line, like: Like, probing: Probing) {
    let probed: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        let _probing = probing;
        for pause in breaker::pauses() {
            sleep(pause).await;
            match like.ask(&line).await {
                Err(error) if error.is_outage() => {}
                _ => return,
            }
        }
    });
    tokio::spawn(probed);
}

/// A count of the gate's own, which ends by itself soon after.
fn counted(tag: &str) -> Vec<Question> {
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
