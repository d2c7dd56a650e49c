//! What a connection gets for which there is no room: over plain text an answer that costs nothing to make, over TLS the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// No request is read for it, so that it is the same for all. `overloaded` is the code of the contract's table.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 126\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"Too many connections are open\",\"code\":\"overloaded\"}";
/// How long the client may take to read it; closing before would take it back.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many are waited for at once; the others are closed right after they have been told.
const WAITED_FOR: usize = 256;

/// Refuses connections.
pub struct Refusal {
    waiting: Arc<Semaphore>,
}

impl Refusal {
    /// Beside so many connections that are served: those that are waited for hold descriptors, too.
    pub fn beside(connections: usize) -> Self {
        Self { waiting: Arc::new(Semaphore::new(WAITED_FOR.min(connections / 4).max(1))) }
    }

    /// Tells the client, without waiting for anything itself.
    pub fn refuse(&self, stream: TcpStream, tls: bool) {
        // A handshake would cost more than what it refuses.
        if tls || !is_told(&stream) {
            return;
        }
        let Ok(place) = self.waiting.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _ = timeout(PATIENCE, read_to_the_end(stream)).await;
            drop(place);
        });
    }
}

/// A new connection has room for these few bytes.
fn is_told(stream: &TcpStream) -> bool {
    stream.try_write(ANSWER).is_ok_and(|written| written == ANSWER.len())
}

async fn read_to_the_end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut room = [0; 1024];
    while stream.read(&mut room).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(ANSWER).expect("it is text");
        let (head, body) = text.split_once("\r\n\r\n").expect("it has a body");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{}", body.len());
    }
}
