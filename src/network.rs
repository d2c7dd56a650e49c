//! A network as configurations, documents and command lines write it: `10.0.0.0/8`, or one address, which stands for itself.
//!
//! It stands below all who take one, so that what is denied, trusted or allowed is read in one way. Whether a client is in it
//! they ask with the client's canonical address: an IPv4 address mapped into IPv6 (RFC 4291 §2.5.5.2) is an IPv4 address.

use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// The bits before an IPv4 address that is mapped into IPv6.
const BEFORE_IPV4: u8 = 96;

/// Why a text that somebody writes now is not taken for a network.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NetworkError {
    #[error("`{0}` is neither an address nor a network; write one such as `192.0.2.7` or `10.0.0.0/8`")]
    NotANetwork(String),
    /// Whoever wrote it meant either the network or the one address.
    #[error("`{given}` has bits behind its prefix; write `{network}`, or the address alone")]
    HostBits { given: String, network: IpNet },
}

/// What somebody writes now. In documents that stand already `parse` takes more.
pub fn written(text: &str) -> Result<IpNet, NetworkError> {
    let network = parse(text).ok_or_else(|| NetworkError::NotANetwork(text.to_owned()))?;
    match network.trunc() {
        whole if whole == network => Ok(network),
        whole => Err(NetworkError::HostBits { given: text.to_owned(), network: whole }),
    }
}

/// `::ffff:10.0.0.0/104` is `10.0.0.0/8`: as a network of IPv6 it would hold no client. One that is cut within the bits before
/// the IPv4 address is neither of IPv4 nor of IPv6, and is none.
pub fn parse(text: &str) -> Option<IpNet> {
    let one = text.parse::<IpAddr>().ok().map(IpNet::from);
    let written: IpNet = one.or_else(|| text.parse().ok())?;
    match (written.addr(), written.addr().to_canonical()) {
        (IpAddr::V6(_), mapped @ IpAddr::V4(_)) => {
            IpNet::new(mapped, written.prefix_len().checked_sub(BEFORE_IPV4)?).ok()
        }
        _ => Some(written),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_network_has_one_form_however_it_is_written() {
        for (text, read) in [
            ("10.0.0.0/8", Some("10.0.0.0/8")),
            ("192.0.2.1", Some("192.0.2.1/32")),
            ("2001:db8::/32", Some("2001:db8::/32")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("::/0", Some("::/0")),
            ("::ffff:192.0.2.1", Some("192.0.2.1/32")),
            ("::ffff:c000:201/128", Some("192.0.2.1/32")),
            ("::ffff:10.0.0.0/104", Some("10.0.0.0/8")),
            ("::ffff:0:0/96", Some("0.0.0.0/0")),
            ("::ffff:0:0/95", None),
            ("::ffff:10.0.0.0/8", None),
            ("10.0.0.0/33", None),
            ("::/129", None),
            ("10.0.0", None),
            ("10.0.0.0/", None),
            (" 10.0.0.1", None),
            ("all", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(|network| network.to_string()).as_deref(), read, "{text}");
        }
    }

    #[test]
    fn whoever_writes_a_network_says_which_part_of_it_is_meant() {
        assert_eq!(written("10.0.0.0/8").map(|network| network.to_string()), Ok("10.0.0.0/8".to_owned()));
        assert_eq!(written("10.0.0.1").map(|network| network.to_string()), Ok("10.0.0.1/32".to_owned()));
        for (text, wrong) in [
            ("10.0.0.1/8", "`10.0.0.1/8` has bits behind its prefix; write `10.0.0.0/8`, or the address alone"),
            ("::ffff:10.0.0.1/104", "`::ffff:10.0.0.1/104` has bits behind its prefix; write `10.0.0.0/8`"),
            ("ten", "`ten` is neither an address nor a network"),
        ] {
            let told = written(text).map_err(|error| error.to_string());
            assert!(told.as_ref().is_err_and(|told| told.starts_with(wrong)), "{told:?}");
        }
    }

    proptest! {
        #[test]
        fn mapped_into_ipv6_it_is_the_same(address: std::net::Ipv4Addr, length in 0..=32_u8) {
            let mapped = address.to_ipv6_mapped();
            let network = parse(&format!("{address}/{length}"));
            prop_assert!(network.is_some_and(|network| network.contains(&IpAddr::V4(address))));
            prop_assert_eq!(parse(&format!("{mapped}/{}", length + BEFORE_IPV4)), network);
        }

        #[test]
        fn what_was_read_is_read_again_as_it_is_told(address: IpAddr, length in 0..=128_u8) {
            if let Some(network) = parse(&format!("{address}/{length}")) {
                prop_assert_eq!(parse(&network.to_string()), Some(network));
            }
        }
    }
}
