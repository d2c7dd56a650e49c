//! The built binary as a child: started with a configuration, watched through its logs, ended with the test.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use http::Method;
use serde_json::Value;
use tempfile::TempDir;

use super::{Answer, client, redis::PREFIX, until, whole};

const RUN: &[&str] = &["run", "--config", "sidegate.yaml"];

pub struct Gate {
    child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    client: reqwest::Client,
    environment: Vec<(String, String)>,
    folder: TempDir,
    access_log: Lines,
    log: Lines,
}

impl Gate {
    /// Starts `sidegate run` and waits until both listeners listen.
    pub fn start(yaml: &str, environment: Vec<(String, String)>) -> Self {
        Self::run_in(folder_with(yaml), RUN, environment)
    }

    /// As `start`, in a folder that holds a `sidegate.yaml`, and with these arguments.
    pub fn run_in(folder: TempDir, arguments: &[&str], environment: Vec<(String, String)>) -> Self {
        let mut gate = Self::unheard_in(folder, arguments, environment);
        gate.hear();
        gate
    }

    /// As `start`, but nobody reads its access log until `hear`.
    pub fn unheard(yaml: &str, environment: Vec<(String, String)>) -> Self {
        Self::unheard_in(folder_with(yaml), RUN, environment)
    }

    fn unheard_in(folder: TempDir, arguments: &[&str], environment: Vec<(String, String)>) -> Self {
        let mut child = sidegate(arguments, &environment)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary was built with the tests");
        let access_log = Lines::default();
        let log = Lines::of(child.stderr.take().expect("stderr is piped"));
        let listening = |message| log.find(message, |line| address_in(line, message));
        let (address, admin) = (listening("listening"), listening("operators listening"));
        let client = client::http(&[]).build().expect("the client's settings are valid");
        Self { child, address, admin, client, environment, folder, access_log, log }
    }

    /// Reads its access log from now on.
    pub fn hear(&mut self) {
        self.access_log = Lines::of(self.child.stdout.take().expect("it is piped, and not read yet"));
    }

    /// Whether somebody reads its own log.
    pub fn read_log(&self, read: bool) {
        self.log.pause(!read);
    }

    /// Waits until the gate says that it is ready.
    pub fn ready(self) -> Self {
        until("the gate to be ready", || (self.operators("/readyz").status == 200).then_some(()));
        self
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(Method::from_bytes(method.as_bytes()).expect("a method"), self.url(path))
    }

