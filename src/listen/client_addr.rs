//! The client's address: the peer's, or the one that a trusted proxy names in `X-Forwarded-For`.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;

const X_FORWARDED_FOR: &str = "x-forwarded-for";

pub fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    let peer = peer.to_canonical();
    trusted.iter().any(|net| net.contains(&peer))
}

/// The first address from the right that is not a trusted proxy's. What stands left of it, or is not an address, a client could
/// have written itself.
pub fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let mut client = peer.to_canonical();
    if !is_trusted(client, trusted) {
        return client;
    }
    // Bytes: a line may hold a hop that is not text; those to the right of it were written by a proxy all the same.
    let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
    for hop in lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')) {
        let Some(address) = str::from_utf8(hop.trim_ascii()).ok().and_then(address) else { break };
        client = address;
        if !is_trusted(client, trusted) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]:4711`: proxies write all of them.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let parsed: Option<IpAddr> = bare.parse().ok();
    parsed.or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip())).map(|a| a.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_a_trusted_proxy_names_the_client() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("a network")];
        for (peer, lines, client) in [
            ("192.0.2.1", &[&b"203.0.113.9"[..]][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &[b"203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &[b"203.0.113.9:5000"], "203.0.113.9"),
            ("10.0.0.1", &[b"1.2.3.4, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &[b"1.2.3.4", b"203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &[b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &[b"1.2.3.4, nonsense, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[b"1.2.3.4, \xff, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[b"\xff, 203.0.113.9,\t10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &[b"1.2.3.4", b"\xff"], "10.0.0.1"),
            ("10.0.0.1", &[b"::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &[b"[2001:db8::1]:443"], "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(line).expect("no control character"));
            }
            let peer: IpAddr = peer.parse().expect("an address");
            assert_eq!(of(peer, &headers, &trusted).to_string(), client, "{peer} {lines:?}");
        }
    }
}
