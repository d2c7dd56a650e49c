//! `probes`: the listener for the kubelet and Prometheus, and the service's own probes (`probes.app`), to which injection adds
//! those of `SIDEGATE_APP_PROBES`.
//!
//! Every target is on loopback: whoever reaches this listener decides when it is asked, and must not reach other machines by it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::address::socket_address;
use super::reader::entries;
use super::reader::{Reader, items};
use super::upstream::{host_and_port, is_loopback};
use crate::admin::settings::{AppProbe, Check};
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, Entries, List, Root, Scalar, Short};
use crate::config::scalar;

/// The service's probes as injection has found them in the pod, a JSON list of the same shape as `probes.app`.
const VARIABLE: &str = "SIDEGATE_APP_PROBES";
const EXAMPLE: &str = r#"a JSON list such as `[{"path": "/app/ready", "target": "http://127.0.0.1:3000/ok"}]`"#;
/// As the kubelet's own.
const TIMEOUT: Duration = Duration::from_secs(1);
const OWN_PATHS: [&str; 3] = ["/metrics", "/livez", "/readyz"];

pub fn probes(root: &Root, reader: &mut Reader<'_>) -> (Option<SocketAddr>, Vec<AppProbe>) {
    let path = FieldPath::top("probes");
    let address = path.field("address");
    let (written, app) = match &root.probes {
        None => (None, None),
        Some(Short::Text(address)) => (Some(address), None),
        Some(Short::Fields(probes)) => {
            let example = "one such as `0.0.0.0:9901`";
            (reader.required(&address, probes.address.as_ref(), example), probes.app.as_ref())
        }
    };
    let mut found = Vec::new();
    for (path, probe) in app.into_iter().flat_map(|app| items(&path.field("app"), app).collect::<Vec<_>>()) {
        found.extend(app_probe(&path, probe, &found, reader));
    }
    for (index, probe) in from_environment(reader).iter().enumerate() {
        found.extend(app_probe(&FieldPath::top(VARIABLE).item(index), probe, &found, reader));
    }
    if root.probes.is_none() && !found.is_empty() {
        let message = "there is no listener on which these would be answered; write `probes: 0.0.0.0:9901`";
        reader.fail(&FieldPath::top(VARIABLE), message);
    }
    (written.and_then(|text| socket_address(&address, text, reader)), found)
}

fn from_environment(reader: &mut Reader<'_>) -> Vec<raw::AppProbe> {
    let Some(text) = reader.variable(VARIABLE).filter(|text| !text.trim().is_empty()) else { return Vec::new() };
    // Nothing is replaced in what came from the environment.
    match serde_json::from_str(&text.replace("${", "$${")) {
        Ok(probes) => probes,
        Err(error) => {
            reader.fail(&FieldPath::top(VARIABLE), format_args!("{error}; write {EXAMPLE}"));
            Vec::new()
        }
    }
}

/// `before`: the probes that were read already.
fn app_probe(path: &FieldPath, raw: &raw::AppProbe, before: &[AppProbe], reader: &mut Reader<'_>) -> Option<AppProbe> {
    let (at_path, at_target) = (path.field("path"), path.field("target"));
    let asked_at = reader.required(&at_path, raw.path.as_ref(), "where it is asked for, such as `/app/ready`");
    let asked_at = asked_at.and_then(|text| reader.parse(&at_path, text, |text| listener_path(text, before)));
    let target = reader.required(&at_target, raw.target.as_ref(), "one such as `http://127.0.0.1:3000/ok`");
    let target = target.and_then(|text| reader.parse(&at_target, text, target_of));
    let timeout = reader.read(&path.field("timeout"), raw.timeout.as_ref(), TIMEOUT, scalar::time);
    let headers = headers(&path.field("headers"), raw.headers.as_ref(), reader);
    let (address, mut check) = target?;
    match &mut check {
        Check::Http { headers: of_check, .. } => *of_check = headers,
        Check::Tcp | Check::Grpc { .. } if raw.headers.is_some() => {
            reader.fail(&path.field("headers"), "only a question over HTTP has headers; remove them");
        }
        Check::Tcp | Check::Grpc { .. } => {}
    }
    Some(AppProbe { path: asked_at?, address, check, timeout })
}

fn listener_path(text: &str, before: &[AppProbe]) -> Result<String, String> {
    let is_path = text.starts_with('/') && text.parse::<PathAndQuery>().is_ok_and(|path| path.path() == text);
    if !is_path {
        return Err(format!("`{text}` is no path; write one such as `/app/ready`"));
    }
    if OWN_PATHS.contains(&text) || before.iter().any(|probe| probe.path == text) {
        return Err(format!("`{text}` is there already; write another path"));
    }
    Ok(text.to_owned())
}

/// `http://127.0.0.1:3000/ok`, `tcp://127.0.0.1:3000`, `grpc://127.0.0.1:3000/service`.
fn target_of(text: &str) -> Result<(SocketAddr, Check), String> {
    let shape = || {
        format!(
            "`{text}` is nothing that can be asked; write `http://127.0.0.1:3000/ok`, `tcp://127.0.0.1:3000` or \
             `grpc://127.0.0.1:3000/service`"
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(shape)?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let check = match scheme {
        "http" if path.is_empty() => Check::Http { target: PathAndQuery::from_static("/"), headers: HeaderMap::new() },
        "http" => {
            let target = path.parse().map_err(|_| shape())?;
            Check::Http { target, headers: HeaderMap::new() }
        }
        "tcp" if path.is_empty() => Check::Tcp,
        "grpc" => Check::Grpc { service: path.strip_prefix('/').unwrap_or_default().to_owned() },
        _ => return Err(shape()),
    };
    let (host, port) = host_and_port(authority, 80).map_err(|_| shape())?;
    if !is_loopback(&host) {
        return Err(format!("`{host}` is not on this machine's loopback; write 127.0.0.1"));
    }
    let ip: IpAddr = host.trim_matches(['[', ']']).parse().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok((SocketAddr::new(ip.to_canonical(), port), check))
}

fn headers(path: &FieldPath, raw: Option<&Entries<List<Scalar>>>, reader: &mut Reader<'_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (text, values) in entries(raw) {
        let path = path.field(text);
        let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
            reader.fail(&path, format_args!("`{text}` is no name of a header; write one such as `X-Probe`"));
            continue;
        };
        for (path, value) in items(&path, values).collect::<Vec<_>>() {
            let Some(value) = reader.text(&path, value) else { continue };
            match HeaderValue::from_str(&value) {
                Ok(value) => drop(headers.append(name.clone(), value)),
                Err(_) => reader.fail(&path, "the value cannot stand in a header; write visible characters"),
            }
        }
    }
    headers
}