    pub fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.request("GET", path)
    }

    pub fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.request("POST", path)
    }

    /// One request of the person whose cookie this is.
    pub fn signed_in(&self, cookie: &str, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.request(method, path).header("cookie", cookie)
    }

    /// One request whose target and headers are sent byte for byte.
    pub fn raw(&self, method: &str, target: impl AsRef<[u8]>, headers: &[&[u8]]) -> Answer {
        client::raw(self.address, method, target, headers)
    }

    /// What the operators' listener answers.
    pub fn operators(&self, path: &str) -> Answer {
        client::raw(self.admin, "GET", path, &[])
    }

    /// The sum of all series of this name that have these labels (`route="none"`).
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let page = self.operators("/metrics").text();
        let series = page.lines().filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '));
        let of_name = series.filter(|(rest, _)| rest.is_empty() || rest.starts_with('{'));
        let meant = of_name.filter(|(rest, _)| labels.iter().all(|label| rest.contains(label)));
        meant.map(|(_, value)| value.parse::<f64>().expect("a metric is a number")).sum()
    }

    /// Runs another subcommand with the gate's configuration and environment.
    pub fn command(&self, arguments: &[&str]) -> Output {
        let mut command = sidegate(arguments, &self.environment);
        command.args(["--config", "sidegate.yaml"]).current_dir(&self.folder);
        command.stdin(Stdio::null()).output().expect("the binary was built with the tests")
    }

    /// As `command`, with something to read on standard input.
    pub fn command_reading(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = sidegate(arguments, &self.environment);
        command.args(["--config", "sidegate.yaml"]).current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary was built with the tests");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that refuses its arguments reads nothing.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
        drop(stdin);
        child.wait_with_output().expect("the child can be awaited")
    }

    /// What a command prints as one JSON document; it must end well.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.command(arguments);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}\n{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// `sidegate keys create`: the document that it prints, with the key in it.
    pub fn keys_create(&self, arguments: &[&str]) -> Value {
        let output = self.command(&[&["keys", "create", "--json"], arguments].concat());
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "keys create {arguments:?}: {stdout}\n{stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Only the key of `keys_create`.
    pub fn new_key(&self, arguments: &[&str]) -> String {
        self.keys_create(arguments)["key"].as_str().expect("the document holds the key").to_owned()
    }

    /// `keys import` of these lines; a test may want a key whose scopes open nothing.
    pub fn keys_import(&self, lines: &[Value]) {
        let file: String = lines.iter().map(|line| format!("{line}\n")).collect();
        fs::write(self.folder.path().join("digests.jsonl"), file).expect("the folder is writable");
        let output = self.command(&["keys", "import", "--allow-unknown", "digests.jsonl"]);
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    }

    /// The access-log line that holds this text, as JSON.
    pub fn logged(&self, needle: &str) -> Value {
        self.access_log
            .find(needle, |line| line.contains(needle).then(|| serde_json::from_str(line).expect("a log line is JSON")))
    }

    /// Asks it to end, as Kubernetes does.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal (`HUP`, `TERM`).
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let arguments = [format!("-{name}"), self.child.id().to_string()];
        client::printed_by(kill.args(arguments), "`kill` belongs to every system");
    }

    /// The folder that its configuration stands in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes another configuration; what it leaves out is filled in as at the start.
    pub fn configure(&self, yaml: &str) {
        let file = self.folder().join("sidegate.yaml");
        let new = file.with_extension("new");
        fs::write(&new, whole(yaml)).expect("the folder is writable");
        fs::rename(new, file).expect("the folder is writable");
    }

    /// Writes another configuration, asks it to read that, and waits until it acts.
    pub fn reload(&self, yaml: &str) {
        let before = self.reloads("success");
        self.configure(yaml);
        self.signal("HUP");
        until("the reload", || (self.reloads("success") > before).then_some(()));
    }

    /// How many reloads had this outcome.
    pub fn reloads(&self, outcome: &str) -> usize {
        self.metric("sidegate_config_reloads_total", &[&format!("outcome=\"{outcome}\"")]) as usize
    }

    /// The line of its own log that holds this text.
    pub fn said(&self, needle: &str) -> String {
        self.log.find(needle, |line| line.contains(needle).then(|| line.to_owned()))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it has ended, and says how.
    pub fn ended(&mut self) -> ExitStatus {
        until("the gate to end", || self.child.try_wait().expect("the child can be asked"))
    }

    /// Everything written to both streams by the time it has ended.
    pub fn written_to_the_end(&mut self) -> String {
        self.ended();
        until("both streams to end", || (self.access_log.have_ended() && self.log.have_ended()).then_some(()));
        self.written()
    }

    /// Everything written to both streams so far.
    pub fn written(&self) -> String {
        self.access_log.all() + &self.log.all()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary (or the one that `SIDEGATE_BINARY` names, as `benches/faults` does with a released one) with these arguments, and an
/// environment in which nothing of the caller's own sidegate is left.
pub fn sidegate(arguments: &[&str], environment: &[(String, String)]) -> Command {
    let built = env!("CARGO_BIN_EXE_sidegate");
    let mut command = Command::new(std::env::var_os("SIDEGATE_BINARY").unwrap_or_else(|| built.into()));
    command.args(arguments).env_remove("SIDEGATE_CONFIG").env_remove("RUST_LOG").env_remove("SESSION_URL");
    command.env("SIDEGATE_LISTEN", "127.0.0.1:0").env("SIDEGATE_ADMIN", "127.0.0.1:0").env("SIDEGATE_PREFIX", PREFIX);
    command.envs(environment.iter().cloned());
    command
}

/// The shell's command line on a terminal, in the environment of `command`: `script` makes one, and copies what is written there.
pub fn on_terminal(shell: &str, command: &Command) -> Command {
    let mut script = Command::new("script");
    script.args(["-qefc", shell, "/dev/null"]).env("SHELL", "/bin/sh");
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script
}

/// Runs one subcommand on this configuration, without a gate.
pub fn on_config(yaml: &str, arguments: &[&str], environment: &[(String, String)]) -> Output {
    let folder = folder_with(yaml);
    let mut command = sidegate(arguments, environment);
    command.args(["--config", "sidegate.yaml"]).current_dir(&folder);
    command.stdin(Stdio::null()).output().expect("the binary was built with the tests")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn folder_with(yaml: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path: PathBuf = folder.path().join("sidegate.yaml");
    fs::write(path, yaml).expect("the folder is writable");
    folder
}

/// The address that a log line with this message names, wherever the log's format puts it.
fn address_in(line: &str, message: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let field = |name| line.get(name).or_else(|| line.get("fields")?.get(name))?.as_str();
    (field("message")? == message).then(|| field("address")?.parse().ok())?
}

/// What a child writes to one stream, line by line, as it comes.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Written>>);

#[derive(Default)]
struct Written {
    lines: Vec<String>,
    ended: bool,
    /// Nothing more is read for now.
    paused: bool,
}

impl Lines {
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let written = Self::default();
        let writer = written.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                writer.with(|written| written.lines.push(line));
                while writer.with(|written| written.paused) {
                    thread::sleep(Duration::from_millis(5));
                }
            }
            writer.with(|written| written.ended = true);
        });
        written
    }

    /// Waits for a line; a stream that ends without it fails the test with what was written.
    pub fn find<T>(&self, what: &str, found: impl Fn(&str) -> Option<T>) -> T {
        until(&format!("a line with {what:?}"), || {
            self.with(|written| {
                let line = written.lines.iter().find_map(|line| found(line));
                assert!(line.is_some() || !written.ended, "ended without {what:?}:\n{}", written.lines.join("\n"));
                line
            })
        })
    }

    /// From now on at most one more line is read, or all that come.
    pub fn pause(&self, paused: bool) {
        self.with(|written| written.paused = paused);
    }

    pub fn have_ended(&self) -> bool {
        self.with(|written| written.ended)
    }

    pub fn all(&self) -> String {
        self.with(|written| written.lines.iter().map(|line| format!("{line}\n")).collect())
    }

    fn with<T>(&self, act: impl FnOnce(&mut Written) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
