//! Whether what is configured as one server is one node of a cluster, which has some of the keys alone: found out when it is
//! connected to, before anything is decided there.
//!
//! By answers to GET and MGET, which everybody here may ask: a login need not be allowed CLUSTER or INFO, a proxy before a cluster
//! leads the way itself and is as good as one server, and so is a cluster of one master.

use redis::{Cmd, Value, cmd};

use super::hash_slot::{SLOTS, slot_of};
use crate::store::StoreError;
use crate::store::layout::Layout;

/// In so many parts the slots are looked through. A node that has all of these has no other beside it that matters.
const PARTS: u16 = 16;

/// `ask` asks the server. What it refuses for another reason is no sign of anything.
pub(super) async fn refuse_one_of_a_cluster<A>(prefix: &str, ask: impl Fn(Cmd) -> A) -> Result<(), StoreError>
where
    A: Future<Output = Result<Value, StoreError>>,
{
    let keys = one_in_each_part(&Layout::new(prefix));
    // One question where there is no cluster: only such a server minds keys of several slots.
    if !is_refused(&ask(cmd("MGET").arg(&keys[..2]).take()).await, "CROSSSLOT") {
        return Ok(());
    }
    for key in &keys {
        if is_refused(&ask(cmd("GET").arg(key).take()).await, "MOVED") {
            return Err(one_of_a_cluster());
        }
    }
    Ok(())
}

/// What to do about it. Begins as the server says it.
pub(super) fn one_of_a_cluster() -> StoreError {
    let what = "MOVED: this is one node of a cluster, which has some of the keys only; name the cluster: \
        `store: {redis: {cluster: [redis://host:6379]}}`";
    StoreError::Refused(what.to_owned())
}

fn is_refused(answer: &Result<Value, StoreError>, code: &str) -> bool {
    matches!(answer, Err(StoreError::Refused(text)) if text.starts_with(code))
}

/// Names at which nothing stands.
fn one_in_each_part(layout: &Layout) -> Vec<String> {
    let names = |part| (0_u32..).map(|number| layout.in_slot(&format!("probe-{number}"), "none")).find(is_in(part));
    (0..PARTS).filter_map(names).collect()
}

fn is_in(part: u16) -> impl Fn(&String) -> bool {
    move |name| slot_of(name) / (SLOTS / PARTS) == part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_the_slots_is_asked_about() {
        let names = one_in_each_part(&Layout::new("sg"));
        assert_eq!(names.len(), usize::from(PARTS));
        assert!((0..PARTS).zip(&names).all(|(part, name)| is_in(part)(name)), "{names:?}");
    }
}
