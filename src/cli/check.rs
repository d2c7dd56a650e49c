//! `sidegate check`: says all that is wrong with a configuration, or what the gate will do with it.
//!
//! It needs no store. Whether one answers is asked by `store_doubts`, which the command line brings, and is a warning alone.

use std::fmt::{self, Display, Write as _};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;

use super::exit::{DONE, WRONG};
use super::{denied, out};
use crate::admin::settings::{AppProbe, Check};
use crate::clock::{self, short_duration};
use crate::config::{self, Settings};
use crate::keys::format::{FormatAction, Formats};
use crate::listen::tls::{Acceptor, Certificate};
use crate::policy::{Access, By, DenyList, Limit, Mode, Plan, Policy, Route};
use crate::proxy::settings::{Protocol, Target, Upstream};
use crate::proxy::upstream;
use crate::reload;
use crate::store::outage::{KeysOutage, LimitsOutage};
use crate::store::redis;
use crate::store::settings::Backend;

/// Prints every error on standard error, or the summary and the warnings on standard output.
pub fn run(config: &Path, store_doubts: impl FnOnce(&Settings) -> Vec<String>) -> anyhow::Result<u8> {
    let settings = match config::load::from_file(config) {
        Ok(settings) => settings,
        Err(errors) => {
            out::remark(errors);
            return Ok(WRONG);
        }
    };
    let certificates = match certificates(&settings) {
        Ok(certificates) => certificates,
        Err(unusable) => {
            unusable.iter().for_each(|problem| out::remark(format_args!("{}: {problem}", config.display())));
            return Ok(WRONG);
        }
    };
    let now_ms = clock::now_ms();
    let mut warnings = settings.warnings.clone();
    if reload::is_replaced(config) {
        warnings.push(format!("{}: {}", config.display(), reload::REPLACED));
    }
    warnings.extend(certificates.iter().filter_map(|one| certificate_warning(one, now_ms)));
    warnings.extend(store_doubts(&settings));
    let summary = Summary { settings: &settings, certificates: &certificates, now_ms };
    out::say(format_args!("{} is good.\n\n{summary}", config.display()))?;
    out::say(warnings.iter().map(|warning| format!("warning: {warning}\n")).collect::<String>())?;
    Ok(DONE)
}

/// Reads every certificate and key as `run` would: the listener's certificates, or what cannot be used.
fn certificates(settings: &Settings) -> Result<Vec<Certificate>, Vec<String>> {
    let (acceptor, listener) = match settings.listen.tls.as_ref().map(Acceptor::new).transpose() {
        Ok(acceptor) => (acceptor, None),
        Err(error) => (None, Some(error)),
    };
    let upstreams = upstream::connectors(&settings.proxy.upstreams).err();
    let store = match &settings.store.backend {
        Backend::Redis(redis) => redis.tls.as_ref().and_then(|tls| redis::tls::client_config(tls).err()),
        Backend::File(_) => None,
    };
    let problems = [
        listener.map(|e| format!("listen.tls: {e}")),
        upstreams.map(|e| format!("upstream.tls: {e}")),
        store.map(|e| format!("store.tls: {e}")),
    ];
    let problems: Vec<_> = problems.into_iter().flatten().collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(acceptor.map(|acceptor| acceptor.certificates().to_vec()).unwrap_or_default())
}

/// What `run` would warn of, and a reload refuse or an alert tell.
fn certificate_warning(certificate: &Certificate, now_ms: u64) -> Option<String> {
    let advice = match (certificate.has_ended(now_ms), certificate.ends_soon(now_ms)) {
        (true, _) => "clients refuse it; write one that is valid",
        (false, true) => "renew it",
        (false, false) => return None,
    };
    Some(format!("listen.tls: {} {}; {advice}", certificate.file, end_words(certificate, now_ms)))
}

/// `ends 2026-11-26, in 3 days`.
fn end_words(certificate: &Certificate, now_ms: u64) -> String {
    let Some(day) = certificate.end_day() else { return "has no end".to_owned() };
    match (certificate.has_ended(now_ms), certificate.days_left(now_ms)) {
        (true, _) => format!("has expired on {day}"),
        (false, 0) => format!("ends {day}, within a day"),
        (false, days) => format!("ends {day}, in {}", counted(days, "day")),
    }
}

