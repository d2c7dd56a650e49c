//! What a node does with the manifests, done on loopback: a container's arguments, environment, mounts, probes and hooks are read
//! from deploy/kubernetes, and only addresses are others.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, path::Path, process::Output, sync::Arc, time::Duration};

use serde_yaml::Value;

use crate::support::{
    Answer, Gate, Port, Upstream, client,
    cluster::Server,
    gate::{sidegate, text},
    in_repository, until,
};

/// One gate, run as a manifest says.
pub struct Pod {
    pub gate: Arc<Gate>,
    pub probes: SocketAddr,
    container: Value,
    environment: Vec<(String, String)>,
    _port_of_probes: Port,
}

impl Pod {
    /// The gate beside this application, as the native overlay has it, with the configuration of the base.
    pub fn beside(app: &Upstream, redis: &str) -> Self {
        let spec = pod_spec("overlays/native/sidecar.yaml");
        let port = app.address.port().to_string();
        let own = [("SIDEGATE_UPSTREAM_PORT", port.clone())];
        Self::run(&spec["initContainers"][0], "base/sidegate.yaml", "sidegate", redis, &own, &port)
    }

    /// Key management, with the sessions of this application.
    pub fn management(app: &Upstream, redis: &str) -> Self {
        let spec = pod_spec("management/deployment.yaml");
        let own = [("SESSION_URL", format!("{}/session", app.url()))];
        Self::run(&spec["containers"][0], "management/sidegate.yaml", "sidegate-management", redis, &own, "")
    }

    fn run(container: &Value, config: &str, secret: &str, redis: &str, own: &[(&str, String)], port: &str) -> Self {
        let port_of_probes = Port::reserve();
        let probes = port_of_probes.address();
        let mut environment = literals(secret);
        for variable in sequence(&container["env"]) {
            // The application's port is another here, wherever it is named.
            let value = string(&variable["value"]).replace(":3000", &format!(":{port}"));
            environment.push((string(&variable["name"]), value));
        }
        environment.push(("SIDEGATE_PROBES".to_owned(), probes.to_string()));
        environment.push(("REDIS_URL".to_owned(), redis.to_owned()));
        // No test depends on how busy the machine is.
        environment.push(("STORE_DEADLINE".to_owned(), "10s".to_owned()));
        environment.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        mount(folder.path(), "1", &read(config));
        let mounted = string(&container["volumeMounts"][0]["mountPath"]);
        let here = folder.path().display().to_string();
        let arguments: Vec<_> =
            sequence(&container["args"]).iter().map(|text| string(text).replace(&mounted, &here)).collect();
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let gate = Arc::new(Gate::run_in(folder, &arguments, environment.clone()));
        Self { gate, probes, container: container.clone(), environment, _port_of_probes: port_of_probes }
    }

    /// Waits until the kubelet would call it ready.
    pub fn ready(self) -> Self {
        until("the pod to be ready", || (self.asked("readinessProbe").status == 200).then_some(()));
        self
    }

    /// What one of the gate's own probes is answered.
    pub fn asked(&self, probe: &str) -> Answer {
        let get = &self.container[probe]["httpGet"];
        assert_eq!(string(&get["port"]), "sidegate-probes", "{probe}");
        self.get(&string(&get["path"]))
    }

    /// What stands on the port that the kubelet and Prometheus reach.
    pub fn get(&self, path: &str) -> Answer {
        client::raw(self.probes, "GET", path, &[])
    }

    /// What the kubelet does when the ConfigMap has changed: a new folder, and the link that leads to it swapped.
    pub fn update(&self, change: impl Fn(&str) -> String) {
        let folder = self.gate.folder();
        let old = fs::read_to_string(folder.join("sidegate.yaml")).expect("the configuration is there");
        let new = change(&old);
        assert_ne!(new, old, "there is a change");
        mount(folder, "2", &new);
    }

