//! An upstream that follows a script, byte by byte: for what no well-behaved server does. It remembers every request's head,
//! and which connection it came on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

pub struct Scripted {
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
}

/// One connection to it.
pub struct Line {
    /// From 1.
    pub number: usize,
    stream: TcpStream,
    heads: Arc<Mutex<Vec<(usize, String)>>>,
}

impl Scripted {
    /// Plays this for each connection, on a thread of its own; the connection is closed where the script ends.
    pub fn play(script: impl Fn(&mut Line) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let heads = Arc::<Mutex<Vec<_>>>::default();
        let (seen, script) = (heads.clone(), Arc::new(script));
        // Detached: it waits for connections until the test program ends.
        thread::spawn(move || {
            for (number, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
                let (heads, script) = (seen.clone(), script.clone());
                thread::spawn(move || script(&mut Line { number, stream, heads }));
            }
        });
        Self { address, heads }
    }

    /// Each request's method and the number of its connection, in their order.
    pub fn seen(&self) -> Vec<(usize, String)> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.iter().map(|(line, head)| (*line, head.split(' ').next().unwrap_or_default().to_owned())).collect()
    }
}

impl Line {
    /// Reads up to the end of a head; `None` when the other side has closed.
    pub fn head(&mut self) -> Option<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                _ => return None,
            }
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push((self.number, head.clone()));
        Some(head)
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // The gate may have closed by then, which is what some tests are about.
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Reads this much of a body; whether it came.
    pub fn read(&mut self, length: usize) -> bool {
        let mut buffer = vec![0; length];
        self.stream.read_exact(&mut buffer).is_ok()
    }

    /// Says that nothing more comes, before the script ends.
    pub fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Waits until the gate closes.
    pub fn closes(&mut self) {
        while let Ok(1..) = self.stream.read(&mut [0; 4096]) {}
    }

    /// Answers with 200 to every request until the gate closes.
    pub fn serve(&mut self) {
        while self.head().is_some() {
            self.say(OK);
        }
    }
}

pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
