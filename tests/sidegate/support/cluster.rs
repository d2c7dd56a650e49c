//! Redis in its other shapes: servers with arguments of their own, over TLS, behind sentinels, as a cluster.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use redis::FromRedisValue;
use tempfile::TempDir;

use super::{Port, until};

/// What a gate's user may: read documents, write counts, and not mint. It wants Redis 7 or Valkey: the last parts are selectors,
/// so that SET and SETRANGE, which the script calls, reach counts alone, and what adds up use reaches that alone.
pub const GATE_ACL: &str = "on resetchannels -@all +auth +select +time +role +info +script|load +evalsha +get +mget +exists +sismember \
    +cluster|slots +asking ~sg:* (+set +setrange ~sg:{*}:count:*) \
    (+hincrby +expire +zadd +zremrangebyscore ~sg:{*}:usage:*)";

/// The same without the right to write use, as it was before there was any.
pub const GATE_ACL_WITHOUT_USAGE: &str = "on resetchannels -@all +auth +select +time +role +info +script|load +evalsha +get +mget +exists \
    +sismember +cluster|slots +asking ~sg:* (+set +setrange ~sg:{*}:count:*)";

/// What the user of the command line and of management may: keep documents, and not run the gate's script.
pub const KEEPER_ACL: &str = "on resetchannels -@all +auth +select +role +info +time +wait +get +mget +set +del +sadd +srem +sscan \
    +scan +eval +xadd +xrevrange +hgetall +zmscore +cluster|slots +asking ~sg:*";

/// A `redis-server` (or one that is a sentinel) with these arguments, gone with the test.
pub struct Server {
    child: Option<Child>,
    pub port: u16,
    /// For TLS, where the arguments name it.
    pub tls: u16,
    folder: TempDir,
    arguments: Vec<String>,
    _ports: [Port; 2],
}

/// How far behind the port that a cluster's nodes are asked at is the one at which they speak with each other.
const BUS: u16 = 10_000;

