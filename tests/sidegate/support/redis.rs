//! A real `redis-server` of the test's own, and the documents of the contract written into it the way another service would.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::FromRedisValue;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use uuid::Uuid;

use super::{PATIENCE, Port, until, within};

/// The prefix that every gate under test uses.
pub const PREFIX: &str = "sg";

pub struct Redis {
    server: Option<Child>,
    port: Port,
    folder: TempDir,
}

/// A key that stands in the store: its text, its id, its tenant (`b:acme`), and its digest.
#[derive(Debug, Clone)]
pub struct Key {
    pub text: String,
    pub id: String,
    pub tenant: String,
    pub digest: String,
}

impl Redis {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port = Port::reserve();
        Self { server: Some(serve(port.number, &folder, &[])), port, folder }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/0", self.port.number)
    }

    pub fn port(&self) -> u16 {
        self.port.number
    }

    /// Sends the server a signal (`STOP`, `CONT`).
    pub fn signal(&self, name: &str) {
        let server = self.server.as_ref().expect("Redis is up").id().to_string();
        let mut kill = Command::new("kill");
        super::client::printed_by(kill.args([&format!("-{name}"), &server]), "`kill` belongs to every system");
    }

    /// Kills the server as a crash would, after what it holds was saved.
    pub fn stop(&mut self) {
        self.ask::<()>(&["SAVE"]);
        self.kill();
    }

    /// Starts it again where it stood, with what it held.
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// The same with these arguments, for this once.
    pub fn restart_with(&mut self, arguments: &[&str]) {
        self.server = Some(serve(self.port.number, &self.folder, arguments));
    }

    /// Lets a save fail, after which it refuses to write (MISCONF).
    pub fn fail_to_save(&self) {
        let (_, folder): (String, String) = self.ask(&["CONFIG", "GET", "dir"]);
        let in_the_way = std::path::Path::new(&folder).join("dump.rdb");
        std::fs::create_dir(in_the_way).expect("the folder is writable");
        self.ask::<()>(&["CONFIG", "SET", "save", "3600 1000000"]);
        self.ask::<()>(&["BGSAVE"]);
        until("the saving to fail", || {
            self.ask::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err").then_some(())
        });
    }

    /// Asks with one command, on a connection of its own.
    pub fn ask<T: FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = connect(self.port.number).expect("Redis is up");
        let mut built = redis::cmd(command[0]);
        for argument in &command[1..] {
            built.arg(*argument);
        }
        built.query(&mut connection).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// The store's own clock, in milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> u64 {
        let (seconds, micros): (u64, u64) = self.ask(&["TIME"]);
        seconds * 1000 + micros / 1000
    }

    pub fn wait_until(&self, ms: u64) {
        until("the store's clock", || (self.now_ms() >= ms).then_some(()));
    }

    /// Waits until an aligned window of this length still has so much time left that the test fits in.
    pub fn room(&self, window_ms: u64, needed_ms: u64) {
        let patience = PATIENCE + Duration::from_millis(needed_ms);
        within(patience, "room in the window", || (window_ms - self.now_ms() % window_ms > needed_ms).then_some(()));
    }

    /// Writes a key as another service would: the document first, then where it is found. What is left out gets a value.
    pub fn mint(&self, document: Value) -> Key {
        self.mint_as(&key_text(), document)
    }

    pub fn mint_as(&self, text: &str, document: Value) -> Key {
        let mut whole = json!({
            "id": Uuid::new_v4().to_string(), "name": "test", "hint": text.get(..11).unwrap_or(text), "scopes": ["*"],
            "created_at": "2026-03-23T14:30:00Z",
        });
        merge(&mut whole, document);
        let tenant = match (whole["business"].as_str(), whole["user"].as_str()) {
            (Some(business), _) => format!("b:{business}"),
            (None, Some(user)) => format!("u:{user}"),
            (None, None) => panic!("a key belongs to a business or to a user"),
        };
        let id = whole["id"].as_str().expect("an id is text").to_owned();
        let key = Key { text: text.to_owned(), id, tenant, digest: sha256(text) };
        self.set(&key.document(), &whole.to_string());
        self.ask::<()>(&["SADD", &format!("{PREFIX}:{{{}}}:keys", key.tenant), &key.digest]);
        self.set(&format!("{PREFIX}:id:{}", key.id), &format!("{} {}", key.tenant, key.digest));
        self.set(&key.hint(), &key.tenant);
        key
    }

    /// Replaces members of a key's document with one SET.
    pub fn rewrite(&self, key: &Key, changes: Value) {
        let mut document: Value = serde_json::from_str(&self.ask::<String>(&["GET", &key.document()])).expect("JSON");
        merge(&mut document, changes);
        self.set(&key.document(), &document.to_string());
    }

    pub fn set_business(&self, business: &str, document: Value) {
        self.set(&format!("{PREFIX}:{{b:{business}}}:business"), &document.to_string());
    }

    /// Makes the user an owner of the business.
    pub fn own(&self, user: &str, business: &str) {
        self.ask::<()>(&["SADD", &format!("{PREFIX}:{{u:{user}}}:businesses"), business]);
    }

    /// Every name and every value that the store holds.
    pub fn everything(&self) -> String {
        let names: Vec<String> = self.ask(&["KEYS", "*"]);
        let held = |name: &String| match self.ask::<String>(&["TYPE", name]).as_str() {
            "string" => String::from_utf8_lossy(&self.ask::<Vec<u8>>(&["GET", name])).into_owned(),
            "set" => self.ask::<Vec<String>>(&["SMEMBERS", name]).join(" "),
            "hash" => self.ask::<Vec<String>>(&["HGETALL", name]).join(" "),
            "zset" => self.ask::<Vec<String>>(&["ZRANGE", name, "0", "-1", "WITHSCORES"]).join(" "),
            "stream" => format!("{:?}", self.ask::<redis::Value>(&["XRANGE", name, "-", "+"])),
            other => panic!("{name} is a {other}, which the contract does not know"),
        };
        names.iter().map(|name| format!("{name} {}\n", held(name))).collect()
    }

    pub fn set(&self, name: &str, value: &str) {
        self.ask::<()>(&["SET", name, value]);
    }

    pub fn delete(&self, name: &str) {
        self.ask::<()>(&["DEL", name]);
    }

    /// From now on, what others send to this Redis.
    pub fn watch(&self) -> Watch {
        let mut stream = TcpStream::connect(self.port.address()).expect("Redis is up");
        stream.write_all(b"MONITOR\r\n").expect("Redis reads");
        let mut lines = BufReader::new(stream);
        let mut confirmed = String::new();
        lines.read_line(&mut confirmed).expect("MONITOR is confirmed");
        Watch { port: self.port.number, lines, deciding: HashSet::new() }
    }

    /// Kills the server as a crash would: all that it held is lost.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Key {
    pub fn document(&self) -> String {
        format!("{PREFIX}:{{{}}}:key:{}", self.tenant, self.digest)
    }

    /// The name under which a sidecar that has not seen the key finds its tenant.
    pub fn hint(&self) -> String {
        format!("{PREFIX}:at:{}", self.digest)
    }
}

