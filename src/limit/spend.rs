//! The arithmetic of limits: how much room a window has, what spending leaves, and when there is room again.
//!
//! Whole numbers below 2⁵³ alone, and the same formulae as `store/redis/scripts/decide.lua`: who changes one changes both, and
//! `tests/differential` tells whether they agree.
//!
//! All three algorithms are measured in *units*, so that no formula needs a fraction: a request costs `unit` units, 1 in a
//! fixed window and `duration_ms` in the others; a token bucket of 60/1m refills 60 units in each millisecond.

use super::bucket::{Bucket, Entry};
use super::{Algorithm, BucketAsk, BucketsNow, Outcome, Window, WindowNow, WindowsNow};

/// Spends `cost` from every window of every bucket, up to `n` times: as often as all of them have room, and equally often
/// from each. A cost of 0 changes nothing and is always granted. No bucket may be named twice.
///
/// A bucket that observes has no say in how often, and takes from that what it has room for.
///
/// Returns how often, and where each window stands then.
pub fn spend(buckets: &mut [(Bucket, &BucketAsk)], now_ms: u64, cost: u64, n: u32) -> Outcome {
    let enforced = buckets.iter().filter(|(_, ask)| !ask.observes);
    let granted = enforced.fold(n, |n, (bucket, ask)| fitting(bucket, ask, now_ms, cost, n));
    let (mut windows, mut observed) = (BucketsNow::with_capacity(buckets.len()), Vec::new());
    for (bucket, ask) in buckets {
        let mut passed = granted;
        if ask.observes {
            passed = fitting(bucket, ask, now_ms, cost, granted);
            observed.push(passed);
        }
        windows.push(settle(bucket, ask, now_ms, cost, cost.saturating_mul(u64::from(passed))));
    }
    Outcome::Spent { granted, windows, observed }
}

/// How many of `n` fit into every window of the bucket.
fn fitting(bucket: &Bucket, ask: &BucketAsk, now_ms: u64, cost: u64, n: u32) -> u32 {
    let mut fitting = u64::from(n);
    for window in ask.windows.as_slice().iter().filter(|_| cost > 0) {
        let entry = advanced(bucket, ask.algorithm, *window, now_ms);
        let fits = if cost > window.limit { 0 } else { free(&entry, window.limit, now_ms) / (cost * unit(&entry)) };
        fitting = fitting.min(fits);
    }
    u32::try_from(fitting).unwrap_or(n)
}

/// Takes `spent` from each window of one bucket and says where they stand.
fn settle(bucket: &mut Bucket, ask: &BucketAsk, now_ms: u64, cost: u64, spent: u64) -> WindowsNow {
    let mut windows = WindowsNow::with_capacity(ask.windows.as_slice().len());
    for window in ask.windows.as_slice() {
        let mut entry = advanced(bucket, ask.algorithm, *window, now_ms);
        if spent > 0 {
            entry.used += spent * if ask.algorithm == Algorithm::Token { window.duration_ms } else { 1 };
            match bucket.position(ask.algorithm, window.duration_ms) {
                Some(at) => bucket.entries[at] = entry,
                None => bucket.entries.push(entry),
            }
        }
        windows.push(WindowNow {
            remaining: free(&entry, window.limit, now_ms) / unit(&entry),
            reset_ms: reset(&entry, window.limit, now_ms),
            wait_ms: wait(&entry, window.limit, cost, now_ms),
            owed: if ask.algorithm == Algorithm::Token { entry.used } else { 0 },
        });
    }
    if spent > 0 {
        bucket.prune(ask, now_ms);
    }
    windows
}

/// The window's state at `now_ms`, before anything is spent. A mark ahead of `now_ms` (the store's clock went back after a
/// failover) stays, by up to one duration: nothing that was counted is given back early.
fn advanced(bucket: &Bucket, algorithm: Algorithm, window: Window, now_ms: u64) -> Entry {
    let fresh = Entry::fresh(algorithm, window.duration_ms, now_ms);
    let Some(at) = bucket.position(algorithm, window.duration_ms) else { return fresh };
    let old = bucket.entries[at];
    if old.is_ahead(now_ms) {
        return fresh;
    }
    match algorithm {
        Algorithm::Fixed if old.mark_ms < fresh.mark_ms => fresh,
        Algorithm::Sliding if old.mark_ms + old.duration_ms == fresh.mark_ms => Entry { previous: old.used, ..fresh },
        Algorithm::Sliding if old.mark_ms < fresh.mark_ms => fresh,
        Algorithm::Fixed | Algorithm::Sliding => old,
        Algorithm::Token => {
            // Capped before it drains, so that a lowered limit leaves no debt.
            let used = old.used.min(window.limit * window.duration_ms);
            let elapsed = now_ms.saturating_sub(old.mark_ms).min(window.duration_ms);
            Entry { mark_ms: old.mark_ms.max(now_ms), used: used.saturating_sub(elapsed * window.limit), ..old }
        }
    }
}

