//! One connection to Redis, from the socket to the login, and what its errors mean to the rest of the house.
//!
//! Leaves to `connect` when to dial again, and to the callers how long they wait for an answer.

use std::io;
use std::path::PathBuf;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisConnectionInfo, RedisError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::settings::{Address, Settings};
use super::tls;
use crate::secret::{self, Secret};
use crate::store::StoreError;

/// The task that moves a connection's bytes. It ends when the connection breaks, so who holds it learns that without
/// asking; dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Driver(JoinHandle<()>);

impl Driver {
    /// Returns when the connection is gone.
    pub(super) async fn ended(&mut self) {
        // An error means that the task was aborted or panicked: the connection is gone all the same.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Connects, logs in and picks the database, all within `connect_timeout`.
pub(super) async fn dial(
    settings: &Settings,
    address: &Address,
) -> Result<(MultiplexedConnection, Driver), StoreError> {
    let attempt = async {
        let login = Login::read(settings)?;
        let Address { host, port } = address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        match &settings.tls {
            None => log_in(login, settings.db, stream).await,
            Some(tls) => log_in(login, settings.db, tls::connect(tls, host, stream).await?).await,
        }
    };
    match timeout(settings.connect_timeout, attempt).await {
        Ok(done) => done,
        Err(_) => Err(StoreError::Unreachable(format!("no connection within {:?}", settings.connect_timeout))),
    }
}

async fn log_in(
    login: Login,
    db: i64,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<(MultiplexedConnection, Driver), StoreError> {
    let info = login.info(db);
    let (tell, told) = oneshot::channel();
    // The crate's driver borrows the login, so one task owns both.
    let driver = Driver(tokio::spawn(async move {
        // The crate's own response timeout would leave the connection as it is; deadlines are the callers' and the supervisor's.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        match MultiplexedConnection::new_with_config(&info, stream, config).await {
            Ok((connection, driver)) => {
                if tell.send(Ok(connection)).is_ok() {
                    driver.await;
                }
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    }));
    match told.await {
        Ok(Ok(connection)) => Ok((connection, driver)),
        Ok(Err(error)) => Err(login.refused(&error)),
        Err(_) => Err(StoreError::Unreachable("the login was cut short".to_owned())),
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

    /// A login's error in our words. A server without an AUTH command repeats its arguments in the error: the password is blotted out.
    fn refused(&self, error: &RedisError) -> StoreError {
        let mut error = store_error(error);
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

/// The error of the one command in a pipeline that failed.
pub(super) fn pipeline_error(error: &RedisError) -> StoreError {
    match error.clone().into_server_errors() {
        Some(errors) => errors.first().map_or_else(
            || store_error(error),
            |(_, error)| StoreError::Refused(format!("{} {}", error.code(), error.details().unwrap_or_default())),
        ),
        None => store_error(error),
    }
}

/// What an error of the crate means: the connection is gone, a value has the wrong type, or the server refused.
pub(super) fn store_error(error: &RedisError) -> StoreError {
    match error.code() {
        Some("WRONGTYPE") => StoreError::Broken(error.detail().unwrap_or("a value has the wrong type").to_owned()),
        Some(code) => {
            StoreError::Refused(format!("{code} {}", error.detail().unwrap_or_default()).trim_end().to_owned())
        }
        None if error.kind() == ErrorKind::AuthenticationFailed => StoreError::Refused(error.to_string()),
        None if error.is_io_error() || error.is_unrecoverable_error() => StoreError::Unreachable(error.to_string()),
        None => StoreError::Broken(error.to_string()),
    }
}