/// Reads Redis's MONITOR.
pub struct Watch {
    port: u16,
    lines: BufReader<TcpStream>,
    /// The connections on which something under the prefix was asked about.
    deciding: HashSet<String>,
}

impl Watch {
    /// The names of the commands that arrived since the last look on connections that have asked about a key or a count,
    /// without those that a script issued or that keep a connection alive: what a gate sends while a connection is set up
    /// is no part of any request, and neither is the use that it has counted.
    pub fn calls(&mut self) -> Vec<String> {
        let mark = Uuid::new_v4().to_string();
        let mut connection = connect(self.port).expect("Redis is up");
        redis::cmd("ECHO").arg(&mark).query::<String>(&mut connection).expect("Redis echoes");
        let mut arrived = Vec::new();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).expect("MONITOR goes on");
            if line.contains(&mark) {
                break;
            }
            // 1700000000.123456 [0 127.0.0.1:41234] "EVALSHA" "…"
            let from = line.split(['[', ']']).nth(1).unwrap_or_default().to_owned();
            let name = line.split('"').nth(1).unwrap_or_default().to_lowercase();
            // Neither is what a connection asks to learn whether this is one node of a cluster, under names of nobody's.
            if line.contains(":usage:") || line.contains(&format!("\"{PREFIX}:{{probe-")) {
                continue;
            }
            if line.contains(&format!("\"{PREFIX}:")) {
                self.deciding.insert(from.clone());
            }
            if !from.ends_with(" lua") && !["ping", "client"].contains(&name.as_str()) {
                arrived.push((from, name));
            }
        }
        arrived.into_iter().filter(|(from, _)| self.deciding.contains(from)).map(|(_, name)| name).collect()
    }
}

/// A key that nobody has yet.
pub fn key_text() -> String {
    format!("sg_{}{}", Uuid::new_v4().simple(), &Uuid::new_v4().simple().to_string()[..11])
}

pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets each member of `changes` in `document`; null removes it.
pub fn merge(document: &mut Value, changes: Value) {
    let (Value::Object(document), Value::Object(changes)) = (document, changes) else {
        panic!("documents are JSON objects");
    };
    for (name, value) in changes {
        match value {
            Value::Null => document.remove(&name),
            value => document.insert(name, value),
        };
    }
}

fn serve(port: u16, folder: &TempDir, further: &[&str]) -> Child {
    let mut server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no", "--dir"])
        .arg(folder.path())
        .args(further)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("redis-server: {error}; install it with `apt-get install redis-server`"));
    until("redis-server to answer", || {
        assert_eq!(server.try_wait().expect("the child can be asked"), None, "redis-server ends at its start");
        let mut connection = connect(port).ok()?;
        // Answered while it loads its file, too.
        redis::cmd("CONFIG").arg(&["GET", "dir"]).query::<(String, String)>(&mut connection).ok()
    });
    server
}

fn connect(port: u16) -> redis::RedisResult<redis::Connection> {
    redis::Client::open(format!("redis://127.0.0.1:{port}/0"))?.get_connection()
}
