//! Identical questions asked as one: what each of them would have been answered, had it been asked by itself.
//!
//! The store is told that `n` ask, and answers how many pass and where the windows stand after all of these. Who came first
//! is granted first, and sees the windows as they stood after it: fuller by what those behind it took.

use super::{Algorithm, Answer, Outcome, Question, WindowNow};

/// What those who stand at `from..from + n` among the askers of `question` are answered, of the `answer` to all.
pub fn share(question: &Question, answer: &Answer, from: u32, n: u32) -> Answer {
    let Outcome::Spent { granted, windows, observed } = &answer.outcome else { return answer.clone() };
    let (mine, behind) = seats(*granted, from, n);
    let (mut windows, mut observed) = (windows.clone(), observed.clone());
    let mut passed = observed.iter_mut();
    for (bucket, standing) in question.buckets().zip(&mut windows) {
        let mut behind = behind;
        if bucket.observes
            && let Some(passed) = passed.next()
        {
            (*passed, behind) = seats(*passed, from, mine);
        }
        if behind > 0 && question.cost > 0 {
            let taken = question.cost.saturating_mul(u64::from(behind));
            for (window, now) in bucket.windows.as_slice().iter().zip(standing) {
                before(bucket.algorithm, window.limit, window.duration_ms, taken, now);
            }
        }
    }
    Answer { now_ms: answer.now_ms, outcome: Outcome::Spent { granted: mine, windows, observed } }
}

/// Of the first `passed` of all, how many are among those at `from..from + n`, and how many come behind these.
fn seats(passed: u32, from: u32, n: u32) -> (u32, u32) {
    let mine = passed.saturating_sub(from).min(n);
    (mine, if mine == 0 { 0 } else { passed - from - mine })
}

/// Puts the window back to where it stood before `taken` was, when there was still room for it. Saturating, since the numbers
/// come from a store.
fn before(algorithm: Algorithm, limit: u64, duration_ms: u64, taken: u64, now: &mut WindowNow) {
    now.remaining = now.remaining.saturating_add(taken);
    now.wait_ms = Some(0);
    if algorithm == Algorithm::Token {
        let limit = limit.max(1);
        let level_at = now.reset_ms.saturating_sub(now.owed.div_ceil(limit));
        now.owed = now.owed.saturating_sub(taken.saturating_mul(duration_ms));
        now.reset_ms = level_at + now.owed.div_ceil(limit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::{Ask, Bucket, BucketAsk, Windows, spend};
    use super::*;

    /// A multiple of every duration used here.
    const START: u64 = 1_774_276_200_000;

    fn question(cost: u64, limits: (u64, u64), algorithms: (Algorithm, Algorithm)) -> Question {
        let bucket = |name: &str, algorithm, windows: String, observes| {
            let windows = Windows::parse(windows.split(", ")).expect("the test's windows are valid");
            BucketAsk { name: name.into(), algorithm, windows: Arc::new(windows), observes }
        };
        let first = bucket("count:a:x", algorithms.0, format!("{}/3s, {}/10s", limits.0, limits.1), false);
        let second = bucket("count:b:y", algorithms.1, format!("{}/7s", limits.1), false);
        let third = bucket("count:c:z", algorithms.1, format!("{}/5s", limits.0), true);
        let ask = |buckets: Vec<_>| Ask { buckets: buckets.into(), ..Ask::default() };
        Question { asks: [ask(vec![third, first]), ask(vec![second])].into(), cost, n: 1 }
    }

    /// Counts in these buckets, one for each that the question names.
    fn answer(buckets: &mut Vec<Bucket>, question: &Question, now_ms: u64, n: u32) -> Answer {
        let mut held: Vec<_> = std::mem::take(buckets).into_iter().zip(question.buckets()).collect();
        let outcome = spend(&mut held, now_ms, question.cost, n);
        *buckets = held.into_iter().map(|(bucket, _)| bucket).collect();
        Answer { now_ms, outcome }
    }

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        prop_oneof![Just(Algorithm::Fixed), Just(Algorithm::Sliding), Just(Algorithm::Token)]
    }

    proptest! {
        #[test]
        fn each_of_a_fold_is_answered_as_if_it_had_asked_by_itself(
            algorithms in (algorithm(), algorithm()),
            limits in (0_u64..40, 1_u64..60),
            steps in prop::collection::vec(
                (-500_i64..2500, 0_u64..5, prop::collection::vec(1_u32..4, 1..12)), 1..40,
            ),
        ) {
            let mut folded = vec![Bucket::default(); 3];
            let mut single = folded.clone();
            let mut at = START;
            for (step, cost, seats) in steps {
                at = at.saturating_add_signed(step);
                let question = question(cost, limits, algorithms);
                let all = answer(&mut folded, &question, at, seats.iter().sum());
                let mut from = 0;
                for n in seats {
                    prop_assert_eq!(share(&question, &all, from, n), answer(&mut single, &question, at, n));
                    from += n;
                }
                prop_assert_eq!(&folded, &single);
            }
        }
    }

    #[test]
    fn what_is_not_spent_goes_to_all_alike() {
        let question = question(1, (1, 1), (Algorithm::Fixed, Algorithm::Fixed));
        for outcome in [Outcome::Expired, Outcome::Refused, Outcome::Stale(vec![vec![None], vec![]])] {
            let answer = Answer { now_ms: START, outcome };
            assert_eq!(share(&question, &answer, 3, 1), answer);
        }
    }
}
