//! What stays open: long bodies, event streams, gRPC, upgraded connections. While it is open its key is asked about again, and
//! it ends when the key no longer stands, or when it is too old.
//!
//! One sweep per worker looks after all of it. What is whole at once, as most answers are, is never registered with it, and no
//! request has a timer of its own.

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

/// The sweep's pace, within which something ends too late.
const SLOWEST_SWEEP: Duration = Duration::from_secs(1);

/// One worker's open requests.
pub struct OpenRequests {
    /// Of the configuration that is in force, whichever the request began under.
    gate: RefCell<Rc<Gate>>,
    settings: Cell<settings::Streams>,
    metrics: Arc<Metrics>,
    open: RefCell<HashMap<u64, Weak<OpenRequest>>>,
    last: Cell<u64>,
    sweeping: Cell<bool>,
    cut: Cell<bool>,
}

/// A permitted request until everything of it has ended. It is told to one waiter at a time that it is over: who forwards,
/// then who relays.
pub struct OpenRequest {
    all: Rc<OpenRequests>,
    permit: Permit,
    request_id: RequestId,
    span: Span,
    started: Instant,
    /// When the store last confirmed the key; `None` where that was before this began.
    confirmed: Cell<Option<Instant>>,
    /// When to ask next; `None` while the store is being asked.
    due: Cell<Option<Instant>>,
    /// Its number among those that are looked after.
    watched: Cell<Option<u64>>,
    over: RefCell<Option<CloseReason>>,
    close: Cell<Close>,
    /// It has been told that this would have been denied or ended, where that is only observed.
    observed: Cell<bool>,
    /// The upstream's answer. It is let go of at the end even where nobody reads any more.
    answer: RefCell<Option<UpstreamBody>>,
    is_over: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

/// How an answer closes that the gate ends before its upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Close {
    /// With nothing that could be taken for its end.
    Reset,
    /// With trailers that say a gRPC status.
    Status,
    /// The trailers are out.
    Closed,
}

/// What comes last of an answer that is over.
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
            last: Cell::new(0),
            sweeping: Cell::new(false),
            cut: Cell::new(false),
        })
    }

    /// Whatever ends from now on ends because its worker does. What can close with a status does so at once; it is gone when
    /// that is on its way.
    pub fn cut(&self) -> Vec<Weak<OpenRequest>> {
        self.cut.set(true);
        let open: Vec<Rc<OpenRequest>> = self.open.borrow().values().filter_map(Weak::upgrade).collect();
        let closing = open.iter().filter(|request| request.closes_with_status());
        closing
            .map(|request| {
                request.end(CloseReason::ShuttingDown);
                Rc::downgrade(request)
            })
            .collect()
    }

    pub fn are_cut(&self) -> bool {
        self.cut.get()
    }

    /// After a reload what is open is asked about by the new configuration.
    pub fn follow(&self, gate: Rc<Gate>, settings: settings::Streams) {
        self.gate.replace(gate);
        self.settings.set(settings);
    }

    /// What was permitted begins.
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
            due: Cell::new(Some(started + self.settings.get().recheck)),
            watched: Cell::new(None),
            over: RefCell::default(),
            close: Cell::new(Close::Reset),
            observed: Cell::new(permit.observed().is_some()),
            permit,
            answer: RefCell::default(),
            is_over: Cell::new(false),
            waiter: RefCell::default(),
        })
    }

    fn watch(self: &Rc<Self>, request: &Rc<OpenRequest>) {
        let number = self.last.get() + 1;
        self.last.set(number);
        request.watched.set(Some(number));
        self.open.borrow_mut().insert(number, Rc::downgrade(request));
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(sweep(self.clone()));
        }
    }

    /// How long anything is open at most, also where its age is only observed: longer than the sweep lets it be.
    pub fn longest(&self) -> Duration {
        self.settings.get().max_age + 2 * SLOWEST_SWEEP
    }

    /// How long until the sweep looks again; also until the store is asked again that gave no answer.
    fn pace(&self) -> Duration {
        (self.settings.get().recheck / 4).min(SLOWEST_SWEEP)
    }

    /// Ends what is too old, and asks about what is due. Whether anything is open.
    fn look(&self) -> bool {
        let now = Instant::now();
        let open: Vec<Rc<OpenRequest>> = self.open.borrow().values().filter_map(Weak::upgrade).collect();
        for request in &open {
            if now.duration_since(request.started) >= self.settings.get().max_age {
                request.end(CloseReason::TooOld);
            } else if request.permit.recheck().is_some() && request.due.get().is_some_and(|due| due <= now) {
                request.due.set(None);
                tokio::task::spawn_local(ask_again(request.clone()));
            }
        }
        !open.is_empty()
    }
}

impl OpenRequest {
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Looked after from now on.
    pub fn watch(self: &Rc<Self>) {
        if self.watched.get().is_none() {
            self.all.watch(self);
        }
    }

    pub fn is_over(&self) -> bool {
        self.is_over.get()
    }

