//! What the crate's errors mean to whoever uses a store.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError};

use crate::store::StoreError;

/// Asks one command over the crate's connection.
pub(super) async fn query<T: FromRedisValue>(
    connection: &MultiplexedConnection,
    command: &Cmd,
) -> Result<T, StoreError> {
    command.query_async(&mut connection.clone()).await.map_err(|error| store_error(&error))
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
