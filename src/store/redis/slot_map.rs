//! Which node of a cluster serves which slot, by what the nodes say: the map that each gives, and its redirects.

use redis::{Value, cmd};
use tokio::time::timeout;

use super::dial::dial;
use super::errors::query;
use super::hash_slot::SLOTS;
use super::settings::{Address, Settings};
use crate::store::StoreError;

/// Asks one node, over a connection of its own.
pub(super) async fn read_slot_map(settings: &Settings, address: &Address) -> Result<SlotMap, StoreError> {
    let (connection, _driver) = dial(settings, address).await?;
    let slots = cmd("CLUSTER").arg("SLOTS").take();
    let slots = timeout(settings.connect_timeout, query::<Value>(&connection, &slots))
        .await
        .unwrap_or(Err(StoreError::Deadline))?;
    let unreadable = || StoreError::Broken("the cluster's map".to_owned());
    SlotMap::read(&slots, address).ok_or_else(unreadable)
}

/// Which master serves which slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SlotMap(Vec<(u16, u16, Address)>);

impl SlotMap {
    /// What CLUSTER SLOTS says: first, last, master, replicas. An address that is left out is that of the node asked.
    pub(super) fn read(slots: &Value, asked: &Address) -> Option<Self> {
        let Value::Array(ranges) = slots else { return None };
        let mut map = Vec::with_capacity(ranges.len());
        for range in ranges {
            let Value::Array(range) = range else { return None };
            let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else { return None };
            let [host, Value::Int(port), ..] = master.as_slice() else { return None };
            let host = match host {
                Value::BulkString(host) if !host.is_empty() && host != b"?" => String::from_utf8(host.clone()).ok()?,
                _ => asked.host.clone(),
            };
            let number = |number: &i64| u16::try_from(*number).ok();
            map.push((number(first)?, number(last)?, Address { host, port: number(port)? }));
        }
        map.sort_unstable();
        Some(Self(map))
    }

    pub(super) fn master(&self, slot: u16) -> Option<&Address> {
        let after = self.0.partition_point(|(first, ..)| *first <= slot);
        let (_, last, address) = self.0.get(after.checked_sub(1)?)?;
        (slot <= *last).then_some(address)
    }

    /// Whether every slot has a master.
    pub(super) fn is_whole(&self) -> bool {
        let served: u32 = self.0.iter().map(|(first, last, _)| u32::from(last.saturating_sub(*first)) + 1).sum();
        served >= u32::from(SLOTS)
    }

    pub(super) fn masters(&self) -> Vec<Address> {
        let mut masters: Vec<_> = self.0.iter().map(|(.., address)| address.clone()).collect();
        masters.sort_unstable();
        masters.dedup();
        masters
    }
}

/// An error that says where or when to send the command instead.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    Moved(Address),
    Ask(Address),
    TryAgain,
}

impl Redirect {
    pub(super) fn of(error: &StoreError, asked: &Address) -> Option<Self> {
        let StoreError::Refused(text) = error else { return None };
        let mut words = text.split_ascii_whitespace();
        let code = words.next()?;
        let mut address = || {
            let (host, port) = words.nth(1)?.rsplit_once(':')?;
            let host = if host.is_empty() { &asked.host } else { host.trim_matches(['[', ']']) };
            Some(Address { host: host.to_owned(), port: port.parse().ok()? })
        };
        match code {
            "MOVED" => address().map(Self::Moved),
            "ASK" => address().map(Self::Ask),
            "TRYAGAIN" => Some(Self::TryAgain),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_read() {
        let asked = Address { host: "a".to_owned(), port: 1 };
        let read = |text: &str| Redirect::of(&StoreError::Refused(text.to_owned()), &asked);
        let address = |host: &str, port| Address { host: host.to_owned(), port };
        assert_eq!(read("MOVED 3999 127.0.0.1:6381"), Some(Redirect::Moved(address("127.0.0.1", 6381))));
        assert_eq!(read("ASK 3999 :6381"), Some(Redirect::Ask(address("a", 6381))));
        assert_eq!(read("MOVED 3999 ::1:6381"), Some(Redirect::Moved(address("::1", 6381))));
        assert_eq!(read("TRYAGAIN Multiple keys request"), Some(Redirect::TryAgain));
        assert_eq!(read("CLUSTERDOWN Hash slot not served"), None);
    }

    #[test]
    fn a_slot_that_nobody_serves_has_no_master() {
        let address = Address { host: "a".to_owned(), port: 1 };
        let map = SlotMap(vec![(0, 9, address.clone()), (20, 29, address.clone())]);
        assert_eq!([9, 10, 20, 30].map(|slot| map.master(slot).is_some()), [true, false, true, false]);
        assert_eq!(map.masters(), std::slice::from_ref(&address));
        assert!(!map.is_whole() && SlotMap(vec![(0, 99, address.clone()), (100, SLOTS - 1, address)]).is_whole());
    }
}
