//! A TCP proxy before Redis that can be slow, silent, cut an answer in two or garble it: the network's moods, at will.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

/// What becomes of bytes, in both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Pass,
    /// Each arrives so much later.
    Delay(Duration),
    /// Connections are accepted, and nothing comes through until the mood changes.
    Silent,
    /// Half of the next answer arrives, and then the connection is closed.
    Cut,
    /// Of each answer the second half is noise; the connection stays.
    Garble,
    /// Everything arrives byte by byte.
    Trickle,
}

pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
}

struct State {
    mood: Mutex<Mood>,
    connections: Mutex<Vec<TcpStream>>,
    /// How often what was open then was left behind.
    forgotten: AtomicUsize,
}

impl Proxy {
    /// Stands before what listens on this port of loopback.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let state = Arc::new(State {
            mood: Mutex::new(Mood::Pass),
            connections: Mutex::default(),
            forgotten: AtomicUsize::new(0),
        });
        let accepting = state.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // A client whose server is gone sees its connection closed.
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    accepting.carry(&client, &server);
                }
            }
        });
        Self { port, state }
    }

    pub fn mood(&self, mood: Mood) {
        *self.state.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
    }

    /// Nothing comes through any more on what is open now, and nobody is told; what connects from now on passes.
    pub fn forget(&self) {
        self.state.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// Closes every connection that is open now.
    pub fn sever(&self) {
        for connection in self.state.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.mood(Mood::Pass);
        self.sever();
    }
}

impl State {
    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry(self: &Arc<Self>, client: &TcpStream, server: &TcpStream) {
        let twin = |stream: &TcpStream| {
            let _ = stream.set_nodelay(true);
            stream.try_clone().expect("a socket can be shared")
        };
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).extend([twin(client), twin(server)]);
        self.carry_one_way(twin(client), twin(server), false);
        self.carry_one_way(twin(server), twin(client), true);
    }

    /// Reads at once and writes when the mood allows, so that a delay does not slow the stream down besides.
    fn carry_one_way(self: &Arc<Self>, mut from: TcpStream, mut to: TcpStream, answers: bool) {
        let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>();
        let reading = self.clone();
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(length @ 1..) = from.read(&mut buffer) {
                let delay = if let Mood::Delay(delay) = reading.mood() { delay } else { Duration::ZERO };
                if send.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        let (writing, known) = (self.clone(), self.forgotten.load(Ordering::Relaxed));
        thread::spawn(move || {
            for (due, bytes) in receive {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                while writing.mood() == Mood::Silent {
                    thread::sleep(Duration::from_millis(2));
                }
                if writing.forgotten.load(Ordering::Relaxed) != known {
                    continue;
                }
                let (half, mood) = (bytes.len() / 2, writing.mood());
                let sent = match mood {
                    Mood::Cut if answers => to.write_all(&bytes[..half]).and(Err(ErrorKind::BrokenPipe.into())),
                    Mood::Garble if answers => {
                        to.write_all(&[&bytes[..half], &vec![b'~'; bytes.len() - half]].concat())
                    }
                    Mood::Trickle => bytes.chunks(1).try_for_each(|byte| to.write_all(byte)),
                    _ => to.write_all(&bytes),
                };
                if sent.is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}
