//! TCP's own question whether the other side is still there, on the connections that the gate opens and keeps.
//!
//! A path that forgets idle connections keeps these, and a host that went away silently is found before a request needs it.

use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::TcpStream;

/// When an idle connection is probed first, how soon again, and how often in vain.
const FIRST: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(5);
const TIMES: u32 = 3;

/// Has the system probe the connection from now on, and end it when nobody answers.
pub fn probe(stream: &TcpStream) -> rustix::io::Result<()> {
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, FIRST)?;
    sockopt::set_tcp_keepintvl(stream, AGAIN)?;
    sockopt::set_tcp_keepcnt(stream, TIMES)
}