impl Server {
    /// `{port}` and `{tls}` in an argument are ports that were found, `{dir}` is the server's own folder.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder can be made"), arguments)
    }

    fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        let dir = folder.path().display().to_string();
        let ports = [(); 2].map(|()| Port::reserve_with(&[BUS]));
        let [port, tls] = ports.each_ref().map(|port| port.number);
        let fill = |argument: &&str| {
            let filled = argument.replace("{port}", &port.to_string()).replace("{tls}", &tls.to_string());
            filled.replace("{dir}", &dir)
        };
        let arguments = arguments.iter().map(fill).collect();
        let mut server = Self { child: None, port, tls, folder, arguments, _ports: ports };
        server.run();
        server
    }

    /// A sentinel that watches `main` on this port; two must agree that it is gone.
    pub fn sentinel(master: u16, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let config = folder.path().join("sentinel.conf").display().to_string();
        let watched = [
            format!("sentinel monitor main 127.0.0.1 {master} 2"),
            "sentinel down-after-milliseconds main 2000".to_owned(),
            "sentinel failover-timeout main 5000".to_owned(),
        ];
        fs::write(&config, watched.join("\n")).expect("the folder is writable");
        Self::start_in(folder, &[&[&config, "--sentinel", "--port", "{port}"], arguments].concat())
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
        self.run_with(&[]);
    }

    /// The same with these further arguments, for this once.
    pub fn run_with(&mut self, further: &[&str]) {
        let mut child = self.spawn(further);
        until("redis-server to listen", || {
            let said = fs::read_to_string(self.log()).expect("it is there");
            let ended = child.try_wait().expect("the child can be asked");
            assert_eq!(ended, None, "redis-server, with {:?}: {said}", self.arguments);
            (said.contains("Ready to accept connections") || said.contains("Sentinel ID is")).then_some(())
        });
        self.child = Some(child);
    }

    /// Starts it again with these further arguments, and waits until it reads its file and says so.
    pub fn run_loading(&mut self, further: &[&str]) {
        self.child = Some(self.spawn(further));
        until("redis-server to load", || {
            let refused = self.try_ask::<String>(&["GET", "any"]).err()?;
            (refused.code() == Some("LOADING")).then_some(())
        });
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn spawn(&self, further: &[&str]) -> Child {
        let log = fs::File::create(self.log()).expect("the folder is writable");
        Command::new("redis-server")
            .args(&self.arguments)
            .args(further)
            .args(["--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; install it with `apt-get install redis-server`"))
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
        let (plain, selectors) = rules.split_once('(').unwrap_or((rules, ""));
        // A selector is one argument, whatever stands in it.
        let selectors = selectors.split('(').map(str::trim).filter(|rest| !rest.is_empty());
        let selectors: Vec<String> = selectors.map(|rest| format!("({rest}")).collect();
        let mut command = vec!["ACL", "SETUSER", name];
        command.extend(plain.split_whitespace());
        command.extend(selectors.iter().map(String::as_str));
        self.ask::<()>(&command);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three masters, each with a replica.
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    pub fn start() -> Self {
        Self::with(&[], |node| node.port, &[])
    }

    /// With these further arguments; made through the ports that `port` names, by a `redis-cli` with arguments of its own.
    pub fn with(further: &[&str], port: fn(&Server) -> u16, of_client: &[&str]) -> Self {
        // Without full coverage, or the death of one master would close the slots of all.
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
            "--cluster-node-timeout",
            "3000",
            "--cluster-require-full-coverage",
            "no",
        ];
        let nodes: Vec<Server> = (0..6).map(|_| Server::plain(&[&arguments, further].concat())).collect();
        let addresses = nodes.iter().map(|node| format!("127.0.0.1:{}", port(node)));
        let created = Command::new("redis-cli")
            .args(of_client)
            .args(["--cluster", "create"])
            .args(addresses)
            .args(["--cluster-replicas", "1", "--cluster-yes"])
            .output()
            .expect("redis-cli comes with redis-server");
        assert!(created.status.success(), "{created:?}");
        let cluster = Self { nodes };
        for node in &cluster.nodes {
            until("the cluster to be whole", || {
                let slots: Vec<Vec<redis::Value>> = node.try_ask(&["CLUSTER", "SLOTS"]).ok()?;
                let is_ok = node.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                // First, last, the master and its replica.
                (is_ok && slots.len() == 3 && slots.iter().all(|range| range.len() == 4)).then_some(())
            });
        }
        cluster
    }

    /// `store` for a gate: two of the nodes are named.
    pub fn store(&self) -> String {
        self.store_within("5s")
    }

    /// The same with this deadline.
    pub fn store_within(&self, deadline: &str) -> String {
        let named = self.nodes[..2].iter().map(|node| format!("'redis://127.0.0.1:{}'", node.port));
        format!("{{redis: {{cluster: [{}]}}, deadline: {deadline}}}", named.collect::<Vec<_>>().join(", "))
    }

    /// The slot of a hash tag, and which node is its master.
    pub fn owner(&self, tag: &str) -> (u16, usize) {
        let slot: u16 = self.nodes[0].ask(&["CLUSTER", "KEYSLOT", &format!("{{{tag}}}")]);
        let serves = |node: &Server| node.try_ask::<Option<String>>(&["GET", &format!("{{{tag}}}")]).is_ok();
        let owner = self.nodes.iter().position(|node| is_master(node) && serves(node));
        (slot, owner.expect("some master serves each slot"))
    }

    /// Which node is the replica of this master.
    pub fn replica_of(&self, master: usize) -> usize {
        let line = format!("master_port:{}\r", self.nodes[master].port);
        let is_its = |node: &Server| node.ask::<String>(&["INFO", "replication"]).contains(&line);
        self.nodes.iter().position(is_its).expect("each master has one")
    }

    /// Moves a slot the way `redis-cli --cluster reshard` does, and leaves it half moved for a while.
    pub fn migrate(&self, slot: u16, from: usize, to: usize, halfway: std::time::Duration) {
        let slot = slot.to_string();
        let id = |node: usize| self.nodes[node].ask::<String>(&["CLUSTER", "MYID"]);
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        target.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(from)]);
        source.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(to)]);
        let port = target.port.to_string();
        let mut slept = false;
        loop {
            let keys: Vec<String> = source.ask(&["CLUSTER", "GETKEYSINSLOT", &slot, "1"]);
            let Some(key) = keys.first() else { break };
            source.ask::<()>(&["MIGRATE", "127.0.0.1", &port, key, "0", "5000"]);
            if !slept {
                std::thread::sleep(halfway);
                slept = true;
            }
        }
        for node in [target, source] {
            node.ask::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &id(to)]);
        }
    }
}

pub fn is_master(node: &Server) -> bool {
    // Who promotes it closes its connections, this one too.
    let role = node.try_ask::<Vec<redis::Value>>(&["ROLE"]).unwrap_or_default();
    role.first() == Some(&redis::Value::BulkString(b"master".to_vec()))
}
