//! One connection to Redis, from the socket to the login.
//!
//! Leaves to `connection` when to dial again, and to the callers how long they wait for an answer.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::errors::store_error;
use super::pipeline::{self, Pipeline, Socket};
use super::settings::{Address, Settings};
use super::tls;
use crate::keep_alive;
use crate::secret::{self, Secret};
use crate::store::StoreError;

/// What a server sends before any command, and closes: protected mode, or too many clients.
const UNSOLICITED: [&str; 2] = ["DENIED ", "ERR max number of clients"];

/// More of that line helps nobody.
const LONGEST_FIRST_LINE: usize = 512;

/// The task that moves the bytes of the crate's connection; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, logs in and picks the database, all within `connect_timeout`: the crate's connection, for what is seldom asked.
pub(super) async fn dial(
    settings: &Settings,
    address: &Address,
) -> Result<(MultiplexedConnection, Driver), StoreError> {
    in_time(settings, async {
        let login = Login::read(settings)?;
        log_in(login, settings.db, RecordingSocket::of(connect(settings, address).await?)).await
    })
    .await
}

/// The same for a pipeline of our own.
pub(super) async fn dial_pipeline(
    settings: &Settings,
    address: &Address,
) -> Result<(Pipeline, pipeline::Driver), StoreError> {
    in_time(settings, async {
        let login = Login::read(settings)?;
        Ok(pipeline::open(BorrowedSocket::log_in(&login, settings.db, connect(settings, address).await?).await?))
    })
    .await
}

async fn in_time<T>(
    settings: &Settings,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = || StoreError::Unreachable(format!("no connection within {:?}", settings.connect_timeout));
    timeout(settings.connect_timeout, attempt).await.unwrap_or_else(|_| Err(late()))
}

async fn connect(settings: &Settings, address: &Address) -> Result<Box<dyn Socket>, StoreError> {
    let Address { host, port } = address;
    let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    keep_alive::probe(&stream).map_err(|error| unreachable(error.into()))?;
    Ok(match &settings.tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls::connect(tls, host, stream).await?),
    })
}

/// The crate's own response timeout would leave the connection as it is; deadlines are the callers' and the supervisor's.
fn without_timeout() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new().set_response_timeout(None)
}

async fn log_in(login: Login, db: i64, socket: RecordingSocket) -> Result<(MultiplexedConnection, Driver), StoreError> {
    let info = login.info(db);
    let first_line = socket.first_line.clone();
    let (sender, receiver) = oneshot::channel();
    // The crate's driver borrows the login, so one task owns both.
    let driver = Driver(tokio::spawn(async move {
        match MultiplexedConnection::new_with_config(&info, socket, without_timeout()).await {
            Ok((connection, driver)) => {
                if sender.send(Ok(connection)).is_ok() {
                    driver.await;
                }
            }
            Err(error) => drop(sender.send(Err(error))),
        }
    }));
    match receiver.await {
        Ok(Ok(connection)) => Ok((connection, driver)),
        Ok(Err(error)) => Err(login.refused(&error, &first_line)),
        Err(_) => Err(StoreError::Unreachable("the login was cut short".to_owned())),
    }
}

/// The first line that a server sends. The crate does not repeat what a login was refused with, nor what a server sends right
/// before it closes the connection.
#[derive(Debug, Clone, Default)]
struct FirstLine(Arc<Mutex<Vec<u8>>>);

