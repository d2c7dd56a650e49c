//! A buffered writer for standard output or standard error: the lines of a log are appended to a buffer, which one thread writes.
//!
//! If the output is read too slowly, lines are dropped and counted; appending never blocks on it.

use std::io::Write as _;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// The capacity that an empty buffer keeps: as much as gathers under a heavy load, so that appending does not allocate.
const KEPT: usize = 1024 * 1024;

/// How long lines gather; each is written within about this. Each write preempts a worker, and waking the thread costs the
/// request that appends (measured: 9–12 µs of 43 µs a request).
const GATHER: Duration = Duration::from_millis(20);

/// How often lost lines are reported.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which log; this decides where its lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Standard output.
    Access,
    /// Standard error.
    Process,
}

/// Shared by all writers. Dropping it ends the thread once all is written.
pub struct Lines {
    log: Log,
    buffer: Arc<Buffer>,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Buffer {
    /// Locked to append or to take everything, never while writing.
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Notified once `text` is written.
    flushes: Vec<SyncSender<()>>,
    /// Nothing will be appended any more.
    closed: bool,
    /// The thread waits for a first line.
    idle: bool,
}

impl Log {
    /// Its name in metrics and log lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Process => "process",
        }
    }

    fn thread(self) -> &'static str {
        match self {
            Self::Access => "access-log",
            Self::Process => "process-log",
        }
    }

    /// The largest buffer: some eight thousand access log lines, or a thousand of the process's own.
    fn most(self) -> usize {
        match self {
            Self::Access => 4 * 1024 * 1024,
            Self::Process => 256 * 1024,
        }
    }

    /// How long the last lines may take to be written.
    fn flush_within(self) -> Duration {
        match self {
            Self::Access => Duration::from_secs(1),
            Self::Process => Duration::from_millis(500),
        }
    }

    fn write(self, text: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Access => {
                let mut out = std::io::stdout().lock();
                out.write_all(text).and_then(|()| out.flush())
            }
            Self::Process => std::io::stderr().lock().write_all(text),
        }
    }
}

impl Lines {
    /// Starts the writing thread.
    pub fn start(log: Log) -> std::io::Result<Self> {
        let (buffer, dropped) = (Arc::<Buffer>::default(), Arc::<AtomicU64>::default());
        let (written, lost) = (buffer.clone(), dropped.clone());
        std::thread::Builder::new().name(log.thread().to_owned()).spawn(move || write(&written, log, &lost))?;
        Ok(Self { log, buffer, dropped })
    }

    /// How many lines were dropped because the buffer was full, or lost because they could not be written.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// One whole line, its end included.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.buffer.waiting();
        if waiting.text.len() + line.len() > self.log.most() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line);
        self.buffer.wake(waiting);
    }

    /// Waits until all earlier lines are written; not for long, if nobody reads them.
    pub fn flush(&self) {
        let (sender, flushed) = sync_channel(1);
        let mut waiting = self.buffer.waiting();
        waiting.flushes.push(sender);
        self.buffer.changed.notify_one();
        drop(waiting);
        let _ = flushed.recv_timeout(self.log.flush_within());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.buffer.waiting().closed = true;
        self.buffer.changed.notify_one();
    }
}

impl Buffer {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Consistent even when poisoned.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread if it waits for a first line; else it wakes after `GATHER` by itself.
    fn wake(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let idle = mem::take(&mut waiting.idle);
        drop(waiting);
        if idle {
            self.changed.notify_one();
        }
    }

    /// Waits for lines and swaps them into `text`, which is empty; returns the flushes to notify. `None`: nothing will be
    /// appended any more.
    fn take(&self, text: &mut Vec<u8>) -> Option<Vec<SyncSender<()>>> {
        let mut waiting = self.waiting();
        while waiting.text.is_empty() && waiting.flushes.is_empty() {
            if waiting.closed {
                return None;
            }
            waiting.idle = true;
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(&mut waiting.text, text);
        Some(mem::take(&mut waiting.flushes))
    }

    /// Lets lines gather, unless a flush waits for them.
    fn gather(&self) {
        let alone = |waiting: &mut Waiting| waiting.flushes.is_empty() && !waiting.closed;
        let _ = self.changed.wait_timeout_while(self.waiting(), GATHER, alone);
    }
}

/// The writing thread: writes all that has gathered at once.
fn write(buffer: &Buffer, log: Log, dropped: &AtomicU64) {
    let mut text = Vec::new();
    let mut losses = Losses::default();
    let mut goes_on = false;
    while let Some(flushes) = buffer.take(&mut text) {
        // Not right behind the write: where lines were lost the buffer was full, and this one would be lost as well.
        if goes_on {
            losses.report(log, dropped.load(Ordering::Relaxed));
        }
        // A closed output or a full disk is no reason to stop serving.
        goes_on = log.write(&text).is_ok();
        if !goes_on {
            dropped.fetch_add(count_lines(&text), Ordering::Relaxed);
        }
        for flush in flushes {
            let _ = flush.try_send(());
        }
        text.clear();
        text.shrink_to(KEPT);
        buffer.gather();
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// What was reported of lost lines.
#[derive(Debug, Default)]
struct Losses {
    reported: u64,
    reported_at: Option<Instant>,
}

impl Losses {
    /// Logs how many lines were lost, once lines are written again.
    fn report(&mut self, log: Log, dropped: u64) {
        let lines = dropped.saturating_sub(self.reported);
        if lines == 0 || self.reported_at.is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return;
        }
        (self.reported, self.reported_at) = (dropped, Some(Instant::now()));
        warn!(
            log = log.name(),
            lines, "log lines were lost, since nobody read them in time or they could not be written"
        );
    }
}
