//! An upstream's name into its addresses: one worker's memory of the last answer, which is never used when it is old.
//!
//! A question is the resolver's, not a request's: the system's resolver holds a thread until it has an answer, whoever waits, so
//! that another is asked only when the one before has ended.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// After this an answer is asked for again, beside the requests that still use it.
const FRESH: Duration = Duration::from_secs(30);
/// After this nothing is sent on it: addresses are given to others, in a cluster within minutes.
const USABLE: Duration = Duration::from_secs(60);
/// A connection that fails asks again, but not more often than this.
const AGAIN: Duration = Duration::from_secs(1);

type Addresses = Rc<[SocketAddr]>;
/// What came of a question, for all who wait; an error cannot be cloned.
type Answered = Result<Addresses, (io::ErrorKind, String)>;
type Lookup = fn(String, u16) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>>>>;

pub struct Resolver {
    host: String,
    port: u16,
    lookup: Lookup,
    /// An address in digits is its own answer, for ever.
    literal: bool,
    answer: RefCell<Option<Answer>>,
    /// The question that is under way: many connections that need an answer at once wait for it.
    asking: RefCell<Option<watch::Receiver<Option<Answered>>>>,
}

struct Answer {
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
        let own = |address| Answer { addresses: Rc::from([SocketAddr::new(address, port)]), at: Instant::now() };
        let answer = RefCell::new(literal.map(own));
        Self { host, port, lookup, literal: literal.is_some(), answer, asking: RefCell::default() }
    }

    /// Where to connect to, in the resolver's order.
    pub async fn addresses(self: &Rc<Self>) -> io::Result<Addresses> {
        self.keep_fresh();
        match self.known(USABLE) {
            Some(addresses) => Ok(addresses),
            None => self.ask(USABLE).await,
        }
    }

    /// After `tried` were all in vain: others, if the name has others now.
    pub async fn other_than(self: &Rc<Self>, tried: &[SocketAddr]) -> Option<Addresses> {
        let now = if self.literal { None } else { self.ask(AGAIN).await.ok() };
        now.filter(|addresses| **addresses != *tried)
    }

    /// Whether the name still means this address, as far as is known.
    pub fn names(&self, address: &SocketAddr) -> bool {
        self.literal || self.answer.borrow().as_ref().is_some_and(|answer| answer.addresses.contains(address))
    }

    /// Asks again in the background once the answer is no longer fresh.
    pub fn keep_fresh(self: &Rc<Self>) {
        // A name that cannot be resolved now keeps its last answer until that is too old.
        if self.known(FRESH).is_none() && self.answer.borrow().is_some() {
            self.question();
        }
    }

    fn known(&self, not_older_than: Duration) -> Option<Addresses> {
        let answer = self.answer.borrow();
        let usable = |answer: &&Answer| self.literal || answer.at.elapsed() < not_older_than;
        answer.as_ref().filter(usable).map(|answer| answer.addresses.clone())
    }

    /// The name's addresses, asked for unless somebody did within `not_older_than`.
    async fn ask(self: &Rc<Self>, not_older_than: Duration) -> io::Result<Addresses> {
        if let Some(addresses) = self.known(not_older_than) {
            return Ok(addresses);
        }
        let mut question = self.question();
        let answered = question.wait_for(Option::is_some).await.ok().and_then(|answered| answered.clone());
        let given_up = || Err((io::ErrorKind::Other, "the question was given up".to_owned()));
        answered.unwrap_or_else(given_up).map_err(|(kind, why)| io::Error::new(kind, why))
    }

    /// The question that is under way, or a new one.
    fn question(self: &Rc<Self>) -> watch::Receiver<Option<Answered>> {
        if let Some(question) = &*self.asking.borrow() {
            return question.clone();
        }
        let (tell, told) = watch::channel(None);
        *self.asking.borrow_mut() = Some(told.clone());
        let resolver = self.clone();
        tokio::task::spawn_local(async move {
            let answered = resolver.look_up().await.map_err(|error| (error.kind(), error.to_string()));
            *resolver.asking.borrow_mut() = None;
            // Nobody may be left who waits.
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
        *self.answer.borrow_mut() = Some(Answer { addresses: addresses.clone(), at: Instant::now() });
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
            while resolver.asking.borrow().is_some() {
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
            age(&resolver, AGAIN);
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
