//! What every test stands on: a Redis and an upstream of its own, gates started from YAML or a profile, and clients.
//!
//! `Stage` ties them together. Each test sets its own, so that tests share nothing and may run at the same time.

pub mod answer;
pub mod bytes;
pub mod certificate;
pub mod client;
pub mod cluster;
pub mod faults;
pub mod figures;
pub mod frames;
pub mod gate;
pub mod h2;
pub mod load;
pub mod port;
pub mod preloaded;
pub mod prometheus;
pub mod redis;
pub mod scripted;
pub mod upstream;

use std::{
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

pub use self::{
    answer::{Answer, AnswerTo},
    certificate::{Authority, Certificate},
    gate::Gate,
    port::Port,
    preloaded::Preloaded,
    redis::{Key, Redis},
    upstream::Upstream,
};

/// How long a condition may take to come true before the test fails. Far beyond what a healthy run needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The deadline of store calls where the deadline is not what is tested: no test may depend on how busy the machine is.
const PATIENT: &str = "10s";

/// A Redis and an upstream, and the gates that stand between a client and them.
pub struct Stage {
    pub redis: Redis,
    pub upstream: Upstream,
}

impl Stage {
    pub fn set() -> Self {
        Self { redis: Redis::start(), upstream: Upstream::start() }
    }

    /// A ready gate with this configuration; what it leaves out of `listen`, `admin`, `upstream` and `store` is filled in.
    pub fn gate(&self, yaml: &str) -> Gate {
        Gate::start(&whole(yaml), self.environment()).ready()
    }

    /// As `gate`, for one that cannot be ready yet.
    pub fn unready_gate(&self, yaml: &str) -> Gate {
        Gate::start(&whole(yaml), self.environment())
    }

    /// A ready gate with the profile as it stands.
    pub fn profile(&self, name: &str) -> Gate {
        Gate::start(&profile(name), self.environment()).ready()
    }

    /// The profile before an upstream of another address.
    pub fn profile_before(&self, name: &str, upstream: &str) -> Gate {
        let elsewhere = ("UPSTREAM_URL".to_owned(), upstream.to_owned());
        Gate::start(&profile(name), [self.environment(), vec![elsewhere]].concat()).ready()
    }

    /// What the profiles' `${…}` name, so that each can be run unchanged.
    pub fn environment(&self) -> Vec<(String, String)> {
        let values = [
            ("UPSTREAM_URL", self.upstream.url()),
            ("REDIS_URL", self.redis.url()),
            ("SESSION_URL", format!("{}/session", self.upstream.url())),
            ("STORE_DEADLINE", PATIENT.to_owned()),
        ];
        values.map(|(name, value)| (name.to_owned(), value)).into()
    }
}

pub fn profile(name: &str) -> String {
    let path = in_repository("deploy/profiles").join(format!("{name}.yaml"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The configuration, and behind it (so that lines keep their numbers) each section that every gate needs and this one
/// does not care about.
pub fn whole(yaml: &str) -> String {
    let sections = [
        ("listen", "127.0.0.1:0"),
        ("admin", "127.0.0.1:0"),
        ("upstream", "\"${UPSTREAM_URL}\""),
        ("store", "{redis: \"${REDIS_URL}\", deadline: \"${STORE_DEADLINE}\"}"),
    ];
    let missing = sections.iter().filter(|(name, _)| {
        !yaml.lines().any(|line| {
            // `upstreams` stands in for `upstream`.
            line.strip_prefix(name).is_some_and(|rest| rest.trim_start_matches('s').starts_with(':'))
        })
    });
    [format!("{yaml}\n")].into_iter().chain(missing.map(|(name, value)| format!("{name}: {value}\n"))).collect()
}

/// Waits for a condition, and says which one when it does not come true.
pub fn until<T>(what: &str, found: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, found)
}

/// As `until`, for what is known to take longer.
pub fn within<T>(patience: Duration, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {patience:?} in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
