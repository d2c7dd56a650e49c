//! Resolves an upstream's name: one worker's cache of the last answer, which is never used when it is old.
//!
//! A lookup belongs to the resolver, not to a request: the system's resolver holds a thread until it has an answer, whether or
//! not anybody still waits, so that the next lookup starts only when the one before has ended.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// After this the name is looked up again in the background, while requests still use the answer.
const FRESH: Duration = Duration::from_secs(30);
/// After this the answer is not used: addresses are reassigned, in a cluster within minutes.
const USABLE: Duration = Duration::from_secs(60);
/// A connection that fails has the name looked up again, but not more often than this.
const RETRY_AFTER: Duration = Duration::from_secs(1);

type Addresses = Rc<[SocketAddr]>;
/// A lookup's result, cloned for all who wait; `io::Error` cannot be.
type Resolved = Result<Addresses, (io::ErrorKind, String)>;
type Lookup = fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>;

pub struct Resolver {
    host: String,
    port: u16,
    lookup: Lookup,
    /// The host is an IP address; it is never looked up.
    literal: bool,
    answer: RefCell<Option<Resolution>>,
    /// The lookup in flight, which all connections that need an answer wait for.
    in_flight: RefCell<Option<watch::Receiver<Option<Resolved>>>>,
}

struct Resolution {
    addresses: Addresses,
    at: Instant,
}

impl Resolver {
    /// `host` may be an address; an IPv6 one in brackets, as in a URL.
    pub fn new(host: &str, port: u16) -> Self {
        Self::with(host, port, |host, port| Box::pin(system(host, port)))
    }

    fn with(host: &str, port: u16, lookup: Lookup) -> Self {
        let host = host.trim_matches(['[', ']']).to_owned();
        let literal: Option<IpAddr> = host.parse().ok();
        let own = |address| Resolution { addresses: Rc::from([SocketAddr::new(address, port)]), at: Instant::now() };
        let answer = RefCell::new(literal.map(own));
        Self { host, port, lookup, literal: literal.is_some(), answer, in_flight: RefCell::default() }
    }

    /// The addresses to connect to, in the resolver's order.
    pub async fn addresses(self: &Rc<Self>) -> io::Result<Addresses> {
        self.keep_fresh();
        match self.known(USABLE) {
            Some(addresses) => Ok(addresses),
            None => self.ask(USABLE).await,
        }
    }

    /// After all of `tried` have failed: the name's addresses now, if they differ.
    pub async fn other_than(self: &Rc<Self>, tried: &[SocketAddr]) -> Option<Addresses> {
        let now = if self.literal { None } else { self.ask(RETRY_AFTER).await.ok() };
        now.filter(|addresses| **addresses != *tried)
    }

    /// Whether the last answer holds this address.
    pub fn names(&self, address: &SocketAddr) -> bool {
        self.literal || self.answer.borrow().as_ref().is_some_and(|answer| answer.addresses.contains(address))
    }

    /// Looks the name up in the background once the answer is no longer fresh.
    pub fn keep_fresh(self: &Rc<Self>) {
        // A name that cannot be resolved now keeps its last answer until that is too old.
        if self.known(FRESH).is_none() && self.answer.borrow().is_some() {
            self.shared_lookup();
        }
    }

    fn known(&self, not_older_than: Duration) -> Option<Addresses> {
        let answer = self.answer.borrow();
        let usable = |answer: &&Resolution| self.literal || answer.at.elapsed() < not_older_than;
        answer.as_ref().filter(usable).map(|answer| answer.addresses.clone())
    }

    /// The name's addresses, looked up unless there is an answer not older than this.
    async fn ask(self: &Rc<Self>, not_older_than: Duration) -> io::Result<Addresses> {
        if let Some(addresses) = self.known(not_older_than) {
            return Ok(addresses);
        }
        let mut shared_lookup = self.shared_lookup();
        let answered = shared_lookup.wait_for(Option::is_some).await.ok().and_then(|answered| answered.clone());
        let given_up = || Err((io::ErrorKind::Other, "the shared_lookup was given up".to_owned()));
        answered.unwrap_or_else(given_up).map_err(|(kind, why)| io::Error::new(kind, why))
    }

