//! The PROXY protocol, versions 1 and 2: the client's address, which a TCP load balancer sends before the client's first byte
//! (<https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>). Read before TLS, from the bare connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::client_addr;
use super::watch::TRICKLE;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// With its CRLF (§2.1).
const LONGEST_V1: usize = 107;
/// Addresses take 36 bytes; the rest are extensions, of which certificates are the longest.
const LONGEST_V2: usize = 4 * 1024;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyHeader {
    Client(IpAddr),
    /// The balancer's own connection, such as a health check, or a client without an address.
    NoClient,
}

#[derive(Debug, Clone, Copy, Error, PartialEq, Eq)]
pub enum HeaderError {
    #[error("{0} may not send a PROXY protocol header: it is not among listen.trusted_proxies")]
    Untrusted(IpAddr),
    #[error("it does not begin with a PROXY protocol header")]
    Missing,
    #[error("its PROXY protocol header is malformed")]
    Malformed,
    #[error("its PROXY protocol header is too long")]
    TooLong,
}

/// Reads the header off the connection, and returns the client's address.
pub async fn read(stream: &mut TcpStream, peer: IpAddr, trusted: &[IpNet]) -> io::Result<IpAddr> {
    if !client_addr::is_trusted(peer, trusted) {
        return Err(refused(HeaderError::Untrusted(peer)));
    }
    let mut first = [0; SIGNATURE.len()];
    stream.read_exact(&mut first).await?;
    let header = if first == *SIGNATURE { read_v2(stream).await? } else { read_v1(stream, &first).await? };
    Ok(match header {
        ProxyHeader::Client(address) => address.to_canonical(),
        ProxyHeader::NoClient => peer,
    })
}

async fn read_v2(stream: &mut TcpStream) -> io::Result<ProxyHeader> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    if length > LONGEST_V2 {
        return Err(refused(HeaderError::TooLong));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    v2(fixed[0], fixed[1], &rest).map_err(refused)
}

/// The line is peeked at before it is read, so that no byte behind it is taken.
async fn read_v1(stream: &mut TcpStream, first: &[u8]) -> io::Result<ProxyHeader> {
    if !first.starts_with(b"PROXY ") {
        return Err(refused(HeaderError::Missing));
    }
    let mut line = [0; LONGEST_V1];
    line[..first.len()].copy_from_slice(first);
    let mut rest = [0; LONGEST_V1 - SIGNATURE.len()];
    loop {
        let seen = stream.peek(&mut rest).await?;
        if let Some(end) = rest[..seen].iter().position(|byte| *byte == b'\n') {
            let length = first.len() + end + 1;
            stream.read_exact(&mut line[first.len()..length]).await?;
            return v1(&line[..length]).map_err(refused);
        }
        match seen {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if seen == rest.len() => return Err(refused(HeaderError::TooLong)),
            _ => sleep(TRICKLE).await,
        }
    }
}

/// `PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n`.
pub fn v1(line: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let text = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let mut words = text.ok_or(HeaderError::Malformed)?.split(' ');
    if words.next() != Some("PROXY") {
        return Err(HeaderError::Missing);
    }
    let protocol = words.next();
    if protocol == Some("UNKNOWN") {
        // What follows is to be ignored.
        return Ok(ProxyHeader::NoClient);
    }
    let fields = [words.next(), words.next(), words.next(), words.next()];
    let ([Some(source), Some(destination), Some(source_port), Some(port)], None) = (fields, words.next()) else {
        return Err(HeaderError::Malformed);
    };
    let ports = is_port(source_port) && is_port(port);
    let client = match protocol {
        Some("TCP4") => both::<Ipv4Addr>(source, destination).map(IpAddr::V4),
        Some("TCP6") => both::<Ipv6Addr>(source, destination).map(IpAddr::V6),
        _ => None,
    };
    client.filter(|_| ports).map(ProxyHeader::Client).ok_or(HeaderError::Malformed)
}

/// The first of two, if both are addresses of this kind.
fn both<A: std::str::FromStr>(source: &str, destination: &str) -> Option<A> {
    destination.parse::<A>().ok().and_then(|_| source.parse().ok())
}

/// Without leading zeros or signs.
fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