/// Whether the store answers, and knows whom the configuration denies; that it does not is no mistake in the configuration.
pub fn store_doubts(settings: &Settings) -> Vec<String> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return Vec::new() };
    let doubts = match &settings.store.backend {
        Backend::File(_) => Ok(Vec::new()),
        Backend::Redis(redis) => runtime.block_on(redis::check_connection(redis, settings.store.deadline)),
    };
    match doubts {
        Ok(doubts) => {
            let doubts = doubts.into_iter().map(|doubt| format!("store: {doubt}"));
            doubts.chain(runtime.block_on(denied::strangers(settings))).collect()
        }
        Err(error) => {
            let meanwhile = if settings.policy.enforces() { "answer 503" } else { "pass as `store_unavailable`" };
            vec![format!("store: {error}; keyed routes {meanwhile} until that is mended")]
        }
    }
}

/// What the gate will do, for a person.
struct Summary<'s> {
    settings: &'s Settings,
    /// The listener's.
    certificates: &'s [Certificate],
    now_ms: u64,
}

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = self.settings;
        self.listeners(f)?;
        for upstream in &settings.proxy.upstreams {
            line(f, "upstream", &upstream_words(upstream))?;
        }
        line(f, "store", &store_words(settings))?;
        line(f, "keys", &key_words(settings))?;
        if let Some(management) = &settings.management {
            let (path, roles) = (management.served_at(), management.roles.join(" or "));
            let whose = format!("for {roles} by the sessions of {}", management.session.authority);
            line(f, "key API", &format!("at {path}, {whose}; no route reaches what is at or below it"))?;
        }
        line(f, "mode", mode_words(&settings.policy))?;
        denied(&settings.policy.deny, f)?;
        routes(settings, f)?;
        limits(settings, f)?;
        plans(settings, f)
    }
}

impl Summary<'_> {
    fn listeners(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, listen) = (self.settings, &self.settings.listen);
        let tls = match &listen.tls {
            None => "plain text".to_owned(),
            Some(tls) => {
                let clients = tls.client_ca.as_ref().map_or("", |_| ", for clients with a certificate");
                format!("TLS with {}{clients}", counted(tls.certificates.len(), "certificate"))
            }
        };
        let base = settings.base_path.as_ref().map_or(String::new(), |base| format!(", everything below {base}"));
        line(f, "listen", &format!("{}, {tls}, {}{base}", listen.address, counted(listen.workers, "worker")))?;
        for one in self.certificates {
            line(f, "", &format!("{} {}", one.file, end_words(one, self.now_ms)))?;
        }
        if !listen.trusted_proxies.is_empty() {
            let header = if listen.proxy_protocol { "their connections begin with a PROXY header, " } else { "" };
            let proxies = networks(&listen.trusted_proxies);
            line(f, "proxies", &format!("{proxies}: {header}their X-Forwarded-For names the client"))?;
        }
        line(f, "admin", &settings.admin.admin.to_string())?;
        settings.admin.probes.map_or(Ok(()), |probes| line(f, "probes", &probes.to_string()))?;
        settings.admin.app.iter().try_for_each(|probe| line(f, "", &app_probe_words(probe)))
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, words: &str) -> fmt::Result {
    writeln!(f, "{name:<10}{words}")
}

/// What is shut out without asking the store.
fn denied(deny: &DenyList, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let keys = (!deny.keys.is_empty()).then(|| counted(deny.keys.len(), "key"));
    let addresses = (!deny.addresses.is_empty()).then(|| networks(&deny.addresses));
    let denied: Vec<_> = keys.into_iter().chain(addresses).collect();
    if denied.is_empty() { Ok(()) } else { line(f, "deny", &denied.join("; ")) }
}

