//! One connection on which many commands are under way at once: who asks writes, who drives reads.
//!
//! What holds, whatever the other side does:
//! - Commands stand in the buffer in the order of those who wait for their answers; both change together, under one lock, and a
//!   command is never taken out again. So the n-th answer is that of the n-th command: whoever goes away keeps a place in the
//!   row, and its answer is read and dropped.
//! - What was written in part is continued where it ended, by whoever writes next. After an error nobody writes again.
//! - The socket wakes the driver alone: whoever asks writes with the driver's waker, so that neither forgets the other.
//! - Whoever asks while `MOST_WAITING` wait or `MOST_BYTES` are not written, waits for room, at most until its deadline: nothing
//!   is refused for it, and nothing grows beyond it.
//! - Bytes that are no answer, an answer while nobody waits, the end of the stream, and a driver that is dropped end the
//!   connection: the socket is closed, everybody who waits is told, and so is whoever comes later. An answer may be lost, never
//!   given to another; only a server that answers once too often while others wait would be believed, until nobody waits.
//! - Nothing is sent twice, and the buffers never hold a login (`dial`).
//!
//! Bytes into answers is left to `answers`; when to dial again, and deadlines, to `connect` and `line`.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use redis::{Cmd, FromRedisValue, Value, from_redis_value};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::sync::{Notify, oneshot};

use super::answers::{Answers, NoAnswer};
use super::errors::store_error;
use crate::store::StoreError;

/// How many answers are waited for at most, and how many bytes wait to be written.
const MOST_WAITING: usize = 1024;
const MOST_BYTES: usize = 1024 * 1024;

/// So many commands under way are worth a system call each; what is asked beyond them is written together.
const AT_ONCE: usize = 4;

/// What of the buffer is kept while there is nothing to write.
const KEPT: usize = 64 * 1024;

const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// TCP, TLS over it, or a test's memory.
pub(super) trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Socket for S {}

/// The way in, for all who ask.
#[derive(Clone)]
pub(super) struct Pipe(Arc<Shared>);

/// The connection's life: it must be polled for anything to arrive, and dropping it closes the connection.
pub(super) struct Driver(Arc<Shared>);

struct Shared {
    // Never held across an await; where all live on one thread it is always free.
    wire: Mutex<Wire>,
    /// There is room again for somebody who waits for it.
    room: Notify,
}

struct Wire {
    /// Why there is none any more.
    socket: Result<Box<dyn Socket>, StoreError>,
    /// Commands, the first `written` bytes of which have left.
    commands: Vec<u8>,
    written: usize,
    /// Everything is written, and some of it may not have left yet.
    flushing: bool,
    /// Why nothing can be written any more; the driver reads what was said before, and ends the connection.
    unwritable: Option<StoreError>,
    answers: Answers,
    waiting: VecDeque<Waiter>,
    /// Somebody waits for room.
    crowded: bool,
    /// Differs from what it was whenever something was read in between.
    reads: u32,
    driver: Waker,
}

type Waiter = oneshot::Sender<Result<Value, StoreError>>;
type Answered = oneshot::Receiver<Result<Value, StoreError>>;

/// Both ends of a connection that is logged in. Must not be used without polling `Driver::ended`.
pub(super) fn open(socket: Box<dyn Socket>) -> (Pipe, Driver) {
    let wire = Wire {
        socket: Ok(socket),
        commands: Vec::new(),
        written: 0,
        flushing: false,
        unwritable: None,
        answers: Answers::new(),
        waiting: VecDeque::new(),
        crowded: false,
        reads: 0,
        driver: Waker::noop().clone(),
    };
    let shared = Arc::new(Shared { wire: Mutex::new(wire), room: Notify::new() });
    (Pipe(shared.clone()), Driver(shared))
}

impl Pipe {
    /// Asks one command, and reads its answer as what is expected.
    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        self.call(false, |commands| command.write_packed_command(commands)).await
    }

    /// Asks the one command that is written, after ASKING where a slot is on its way to this node. It leaves with the first poll,
    /// if the socket takes it.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<T, StoreError> {
        let (asked, answered) = self.send(asking, write).await?;
        if let Some(asked) = asked {
            told::<Value>(asked).await?;
        }
        told(answered).await
    }

    async fn send(
        &self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Option<Answered>, Answered), StoreError> {
        loop {
            let room = {
                let mut wire = self.0.wire();
                if !wire.is_full() {
                    return wire.send(asking, write);
                }
                wire.crowded = true;
                // Who is told of room is whoever waited when there was some, so this begins before the lock ends.
                self.0.room.notified()
            };
            room.await;
        }
    }
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipe")
    }
}