/// Version and command, family and protocol, and what follows the length (§2.2).
pub fn v2(version_and_command: u8, family: u8, rest: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(HeaderError::Malformed),
    };
    // Source and destination, then two ports.
    let (v4, v6) = (rest.get(..12), rest.get(..36));
    match (is_local, family) {
        (true, _) => Ok(ProxyHeader::NoClient),
        (false, 0x11) => {
            let source = v4.and_then(|addresses| addresses.first_chunk::<4>()).ok_or(HeaderError::Malformed)?;
            Ok(ProxyHeader::Client(IpAddr::from(*source)))
        }
        (false, 0x21) => {
            let source = v6.and_then(|addresses| addresses.first_chunk::<16>()).ok_or(HeaderError::Malformed)?;
            Ok(ProxyHeader::Client(IpAddr::from(*source)))
        }
        // Unspecified: the connection's own addresses stand.
        (false, 0x00) => Ok(ProxyHeader::NoClient),
        // Datagrams and unix sockets do not end in a TCP listener.
        _ => Err(HeaderError::Malformed),
    }
}

fn refused(error: HeaderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn version_1_is_read_as_it_is_written() {
        let client = |text: &str| Ok(ProxyHeader::Client(text.parse().expect("an address")));
        let wrong = Err(HeaderError::Malformed);
        for (line, said) in [
            ("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n", client("192.0.2.1")),
            ("PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n", client("2001:db8::1")),
            ("PROXY UNKNOWN\r\n", Ok(ProxyHeader::NoClient)),
            ("PROXY UNKNOWN ffff::1 whatever\r\n", Ok(ProxyHeader::NoClient)),
            ("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\n", wrong),
            ("PROXY TCP4 192.0.2.1 198.51.100.7 56324\r\n", wrong),
            ("PROXY TCP4 192.0.2.1 198.51.100.7 56324 443 1\r\n", wrong),
            ("PROXY TCP4  192.0.2.1 198.51.100.7 56324 443\r\n", wrong),
            ("PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n", wrong),
            ("PROXY TCP4 192.0.2.1 198.51.100.7 65536 443\r\n", wrong),
            ("PROXY TCP4 192.0.2.1 198.51.100.7 056 443\r\n", wrong),
            ("PROXY UDP4 192.0.2.1 198.51.100.7 1 443\r\n", wrong),
            ("PROXY\r\n", wrong),
            ("GET / HTTP/1.1\r\n", Err(HeaderError::Missing)),
        ] {
            assert_eq!(v1(line.as_bytes()), said, "{line:?}");
        }
    }

    #[test]
    fn version_2_speaks_of_tcp_alone() {
        let mut four = vec![192, 0, 2, 1, 198, 51, 100, 7, 0, 1, 0, 2];
        four.extend_from_slice(b"\x03\0\x04abcd");
        assert_eq!(v2(0x21, 0x11, &four), Ok(ProxyHeader::Client(IpAddr::from([192, 0, 2, 1]))));
        assert_eq!(v2(0x20, 0x11, &four), Ok(ProxyHeader::NoClient));
        assert_eq!(v2(0x20, 0x00, &[]), Ok(ProxyHeader::NoClient));
        assert_eq!(v2(0x21, 0x00, &[]), Ok(ProxyHeader::NoClient));
        for (command, family, rest) in [
            (0x21, 0x11, &four[..11]),
            (0x21, 0x21, &four),
            (0x21, 0x12, &four),
            (0x11, 0x11, &four),
            (0x22, 0x11, &four),
        ] {
            assert_eq!(v2(command, family, rest), Err(HeaderError::Malformed), "{command:x} {family:x}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_written_is_read_back(source: IpAddr, port: u16) {
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let line = format!("PROXY {family} {source} {source} {port} 443\r\n");
            prop_assert!(line.len() <= LONGEST_V1);
            prop_assert_eq!(v1(line.as_bytes()), Ok(ProxyHeader::Client(source)));
            let (family, mut rest) = match source {
                IpAddr::V4(address) => (0x11, address.octets().to_vec()),
                IpAddr::V6(address) => (0x21, address.octets().to_vec()),
            };
            rest.resize(rest.len() * 2 + 4, 0);
            prop_assert_eq!(v2(0x21, family, &rest), Ok(ProxyHeader::Client(source)));
        }

        #[test]
        fn no_bytes_bring_the_readers_down(line: Vec<u8>, command: u8, family: u8) {
            let _ = v1(&line);
            let _ = v1(&[b"PROXY TCP4 ", &line[..], b"\r\n"].concat());
            let _ = v2(command, family, &line);
        }
    }
}
