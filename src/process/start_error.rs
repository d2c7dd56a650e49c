//! Why a process cannot start, with what to do, for the command line.

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
    #[error("{field}: {address} cannot be listened on: {error}{}", advice(error, field))]
    Bind { field: &'static str, address: SocketAddr, error: io::Error },
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

fn advice(error: &io::Error, field: &str) -> &'static str {
    match (error.kind(), field) {
        // The one that has a default, which a second gate on a machine meets first.
        (io::ErrorKind::AddrInUse, "admin") => {
            "; another process has it, such as a gate that still drains (`drain.deadline` at most), or a second one: \
             write another `admin` for this"
        }
        (io::ErrorKind::AddrInUse, _) => {
            "; another process has it, such as a gate that still drains (`drain.deadline` at most)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_names_its_field_and_who_may_have_it() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = taken.local_addr().expect("it is bound");
        let error = std::net::TcpListener::bind(address).expect_err("it is taken");
        let said = StartError::Bind { field: "admin", address, error }.to_string();
        assert!(said.starts_with(&format!("admin: {address}")) && said.contains("a gate that still drains"), "{said}");
        assert!(said.contains("write another `admin`"), "{said}");
    }
}
