//! How many connections a listener of this process's keepers has at most, and who goes when one more comes: not the one that
//! comes, or whoever holds all places would keep out the kubelet, and have the pod restarted.
//!
//! It is the oldest of the address that has most. Whoever has one or two then keeps them until there are as many addresses.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tracing::warn;

/// How long to leave `accept` alone when descriptors have run out.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// The places of one listener.
#[derive(Debug)]
pub struct Places {
    most: usize,
    given: Cell<u64>,
    /// In the order in which they were taken.
    taken: RefCell<Vec<Taken>>,
}

#[derive(Debug)]
struct Taken {
    number: u64,
    from: IpAddr,
    /// Dropped, it tells the connection that its place is another's.
    _held: oneshot::Sender<Infallible>,
}

/// A connection's place, until dropped.
#[derive(Debug)]
struct Place {
    places: Rc<Places>,
    number: u64,
    held: oneshot::Receiver<Infallible>,
}

impl Places {
    pub fn new(most: usize) -> Rc<Self> {
        Rc::new(Self { most, given: Cell::default(), taken: RefCell::default() })
    }

    pub fn are_empty(&self) -> bool {
        self.taken.borrow().is_empty()
    }

    /// Accepts until dropped. Each connection is served beside the others, on this thread, until that is over or its place is
    /// needed.
    pub async fn accept<C>(self: &Rc<Self>, listener: &TcpListener, serve: impl Fn(TcpStream, SocketAddr) -> C)
    where
        C: Future<Output = ()> + 'static,
    {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (mut place, served) = (self.take(peer.ip()), serve(stream, peer));
                    tokio::task::spawn_local(async move {
                        tokio::select! {
                            () = served => {}
                            _ = &mut place.held => {}
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "no connection can be accepted for now");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn take(self: &Rc<Self>, from: IpAddr) -> Place {
        let (mut taken, from) = (self.taken.borrow_mut(), from.to_canonical());
        if taken.len() >= self.most
            && let Some(one) = dispensable(taken.iter().map(|one| one.from), from)
        {
            taken.remove(one);
        }
        let number = self.given.get();
        self.given.set(number + 1);
        let (held_by, held) = oneshot::channel();
        taken.push(Taken { number, from, _held: held_by });
        Place { places: self.clone(), number, held }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.borrow_mut().retain(|one| one.number != self.number);
    }
}

/// Which of those who hold places, in the order in which they came, has to go for another.
fn dispensable(from: impl Iterator<Item = IpAddr>, comes: IpAddr) -> Option<usize> {
    let mut held: HashMap<IpAddr, (usize, usize)> = HashMap::new();
    for (index, address) in from.enumerate() {
        held.entry(address).or_insert((usize::from(address == comes), index)).0 += 1;
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
        for (from, comes, goes) in [
            (&[][..], 1, None),
            (&[1], 1, Some(0)),
            (&[1, 2, 3], 4, Some(0)),
            (&[1, 2, 3], 2, Some(1)),
            (&[1, 2, 3, 2], 4, Some(1)),
            (&[1, 1, 2, 2], 3, Some(0)),
        ] {
            let held = from.iter().map(|last| address(*last));
            assert_eq!(dispensable(held, address(comes)), goes, "{from:?}, then {comes}");
        }
    }

    #[test]
    fn a_place_is_free_again_once_it_is_dropped_and_whoever_lost_it_is_told() {
        let (places, [flood, kubelet]) = (Places::new(2), [1, 2].map(|last| IpAddr::from([10, 0, 0, last])));
        let one = places.take(flood);
        drop(one);
        assert!(places.are_empty());
        let mut first = places.take(flood);
        let mut second = places.take(kubelet);
        let mut third = places.take(flood);
        assert!(first.held.try_recv() == Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(places.taken.borrow().len(), 2);
        drop(first);
        let _fourth = places.take(flood);
        assert!(second.held.try_recv() == Err(oneshot::error::TryRecvError::Empty), "it is not the one that has most");
        assert!(third.held.try_recv() == Err(oneshot::error::TryRecvError::Closed));
    }
}