async fn told<T: FromRedisValue>(answered: Answered) -> Result<T, StoreError> {
    let ended = |_| StoreError::Unreachable("the connection has ended".to_owned());
    let value = answered.await.map_err(ended)??;
    let value = value.extract_error().and_then(|value| Ok(from_redis_value(value)?));
    value.map_err(|error| store_error(&error))
}

impl Driver {
    /// Moves the connection's bytes until it is over, and says why it is. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> StoreError {
        poll_fn(|cx| {
            let mut wire = self.0.wire();
            let ended = wire.drive(cx);
            if wire.has_room_again() {
                wire.crowded = false;
                self.0.room.notify_waiters();
            }
            ended
        })
        .await
    }

    /// While the other side owes an answer: what differs from what it was whenever it has said anything in between.
    pub(super) fn awaits(&self) -> Option<u32> {
        let wire = self.0.wire();
        (!wire.waiting.is_empty()).then_some(wire.reads)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.wire().end(&lost("it was given up"));
        self.0.room.notify_waiters();
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Shared {
    fn wire(&self) -> MutexGuard<'_, Wire> {
        // Nothing in here panics halfway through a change.
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wire {
    /// Who comes to a connection that has ended need not wait to learn that, and nobody overtakes those who wait for room.
    fn is_full(&self) -> bool {
        let is_full = self.waiting.len() >= MOST_WAITING || self.commands.len() >= MOST_BYTES;
        self.socket.is_ok() && (self.crowded || is_full)
    }

    /// Not with the first place that is free: all who wait are told at once.
    fn has_room_again(&self) -> bool {
        let has_room = self.waiting.len() <= MOST_WAITING / 2 && self.commands.len() <= MOST_BYTES / 2;
        self.crowded && (self.socket.is_err() || has_room)
    }

    fn send(
        &mut self,
        asking: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(Option<Answered>, Answered), StoreError> {
        if let Err(ended) = &self.socket {
            return Err(ended.clone());
        }
        // Somebody's command is in the way, or the driver is about to write: it will take this one along.
        let is_idle = self.commands.is_empty() && !self.flushing && self.waiting.len() < AT_ONCE;
        let asked = asking.then(|| {
            self.commands.extend_from_slice(ASKING);
            self.wait()
        });
        write(&mut self.commands);
        let answered = self.wait();
        if is_idle {
            self.unwritable = self.write(&mut Context::from_waker(&self.driver.clone())).err();
        }
        if !is_idle || self.unwritable.is_some() {
            self.driver.wake_by_ref();
        }
        Ok((asked, answered))
    }

    fn wait(&mut self) -> Answered {
        let (waiter, answered) = oneshot::channel();
        self.waiting.push_back(waiter);
        answered
    }

    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<StoreError> {
        if !self.driver.will_wake(cx.waker()) {
            self.driver = cx.waker().clone();
        }
        // Both in each turn: a server that does not read before its answers are read would wait for ever. And first what was
        // answered, which may say why the server closed the connection.
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
                Poll::Ready(Ok(0)) => return Err(lost("it takes no more bytes")),
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

    /// Reads what is there, and hands the answers out in order.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<(), StoreError> {
        let socket = self.socket.as_mut().map_err(|ended| ended.clone())?;
        loop {
            let read = pin!(socket.read_buf(self.answers.room())).poll(cx);
            match read {
                Poll::Ready(Ok(0)) => return Err(lost("it was closed")),
                Poll::Ready(Ok(_)) => self.reads = self.reads.wrapping_add(1),
                Poll::Ready(Err(error)) => return Err(StoreError::Unreachable(error.to_string())),
                Poll::Pending => return Ok(()),
            }
            while let Some(answer) = self.answers.next().map_err(|NoAnswer(why)| unreadable(why))? {
                let waiter = self.waiting.pop_front().ok_or_else(|| unreadable("nobody asked for it"))?;
                // Who went away needs no answer.
                let _ = waiter.send(Ok(answer));
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
        self.answers = Answers::new();
        for waiter in self.waiting.drain(..) {
            let _ = waiter.send(Err(error.clone()));
        }
        self.driver.wake_by_ref();
    }
}

fn lost(how: &str) -> StoreError {
    StoreError::Unreachable(format!("the connection was lost: {how}"))
}

fn unreadable(why: &str) -> StoreError {
    StoreError::Unreachable(format!("what came is no answer: {why}"))
}

#[cfg(test)]
mod tests;
