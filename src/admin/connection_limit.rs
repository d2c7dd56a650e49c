//! Limits the connections of an operators' listener. Beyond the limit an old one is closed, not the new one, or a client
//! that holds all of them could keep out the kubelet, and have the pod restarted.
//!
//! It is the oldest of the address that has most. A client with one or two keeps them until there are as many addresses.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::listen::accept::Exhaustion;

/// The open connections of one listener.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: usize,
    next_number: Cell<u64>,
    /// In the order in which they were accepted.
    entries: RefCell<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    from: IpAddr,
    /// Dropping it tells the connection that its slot was given to another.
    _release: oneshot::Sender<Infallible>,
}

/// A connection's slot, until dropped.
#[derive(Debug)]
struct Slot {
    limit: Rc<ConnectionLimit>,
    number: u64,
    released: oneshot::Receiver<Infallible>,
}

impl ConnectionLimit {
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, next_number: Cell::default(), entries: RefCell::default() })
    }

    pub fn are_empty(&self) -> bool {
        self.entries.borrow().is_empty()
    }

    /// Accepts until dropped. Connections are served concurrently on this thread, each until it ends or its slot is
    /// needed. `failed` counts errors of accepting.
    pub async fn accept<C>(
        self: &Rc<Self>,
        listener: &TcpListener,
        serve: impl Fn(TcpStream, SocketAddr) -> C,
        failed: impl Fn(),
    ) where
        C: Future<Output = ()> + 'static,
    {
        let exhaustion = Exhaustion::default();
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (mut slot, served) = (self.take(peer.ip()), serve(stream, peer));
                    tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = served => {}
                            _ = &mut slot.released => {}
                        }
                    });
                }
                Err(error) => exhaustion.wait(&error, &failed).await,
            }
        }
    }

    fn take(self: &Rc<Self>, from: IpAddr) -> Slot {
        let (mut entries, from) = (self.entries.borrow_mut(), from.to_canonical());
        if entries.len() >= self.most
            && let Some(one) = to_evict(entries.iter().map(|one| one.from), from)
        {
            entries.remove(one);
        }
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let (release, released) = oneshot::channel();
        entries.push(Entry { number, from, _release: release });
        Slot { limit: self.clone(), number, released }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limit.entries.borrow_mut().retain(|one| one.number != self.number);
    }
}

/// Which connection, in the order in which they were accepted, is closed for a new one.
fn to_evict(from: impl Iterator<Item = IpAddr>, newcomer: IpAddr) -> Option<usize> {
    let mut held: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    for (index, address) in from.enumerate() {
        held.entry(address).or_insert((usize::from(address == newcomer), index)).0 += 1;
    }
    let most = held.into_values().max_by_key(|(held, oldest)| (*held, Reverse(*oldest)));
    most.map(|(_, oldest)| oldest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_address_that_has_most_goes() {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        for (from, newcomer, goes) in [
            (&[][..], 1, None),
            (&[1], 1, Some(0)),
            (&[1, 2, 3], 4, Some(0)),
            (&[1, 2, 3], 2, Some(1)),
            (&[1, 2, 3, 2], 4, Some(1)),
            (&[1, 1, 2, 2], 3, Some(0)),
        ] {
            let held = from.iter().map(|last| address(*last));
            assert_eq!(to_evict(held, address(newcomer)), goes, "{from:?}, then {newcomer}");
        }
    }

    #[test]
    fn a_place_is_free_again_once_it_is_dropped_and_whoever_lost_it_is_told() {
        let (limit, [flood, kubelet]) = (ConnectionLimit::new(2), [1, 2].map(|last| IpAddr::from([10, 0, 0, last])));
        let one = limit.take(flood);
        drop(one);
        assert!(limit.are_empty());
        let mut first = limit.take(flood);
        let mut second = limit.take(kubelet);
        let mut third = limit.take(flood);
        assert!(first.released.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(limit.entries.borrow().len(), 2);
        drop(first);
        let _fourth = limit.take(flood);
        assert!(
            second.released.try_recv() == Err(oneshot::error::TryRecvError::Empty),
            "it is not the one that has most"
        );
        assert!(third.released.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    }
}