    /// The lookup in flight, or a new one.
    fn shared_lookup(self: &Rc<Self>) -> watch::Receiver<Option<Resolved>> {
        if let Some(shared_lookup) = &*self.in_flight.borrow() {
            return shared_lookup.clone();
        }
        let (tell, told) = watch::channel(None);
        *self.in_flight.borrow_mut() = Some(told.clone());
        let resolver = self.clone();
        tokio::task::spawn_local(async move {
            let answered = resolver.look_up().await.map_err(|error| (error.kind(), error.to_string()));
            *resolver.in_flight.borrow_mut() = None;
            // Nobody may be waiting any more.
            let _ = tell.send(Some(answered));
        });
        told
    }

    async fn look_up(&self) -> io::Result<Addresses> {
        let found = (self.lookup)(self.host.clone(), self.port).await?;
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", self.host)));
        }
        let addresses: Addresses = found.into();
        *self.answer.borrow_mut() = Some(Resolution { addresses: addresses.clone(), at: Instant::now() });
        Ok(addresses)
    }
}

async fn system(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        static ASKED: Cell<u16> = const { Cell::new(0) };
    }

    /// A name that means another address each time it is asked for.
    fn moving() -> Rc<Resolver> {
        Rc::new(Resolver::with("app.internal", 80, |_, _| {
            let number = ASKED.get() + 1;
            ASKED.set(number);
            Box::pin(async move { Ok(vec![address(number)]) })
        }))
    }

    fn address(number: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], number))
    }

    fn age(resolver: &Resolver, by: Duration) {
        let mut answer = resolver.answer.borrow_mut();
        let answer = answer.as_mut().expect("the name was resolved");
        answer.at = answer.at.checked_sub(by).expect("the machine has run for longer than a test needs");
    }

    fn local(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default());
        runtime.expect("a runtime needs no privilege").block_on(test);
    }

    #[test]
    fn an_answer_is_kept_while_it_is_fresh_and_renewed_beside_the_requests_after() {
        local(async {
            let resolver = moving();
            for _ in 0..3 {
                assert_eq!(*resolver.addresses().await.expect("it resolves"), [address(1)]);
            }
            age(&resolver, FRESH);
            assert_eq!(*resolver.addresses().await.expect("it resolves"), [address(1)], "nobody waits for the new one");
            while resolver.in_flight.borrow().is_some() {
                tokio::task::yield_now().await;
            }
            assert_eq!(*resolver.addresses().await.expect("it resolves"), [address(2)]);
            assert!(resolver.names(&address(2)) && !resolver.names(&address(1)));
        });
    }

    #[test]
    fn an_old_answer_is_not_used() {
        local(async {
            let resolver = moving();
            resolver.addresses().await.expect("it resolves");
            age(&resolver, USABLE);
            assert_eq!(*resolver.addresses().await.expect("it resolves"), [address(2)]);
        });
    }

    #[test]
    fn a_connection_that_fails_asks_again() {
        local(async {
            let resolver = moving();
            let tried = resolver.addresses().await.expect("it resolves");
            assert_eq!(resolver.other_than(&tried).await, None, "that very answer is a moment old");
            age(&resolver, RETRY_AFTER);
            assert_eq!(resolver.other_than(&tried).await.as_deref(), Some(&[address(2)][..]));
        });
    }

    #[test]
    fn requests_that_give_up_leave_one_question_behind_and_no_more() {
        local(async {
            let resolver = Rc::new(Resolver::with("app.internal", 80, |_, _| {
                ASKED.set(ASKED.get() + 1);
                Box::pin(std::future::pending())
            }));
            for _ in 0..20 {
                let gave_up = tokio::time::timeout(Duration::from_millis(1), resolver.addresses()).await;
                assert!(gave_up.is_err(), "nobody answers");
            }
            assert_eq!(ASKED.get(), 1);
        });
    }

    #[test]
    fn an_address_is_never_asked_for() {
        local(async {
            for host in ["192.0.2.1", "[2001:db8::1]"] {
                let resolver =
                    Rc::new(Resolver::with(host, 80, |_, _| Box::pin(async { Err(io::ErrorKind::Other.into()) })));
                let own = SocketAddr::new(host.trim_matches(['[', ']']).parse().expect("an address"), 80);
                age(&resolver, 10 * USABLE);
                assert_eq!(*resolver.addresses().await.expect("it is its own answer"), [own]);
                assert_eq!(resolver.other_than(&[own]).await, None);
                assert!(resolver.names(&own));
            }
        });
    }
}