    /// Runs the preStop hook in the container.
    pub fn pre_stop(&self) -> Output {
        let command: Vec<_> =
            sequence(&self.container["lifecycle"]["preStop"]["exec"]["command"]).iter().map(string).collect();
        assert_eq!(command[0], "/sidegate", "the image's binary");
        let arguments: Vec<_> = command[1..].iter().map(String::as_str).collect();
        let mut command = sidegate(&arguments, &self.environment);
        command.env("SIDEGATE_ADMIN", self.gate.admin.to_string()).current_dir(self.gate.folder());
        command.output().expect("the binary was built with the tests")
    }

    /// How the process ended.
    pub fn ended(self) -> Option<i32> {
        let mut gate = Arc::into_inner(self.gate).expect("nobody asks it any more");
        gate.ended().code()
    }
}

/// The probes of the application's container, as the overlay rewrote them: path by name.
pub fn app_probes() -> Vec<(String, String)> {
    let app = &pod_spec("overlays/native/sidecar.yaml")["containers"][0];
    let probes = ["startupProbe", "readinessProbe", "livenessProbe"].map(|probe| {
        let get = &app[probe]["httpGet"];
        assert_eq!(get["port"].as_u64(), Some(9901), "{probe}: the gate's port for probes");
        (probe.to_owned(), string(&get["path"]))
    });
    probes.into()
}

/// How long the application's container is kept when its pod ends.
pub fn app_pre_stop() -> Duration {
    let sleep = &pod_spec("overlays/native/sidecar.yaml")["containers"][0]["lifecycle"]["preStop"]["sleep"];
    Duration::from_secs(sleep["seconds"].as_u64().expect("the hook says how long"))
}

/// The Redis of the manifests, with the arguments and the logins that they give it.
pub fn redis() -> Server {
    let users = in_repository("deploy/kubernetes/redis/users.acl").display().to_string();
    let container = &pod_spec("redis/statefulset.yaml")["containers"][0];
    let filled = |text: &Value| string(text).replace("/etc/redis/users.acl", &users).replace("/data", "{dir}");
    let arguments: Vec<_> = sequence(&container["args"]).iter().map(filled).collect();
    let arguments = arguments.iter().map(String::as_str);
    Server::start(&["--port", "{port}"].into_iter().chain(arguments).collect::<Vec<_>>())
}

/// A ConfigMap as the kubelet mounts it: the file is a link, through a link that is swapped, into a folder of its own.
fn mount(folder: &Path, version: &str, yaml: &str) {
    let name = format!("..{version}");
    fs::create_dir(folder.join(&name)).expect("the folder is writable");
    fs::write(folder.join(&name).join("sidegate.yaml"), yaml).expect("the folder is writable");
    symlink(&name, folder.join("..data_tmp")).expect("links can be made");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("the folder is writable");
    let file = folder.join("sidegate.yaml");
    if !file.exists() {
        symlink("..data/sidegate.yaml", file).expect("links can be made");
    }
}

/// What the overlay that is for trying puts into this Secret.
fn literals(secret: &str) -> Vec<(String, String)> {
    let kustomization = yaml("overlays/with-redis/kustomization.yaml");
    let secrets = sequence(&kustomization["secretGenerator"]);
    let meant = secrets.iter().find(|one| string(&one["name"]) == secret).expect("the overlay makes this Secret");
    let pairs = sequence(&meant["literals"]).into_iter().map(|literal| {
        let literal = string(&literal);
        let (name, value) = literal.split_once('=').expect("a literal is NAME=VALUE");
        (name.to_owned(), value.to_owned())
    });
    pairs.collect()
}

fn pod_spec(path: &str) -> Value {
    yaml(path)["spec"]["template"]["spec"].clone()
}

fn yaml(path: &str) -> Value {
    serde_yaml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn read(path: &str) -> String {
    let path = in_repository("deploy/kubernetes").join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn sequence(value: &Value) -> Vec<Value> {
    value.as_sequence().cloned().unwrap_or_default()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text")).to_owned()
}

/// What a command printed, on both streams.
pub fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}
