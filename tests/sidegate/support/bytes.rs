//! Both ends in raw bytes, held by the test: a client's connection and the upstream's. (`scripted` plays an upstream by itself.)

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use super::PATIENCE;

/// One connection's end.
pub struct Wire(pub TcpStream);

/// An upstream that answers the head of each connection's first request with these bytes, and gives the connection to the test.
pub struct RawUpstream {
    pub address: SocketAddr,
    connections: Receiver<(String, Wire)>,
}

impl RawUpstream {
    pub fn that_answers(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sender, connections) = mpsc::channel();
        let answer = answer.into();
        // Detached: it waits for connections until the test program ends.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut wire = Wire::over(stream);
                let head = wire.head();
                wire.send(&answer);
                if sender.send((head, wire)).is_err() {
                    return;
                }
            }
        });
        Self { address, connections }
    }

    /// The next connection: the head that came first, and the rest of it.
    pub fn next(&self) -> (String, Wire) {
        self.connections.recv_timeout(PATIENCE).expect("the gate comes to the upstream")
    }

    /// Whether nobody came since the last time.
    pub fn is_alone(&self) -> bool {
        self.connections.try_recv().is_err()
    }
}

impl Wire {
    pub fn to(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).expect("the listener accepts"))
    }

    pub fn over(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero is valid");
        Self(stream)
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // The other side may have closed; what it did with the bytes shows elsewhere.
        let _ = self.0.write_all(bytes.as_ref());
    }

    /// Everything up to the empty line. One byte at a time, so that nothing behind it is taken.
    pub fn head(&mut self) -> String {
        self.until(b"\r\n\r\n")
    }

    /// Everything up to and with these bytes.
    pub fn until(&mut self, end: &[u8]) -> String {
        let mut read = Vec::new();
        let mut one = [0];
        while !read.ends_with(end) {
            match self.0.read(&mut one) {
                Ok(1..) => read.push(one[0]),
                ended => panic!("{ended:?} after {:?}", String::from_utf8_lossy(&read)),
            }
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    /// Everything until the other side closes or resets, for as long as that takes.
    pub fn rest(&mut self) -> String {
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => read.extend_from_slice(&buffer[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("still open after {:?}", String::from_utf8_lossy(&read))
                }
                Err(_) => break,
            }
        }
        String::from_utf8_lossy(&read).into_owned()
    }

    /// What comes within this time; nothing has to.
    pub fn within(&mut self, time: Duration) -> Vec<u8> {
        self.0.set_read_timeout(Some(time)).expect("a timeout above zero is valid");
        let mut buffer = vec![0; 4096];
        let length = self.0.read(&mut buffer).unwrap_or_default();
        buffer.truncate(length);
        self.0.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero is valid");
        buffer
    }

    /// Says that nothing more comes from here.
    pub fn finish(&self) {
        self.0.shutdown(Shutdown::Write).expect("the connection stands");
    }

    /// Reads so many bytes and forgets them; fewer where the other side closes before.
    pub fn skip(&mut self, wanted: usize) -> usize {
        let mut block = vec![0; 64 * 1024];
        let mut read = 0;
        while read < wanted {
            let most = block.len().min(wanted - read);
            match self.0.read(&mut block[..most]) {
                Ok(length @ 1..) => read += length,
                _ => break,
            }
        }
        read
    }

    /// Writes until the other side takes no more for two seconds, or so many bytes were taken; how many.
    pub fn fill(&mut self, most: usize) -> usize {
        self.write(most, Duration::from_secs(2))
    }

    /// Writes all of so many bytes.
    pub fn pour(&mut self, amount: usize) {
        assert_eq!(self.write(amount, PATIENCE), amount);
    }

    fn write(&mut self, most: usize, patience: Duration) -> usize {
        self.0.set_write_timeout(Some(patience)).expect("a timeout above zero is valid");
        let block = vec![b'x'; 64 * 1024];
        let mut taken = 0;
        while taken < most {
            match self.0.write(&block[..block.len().min(most - taken)]) {
                Ok(length) => taken += length,
                Err(_) => break,
            }
        }
        taken
    }
}
