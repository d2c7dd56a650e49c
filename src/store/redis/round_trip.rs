//! Whether the round trips that a request makes one after the other fit into its deadline.
//!
//! `connection` measures a round trip with every new connection and logs the warning; `check` prints it.

use std::time::Duration;

/// Those of a key's first request at a worker: whose the key is, its documents, the decision. Later requests make one.
const ROUND_TRIPS: u32 = 3;

/// The warning about a store that answers after `round_trip`, where all store work of one request has `deadline`.
pub(super) fn warning(round_trip: Duration, deadline: Duration) -> Option<String> {
    (round_trip * ROUND_TRIPS > deadline).then(|| {
        format!(
            "a round trip takes {} ms, and the first request of a key at each worker makes {ROUND_TRIPS} of them, for which there are {} ms: it \
             may be answered with 503; raise `store.deadline` above {} ms, or bring gate and Redis closer together",
            round_trip.as_millis(),
            deadline.as_millis(),
            (round_trip * (ROUND_TRIPS + 1)).as_millis()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_round_trips_have_to_fit() {
        let ms = Duration::from_millis;
        assert_eq!(warning(ms(33), ms(100)), None);
        let text = warning(ms(60), ms(100)).unwrap_or_default();
        assert!(text.contains("takes 60 ms") && text.contains("above 240 ms"), "{text}");
    }
}
