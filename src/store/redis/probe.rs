//! After a refusal or a missed deadline: repeats a call of the kind that failed until it is served. Without it a gate that is no
//! longer ready gets no requests, and would never learn that it could be.

use std::pin::Pin;
use std::sync::Arc;

use tokio::time::sleep;

use crate::limit::{Algorithm, Ask, BucketAsk, Question, Text, Windows};
use crate::store::probing::ProbeGuard;
use crate::store::{StoreError, breaker, layout};

pub(super) type ProbeFuture = Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>;

/// What kind of call failed, as far as it matters to a server whether to serve it.
#[derive(Debug)]
pub(super) enum ProbeKind {
    /// GET of this key.
    Lookup(String),
    /// The script, which would have written nothing.
    Read(u16),
    /// The script, which would have counted under this hash tag.
    Count { slot: u16, tag: Text },
}

impl ProbeKind {
    pub(super) fn of(slot: u16, questions: &[Question]) -> Self {
        let mut asks = questions.iter().filter(|question| question.cost > 0).flat_map(|question| question.asks.iter());
        match asks.find(|ask| !ask.buckets.is_empty()) {
            Some(ask) => Self::Count { slot, tag: ask.slot.clone() },
            None => Self::Read(slot),
        }
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
pub(super) fn counting_question(tag: &Text) -> Vec<Question> {
    let windows = Windows::parse(["1000/1s"]).expect("the window is a valid one");
    let bucket = BucketAsk {
        name: layout::PROBE.into(),
        algorithm: Algorithm::Fixed,
        windows: Arc::new(windows),
        observes: false,
    };
    let ask = Ask { slot: tag.clone(), buckets: [bucket].into_iter().collect(), ..Ask::default() };
    vec![Question { asks: [ask].into(), cost: 1, n: 1 }]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elsewhere the gate's login may not write.
    #[test]
    fn where_no_bucket_is_asked_for_the_script_writes_where_probes_count() {
        assert!(super::super::script::DECIDE.contains(&format!("'{}'", layout::PROBE)));
    }

    #[test]
    fn what_counted_is_probed_under_its_own_hash_tag_and_all_else_without_a_count() {
        let counting = counting_question(&"b:acme".into());
        let free = Question { cost: 0, ..counting[0].clone() };
        let no_limit = Question { asks: [Ask { slot: "b:other".into(), ..Ask::default() }].into(), cost: 1, n: 1 };
        let questions = [free, no_limit, counting[0].clone()];
        let ProbeKind::Count { slot: 7, tag } = ProbeKind::of(7, &questions) else { panic!("the last one counts") };
        assert_eq!(&*tag, "b:acme");
        assert!(matches!(ProbeKind::of(7, &questions[..2]), ProbeKind::Read(7)));
    }
}
