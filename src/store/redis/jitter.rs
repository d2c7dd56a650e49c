//! Waits of random length, so that workers do not act in step.

use std::time::Duration;

/// How long to wait before the next attempt: any part of `most`, so that workers that lost a connection at the same moment do not
/// reconnect at the same moment.
pub(super) fn jitter(most: Duration) -> Duration {
    // Without randomness, half.
    let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
    most.mul_f64(f64::from(drawn) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_millis(50);

    #[test]
    fn delays_differ_and_are_never_longer_than_the_most() {
        let delays: Vec<_> = (0..100).map(|_| jitter(MOST)).collect();
        assert!(delays.iter().all(|delay| *delay <= MOST));
        assert!(delays.iter().max() > delays.iter().min());
    }
}