fn networks(networks: &[IpNet]) -> String {
    networks.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn app_probe_words(probe: &AppProbe) -> String {
    let target = match &probe.check {
        Check::Http { target, .. } => format!("http://{}{target}", probe.address),
        Check::Tcp => format!("tcp://{}", probe.address),
        Check::Grpc { service } => format!("grpc://{}/{service}", probe.address),
    };
    format!("{} asks {target}, which answers within {}", probe.path, short(probe.timeout))
}

pub(super) fn upstream_words(upstream: &Upstream) -> String {
    let target = match &upstream.target {
        Target::Unix(path) => format!("unix:{}", path.display()),
        Target::Tcp { host, port, protocol } => {
            let scheme = match protocol {
                Protocol::Http => "http",
                Protocol::Https => "https",
                Protocol::H2c => "h2c",
            };
            format!("{scheme}://{host}:{port}")
        }
    };
    let identity: Vec<_> = upstream.identity.iter().map(|(name, _)| name.as_str()).collect();
    let headers = if identity.is_empty() { String::new() } else { format!(", with headers {}", identity.join(", ")) };
    let answers = short(upstream.response_timeout);
    format!("{} at {target}, answers within {answers}{headers}", upstream.name)
}

fn store_words(settings: &Settings) -> String {
    let store = &settings.store;
    let away = match store.limits_outage {
        LimitsOutage::Local { share: None } => "limits are counted by each process".to_owned(),
        LimitsOutage::Local { share: Some((part, whole)) } => {
            format!("each process gives {part}/{whole} of each limit")
        }
        LimitsOutage::Allow => "nothing is limited".to_owned(),
        LimitsOutage::Deny => "what has a limit is refused".to_owned(),
    };
    let known = match store.keys_outage {
        KeysOutage::Deny => "keys are refused".to_owned(),
        KeysOutage::KnownFor(duration) => format!("keys confirmed within {} pass", short(duration)),
    };
    let meanwhile = match settings.policy.enforces() {
        true => format!("{known} and {away}"),
        false => "what needs it passes as `store_unavailable`".to_owned(),
    };
    match &store.backend {
        Backend::File(path) => format!("the file {}, counts in memory: for one process alone", path.display()),
        Backend::Redis(redis) => format!(
            "Redis at {}{}{}, prefix {}, {}, {} at most per request; while it is away, {meanwhile}",
            redis.topology,
            match redis.db {
                0 => String::new(),
                db => format!(", database {db}"),
            },
            if redis.tls.is_some() { " over TLS" } else { "" },
            redis.prefix,
            connections(&redis.topology, settings.listen.workers),
            short(store.deadline),
        ),
    }
}

/// How many connections a process makes at most.
fn connections(topology: &redis::Topology, workers: usize) -> String {
    // One more on which counts of use are sent.
    let each = workers + 1;
    let told = format!("{} (one per worker, one for usage counts)", counted(each, "connection"));
    match topology {
        redis::Topology::Node(_) | redis::Topology::Member(_) => told,
        redis::Topology::Sentinels(sentinels) => {
            format!("{told} and {each} to each of {}", counted(sentinels.addresses.len(), "sentinel"))
        }
        redis::Topology::Cluster(_) => format!("{told} to each master"),
    }
}

fn key_words(settings: &Settings) -> String {
    let credentials = &settings.policy.credentials;
    let sources = credentials.sources.iter().map(|source| match &source.scheme {
        Some(scheme) => format!("{}: {scheme} …", source.header),
        None => source.header.to_string(),
    });
    let sources: Vec<_> = sources.collect();
    let formats = if credentials.formats == Formats::default() {
        "any value is looked up".to_owned()
    } else {
        let formats = credentials.formats.by_prefix().iter().map(|format| match format.action() {
            FormatAction::Accept => format!("{}…", format.prefix()),
            FormatAction::Reject(_) => format!("{}… (refused)", format.prefix()),
            FormatAction::Upstream(name) => format!("{}… (to {name})", format.prefix()),
        });
        formats.collect::<Vec<_>>().join(", ")
    };
    let guessing = credentials
        .guessing
        .as_ref()
        .map_or_else(String::new, |windows| format!("; {windows} unknown ones from one address, then 429"));
    format!("from {}; {formats}{guessing}", sources.join(" or "))
}

/// What becomes of denials; routes and limits that differ say so themselves.
fn mode_words(policy: &Policy) -> &'static str {
    match (policy.mode, policy.enforces()) {
        (Mode::Enforce, _) => "enforce",
        (Mode::Observe, true) => "observe: what would be refused passes, save on the routes that enforce",
        (Mode::Observe, false) => "observe: what would be refused passes, counted and logged",
    }
}

