//! Open requests: long bodies, event streams, gRPC, upgraded connections. While one is open its key is rechecked at the store; it
//! is ended when the key is no longer valid, or when it is too old.
//!
//! One sweep per worker covers all of them, so that none has a timer of its own. An answer that is complete at once, as most are,
//! is never registered with it.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::HeaderMap;
use hyper::body::Body as _;
use tracing::info;

use super::close_reason::CloseReason;
use super::request_id::RequestId;
use super::upload::Cancellation;
use super::upstream::LongWait;
use super::upstream::response_body::UpstreamBody;
use super::{respond, settings};
use crate::gate::{Basis, Denial, Gate, Permit};
use crate::observe::metrics::BrokenBy;
use crate::observe::{Metrics, Span};
use crate::policy::Mode;

/// The sweep's longest interval; something may be ended late by as much.
const SLOWEST_SWEEP: Duration = Duration::from_secs(1);

/// One worker's open requests.
pub struct OpenRequests {
    /// Of the current configuration, whichever the request began under.
    gate: RefCell<Rc<Gate>>,
    settings: Cell<settings::Streams>,
    metrics: Arc<Metrics>,
    open: RefCell<HashMap<u64, Weak<OpenRequest>>>,
    last_number: Cell<u64>,
    sweeping: Cell<bool>,
    shutting_down: Cell<bool>,
}

/// A permitted request until both bodies have ended. One task at a time waits for the gate to end it: first the one that forwards
/// the request, then the one that relays the answer.
pub struct OpenRequest {
    all: Rc<OpenRequests>,
    permit: Permit,
    request_id: RequestId,
    span: Span,
    started: Instant,
    /// When the store last confirmed the key; `None` where that was before this began.
    confirmed: Cell<Option<Instant>>,
    /// When to recheck the key; `None` while the store is being asked.
    recheck_at: Cell<Option<Instant>>,
    /// Its number among the registered ones.
    number: Cell<Option<u64>>,
    close_reason: RefCell<Option<CloseReason>>,
    close: Cell<Close>,
    /// It has been logged that this would have been denied or ended (`mode: observe`).
    observed: Cell<bool>,
    /// The upstream's answer; kept here so that `end` can drop it although nobody polls the response body.
    answer: RefCell<Option<UpstreamBody>>,
    is_ended: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// How an answer closes that the gate ends before its upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// With an error, so that it is not taken for complete.
    Reset,
    /// With trailers that hold a gRPC status.
    Status,
    /// The trailers have been sent.
    Closed,
}

/// The last frame of an answer that the gate has ended.
pub enum Finish {
    Reset,
    Trailers(HeaderMap),
    Nothing,
}

impl OpenRequests {
    pub fn new(gate: Rc<Gate>, settings: settings::Streams, metrics: Arc<Metrics>) -> Rc<Self> {
        Rc::new(Self {
            gate: RefCell::new(gate),
            settings: Cell::new(settings),
            metrics,
            open: RefCell::default(),
            last_number: Cell::new(0),
            sweeping: Cell::new(false),
            shutting_down: Cell::new(false),
        })
    }

    /// Draining has reached its deadline: what ends from now on counts as ended by the gate. Ends at once those that can close
    /// with a gRPC status and returns them; each is dropped once its status has been written.
    pub fn shut_down(&self) -> Vec<Weak<OpenRequest>> {
        self.shutting_down.set(true);
        let open: Vec<Rc<OpenRequest>> = self.open.borrow().values().filter_map(Weak::upgrade).collect();
        let closing = open.iter().filter(|request| request.closes_with_status());
        closing
            .map(|request| {
                request.end(CloseReason::ShuttingDown);
                Rc::downgrade(request)
            })
            .collect()
    }

    pub fn is_shutting_down(&self) -> bool {
        self.shutting_down.get()
    }

    /// After a reload open requests are rechecked under the new configuration.
    pub fn reconfigure(&self, gate: Rc<Gate>, settings: settings::Streams) {
        self.gate.replace(gate);
        self.settings.set(settings);
    }

