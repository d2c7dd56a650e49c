//! Why a process cannot start; the command line says it and what to do.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

use crate::client_tls::ClientTlsError;
use crate::listen::tls::TlsError;
use crate::proxy::connector::ConnectorError;
use crate::store::StoreError;

/// Why the process cannot start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("{address} cannot be listened on: {error}")]
    Bind { address: SocketAddr, error: io::Error },
    #[error("listen.tls: {0}")]
    Tls(#[from] TlsError),
    #[error("upstream: {0}")]
    Upstream(#[from] ConnectorError),
    #[error("management.session: {0}")]
    Session(ConnectorError),
    #[error("{}: {error}", file.display())]
    Store { file: PathBuf, error: StoreError },
    #[error("store.tls: {0}")]
    RedisTls(#[from] ClientTlsError),
    #[error("the metrics cannot be set up: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}