fn routes(settings: &Settings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let routes: Vec<_> = settings.policy.routes.iter().collect();
    let rows = routes.iter().map(|route| [route.pattern.clone(), access_words(&route.access), extras(route, settings)]);
    let rest = match settings.policy.mode {
        Mode::Enforce => "is 404",
        Mode::Observe => "would be 404 and passes",
    };
    writeln!(f, "\nroutes, the most specific first; anything else {rest}")?;
    table(f, &rows.collect::<Vec<_>>())?;
    let public: Vec<_> =
        routes.iter().filter(|route| route.access == Access::Public).map(|route| &*route.pattern).collect();
    let public = if public.is_empty() { "nothing".to_owned() } else { public.join(", ") };
    writeln!(f, "\npublic, without a key: {public}")
}

pub(super) fn access_words(access: &Access) -> String {
    match access {
        Access::Public => "PUBLIC".to_owned(),
        Access::Any => "any valid key".to_owned(),
        Access::All(scopes) => scopes.join(" and "),
        Access::AnyOf(scopes) => scopes.join(" or "),
    }
}

/// What else is special about a route.
fn extras(route: &Route, settings: &Settings) -> String {
    let mut extras = Vec::new();
    if !route.limits.is_empty() {
        let names: Vec<_> = route.limits.iter().map(|limit| limit.name.as_str()).collect();
        extras.push(format!("limits {}", names.join(" + ")));
    }
    if route.cost != 1 {
        extras.push(format!("cost {}", route.cost));
    }
    extras.extend(route.max_query.iter().map(|(name, most)| format!("?{name}= at most {most}")));
    extras.extend(route.response_timeout.map(|timeout| format!("answers within {}", short(timeout))));
    extras.extend(route.max_body.map(|bytes| format!("body at most {bytes} bytes")));
    if route.upstream.0 != 0 {
        let upstream = settings.proxy.upstreams.get(route.upstream.0);
        extras.extend(upstream.map(|upstream| format!("to {}", upstream.name)));
    }
    match (settings.policy.mode, route.mode) {
        (Mode::Enforce, Mode::Observe) => extras.push("ONLY OBSERVED".to_owned()),
        (Mode::Observe, Mode::Enforce) => extras.push("ENFORCED".to_owned()),
        (Mode::Enforce, Mode::Enforce) | (Mode::Observe, Mode::Observe) => {}
    }
    if route.lenient {
        extras.push("lenient".to_owned());
    }
    if route.allows.encoded_slash {
        extras.push("%2F allowed".to_owned());
    }
    if route.allows.semicolon {
        extras.push("; allowed".to_owned());
    }
    extras.join(", ")
}

fn limits(settings: &Settings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let policy = &settings.policy;
    if policy.limits.is_empty() {
        return writeln!(f, "\nno limits");
    }
    writeln!(f, "\nlimits")?;
    let rows = policy.limits.values().map(|limit| {
        let plans = policy.plans.iter().flat_map(|plans| plans.iter());
        let observes = if limit.mode == Mode::Observe { " ONLY OBSERVED" } else { "" };
        [limit.name.clone(), format!("{} {}{observes}", by_words(limit.by), limit.windows), overrides(limit, plans)]
    });
    table(f, &rows.collect::<Vec<_>>())
}

pub(super) fn by_words(by: By) -> &'static str {
    match by {
        By::Key => "per key",
        By::Business => "per business",
        By::User => "per user",
        By::Ip => "per address",
        By::Global => "for all together",
    }
}

/// Who has other windows: plans here, documents in the store.
fn overrides<'p>(limit: &Limit, plans: impl Iterator<Item = (&'p String, &'p Plan)>) -> String {
    let mut words: Vec<_> = plans
        .filter_map(|(name, plan)| plan.limits.get(&limit.name).map(|windows| format!("plan {name}: {windows}")))
        .collect();
    match limit.by {
        By::Key => words.push("a key or its business may have its own".to_owned()),
        By::Business | By::User => words.push("a business may have its own".to_owned()),
        By::Ip | By::Global => {}
    }
    words.join("; ")
}

fn plans(settings: &Settings, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Some(plans) = &settings.policy.plans else { return writeln!(f) };
    let mut names = String::new();
    for (name, plan) in plans.iter() {
        let comma = if names.is_empty() { "" } else { ", " };
        let closed = if plan.api { "" } else { " (no API)" };
        write!(names, "{comma}{name}{closed}")?;
    }
    let without = if plans.of(None).is_some() { "default" } else { "none, and its keys are refused" };
    writeln!(f, "\nplans: {names}; a business without one has {without}\n")
}

