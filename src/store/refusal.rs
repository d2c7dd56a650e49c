//! Records nodes that answer and refuse, for the log and readiness.
//!
//! Part of `StoreHealth`; probing is in `probing`. Nothing here is on the path of a request that is answered.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::StoreError;
use crate::log_throttle::LogThrottle;

/// One per process.
#[derive(Debug, Default)]
pub struct Refusal {
    /// The nodes that are probed, with the error code of each; `None`: it gave no answer.
    probed: Mutex<BTreeMap<String, Option<String>>>,
    // Mirrors `probed`, so that a scrape takes no lock while no node refuses.
    stands: AtomicBool,
    throttle: LogThrottle,
}

impl Refusal {
    /// Whether any node refuses.
    pub fn stands(&self) -> bool {
        self.stands.load(Ordering::Relaxed)
    }

    /// Whether this node does.
    pub fn is_of(&self, node: &str) -> bool {
        self.stands() && self.probed().get(node).is_some_and(Option::is_some)
    }

    /// The error code of a node that refuses.
    pub fn code(&self) -> Option<String> {
        self.probed().values().flatten().next().cloned()
    }

    /// Records a failed call at this node. Whether it is not probed yet, so that the caller has to.
    pub(super) fn begin(&self, node: &str, error: &StoreError) -> bool {
        if let StoreError::Refused(text) = error {
            self.log(text);
        }
        let refused = error.code().map(str::to_owned);
        self.change(|probed| {
            let begins = !probed.contains_key(node);
            let known = probed.entry(node.to_owned()).or_default();
            *known = refused.or(known.take());
            begins
        })
    }

    /// The node serves again, or its prober has ended.
    pub(super) fn end(&self, node: &str) {
        self.change(|probed| probed.remove(node));
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Option<String>>) -> T) -> T {
        let mut probed = self.probed();
        let changed = change(&mut probed);
        self.stands.store(probed.values().any(Option::is_some), Ordering::Relaxed);
        changed
    }

    fn probed(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        // Consistent even when poisoned.
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs the server's error, once a minute for each cause.
    fn log(&self, text: &str) {
        // Redis appends the place in the script to a script's error, which is no other cause.
        let cause = text.split(" script: ").next().unwrap_or_default();
        if self.throttle.is_news(cause, Instant::now()) {
            tracing::warn!(
                error = text,
                "store: it answers and refuses; requests that need it are treated as `store.outage` says"
            );
        }
    }
}

/// Advice for an operator whose server refuses connections, by its error.
pub fn advice(said: &str) -> &'static str {
    let starts = |code| said.starts_with(code);
    let says = |words| said.contains(words);
    if starts("NOAUTH") {
        "it wants a login: set `store.username` and `store.password`"
    } else if starts("WRONGPASS")
        || says("invalid password")
        || says("without any password configured")
        || says("no password is set")
    {
        "compare `store.username` and `store.password` with the users that it knows (`ACL LIST`)"
    } else if starts("NOPERM") {
        "give the user the commands and keys that the README lists under Redis (`ACL SETUSER`)"
    } else if starts("DENIED") {
        "it is in protected mode: give it a password, and write that to `store.password`"
    } else if starts("LOADING") {
        "it is asked again until it has loaded its data"
    } else if starts("READONLY") || starts("MASTERDOWN") {
        "name the master, or let sentinels name it: `store: {redis: {sentinels: […], master: …}}`"
    } else if says("max number of clients") {
        "raise its `maxclients`, or use fewer `workers`"
    } else {
        "its own words say what to mend; it is asked again until then"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_helps_depends_on_what_is_said() {
        for (said, helps) in [
            ("NOAUTH Authentication required.", "set `store.username`"),
            ("WRONGPASS invalid username-password pair or user is disabled.", "ACL LIST"),
            ("ERR invalid password", "ACL LIST"),
            ("ERR Client sent AUTH, but no password is set", "ACL LIST"),
            ("NOPERM User gate has no permissions to run the 'role' command", "ACL SETUSER"),
            ("DENIED Redis is running in protected mode because", "protected mode"),
            ("LOADING Redis is loading the dataset in memory", "has loaded"),
            ("READONLY this is a replica, which may not decide", "sentinels"),
            ("ERR max number of clients reached", "maxclients"),
            ("MOVED: this is one node of a cluster", "asked again"),
        ] {
            assert!(advice(said).contains(helps), "{said}: {}", advice(said));
        }
    }
}
