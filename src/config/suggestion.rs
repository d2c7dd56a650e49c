//! The known name that somebody probably meant.

use std::cmp::Reverse;

/// `did you mean `per-key`?`, or what there is, or that there is none.
pub fn advice<'a>(name: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> String {
    if let Some(suggestion) = nearest(name, known.clone()) {
        return format!("did you mean `{suggestion}`?");
    }
    let all: Vec<_> = known.into_iter().map(|name| format!("`{name}`")).collect();
    if all.is_empty() { "none is defined".to_owned() } else { format!("write one of {}", all.join(", ")) }
}

/// The closest of `known`, if it is close: a third of the letters may differ, rounded up, and at most three.
fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = name.chars().count().div_ceil(3).clamp(1, 3);
    // Without regard to case; letters swapped with their neighbour are one slip.
    let distance = |candidate: &str| strsim::osa_distance(&name.to_lowercase(), &candidate.to_lowercase());
    let distances = known.into_iter().map(|candidate| (distance(candidate), candidate));
    let close = distances.filter(|(distance, _)| *distance <= most);
    // Of two that are equally close, the one that begins alike.
    let alike = |candidate: &str| name.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).count();
    close.min_by_key(|(distance, candidate)| (*distance, Reverse(alike(candidate)))).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("per-kye", ["per-key", "per-business"]), Some("per-key"));
        assert_eq!(nearest("forms", ["from", "formats"]), Some("formats"));
        assert_eq!(nearest("kye", ["key", "ip"]), Some("key"));
        assert_eq!(nearest("adress", ["address", "admin"]), Some("address"));
        assert_eq!(nearest("Limits", ["limits"]), Some("limits"));
        assert_eq!(nearest("signup", ["per-key"]), None);
        assert_eq!(advice("signup", ["per-key"]), "write one of `per-key`");
        assert_eq!(advice("signup", []), "none is defined");
    }
}
