//! What was said not long ago, so that one cause that fails request after request fills no log.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the same is not said again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Different things said in that time; more are too many to read.
const MOST: usize = 256;

/// One per process.
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<HashMap<String, Said>>);

#[derive(Debug)]
struct Said {
    at: Instant,
    /// How often it was kept back since.
    repeated: u64,
}

impl LogThrottle {
    /// Whether it may be said at `now`; from then on it has been.
    pub fn is_news(&self, what: &str, now: Instant) -> bool {
        self.news(what, now).is_some()
    }

    /// The same, with how often it was kept back since it was said last.
    pub fn news(&self, what: &str, now: Instant) -> Option<u64> {
        // Whole at every step.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |said: &Said| now.saturating_duration_since(said.at) < AGAIN_AFTER;
        if let Some(before) = said.get_mut(what).filter(|before| is_recent(before)) {
            before.repeated += 1;
            return None;
        }
        if said.len() >= MOST {
            said.retain(|name, said| name == what || is_recent(said));
        }
        if said.len() >= MOST && !said.contains_key(what) {
            return None;
        }
        let before = said.insert(what.to_owned(), Said { at: now, repeated: 0 });
        Some(before.map_or(0, |before| before.repeated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_said_once_a_minute_and_the_memory_of_it_is_bounded() {
        let (said, begin) = (LogThrottle::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for (what, seconds, news) in
            [("a", 0, true), ("a", 1, false), ("b", 1, true), ("a", 59, false), ("a", 60, true), ("b", 60, false)]
        {
            assert_eq!(said.is_news(what, at(seconds)), news, "{what} after {seconds} s");
        }
        assert_eq!((said.news("a", at(61)), said.news("a", at(120))), (None, Some(1)), "what was kept back is counted");
        let (said, begin) = (LogThrottle::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let told = (0..2 * MOST).filter(|i| said.is_news(&i.to_string(), at(60))).count();
        assert_eq!(told, MOST);
        assert!(said.is_news("later", at(120)), "what is past makes room");
    }
}
