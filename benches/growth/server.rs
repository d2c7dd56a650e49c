//! The bench's own Redis: a process on a free port of loopback, without persistence, ended with the bench.

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sidegate::limit::{Answer, Outcome, Question};
use sidegate::store::StoreError;
use sidegate::store::layout::Layout;
use sidegate::store::redis::script;
use thiserror::Error;

/// A call that was not answered as the bench needs it.
#[derive(Debug, Error)]
pub enum Unexpected {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
    #[error("not granted: {0:?}")]
    Outcome(Outcome),
    #[error("a control found something else: {0}")]
    Control(String),
}

/// Sends questions in calls of the bench's choosing, as `store::redis` would send them.
#[derive(Clone)]
pub struct Asker {
    connection: redis::aio::MultiplexedConnection,
    sha: String,
    peers_sha: String,
    layout: Layout,
}

impl Asker {
    pub async fn decide(&self, questions: &[Question]) -> Result<Vec<Answer>, Unexpected> {
        let call = script::encode(&self.layout, questions);
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.sha).arg(call.arguments().collect::<Vec<_>>());
        let answer: Vec<u8> = command.query_async(&mut self.connection.clone()).await?;
        Ok(script::decode(questions, &answer)?)
    }

    /// The control: what Redis takes to find these keys, without any script. Says how many of them hold something.
    pub async fn read(&self, keys: &[String]) -> redis::RedisResult<usize> {
        let command = redis::cmd("MGET").arg(keys).to_owned();
        let found: Vec<Option<redis::Value>> = command.query_async(&mut self.connection.clone()).await?;
        Ok(found.iter().flatten().count())
    }

    /// The other control: the script that nginx + Lua runs in the comparison with peers, on a record and a counter.
    pub async fn count_as_peers_do(&self, record: &str, counter: &str) -> redis::RedisResult<String> {
        let mut command = redis::cmd("EVALSHA");
        command.arg(&self.peers_sha).arg(2).arg(record).arg(counter).arg("items:read").arg(1_790_000_000).arg(86_400);
        command.query_async(&mut self.connection.clone()).await
    }
}

/// HMGET and INCR.
const PEERS_SCRIPT: &str = include_str!("../peers/conf/spend.lua");

pub struct RedisServer {
    child: Child,
    url: String,
}

impl RedisServer {
    pub fn start() -> Result<Self, Box<dyn Error>> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let arguments = ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        let child = Command::new("redis-server")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}; on Debian or Ubuntu: apt-get install redis-server"))?;
        let server = Self { child, url: format!("redis://127.0.0.1:{port}/0") };
        let patience = Instant::now() + Duration::from_secs(10);
        while server.connection().is_err() {
            if Instant::now() > patience {
                return Err("redis-server did not start".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    /// A connection that asks as one worker does. Must be called within the runtime.
    pub async fn asker(&self) -> redis::RedisResult<Asker> {
        let mut connection = redis::Client::open(self.url.as_str())?.get_multiplexed_async_connection().await?;
        let mut shas = Vec::new();
        for text in [script::DECIDE, PEERS_SCRIPT] {
            shas.push(redis::cmd("SCRIPT").arg("LOAD").arg(text).query_async(&mut connection).await?);
        }
        let [sha, peers_sha] = shas.try_into().expect("there are two scripts");
        Ok(Asker { connection, sha, peers_sha, layout: Layout::new("sg") })
    }

    /// A plain connection, to fill the server and to ask it about itself.
    pub fn connection(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url.as_str())?.get_connection()
    }

    /// How long its threads have been on a processor, by the scheduler's own account.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut nanoseconds = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
            let running = stat.split(' ').next().and_then(|field| field.parse::<u64>().ok());
            nanoseconds += running.ok_or_else(|| io::Error::other("schedstat is not as expected"))?;
        }
        Ok(Duration::from_nanos(nanoseconds))
    }

    pub fn used_memory(&self) -> Result<f64, Box<dyn Error>> {
        Ok(self.info("memory", "used_memory:")?.parse()?)
    }

    /// Bytes that it has read from and written to its connections.
    pub fn traffic(&self) -> Result<f64, Box<dyn Error>> {
        let read: f64 = self.info("stats", "total_net_input_bytes:")?.parse()?;
        let written: f64 = self.info("stats", "total_net_output_bytes:")?.parse()?;
        Ok(read + written)
    }

    pub fn version(&self) -> Result<String, Box<dyn Error>> {
        self.info("server", "redis_version:")
    }

    fn info(&self, section: &str, field: &str) -> Result<String, Box<dyn Error>> {
        let text: String = redis::cmd("INFO").arg(section).query(&mut self.connection()?)?;
        let value = text.lines().find_map(|line| line.strip_prefix(field));
        Ok(value.ok_or("INFO lacks a field")?.trim().to_owned())
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // One that is gone already needs no end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