/// Columns as wide as their widest cell.
fn table(f: &mut fmt::Formatter<'_>, rows: &[[String; 3]]) -> fmt::Result {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    for [a, b, c] in rows {
        writeln!(f, "{}", format!("  {a:<first$}  {b:<second$}  {c}").trim_end())?;
    }
    Ok(())
}

pub(super) fn short(duration: Duration) -> String {
    let ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if ms.is_multiple_of(1000) { short_duration(ms) } else { format!("{ms}ms") }
}

/// `1 request`, `2 requests`.
pub(super) fn counted<N: Display + PartialEq + From<u8>>(count: N, what: &str) -> String {
    if count == N::from(1) { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(yaml: &str) -> String {
        let settings = config::load::from_text(yaml, Path::new("."), "gate.yaml");
        let settings = settings.unwrap_or_else(|errors| panic!("{errors}"));
        Summary { settings: &settings, certificates: &[], now_ms: 0 }.to_string()
    }

    #[test]
    fn the_summary_shows_the_stores_shape() {
        for (store, told) in [
            ("rediss://h", "Redis at h:6379 over TLS, prefix sg, 4 connections (one per worker, one for usage counts)"),
            (
                "{redis: {cluster: ['redis://a', 'redis://b:1']}}",
                "the cluster of a:6379, b:1, prefix sg, 4 connections (one per worker, one for usage counts) to each master",
            ),
            (
                "{redis: {sentinels: ['redis://a', 'redis://b'], master: main}}",
                "main behind the sentinels a:26379, b:26379, prefix sg, 4 connections (one per worker, one for usage counts) and 4 to each of 2 sentinels",
            ),
        ] {
            let yaml =
                format!("listen: 127.0.0.1:1\nworkers: 3\nupstream: http://h\nstore: {store}\nroutes: {{/a: any}}\n");
            let said = summary(&yaml);
            assert!(said.contains(told), "no {told:?} in\n{said}");
        }
    }

    #[test]
    fn without_a_store_nothing_is_refused_where_nothing_is_enforced() {
        let yaml = "listen: 127.0.0.1:1\nupstream: http://h\nstore: redis://h\nmode: observe\nroutes: {/a: any";
        let said = summary(&format!("{yaml}}}"));
        assert!(said.contains("away, what needs it passes as `store_unavailable`\n"), "{said}");
        assert!(!said.contains("keys are refused"), "{said}");
        let said = summary(&format!("{yaml}, /b: {{any: true, mode: enforce}}}}"));
        assert!(said.contains("away, keys are refused and limits are counted by each process\n"), "{said}");
    }

    #[test]
    fn the_summary_says_what_the_gate_will_do() {
        let said = summary(
            "listen: 127.0.0.1:1\nworkers: 3\nupstream: 'http://[::1]:3000'\nstore: redis://gate:hunter2@h:7/1\nbase_path: /api\n\
             limits: {l: {by: business, windows: [20/1s, 60/1m]}}\nplans: {pro: {limits: {l: 600/1m}}, free: {api: false}}\n\
             management: {roles: [admin, owner], session: 'https://s/x'}\ndefaults: {limits: l}\nroutes: {/open: public, 'GET /a/{id}': {scopes: [x, y], cost: 5}, /a/b: any}\n",
        );
        for told in [
            "127.0.0.1:1, plain text, 3 workers, everything below /api",
            "default at http://[::1]:3000",
            "Redis at h:7, database 1, prefix sg, 4 connections",
            "from authorization: Bearer … or x-api-key; any value is looked up",
            "at /api/v1/keys, for admin or owner by the sessions of s;",
            "x and y        limits l, cost 5",
            "public, without a key: /open",
            "per business 20/1s, 60/1m  plan pro: 600/1m; a business may have its own",
            "plans: free (no API), pro; a business without one has none, and its keys are refused",
        ] {
            assert!(said.contains(told), "no {told:?} in\n{said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
        let at = |pattern: &str| said.find(pattern).unwrap_or(usize::MAX);
        assert!(at("  /a/b") < at("  GET /a/{id}") && at("  GET /a/{id}") < at("  /open"), "{said}");
    }
}