    /// Ready when it must end; looked after from now on, since somebody waits.
    pub fn poll_over(self: &Rc<Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_over() {
            return Poll::Ready(());
        }
        self.watch();
        let mut waiter = self.waiter.borrow_mut();
        if !waiter.as_ref().is_some_and(|waiter| waiter.will_wake(cx.waker())) {
            *waiter = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    pub async fn over(self: &Rc<Self>) {
        poll_fn(|cx| self.poll_over(cx)).await;
    }

    /// When its key is to be asked about again, or it may be too old.
    pub fn long_wait(&self) -> LongWait {
        let settings::Streams { recheck, max_age } = self.all.settings.get();
        LongWait::from(self.started + recheck.min(max_age))
    }

    /// What `work` gives, unless the request is over before. It is looked after once the wait is a long one. Borrowed, since a
    /// future that is moved into another takes room in both.
    pub async fn unless_over<T>(
        self: &Rc<Self>,
        mut work: Pin<&mut impl Future<Output = Result<T, Denial>>>,
        wait: &LongWait,
    ) -> Result<T, Denial> {
        poll_fn(|cx| {
            if !self.is_over() {
                let done = work.as_mut().poll(cx);
                if done.is_ready() || !wait.has_begun() {
                    return done;
                }
            }
            let ended = || self.over.take().map_or(Denial::UpstreamTimeout, CloseReason::before_an_answer);
            self.poll_over(cx).map(|()| Err(ended()))
        })
        .await
    }

    /// The upstream's answer goes on from here. `is_grpc`: to a client that takes a status behind it.
    pub fn hold(&self, answer: UpstreamBody, is_grpc: bool) {
        // Less than the length that was announced is no whole answer, whatever its trailers say (RFC 9113 §8.1.1).
        if is_grpc && answer.size_hint().exact().is_none() {
            self.close.set(Close::Status);
        }
        *self.answer.borrow_mut() = Some(answer);
    }

    /// Whether its client learns why, where the gate ends it.
    pub fn closes_with_status(&self) -> bool {
        self.close.get() == Close::Status
    }

    /// The client has read it all, or reads no more; or the worker ends.
    pub fn let_go(&self) {
        if self.take_answer().is_some_and(|answer| answer.is_unread()) {
            self.broken(if self.all.are_cut() { BrokenBy::Gate } else { BrokenBy::Client });
        }
    }

    /// Whether the log is to be told that the upstream's answer broke off: once a minute for each upstream, with how often it was
    /// not said since.
    pub fn is_news_that_it_broke_off(&self) -> Option<u64> {
        let what = format!("an answer of upstream {} broke off", self.permit.upstream().0);
        self.all.metrics.said.news(&what, std::time::Instant::now())
    }

    /// The pattern of its request's route.
    pub fn route(&self) -> &str {
        &self.permit.route().pattern
    }

    /// An answer did not come to its end.
    pub fn broken(&self, by: BrokenBy) {
        self.all.metrics.answer_broken(by);
    }

    /// The upstream's answer, as long as the request is not over.
    pub fn answer(&self) -> RefMut<'_, Option<UpstreamBody>> {
        self.answer.borrow_mut()
    }

    /// For whoever passes it on by other means.
    pub fn take_answer(&self) -> Option<UpstreamBody> {
        self.answer.take()
    }

    /// What is still to come of an answer that is over.
    pub fn close(&self) -> Finish {
        match (self.close.get(), &*self.over.borrow()) {
            (Close::Status, Some(close_reason)) => {
                self.close.set(Close::Closed);
                let gate = self.all.gate.borrow();
                Finish::Trailers(respond::grpc_trailers(close_reason, self.request_id.as_str(), gate.policy()))
            }
            (Close::Closed, _) => Finish::Nothing,
            (Close::Reset | Close::Status, _) => Finish::Reset,
        }
    }

    /// Whether the gate has closed the answer with a status.
    pub fn is_closed(&self) -> bool {
        self.close.get() == Close::Closed
    }

    /// Its request's and its trace's, for what the log says of it.
    pub fn ids(&self) -> (&str, &str) {
        (self.request_id.as_str(), self.span.trace_id())
    }

    /// Ends it. Where its key's standing and its age are only observed, that is told once, and the stream goes on.
    pub fn end(&self, close_reason: CloseReason) {
        let reason = close_reason.name();
        let is_judged = matches!(close_reason, CloseReason::Denied(_) | CloseReason::TooOld);
        if is_judged && self.all.gate.borrow().mode_of(self.permit.route()) == Mode::Observe {
            self.due.set(Some(Instant::now() + self.all.settings.get().recheck));
            if !self.observed.replace(true) {
                let (request_id, trace_id) = self.ids();
                info!(request_id, trace_id, reason, "a stream would have been ended: observed");
            }
            return;
        }
        if self.is_over.replace(true) {
            return;
        }
        let (request_id, trace_id) = self.ids();
        info!(request_id, trace_id, reason, "a stream was ended");
        *self.over.borrow_mut() = Some(close_reason);
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
        self.is_over()
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        if let Some(number) = self.watched.get() {
            self.all.open.borrow_mut().remove(&number);
        }
    }
}

async fn sweep(all: Rc<OpenRequests>) {
    loop {
        tokio::time::sleep(all.pace()).await;
        if !all.look() {
            all.sweeping.set(false);
            return;
        }
    }
}

async fn ask_again(request: Rc<OpenRequest>) {
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
            request.due.set(Some(now + interval));
        }
        // Not answered is not refused: it is asked again until what was last confirmed is two intervals old.
        Err(denial) if is_unanswered(&denial) && request.confirmed.get().is_some_and(|at| now < at + 2 * interval) => {
            request.due.set(Some(now + all.pace()));
        }
        Err(denial) => request.end(CloseReason::Denied(denial)),
    }
}

/// The store is away.
fn is_unanswered(denial: &Denial) -> bool {
    matches!(denial, Denial::StoreUnavailable(error) if error.is_outage())
}