fn unit(entry: &Entry) -> u64 {
    if entry.algorithm == Algorithm::Fixed { 1 } else { entry.duration_ms }
}

/// The units that are free.
fn free(entry: &Entry, limit: u64, now_ms: u64) -> u64 {
    let duration = entry.duration_ms;
    match entry.algorithm {
        Algorithm::Fixed => limit.saturating_sub(entry.used),
        Algorithm::Sliding => {
            let elapsed = now_ms.saturating_sub(entry.mark_ms);
            let estimate = entry.previous * (duration - elapsed) + entry.used * duration;
            (limit * duration).saturating_sub(estimate)
        }
        Algorithm::Token => (limit * duration).saturating_sub(entry.used),
    }
}

/// When the window is full again; a fixed window's end.
fn reset(entry: &Entry, limit: u64, now_ms: u64) -> u64 {
    match entry.algorithm {
        Algorithm::Fixed => entry.mark_ms + entry.duration_ms,
        Algorithm::Sliding if entry.used > 0 => entry.mark_ms + 2 * entry.duration_ms,
        Algorithm::Sliding if entry.previous > 0 => entry.mark_ms + entry.duration_ms,
        Algorithm::Token if entry.used > 0 => entry.mark_ms + entry.used.div_ceil(limit),
        Algorithm::Sliding | Algorithm::Token => now_ms,
    }
}

/// In how many milliseconds `cost` fits if nobody else spends.
fn wait(entry: &Entry, limit: u64, cost: u64, now_ms: u64) -> Option<u64> {
    if cost == 0 {
        return Some(0);
    }
    if cost > limit {
        return None;
    }
    let lacking = (cost * unit(entry)).saturating_sub(free(entry, limit, now_ms));
    if lacking == 0 {
        return Some(0);
    }
    let at_ms = match entry.algorithm {
        Algorithm::Fixed => entry.mark_ms + entry.duration_ms,
        Algorithm::Sliding => slid_at(entry, limit - cost),
        Algorithm::Token => entry.mark_ms + lacking.div_ceil(limit),
    };
    Some(at_ms - now_ms)
}

