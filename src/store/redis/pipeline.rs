//! One connection on which many commands are in flight at once: the caller writes its command, the driver reads the replies.
//!
//! What holds, whatever the other side does:
//! - Commands stand in the write buffer in the order of their waiters; both change together, under one lock, and a command is never
//!   taken out again. So the n-th reply is that of the n-th command: a cancelled command keeps its waiter, and its reply is read and
//!   dropped.
//! - What was written in part is continued where it ended, by the next writer. After an error nobody writes again.
//! - The socket wakes the driver alone: callers write with the driver's waker, so that no wake-up is lost.
//! - A caller that finds `MOST_WAITING` waiters or `MOST_BYTES` unwritten waits for room, at most until its deadline: nothing is
//!   refused for it, and nothing grows beyond it.
//! - Bytes that are no reply, a reply without a waiter, the end of the stream, and a dropped driver end the connection: the socket
//!   is closed, all waiters fail, and so does every later call. A reply may be lost, never given to another; only a server that
//!   replies once too often while others wait would be believed, until nobody waits.
//! - Nothing is sent twice, and the buffers never hold a login (`dial`).
//!
//! Decoding is left to `resp`; reconnecting and deadlines to `connection` and `call`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use redis::{Cmd, FromRedisValue, Value, from_redis_value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{Notify, oneshot};

use super::errors::store_error;
use super::resp::{ProtocolError, ReplyDecoder};
use crate::store::StoreError;

/// How many replies are waited for at most, and how many bytes wait to be written.
const MOST_WAITING: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;

/// So many commands in flight are worth a system call each; those beyond them are written together.
const WRITTEN_AT_ONCE: usize = 4;

/// What of the buffer is kept while there is nothing to write.
const KEPT: usize = 64 * 1024;

const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// TCP, TLS over it, or a test's memory.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The handle by which commands are sent.
#[derive(Clone)]
pub(super) struct Pipeline(Arc<Inner>);

/// Does the connection's I/O: it must be polled for anything to arrive, and dropping it closes the connection.
pub(super) struct Driver(Arc<Inner>);

struct Inner {
    // Never held across an await; on a single thread it is always free.
    state: Mutex<State>,
    /// There is room again for callers that wait for it.
    room: Notify,
}

struct State {
    /// Or why there is none any more.
    socket: Result<Box<dyn Socket>, StoreError>,
    /// The write buffer, the first `written` bytes of which the socket has taken.
    commands: Vec<u8>,
    written: usize,
    /// Everything is written, and some of it may not be flushed yet.
    flushing: bool,
    /// Why nothing can be written any more; the driver reads what arrived before, and ends the connection.
    unwritable: Option<StoreError>,
    decoder: ReplyDecoder,
    waiting: VecDeque<Waiter>,
    /// Some caller waits for room.
    backpressure: bool,
    /// Changes with every read.
    reads: u32,
    driver: Waker,
}

type Waiter = oneshot::Sender<Result<Value, StoreError>>;
type ReplyReceiver = oneshot::Receiver<Result<Value, StoreError>>;

/// The pipeline over a socket that is logged in, and its driver. Must not be used without polling `Driver::ended`.
pub(super) fn open(socket: Box<dyn Socket>) -> (Pipeline, Driver) {
    let state = State {
        socket: Ok(socket),
        commands: Vec::new(),
        written: 0,
        flushing: false,
        unwritable: None,
        decoder: ReplyDecoder::new(),
        waiting: VecDeque::new(),
        backpressure: false,
        reads: 0,
        driver: Waker::noop().clone(),
    };
    let shared = Arc::new(Inner { state: Mutex::new(state), room: Notify::new() });
    (Pipeline(shared.clone()), Driver(shared))
}

