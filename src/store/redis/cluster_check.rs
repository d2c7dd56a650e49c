//! Refuses a server that is configured as standalone but is one node of a cluster, which has some of the keys alone: checked with
//! every new connection, before anything is decided there.
//!
//! By the answers to GET and MGET, which every login here may use: it need not be allowed CLUSTER or INFO. A proxy before a cluster
//! follows redirects itself and is as good as one server, and so is a cluster of one master.

use redis::{Cmd, Value, cmd};

use super::hash_slot::{SLOTS, slot_of};
use crate::store::StoreError;
use crate::store::layout::Layout;

/// How many keys are tried, evenly spread over the slots. A node that has all of them has no other beside it that matters.
const PARTS: u16 = 16;

/// `query` sends one command. What the server refuses for another reason is no sign of anything.
pub(super) async fn refuse_cluster_member<A>(prefix: &str, query: impl Fn(Cmd) -> A) -> Result<(), StoreError>
where
    A: Future<Output = Result<Value, StoreError>>,
{
    let keys = one_key_per_part(&Layout::new(prefix));
    // One command where there is no cluster: only a cluster's node refuses keys of several slots.
    if !is_refused(&query(cmd("MGET").arg(&keys[..2]).take()).await, "CROSSSLOT") {
        return Ok(());
    }
    for key in &keys {
        if is_refused(&query(cmd("GET").arg(key).take()).await, "MOVED") {
            return Err(cluster_member_error());
        }
    }
    Ok(())
}

/// Says what to do about it. Begins with the server's own code.
pub(super) fn cluster_member_error() -> StoreError {
    let what = "MOVED: this is one node of a cluster, which has some of the keys only; name the cluster: \
        `store: {redis: {cluster: [redis://host:6379]}}`";
    StoreError::Refused(what.to_owned())
}

fn is_refused(answer: &Result<Value, StoreError>, code: &str) -> bool {
    matches!(answer, Err(StoreError::Refused(text)) if text.starts_with(code))
}

/// Names at which nothing stands.
fn one_key_per_part(layout: &Layout) -> Vec<String> {
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
    fn every_part_of_the_slots_is_tried() {
        let names = one_key_per_part(&Layout::new("sg"));
        assert_eq!(names.len(), usize::from(PARTS));
        assert!((0..PARTS).zip(&names).all(|(part, name)| is_in(part)(name)), "{names:?}");
    }
}
