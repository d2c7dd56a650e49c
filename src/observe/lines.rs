//! Lines on their way to standard output: whoever has one appends it, and one thread writes what has gathered.
//!
//! Whoever reads standard output too slowly loses lines, which are counted; nobody who appends waits for it.

use std::io::Write as _;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bytes that may wait to be written; some eight thousand access log lines.
const MOST: usize = 4 * 1024 * 1024;

/// What is kept of an empty buffer's memory: what gathers under a heavy load, so that nobody who appends waits for memory.
const KEPT: usize = 1024 * 1024;

/// How long lines gather; a reader sees each within about this. The thread that writes takes a processor from somebody each
/// time, and who is woken by an append costs who appends (measured: 9–12 µs of 43 µs a request).
const GATHER: Duration = Duration::from_millis(20);

/// How long the last lines may take to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// Shared by all who write lines. Dropping it ends the thread once all is written.
pub struct Lines {
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

impl Lines {
    /// Starts the writing thread.
    pub fn start() -> std::io::Result<Self> {
        let gathering = Arc::<Gathering>::default();
        let written = gathering.clone();
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write(&written))?;
        Ok(Self { gathering, dropped: Arc::default() })
    }

    /// How many lines were lost because nobody read them in time.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.dropped.clone()
    }

    /// One whole line, its end included.
    pub fn push(&self, line: &[u8]) {
        let mut waiting = self.gathering.waiting();
        if waiting.text.len() + line.len() > MOST {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line);
        self.gathering.tell(waiting);
    }

    /// Waits until what was appended before is on standard output. Nobody is waited for who does not read.
    pub fn flush(&self) {
        let (tell, told) = sync_channel(1);
        let mut waiting = self.gathering.waiting();
        waiting.flushes.push(tell);
        self.gathering.news.notify_one();
        drop(waiting);
        let _ = told.recv_timeout(FLUSH);
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
fn write(gathering: &Gathering) {
    let mut text = Vec::new();
    while let Some(flushes) = gathering.take(&mut text) {
        let mut out = std::io::stdout().lock();
        // A closed standard output is no reason to stop serving.
        let _ = out.write_all(&text).and_then(|()| out.flush());
        drop(out);
        for flush in flushes {
            let _ = flush.try_send(());
        }
        text.clear();
        text.shrink_to(KEPT);
        gathering.gather();
    }
}
