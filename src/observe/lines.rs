//! Lines of a log on their way to standard output or standard error: whoever has one appends it, and one thread writes what has
//! gathered.
//!
//! Whoever reads too slowly loses lines, which are counted; nobody who appends waits for it.

use std::io::Write as _;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

/// What is kept of an empty buffer's memory: what gathers under a heavy load, so that nobody who appends waits for memory.
const KEPT: usize = 1024 * 1024;

/// How long lines gather; a reader sees each within about this. The thread that writes takes a processor from somebody each
/// time, and who is woken by an append costs who appends (measured: 9–12 µs of 43 µs a request).
const GATHER: Duration = Duration::from_millis(20);

/// How long nothing more is said of lines that were lost.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Which log, and so where its lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Standard output.
    Access,
    /// Standard error.
    Process,
}

/// Shared by all who write lines. Dropping it ends the thread once all is written.
pub struct Lines {
    log: Log,
    gathering: Arc<Gathering>,
    dropped: Arc<AtomicU64>,
}

#[derive(Default)]
struct Gathering {
    /// Held to append or to take everything away, never while anything is written.
    waiting: Mutex<Waiting>,
    news: Condvar,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    /// Told when all that stands here is written.
    flushes: Vec<SyncSender<()>>,
    /// Nobody appends any more.
    over: bool,
    /// The thread sleeps until there is something to write.
    idle: bool,
}

impl Log {
    /// As metrics and lines name it.
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

    /// Bytes that may wait to be written: some eight thousand access log lines, or a thousand of the process's own.
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
        let (gathering, dropped) = (Arc::<Gathering>::default(), Arc::<AtomicU64>::default());
        let (written, lost) = (gathering.clone(), dropped.clone());
        std::thread::Builder::new().name(log.thread().to_owned()).spawn(move || write(&written, log, &lost))?;
        Ok(Self { log, gathering, dropped })
    }

    /// How many lines were lost because nobody read them in time, or they could not be written.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// One whole line, its end included.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.gathering.waiting();
        if waiting.text.len() + line.len() > self.log.most() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line);
        self.gathering.tell(waiting);
    }

    /// Waits until what was appended before is written. Nobody is waited for who does not read.
    pub fn flush(&self) {
        let (tell, told) = sync_channel(1);
        let mut waiting = self.gathering.waiting();
        waiting.flushes.push(tell);
        self.gathering.news.notify_one();
        drop(waiting);
        let _ = told.recv_timeout(self.log.flush_within());
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.gathering.waiting().over = true;
        self.gathering.news.notify_one();
    }
}

impl Gathering {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics halfway through a change.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the thread where it waits for a first line; while lines come in, it comes by itself.
    fn tell(&self, mut waiting: MutexGuard<'_, Waiting>) {
        let idle = mem::take(&mut waiting.idle);
        drop(waiting);
        if idle {
            self.news.notify_one();
        }
    }

    /// Exchanges `text`, which is empty, for what waits, once there is anything, and says who is to be told. `None`: nothing
    /// will come any more.
    fn take(&self, text: &mut Vec<u8>) -> Option<Vec<SyncSender<()>>> {
        let mut waiting = self.waiting();
        while waiting.text.is_empty() && waiting.flushes.is_empty() {
            if waiting.over {
                return None;
            }
            waiting.idle = true;
            waiting = self.news.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(&mut waiting.text, text);
        Some(mem::take(&mut waiting.flushes))
    }

    /// Lets lines gather, unless somebody waits for them.
    fn gather(&self) {
        let alone = |waiting: &mut Waiting| waiting.flushes.is_empty() && !waiting.over;
        let _ = self.news.wait_timeout_while(self.waiting(), GATHER, alone);
    }
}

/// Writes whole lines, all that are waiting at once.
fn write(gathering: &Gathering, log: Log, dropped: &AtomicU64) {
    let mut text = Vec::new();
    let mut losses = Losses::default();
    let mut goes_on = false;
    while let Some(flushes) = gathering.take(&mut text) {
        // Not right behind the write: where lines were lost the buffer was full, and this one would be lost as well.
        if goes_on {
            losses.tell(log, dropped.load(Ordering::Relaxed));
        }
        // An output that is closed, or a disk that is full, is no reason to stop serving.
        goes_on = log.write(&text).is_ok();
        if !goes_on {
            dropped.fetch_add(count_lines(&text), Ordering::Relaxed);
        }
        for flush in flushes {
            let _ = flush.try_send(());
        }
        text.clear();
        text.shrink_to(KEPT);
        gathering.gather();
    }
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// What was said of lines that were lost.
#[derive(Debug, Default)]
struct Losses {
    told: u64,
    told_at: Option<Instant>,
}

impl Losses {
    /// Says in the process's log, now that lines are written again, how many were lost until then.
    fn tell(&mut self, log: Log, dropped: u64) {
        let lines = dropped.saturating_sub(self.told);
        if lines == 0 || self.told_at.is_some_and(|at| at.elapsed() < AGAIN_AFTER) {
            return;
        }
        (self.told, self.told_at) = (dropped, Some(Instant::now()));
        warn!(
            log = log.name(),
            lines, "log lines were lost, since nobody read them in time or they could not be written"
        );
    }
}
