//! Addresses as several fields write them: where to listen, and which networks are meant.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::reader::Reader;
use crate::config::place::FieldPath;
use crate::config::raw::Scalar;
use crate::config::scalar::{self, ScalarError};

pub fn socket_address(path: &FieldPath, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<SocketAddr> {
    reader.parse(path, scalar, scalar::other("address with a port", "127.0.0.1:8080"))
}

/// `10.0.0.0/8`, `192.0.2.1`.
pub fn network(text: &str) -> Result<IpNet, ScalarError> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| scalar::other("network", "10.0.0.0/8")(text))
}