    /// Begins a permitted request.
    pub fn begin(
        self: &Rc<Self>,
        permit: Permit,
        request_id: &RequestId,
        span: &Span,
        started: Instant,
    ) -> Rc<OpenRequest> {
        Rc::new(OpenRequest {
            all: self.clone(),
            request_id: request_id.clone(),
            span: span.clone(),
            started,
            confirmed: Cell::new(permit.is_confirmed().then_some(started)),
            recheck_at: Cell::new(Some(started + self.settings.get().recheck)),
            number: Cell::new(None),
            close_reason: RefCell::default(),
            close: Cell::new(Close::Reset),
            observed: Cell::new(permit.observed().is_some()),
            permit,
            answer: RefCell::default(),
            is_ended: Cell::new(false),
            waiter: RefCell::default(),
        })
    }

    fn register(self: &Rc<Self>, request: &Rc<OpenRequest>) {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        request.number.set(Some(number));
        self.open.borrow_mut().insert(number, Rc::downgrade(request));
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(self.clone()));
        }
    }

    /// How long a client's own deadline is honoured at most: longer than the sweep leaves a request open, so that `max_age` ends
    /// it first; a bound also where that is only observed.
    pub fn longest(&self) -> Duration {
        self.settings.get().max_age + 2 * SLOWEST_SWEEP
    }

    /// The sweep's interval, and that of rechecks while the store gives no answer.
    fn interval(&self) -> Duration {
        (self.settings.get().recheck / 4).min(SLOWEST_SWEEP)
    }

    /// Ends what is too old, and rechecks what is due. Whether anything is open.
    fn sweep_once(&self) -> bool {
        let now = Instant::now();
        let open: Vec<Rc<OpenRequest>> = self.open.borrow().values().filter_map(Weak::upgrade).collect();
        for request in &open {
            if now.duration_since(request.started) >= self.settings.get().max_age {
                request.end(CloseReason::TooOld);
            } else if request.permit.recheck().is_some() && request.recheck_at.get().is_some_and(|at| at <= now) {
                request.recheck_at.set(None);
                tokio::task::spawn_local(recheck(request.clone()));
            }
        }
        !open.is_empty()
    }
}

impl OpenRequest {
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Registers it with the sweep.
    pub fn watch(self: &Rc<Self>) {
        if self.number.get().is_none() {
            self.all.register(self);
        }
    }

    /// Whether the gate has ended it.
    pub fn is_ended(&self) -> bool {
        self.is_ended.get()
    }

