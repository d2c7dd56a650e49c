//! A `redis-server` of this test's own: a free port, no persistence, gone with the test.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidegate::store::redis::Settings;
use tempfile::TempDir;

#[path = "../sidegate/support/port.rs"]
mod port;

use self::port::Port;

pub struct RedisServer {
    child: Child,
    port: Port,
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
        let port = Port::reserve();
        Self { child: spawn(&port, &arguments, &directory), port, arguments, directory }
    }

    pub fn settings(&self) -> Settings {
        Settings::from_url(&format!("redis://{}", self.port.address())).expect("the test's address is valid")
    }

    pub fn client(&self) -> redis::Connection {
        redis::Client::open(("127.0.0.1", self.port.number))
            .and_then(|client| client.get_connection())
            .expect("the test's server takes connections")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the test's server can be killed");
        self.child.wait().expect("a killed server ends");
    }

    /// After `kill`: the same port, empty.
    pub fn restart(&mut self) {
        self.child = spawn(&self.port, &self.arguments, &self.directory);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until it listens, which it says by making its socket file.
fn spawn(port: &Port, arguments: &[String], directory: &TempDir) -> Child {
    let socket = directory.path().join("listening");
    let _ = std::fs::remove_file(&socket);
    let mut child = Command::new("redis-server")
        .args(["--port", &port.number.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .arg("--dir")
        .arg(directory.path())
        .arg("--unixsocket")
        .arg(&socket)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is missing; install it: apt-get install redis-server");
    let until = Instant::now() + Duration::from_secs(60);
    while !socket.exists() {
        assert_eq!(child.try_wait().expect("a child can be waited for"), None, "redis-server ends at its start");
        assert!(Instant::now() < until, "redis-server does not listen");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}
