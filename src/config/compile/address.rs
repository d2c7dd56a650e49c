//! Addresses as several fields write them: where to listen, and which networks are meant.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::reader::Reader;
use crate::config::field_path::FieldPath;
use crate::config::raw::Scalar;
use crate::config::scalar::{self, ScalarError};
use crate::network::{self, NetworkError};

/// An IPv4 address that was mapped into IPv6 is the IPv4 address: two fields that name it name the same place.
pub fn socket_address(path: &FieldPath, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<SocketAddr> {
    let written: SocketAddr = reader.parse(path, scalar, scalar::other("address with a port", "127.0.0.1:8080"))?;
    Some(SocketAddr::new(written.ip().to_canonical(), written.port()))
}

/// `10.0.0.0/8`, `192.0.2.1`.
pub fn network(text: &str) -> Result<IpNet, ScalarError> {
    network::written(text).map_err(|error| match error {
        NetworkError::NotANetwork(text) => ScalarError::Other { text, what: "network", example: "10.0.0.0/8" },
        NetworkError::HostBits { .. } => ScalarError::Network(error),
    })
}
