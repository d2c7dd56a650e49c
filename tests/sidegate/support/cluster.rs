//! Redis in its other shapes: servers with arguments of their own, over TLS, behind sentinels, as a cluster.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use redis::FromRedisValue;
use tempfile::TempDir;

use super::{redis::free_port, until};

/// What a gate's user may: read documents, write counts, and not mint. It wants Redis 7 or Valkey: the last part is a selector,
/// so that SET, which the script calls, reaches counts alone.
pub const GATE_ACL: &str = "on resetchannels -@all +auth +select +time +role +info +script|load +evalsha +get +mget +sismember \
    +cluster|slots +asking ~sg:* (+set ~sg:{*}:count:*)";

/// What the user of the command line and of management may: keep documents, and not run the gate's script.
pub const KEEPER_ACL: &str = "on resetchannels -@all +auth +select +role +info +get +mget +set +del +sadd +srem +sscan +scan \
    +eval +cluster|slots +asking ~sg:*";

/// A `redis-server` (or one that is a sentinel) with these arguments, gone with the test.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    folder: TempDir,
    arguments: Vec<String>,
}

impl Server {
    /// `{port}` in an argument is the port that was found, `{dir}` the server's own folder.
    pub fn start(arguments: &[&str]) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let dir = folder.path().display().to_string();
        let fill = |argument: &&str| argument.replace("{port}", &port.to_string()).replace("{dir}", &dir);
        let arguments = arguments.iter().map(fill).collect();
        let mut server = Self { child: None, port, folder, arguments };
        server.run();
        server
    }

    /// A sentinel that watches `main` on this port; two must agree that it is gone.
    pub fn sentinel(master: u16) -> Self {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = folder.path().join("sentinel.conf").display().to_string();
        let watched = [
            format!("sentinel monitor main 127.0.0.1 {master} 2"),
            "sentinel down-after-milliseconds main 1000".to_owned(),
            "sentinel failover-timeout main 5000".to_owned(),
        ];
        fs::write(&config, watched.join("\n")).expect("the folder is writable");
        let arguments = vec![config, "--sentinel".to_owned(), "--port".to_owned(), port.to_string()];
        let mut server = Self { child: None, port, folder, arguments };
        server.run();
        server
    }

    pub fn plain(arguments: &[&str]) -> Self {
        Self::start(&[&["--port", "{port}", "--save", "", "--appendonly", "no"], arguments].concat())
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        let file = self.folder.path().join(name);
        fs::write(&file, text).expect("the folder is writable");
        file.display().to_string()
    }

    /// Starts it (again) and waits until it listens.
    pub fn run(&mut self) {
        let mut child = Command::new("redis-server")
            .args(&self.arguments)
            .args(["--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; install it with `apt-get install redis-server`"));
        until("redis-server to listen", || {
            let ended = child.try_wait().expect("the child can be asked");
            assert!(ended.is_none(), "redis-server ended: {ended:?}, with {:?}", self.arguments);
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        self.child = Some(child);
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub fn try_ask<T: FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        let mut connection = client.get_connection()?;
        redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Makes or changes a user.
    pub fn user(&self, name: &str, rules: &str) {
        // A selector is one argument, whatever stands in it.
        let (plain, selector) =
            rules.split_once('(').map_or((rules, None), |(plain, rest)| (plain, Some(format!("({rest}"))));
        let mut command = vec!["ACL", "SETUSER", name];
        command.extend(plain.split_whitespace());
        command.extend(selector.as_deref());
        self.ask::<()>(&command);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