/// When a sliding window that has too little room has slid so far that no more than `most` are left in the estimate.
fn slid_at(entry: &Entry, most: u64) -> u64 {
    let duration = entry.duration_ms;
    if entry.used <= most {
        // What lies in the way is the previous window, which is gone at the latest when the current one ends.
        entry.mark_ms + duration - (most - entry.used) * duration / entry.previous
    } else {
        // The current window alone is too much: it has to become the previous one first.
        entry.mark_ms + 2 * duration - most * duration / entry.used
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::Windows;
    use super::*;

    /// A multiple of every duration used here, so that windows start when the tests do.
    const START: u64 = 1_774_276_200_000;

    fn ask(algorithm: Algorithm, windows: &str) -> BucketAsk {
        let windows = Arc::new(Windows::parse(windows.split(", ")).expect("the test's windows are valid"));
        BucketAsk { name: "count:test:k".into(), algorithm, windows, observes: false }
    }

    /// One bucket and who asks it: what most tests need.
    struct One(Bucket);

    impl One {
        fn spend(&mut self, ask: &BucketAsk, now_ms: u64, cost: u64, n: u32) -> (u32, Vec<WindowNow>) {
            let mut buckets = [(std::mem::take(&mut self.0), ask)];
            let Outcome::Spent { granted, mut windows, .. } = spend(&mut buckets, now_ms, cost, n) else {
                panic!("it is spent")
            };
            let [(bucket, _)] = buckets;
            self.0 = bucket;
            (granted, windows.remove(0).into_vec())
        }
    }

    fn now(remaining: u64, reset_ms: u64, wait_ms: Option<u64>) -> WindowNow {
        WindowNow { remaining, reset_ms, wait_ms, owed: 0 }
    }

    #[test]
    fn a_fixed_window_gives_all_back_at_its_end() {
        let (mut one, ask) = (One(Bucket::default()), ask(Algorithm::Fixed, "3/10s"));
        assert_eq!(one.spend(&ask, START + 1, 1, 2), (2, vec![now(1, START + 10_000, Some(0))]));
        assert_eq!(one.spend(&ask, START + 2, 1, 2), (1, vec![now(0, START + 10_000, Some(9998))]));
        assert_eq!(one.spend(&ask, START + 9999, 1, 1), (0, vec![now(0, START + 10_000, Some(1))]));
        assert_eq!(one.spend(&ask, START + 10_000, 1, 1), (1, vec![now(2, START + 20_000, Some(0))]));
    }

    #[test]
    fn a_sliding_window_counts_the_share_of_the_previous_one() {
        let (mut one, ask) = (One(Bucket::default()), ask(Algorithm::Sliding, "10/10s"));
        assert_eq!(one.spend(&ask, START, 1, 10), (10, vec![now(0, START + 20_000, Some(11_000))]));
        // One millisecond before the wait is over there is not quite room for one.
        assert_eq!(one.spend(&ask, START + 10_999, 1, 1).0, 0);
        assert_eq!(one.spend(&ask, START + 11_000, 1, 1), (1, vec![now(0, START + 30_000, Some(1000))]));
        assert_eq!(one.spend(&ask, START + 15_000, 1, 9).0, 4);
    }

    #[test]
    fn a_token_bucket_refills_evenly() {
        let (mut one, ask) = (One(Bucket::default()), ask(Algorithm::Token, "10/10s"));
        assert_eq!(
            one.spend(&ask, START, 1, 12),
            (10, vec![WindowNow { owed: 100_000, ..now(0, START + 10_000, Some(1000)) }])
        );
        assert_eq!(one.spend(&ask, START + 999, 1, 1).0, 0);
        assert_eq!(
            one.spend(&ask, START + 1500, 1, 1),
            (1, vec![WindowNow { owed: 95_000, ..now(0, START + 11_000, Some(500)) }])
        );
        assert_eq!(one.spend(&ask, START + 11_000, 0, 1), (1, vec![now(10, START + 11_000, Some(0))]));
    }

    /// Each as if it alone were beside those that enforce: what these deny is counted nowhere.
    #[test]
    fn a_bucket_that_observes_denies_nobody_and_counts_what_it_has_room_for() {
        let enforced = ask(Algorithm::Fixed, "5/10s");
        let [tight, wide] = ["2/10s", "9/10s"].map(|w| BucketAsk { observes: true, ..ask(Algorithm::Fixed, w) });
        let mut buckets = [(Bucket::default(), &tight), (Bucket::default(), &enforced), (Bucket::default(), &wide)];
        let mut spent = |n| {
            let Outcome::Spent { granted, windows, observed } = spend(&mut buckets, START, 1, n) else {
                panic!("it is spent")
            };
            let remaining: Vec<_> = windows.iter().map(|windows| windows[0].remaining).collect();
            (granted, observed, remaining)
        };
        assert_eq!(spent(1), (1, vec![1, 1], vec![1, 4, 8]));
        assert_eq!(spent(3), (3, vec![1, 3], vec![0, 1, 5]));
        assert_eq!(spent(3), (1, vec![0, 1], vec![0, 0, 4]));
        assert_eq!(spent(1), (0, vec![0, 0], vec![0, 0, 4]));
    }

    #[test]
    fn a_closed_limit_and_a_cost_above_the_limit_never_pass() {
        for algorithm in [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token] {
            let mut one = One(Bucket::default());
            let (granted, windows) = one.spend(&ask(algorithm, "0/1s"), START, 1, 5);
            assert_eq!((granted, windows[0].remaining, windows[0].wait_ms), (0, 0, None));
            let (granted, windows) = one.spend(&ask(algorithm, "5/1s"), START, 6, 1);
            assert_eq!((granted, windows[0].remaining, windows[0].wait_ms), (0, 5, None));
            assert_eq!(one.0, Bucket::default());
        }
    }

    #[test]
    fn a_cost_of_zero_reads_and_changes_nothing() {
        let (mut one, ask) = (One(Bucket::default()), ask(Algorithm::Fixed, "3/10s, 5/1m"));
        one.spend(&ask, START, 3, 1);
        let before = one.0.clone();
        let (granted, windows) = one.spend(&ask, START + 1, 0, 7);
        assert_eq!(granted, 7);
        assert_eq!(windows, [now(0, START + 10_000, Some(0)), now(2, START + 60_000, Some(0))]);
        assert_eq!(one.0, before);
    }

    #[test]
    fn a_clock_that_went_back_gives_nothing_back() {
        for algorithm in [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token] {
            let (mut one, ask) = (One(Bucket::default()), ask(algorithm, "4/10s"));
            assert_eq!(one.spend(&ask, START + 10_000, 1, 4).0, 4);
            for back_at in [START, START + 3000] {
                let (granted, windows) = one.spend(&ask, back_at, 1, 1);
                assert_eq!((granted, windows[0].remaining), (0, 0), "{algorithm:?}");
            }
            let (_, windows) = one.spend(&ask, START + 3000, 1, 1);
            let wait = windows[0].wait_ms.expect("the cost is within the limit");
            assert_eq!(one.spend(&ask, START + 3000 + wait, 1, 1).0, 1, "{algorithm:?}");
        }
    }

    #[test]
    fn a_clock_that_went_back_by_more_than_a_window_begins_anew() {
        for algorithm in [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token] {
            let (mut one, asked) = (One(Bucket::default()), ask(algorithm, "4/10s"));
            one.spend(&ask(algorithm, "9/7s"), START + 86_400_000, 1, 9);
            assert_eq!(one.spend(&asked, START + 86_400_000, 1, 4).0, 4);
            let (granted, windows) = one.spend(&asked, START, 1, 5);
            assert_eq!((granted, windows[0].remaining), (4, 0), "{algorithm:?}");
            assert!(windows[0].wait_ms.is_some_and(|wait| wait <= 20_000), "{algorithm:?}: {windows:?}");
            assert_eq!(one.0.entries.len(), 1, "what another asker counted then ends too");
            assert!(one.0.ends_ms() <= START + 20_000, "{algorithm:?}");
        }
    }

    #[test]
    fn a_lowered_limit_leaves_no_debt_in_a_token_bucket() {
        let mut one = One(Bucket::default());
        one.spend(&ask(Algorithm::Token, "1000/10s"), START, 1000, 1);
        let (_, windows) = one.spend(&ask(Algorithm::Token, "10/10s"), START, 1, 1);
        assert_eq!(windows[0].wait_ms, Some(1000));
        assert_eq!(one.spend(&ask(Algorithm::Token, "20/10s"), START + 500, 1, 9).0, 1, "a raised limit acts at once");
    }

    #[test]
    fn a_changed_limit_acts_mid_window_and_keeps_the_count() {
        for algorithm in [Algorithm::Fixed, Algorithm::Sliding] {
            let mut one = One(Bucket::default());
            assert_eq!(one.spend(&ask(algorithm, "10/1m"), START, 1, 8).0, 8);
            assert_eq!(one.spend(&ask(algorithm, "5/1m"), START + 1, 1, 1).0, 0);
            assert_eq!(one.spend(&ask(algorithm, "12/1m"), START + 2, 1, 9).0, 4);
        }
    }

    #[test]
    fn windows_that_the_asker_does_not_know_stay_until_they_end() {
        let mut one = One(Bucket::default());
        one.spend(&ask(Algorithm::Fixed, "9/1m"), START, 4, 1);
        one.spend(&ask(Algorithm::Token, "9/1s, 9/10s"), START + 1, 1, 1);
        assert_eq!(one.0.entries.len(), 3);
        assert_eq!(one.0.ends_ms(), START + 60_000);
        assert_eq!(one.spend(&ask(Algorithm::Fixed, "9/1m"), START + 2000, 1, 9).0, 5);
        assert_eq!(one.0.entries.len(), 2, "the token bucket of one second has ended");
    }

    #[test]
    fn what_one_window_denies_no_bucket_pays() {
        let (wide, narrow) = (ask(Algorithm::Fixed, "100/1m, 100/1h"), ask(Algorithm::Token, "2/1m"));
        let mut buckets = [(Bucket::default(), &wide), (Bucket::default(), &narrow)];
        let Outcome::Spent { granted, windows, .. } = spend(&mut buckets, START, 1, 5) else { panic!("it is spent") };
        assert_eq!(granted, 2);
        assert_eq!(windows[0].iter().map(|w| w.remaining).collect::<Vec<_>>(), [98, 98]);
        assert_eq!(windows[1][0].wait_ms, Some(30_000));
        let before = buckets.clone();
        assert!(matches!(spend(&mut buckets, START, 1, 5), Outcome::Spent { granted: 0, .. }));
        assert_eq!(buckets, before);
    }

    fn algorithm() -> impl Strategy<Value = Algorithm> {
        prop_oneof![Just(Algorithm::Fixed), Just(Algorithm::Sliding), Just(Algorithm::Token)]
    }

    proptest! {
        #[test]
        fn a_fixed_window_never_admits_more_than_its_limit(
            limit in 1_u64..20,
            steps in prop::collection::vec((0_u64..3000, 1_u64..4, 1_u32..5), 1..80),
        ) {
            let ask = ask(Algorithm::Fixed, &format!("{limit}/7s"));
            let (mut one, mut at, mut admitted) = (One(Bucket::default()), START, std::collections::HashMap::new());
            for (step, cost, n) in steps {
                at += step;
                let (granted, _) = one.spend(&ask, at, cost, n);
                let sum = admitted.entry(at / 7000).or_insert(0);
                *sum += cost * u64::from(granted);
                prop_assert!(*sum <= limit);
                prop_assert!(granted == n || *sum + cost > limit, "room was refused");
            }
        }

        /// As where one node takes over from another, again and again.
        #[test]
        fn clocks_that_differ_by_less_than_a_window_never_admit_more_than_the_limit(
            limit in 1_u64..20,
            steps in prop::collection::vec((0_u64..900, 0_u64..7000, 1_u64..4, 1_u32..5), 1..80),
        ) {
            let asks = [Algorithm::Fixed, Algorithm::Sliding, Algorithm::Token].map(|a| ask(a, &format!("{limit}/7s")));
            for ask in asks {
                let (mut one, mut at, mut admitted) = (One(Bucket::default()), START, std::collections::HashMap::new());
                let mut last_mark = 0;
                for &(step, skew, cost, n) in &steps {
                    at += step;
                    let (granted, _) = one.spend(&ask, at + skew, cost, n);
                    let Some(entry) = one.0.entries.first() else { continue };
                    prop_assert!(entry.mark_ms >= last_mark, "nothing begins anew");
                    last_mark = entry.mark_ms;
                    let sum = admitted.entry(last_mark).or_insert(0);
                    *sum += cost * u64::from(granted);
                    prop_assert!(*sum <= limit);
                }
            }
        }

        #[test]
        fn retry_after_is_the_truth(
            algorithm in algorithm(),
            limits in (1_u64..50, 1_u64..80),
            steps in prop::collection::vec((0_u64..2500, 1_u64..6, 1_u32..8), 1..60),
        ) {
            let ask = ask(algorithm, &format!("{}/3s, {}/10s", limits.0, limits.1));
            let (mut one, mut at) = (One(Bucket::default()), START);
            for (step, cost, n) in steps {
                at += step;
                let (granted, windows) = one.spend(&ask, at, cost, n);
                let waits: Option<Vec<u64>> = windows.iter().map(|w| w.wait_ms).collect();
                let Some(wait) = waits.map(|w| w.into_iter().max().unwrap_or(0)) else {
                    prop_assert!(cost > limits.0.min(limits.1));
                    continue;
                };
                prop_assert!(granted == n || wait > 0);
                for later in [wait, wait.div_ceil(1000) * 1000] {
                    prop_assert_eq!(One(one.0.clone()).spend(&ask, at + later, cost, 1).0, 1);
                }
                if wait > 0 {
                    prop_assert_eq!(One(one.0.clone()).spend(&ask, at + wait - 1, cost, 1).0, 0);
                }
            }
        }

        #[test]
        fn remaining_and_reset_are_the_truth(
            algorithm in algorithm(),
            limit in 1_u64..50,
            steps in prop::collection::vec((0_u64..2500, 1_u64..6, 1_u32..8), 1..60),
        ) {
            let ask = ask(algorithm, &format!("{limit}/3s"));
            let (mut one, mut at) = (One(Bucket::default()), START);
            for (step, cost, n) in steps {
                at += step;
                let (_, windows) = one.spend(&ask, at, cost, n);
                let more = One(one.0.clone()).spend(&ask, at, 1, u32::MAX).0;
                prop_assert_eq!(u64::from(more), windows[0].remaining);
                let full = One(one.0.clone()).spend(&ask, windows[0].reset_ms, 1, u32::MAX).0;
                prop_assert_eq!(u64::from(full), limit);
            }
        }

        #[test]
        fn folding_n_asks_into_one_is_the_same_as_asking_n_times(
            algorithm in algorithm(),
            steps in prop::collection::vec((0_u64..2500, 1_u64..4, 1_u32..6), 1..40),
        ) {
            let ask = ask(algorithm, "9/3s, 20/10s");
            let (mut folded, mut single, mut at) = (One(Bucket::default()), One(Bucket::default()), START);
            for (step, cost, n) in steps {
                at += step;
                let (granted, windows) = folded.spend(&ask, at, cost, n);
                let answers: Vec<_> = (0..n).map(|_| single.spend(&ask, at, cost, 1)).collect();
                prop_assert_eq!(granted, answers.iter().map(|a| a.0).sum::<u32>());
                prop_assert_eq!(&windows, &answers[answers.len() - 1].1);
                prop_assert_eq!(&folded.0, &single.0);
            }
        }
    }
}
