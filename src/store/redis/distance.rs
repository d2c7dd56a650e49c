//! How far away Redis is: whether the trips that a request needs one after the other fit into its deadline.
//!
//! `connect` measures a round trip with every connection; what is too far is said there, and by who rehearses.

use std::time::Duration;

/// What the first request of a key at a worker asks one after the other: whose the key is, its documents, the decision. Those that
/// follow make one trip.
const TRIPS: u32 = 3;

/// What is doubtful about a store that answers after `round_trip`, where all work of one request has `deadline`.
pub(super) fn doubt(round_trip: Duration, deadline: Duration) -> Option<String> {
    (round_trip * TRIPS > deadline).then(|| {
        format!(
            "a round trip takes {} ms, and the first request of a key at each worker makes {TRIPS} of them, for which there are {} ms: it \
             may be answered with 503; raise `store.deadline` above {} ms, or bring gate and Redis closer together",
            round_trip.as_millis(),
            deadline.as_millis(),
            (round_trip * (TRIPS + 1)).as_millis()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_trips_have_to_fit() {
        let ms = Duration::from_millis;
        assert_eq!(doubt(ms(33), ms(100)), None);
        let said = doubt(ms(60), ms(100)).unwrap_or_default();
        assert!(said.contains("takes 60 ms") && said.contains("above 240 ms"), "{said}");
    }
}
