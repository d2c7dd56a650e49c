//! Refuses connections beyond the limit: in plain text with a constant answer, with TLS by closing.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Constant, since no request is read. `overloaded` is the public code of that reason.
const ANSWER: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nContent-Length: 126\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"detail\":\"Too many connections are open\",\"code\":\"overloaded\"}";
/// How long the client may take to read it; closing before would reset the connection.
const READ_TIME: Duration = Duration::from_millis(500);
/// How many are waited for at once; the others are closed right after the answer is written.
const MOST_WAITING: usize = 256;

/// Refuses connections.
pub struct Refusal {
    waiting: Arc<Semaphore>,
}

impl Refusal {
    /// For a gate that serves at most so many connections: those that are waited for hold descriptors, too.
    pub fn beside(connections: usize) -> Self {
        Self { waiting: Arc::new(Semaphore::new(MOST_WAITING.min(connections / 4).max(1))) }
    }

    /// Writes the answer without blocking; closing is left to a task.
    pub fn refuse(&self, stream: TcpStream, tls: bool) {
        // A handshake would cost more than the request it refuses.
        if tls || !write_answer(&stream) {
            return;
        }
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _ = timeout(READ_TIME, read_to_the_end(stream)).await;
            drop(permit);
        });
    }
}

/// Never blocks: a new connection's send buffer holds these few bytes.
fn write_answer(stream: &TcpStream) -> bool {
    stream.try_write(ANSWER).is_ok_and(|written| written == ANSWER.len())
}

async fn read_to_the_end(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut discarded = [0; 1024];
    while stream.read(&mut discarded).await? > 0 {}
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
