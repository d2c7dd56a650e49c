//! A port for a server that takes no port 0: nobody else gets it from the system for as long as this is held, also while the server
//! is down and is to come back where it was.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    os::fd::OwnedFd,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with, sockopt};

/// A socket is bound to it and never listens. Who asks the system for any free port gets another one; who names this one and says
/// SO_REUSEADDR, as servers do, gets it; who connects while no server listens is refused.
#[derive(Debug)]
pub struct Port {
    pub number: u16,
    _held: Vec<OwnedFd>,
}

impl Port {
    pub fn reserve() -> Self {
        Self::reserve_with(&[])
    }

    /// One with these, so much higher, that a server opens besides.
    pub fn reserve_with(higher: &[u16]) -> Self {
        let tried = || {
            let (number, first) = bound(0)?;
            let others = higher.iter().map(|higher| Some(bound(number.checked_add(*higher)?)?.1));
            let held = [Some(first)].into_iter().chain(others).collect::<Option<_>>()?;
            Some(Self { number, _held: held })
        };
        (0..1000).find_map(|_| tried()).expect("loopback has such ports")
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.number))
    }
}

/// `None` where somebody has this port.
fn bound(number: u16) -> Option<(u16, OwnedFd)> {
    let held = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let held = held.expect("a process may have a socket more");
    bind(&held, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, number)).ok()?;
    // Said once the port is its own: before, it would share one with its like.
    sockopt::set_socket_reuseaddr(&held, true).expect("a TCP socket takes the option");
    let bound = SocketAddrV4::try_from(getsockname(&held).expect("it is bound")).expect("it is bound to IPv4");
    Some((bound.port(), held))
}
