//! HTTP/2 by hand: frames with whatever in them, for what no client library would send.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame as it was read.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One connection by prior knowledge.
pub struct Connection {
    stream: TcpStream,
    /// Read and not yet a whole frame.
    read: Vec<u8>,
}

/// An upstream whose connections the test holds.
pub struct Upstream {
    pub address: SocketAddr,
    connections: Receiver<Connection>,
}

impl Upstream {
    pub fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound listener has an address");
        let (sender, connections) = mpsc::channel();
        // Detached: it waits for connections until the test program ends.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if sender.send(Connection::accept(stream)).is_err() {
                    return;
                }
            }
        });
        Self { address, connections }
    }

    /// The next connection, which has been greeted.
    pub fn next(&self) -> Connection {
        self.connections.recv_timeout(PATIENCE).expect("the gate comes to the upstream")
    }
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's payload is short").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A setting's six bytes.
pub fn setting(id: u16, value: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

/// A header block in which each field is a literal without indexing and without Huffman (RFC 7541 §6.2.2): the bytes as they are.
pub fn block<T: AsRef<[u8]>>(fields: &[(T, T)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name.as_ref(), value.as_ref()] {
            integer(&mut bytes, text.len());
            bytes.extend_from_slice(text);
        }
    }
    bytes
}

/// A request's header block.
pub fn request(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path)];
    block(&[&pseudo[..], more].concat())
}

/// RFC 7541 §5.1 with a prefix of seven bits.
fn integer(bytes: &mut Vec<u8>, value: usize) {
    if value < 127 {
        bytes.push(u8::try_from(value).expect("it is below 127"));
        return;
    }
    bytes.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).expect("it is below 128") | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("it is below 128"));
}

impl Connection {
    /// Connects, and says these settings.
    pub fn open(address: SocketAddr, settings: &[u8]) -> Self {
        let stream = TcpStream::connect(address).expect("the listener accepts");
        stream.set_nodelay(true).expect("a TCP stream takes the option");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout above zero is valid");
        let mut connection = Self { stream, read: Vec::new() };
        let mut first = PREFACE.to_vec();
        first.extend(frame(SETTINGS, 0, 0, settings));
        first.extend(frame(SETTINGS, ACK, 0, &[]));
        connection.send(&first);
        connection
    }

    fn accept(mut stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP stream takes the option");
        let mut preface = [0; PREFACE.len()];
        stream.read_exact(&mut preface).expect("the gate speaks HTTP/2");
        let mut connection = Self { stream, read: Vec::new() };
        connection.send(&[frame(SETTINGS, 0, 0, &[]), frame(SETTINGS, ACK, 0, &[])].concat());
        connection
    }

    /// Sends as much as the other side takes; says whether that was all.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame, or none once the connection has ended or been silent for so long.
    pub fn next(&mut self, patience: Duration) -> Option<Frame> {
        let end = Instant::now() + patience;
        loop {
            if let Some(frame) = self.whole() {
                return Some(frame);
            }
            if !self.read_until(end) {
                return None;
            }
        }
    }

    /// Reads frames until one is like this.
    pub fn find(&mut self, patience: Duration, is_it: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let end = Instant::now() + patience;
        loop {
            let frame = self.next(end.saturating_duration_since(Instant::now()))?;
            if is_it(&frame) {
                return Some(frame);
            }
        }
    }

    /// Waits until the other side has closed; says whether it did in time.
    pub fn closes(&mut self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.read_until(end) {
            self.read.clear();
        }
        Instant::now() < end
    }

    fn whole(&mut self) -> Option<Frame> {
        let length = u32::from_be_bytes([0, *self.read.first()?, *self.read.get(1)?, *self.read.get(2)?]);
        let length = usize::try_from(length).expect("24 bits fit");
        if self.read.len() < 9 + length {
            return None;
        }
        let bytes: Vec<u8> = self.read.drain(..9 + length).collect();
        let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
        Some(Frame { kind: bytes[3], flags: bytes[4], stream, payload: bytes[9..].to_vec() })
    }

    /// Whether more has come before the end of the connection or of the patience.
    fn read_until(&mut self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.stream.set_read_timeout(Some(left)).expect("a timeout above zero is valid");
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.read.extend_from_slice(&buffer[..length]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            _ => false,
        }
    }
}
