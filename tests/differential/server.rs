//! A `redis-server` of this test's own: a free port, no persistence, gone with the test.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidegate::store::redis::Settings;
use tempfile::TempDir;

pub struct RedisServer {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    directory: TempDir,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With further arguments, such as `--requirepass`.
    pub fn with(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
        // Another process may take a free port before Redis does: then Redis ends at once, and the next port is tried.
        for _ in 0..10 {
            let port = free_port();
            if let Some(child) = spawn(port, &arguments, &directory) {
                return Self { child, port, arguments, directory };
            }
        }
        panic!("redis-server found no free port in ten attempts");
    }

    pub fn settings(&self) -> Settings {
        Settings::from_url(&format!("redis://127.0.0.1:{}", self.port)).expect("the test's address is valid")
    }

    pub fn client(&self) -> redis::Connection {
        redis::Client::open(("127.0.0.1", self.port))
            .and_then(|client| client.get_connection())
            .expect("the test's server takes connections")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the test's server can be killed");
        self.child.wait().expect("a killed server ends");
    }

    /// After `kill`: the same port, empty.
    pub fn restart(&mut self) {
        self.child = spawn(self.port, &self.arguments, &self.directory).expect("the port is still free");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    listener.local_addr().expect("a bound socket has an address").port()
}

/// `None` when the server ended before it listened. It makes its socket file once the port is its own: whoever answers on the
/// port before may be somebody else.
fn spawn(port: u16, arguments: &[String], directory: &TempDir) -> Option<Child> {
    let socket = directory.path().join("listening");
    let _ = std::fs::remove_file(&socket);
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .arg("--unixsocket")
        .arg(&socket)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is missing; install it: apt-get install redis-server");
    let until = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if child.try_wait().expect("a child can be waited for").is_some() {
            return None;
        }
        assert!(Instant::now() < until, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    Some(child)
}