    /// Ready once the gate has ended it. Registers it with the sweep, since a wait may be long.
    pub fn poll_ended(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_ended() {
            return Poll::Ready(());
        }
        self.watch();
        let mut waiter = self.waiter.borrow_mut();
        if !waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker())) {
            *waiter = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub async fn ended(self: &Rc<Self>) {
        poll_fn(|cx| self.poll_ended(cx)).await;
    }

    /// The wait after which its key must be rechecked, or it may be too old.
    pub fn long_wait(&self) -> LongWait {
        let settings::Streams { recheck, max_age } = self.all.settings.get();
        LongWait::from(self.started + recheck.min(max_age))
    }

    /// The result of `work`, unless the gate ends the request before. Registers it only once the wait is a long one. `work` is
    /// borrowed, since a future that is moved into another takes memory in both.
    pub async fn unless_ended<T>(
        self: &Rc<Self>,
        mut work: Pin<&mut impl Future<Output = Result<T, Denial>>>,
        wait: &LongWait,
    ) -> Result<T, Denial> {
        poll_fn(|cx| {
            if !self.is_ended() {
                let done = work.as_mut().poll(cx);
                if done.is_ready() || !wait.has_begun() {
                    return done;
                }
            }
            let ended = || self.close_reason.take().map_or(Denial::UpstreamTimeout, CloseReason::before_an_answer);
            self.poll_ended(cx).map(|()| Err(ended()))
        })
        .await
    }

    /// Takes over the upstream's answer. `is_grpc`: the client takes a status in trailers.
    pub fn hold(&self, answer: UpstreamBody, is_grpc: bool) {
        // With a Content-Length, trailers before its end would make the response malformed (RFC 9113 §8.1.1).
        if is_grpc && answer.size_hint().exact().is_none() {
            self.close.set(Close::Status);
        }
        *self.answer.borrow_mut() = Some(answer);
    }

    /// Whether the gate would end it with a gRPC status.
    pub fn closes_with_status(&self) -> bool {
        self.close.get() == Close::Status
    }

    /// The response body was dropped: all of it was read, the client has gone, or the worker ends.
    pub fn release(&self) {
        if self.take_answer().is_some_and(|answer| answer.is_unread()) {
            self.broken(if self.all.is_shutting_down() { BrokenBy::Gate } else { BrokenBy::Client });
        }
    }

    /// Whether to log that the upstream's answer broke off: once a minute for each upstream, with how often it was suppressed
    /// since.
    pub fn is_news_that_it_broke_off(&self) -> Option<u64> {
        let what = format!("an answer of upstream {} broke off", self.permit.upstream().0);
        self.all.metrics.throttle.news(&what, std::time::Instant::now())
    }

    /// The pattern of its route.
    pub fn route(&self) -> &str {
        &self.permit.route().pattern
    }

    /// Counts an answer that did not come to its end.
    pub fn broken(&self, by: BrokenBy) {
        self.all.metrics.answer_broken(by);
    }

    /// The upstream's answer; `None` once the gate has ended the request.
    pub fn answer(&self) -> RefMut<'_, Option<UpstreamBody>> {
        self.answer.borrow_mut()
    }

    /// For a tunnel, which passes on an upgraded connection itself.
    pub fn take_answer(&self) -> Option<UpstreamBody> {
        self.answer.take()
    }

    /// The last frame, once the gate has ended the request.
    pub fn close(&self) -> Finish {
        match (self.close.get(), &*self.close_reason.borrow()) {
            (Close::Status, Some(close_reason)) => {
                self.close.set(Close::Closed);
                let gate = self.all.gate.borrow();
                Finish::Trailers(respond::grpc_trailers(close_reason, self.request_id.as_str(), gate.policy()))
            }
            (Close::Closed, _) => Finish::Nothing,
            (Close::Reset | Close::Status, _) => Finish::Reset,
        }
    }

    /// Whether the answer has been closed with a status.
    pub fn is_closed(&self) -> bool {
        self.close.get() == Close::Closed
    }

    /// The request's id and its trace's, for the log.
    pub fn ids(&self) -> (&str, &str) {
        (self.request_id.as_str(), self.span.trace_id())
    }

    /// Ends it. Under `mode: observe` an invalid key or too great an age is logged once, and the request goes on.
    pub fn end(&self, close_reason: CloseReason) {
        let reason = close_reason.name();
        let is_judged = matches!(close_reason, CloseReason::Denied(_) | CloseReason::TooOld);
        if is_judged && self.all.gate.borrow().mode_of(self.permit.route()) == Mode::Observe {
            self.recheck_at.set(Some(Instant::now() + self.all.settings.get().recheck));
            if !self.observed.replace(true) {
                let (request_id, trace_id) = self.ids();
                info!(request_id, trace_id, reason, "a stream would have been ended: observed");
            }
            return;
        }
        if self.is_ended.replace(true) {
            return;
        }
        let (request_id, trace_id) = self.ids();
        info!(request_id, trace_id, reason, "a stream was ended");
        *self.close_reason.borrow_mut() = Some(close_reason);
        if self.take_answer().is_some_and(|answer| answer.is_unread()) {
            self.broken(BrokenBy::Gate);
        }
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }
}

impl Cancellation for OpenRequest {
    fn is_cancelled(&self) -> bool {
        self.is_ended()
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if let Some(number) = self.number.get() {
            self.all.open.borrow_mut().remove(&number);
        }
    }
}

async fn sweep(all: Rc<OpenRequests>) {
    loop {
        tokio::time::sleep(all.interval()).await;
        if !all.sweep_once() {
            all.sweeping.set(false);
            return;
        }
    }
}

async fn recheck(request: Rc<OpenRequest>) {
    let Some(recheck) = request.permit.recheck() else { return };
    let all = &request.all;
    let gate = all.gate.borrow().clone();
    let answered = gate.recheck(request.permit.route(), recheck).await;
    let (now, interval) = (Instant::now(), all.settings.get().recheck);
    match answered {
        Ok(basis) => {
            if matches!(basis, Basis::Key) {
                request.confirmed.set(Some(now));
            }
            request.recheck_at.set(Some(now + interval));
        }
        // An outage is no refusal: the recheck is repeated until the last confirmation is two intervals old.
        Err(denial) if is_unanswered(&denial) && request.confirmed.get().is_some_and(|at| now < at + 2 * interval) => {
            request.recheck_at.set(Some(now + all.interval()));
        }
        Err(denial) => request.end(CloseReason::Denied(denial)),
    }
}

/// The store gave no answer.
fn is_unanswered(denial: &Denial) -> bool {
    matches!(denial, Denial::StoreUnavailable(error) if error.is_outage())
}