impl FirstLine {
    fn record(&self, bytes: &[u8]) {
        let mut first_line = self.lock();
        if !first_line.contains(&b'\n') {
            let room = LONGEST_FIRST_LINE.saturating_sub(first_line.len());
            first_line.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// That line, where it is an error, without what it repeats of the command: that may be half a password.
    fn refusal(&self) -> Option<String> {
        let first_line = self.lock();
        let line = first_line.strip_prefix(b"-")?;
        let end = line.iter().position(|byte| *byte == b'\r')?;
        let line = String::from_utf8_lossy(&line[..end]);
        line.split(", with args beginning").next().map(str::to_owned)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A socket that keeps the first line that it reads.
struct RecordingSocket {
    socket: Box<dyn Socket>,
    first_line: FirstLine,
}

impl RecordingSocket {
    fn of(socket: Box<dyn Socket>) -> Self {
        Self { socket, first_line: FirstLine::default() }
    }
}

impl AsyncRead for RecordingSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, into);
        self.first_line.record(&into.filled()[before..]);
        read
    }
}

impl AsyncWrite for RecordingSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

/// A socket that the crate logs in over and that comes back: how a login is made stands in one place, the crate's.
struct BorrowedSocket(Arc<Mutex<RecordingSocket>>);

impl BorrowedSocket {
    async fn log_in(login: &Login, db: i64, socket: Box<dyn Socket>) -> Result<Box<dyn Socket>, StoreError> {
        let socket = RecordingSocket::of(socket);
        let (first_line, socket) = (socket.first_line.clone(), Arc::new(Mutex::new(socket)));
        let info = login.info(db);
        // All that was asked is answered, so the crate's end holds no bytes that would be missed.
        let logged_in = MultiplexedConnection::new_with_config(&info, Self(socket.clone()), without_timeout()).await;
        logged_in.map(drop).map_err(|error| login.refused(&error, &first_line))?;
        // Its end went with its connection. Were that ever not so, two would read from one socket.
        let kept = || StoreError::Unreachable("the connection is still in use by its login".to_owned());
        let socket = Arc::into_inner(socket).ok_or_else(kept)?;
        Ok(socket.into_inner().unwrap_or_else(PoisonError::into_inner).socket)
    }

    fn socket(&self) -> MutexGuard<'_, RecordingSocket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for BorrowedSocket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_read(cx, into)
    }
}

impl AsyncWrite for BorrowedSocket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.socket()).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.socket()).poll_shutdown(cx)
    }
}

/// The user and the password as they are at this moment.
struct Login {
    username: Option<String>,
    password: Option<Secret>,
}

impl Login {
    fn read(settings: &Settings) -> Result<Self, StoreError> {
        let from = |file: &Option<PathBuf>| match file {
            None => Ok(None),
            Some(file) => secret::in_file(file).map(Some).map_err(|problem| {
                StoreError::Unreachable(format!("the login in {} cannot be read: {problem}", file.display()))
            }),
        };
        let files = &settings.login_files;
        Ok(Self {
            username: from(&files.username)?.or_else(|| settings.username.clone()),
            password: from(&files.password)?.map(Secret::new).or_else(|| settings.password.clone()),
        })
    }

    fn info(&self, db: i64) -> RedisConnectionInfo {
        let mut info = RedisConnectionInfo::default().set_db(db).set_lib_name("sidegate", env!("CARGO_PKG_VERSION"));
        if let Some(username) = &self.username {
            info = info.set_username(username);
        }
        if let Some(password) = &self.password {
            info = info.set_password(password.expose());
        }
        info
    }

    /// A login's error, in the server's words where there are any. A server without an AUTH command repeats its arguments in the
    /// error: the password is blotted out.
    fn refused(&self, error: &RedisError, first_line: &FirstLine) -> StoreError {
        let line = match error.kind() {
            ErrorKind::AuthenticationFailed => first_line.refusal(),
            // It closed the connection: for that, or for another reason after it had answered.
            _ => {
                first_line.refusal().filter(|line| UNSOLICITED.iter().any(|unsolicited| line.starts_with(unsolicited)))
            }
        };
        let mut error = line.map_or_else(|| store_error(error), StoreError::Refused);
        if let (Some(password), StoreError::Refused(text) | StoreError::Unreachable(text)) =
            (&self.password, &mut error)
            && !password.expose().is_empty()
        {
            *text = text.replace(password.expose(), "…");
        }
        error
    }
}

fn unreachable(error: io::Error) -> StoreError {
    StoreError::Unreachable(error.to_string())
}