impl Pipeline {
    /// Sends one command, and reads its reply as what is expected.
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.call(false, |commands| command.write_packed_command(commands)).await
    }

    /// Sends the one command that `write` appends, after ASKING where its slot is being moved to this node. It is written with the
    /// first poll, if the socket takes it.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<T, StoreError> {
        let (to_asking, reply) = self.send(asking, write).await?;
        if let Some(to_asking) = to_asking {
            receive::<Value>(to_asking).await?;
        }
        receive(reply).await
    }

    /// A number that changes with every read.
    pub(super) fn reads(&self) -> u32 {
        self.0.state().reads
    }

    async fn send(
        &self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Option<ReplyReceiver>, ReplyReceiver), StoreError> {
        loop {
            let room = {
                let mut state = self.0.state();
                if !state.is_full() {
                    return state.send(asking, write);
                }
                state.backpressure = true;
                // Only those who wait already are notified, so this begins before the lock ends.
                self.0.room.notified()
            };
            room.await;
        }
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

async fn receive<T: FromRedisValue>(reply: ReplyReceiver) -> Result<T, StoreError> {
    let ended = |_| StoreError::Unreachable("the connection has ended".to_owned());
    let value = reply.await.map_err(ended)??;
    let value = value.extract_error().and_then(|value| Ok(from_redis_value(value)?));
    value.map_err(|error| store_error(&error))
}

impl Driver {
    /// Reads and writes until the connection ends, and returns why it did. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> StoreError {
        poll_fn(|cx| {
            let mut state = self.0.state();
            let ended = state.drive(cx);
            if state.has_room_again() {
                state.backpressure = false;
                self.0.room.notify_waiters();
            }
            ended
        })
        .await
    }

    /// While the server owes a reply: a number that changes with every read.
    pub(super) fn read_progress(&self) -> Option<u32> {
        let state = self.0.state();
        (!state.waiting.is_empty()).then_some(state.reads)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.state().end(&connection_lost("it was given up"));
        self.0.room.notify_waiters();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A call on a connection that has ended fails at once, and no call overtakes those that wait for room.
    fn is_full(&self) -> bool {
        let is_full = self.waiting.len() >= MOST_WAITING || self.commands.len() >= MOST_BYTES;
        self.socket.is_ok() && (self.backpressure || is_full)
    }

    /// Not with the first that is free: all who wait for room are woken at once.
    fn has_room_again(&self) -> bool {
        let has_room = self.waiting.len() <= MOST_WAITING / 2 && self.commands.len() <= MOST_BYTES / 2;
        self.backpressure && (self.socket.is_err() || has_room)
    }

    fn send(
        &mut self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Option<ReplyReceiver>, ReplyReceiver), StoreError> {
        if let Err(ended) = &self.socket {
            return Err(ended.clone());
        }
        // Otherwise the driver is about to write others, and writes this one with them.
        let is_idle = self.commands.is_empty() && !self.flushing && self.waiting.len() < WRITTEN_AT_ONCE;
        let to_asking = asking.then(|| {
            self.commands.extend_from_slice(ASKING);
            self.wait()
        });
        write(&mut self.commands);
        let reply = self.wait();
        if is_idle {
            self.unwritable = self.write(&mut Context::from_waker(&self.driver.clone())).err();
        }
        if !is_idle || self.unwritable.is_some() {
            self.driver.wake_by_ref();
        }
        Ok((to_asking, reply))
    }

    fn wait(&mut self) -> ReplyReceiver {
        let (waiter, reply) = oneshot::channel();
        self.waiting.push_back(waiter);
        reply
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<StoreError> {
        if !self.driver.will_wake(cx.waker()) {
            self.driver = cx.waker().clone();
        }
        // Both each time: a server that does not read before its replies are read would wait for ever. Reading comes first, since a
        // reply may say why the server closed the connection.
        let moved = self.read(cx).and_then(|()| self.unwritable.take().map_or_else(|| self.write(cx), Err));
        if let Err(error) = moved {
            self.end(&error);
        }
        match &self.socket {
            Ok(_) => Poll::Pending,
            Err(ended) => Poll::Ready(ended.clone()),
        }
    }

    /// Writes what the socket takes. What is left wakes the driver when it can go on.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), StoreError> {
        let socket = self.socket.as_mut().map_err(|ended| ended.clone())?;
        while self.written < self.commands.len() {
            match Pin::new(&mut *socket).poll_write(cx, &self.commands[self.written..]) {
                Poll::Ready(Ok(0)) => return Err(connection_lost("it takes no more bytes")),
                Poll::Ready(Ok(length)) => self.written += length,
                Poll::Ready(Err(error)) => return Err(StoreError::Unreachable(error.to_string())),
                Poll::Pending => return Ok(()),
            }
        }
        if self.written > 0 {
            (self.written, self.flushing) = (0, true);
            self.commands.clear();
            self.commands.shrink_to(KEPT);
        }
        if self.flushing {
            match Pin::new(socket).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.flushing = false,
                Poll::Ready(Err(error)) => return Err(StoreError::Unreachable(error.to_string())),
                Poll::Pending => {}
            }
        }
        Ok(())
    }

    /// Reads what is there, and sends the replies to their waiters in order.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), StoreError> {
        let socket = self.socket.as_mut().map_err(|ended| ended.clone())?;
        loop {
            let read = pin!(socket.read_buf(self.decoder.buffer())).poll(cx);
            match read {
                Poll::Ready(Ok(0)) => return Err(connection_lost("it was closed")),
                Poll::Ready(Ok(_)) => self.reads = self.reads.wrapping_add(1),
                Poll::Ready(Err(error)) => return Err(StoreError::Unreachable(error.to_string())),
                Poll::Pending => return Ok(()),
            }
            while let Some(reply) = self.decoder.next().map_err(|ProtocolError(why)| protocol_error(why))? {
                let waiter = self.waiting.pop_front().ok_or_else(|| protocol_error("nobody asked for it"))?;
                // A cancelled command needs no reply.
                let _ = waiter.send(Ok(reply));
            }
        }
    }

    /// Closes the connection; the first reason stands.
    fn end(&mut self, error: &StoreError) {
        if self.socket.is_err() {
            return;
        }
        self.socket = Err(error.clone());
        self.commands = Vec::new();
        self.decoder = ReplyDecoder::new();
        for waiter in self.waiting.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.driver.wake_by_ref();
    }
}

fn connection_lost(how: &str) -> StoreError {
    StoreError::Unreachable(format!("the connection was lost: {how}"))
}

fn protocol_error(why: &str) -> StoreError {
    StoreError::Unreachable(format!("what came is no answer: {why}"))
}

#[cfg(test)]
mod tests;
