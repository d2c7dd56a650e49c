//! `upstream` or `upstreams`: the services behind the gate.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::header::{self, Use};
use super::name::{NAME_ADVICE, is_name};
use super::reader::Reader;
use super::reader::entries;
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, ClientTls, Entries, Root, Scalar, Short};
use crate::config::{scalar, suggestion};
use crate::keys::Digest;
use crate::policy::template::Template;
use crate::policy::{Mode, UpstreamId};
use crate::proxy::settings::{Identity, Protocol, Target, Upstream, UpstreamTls};

/// All upstreams; the default one first.
pub fn all(root: &Root, reader: &mut Reader<'_>) -> Vec<Upstream> {
    let path = FieldPath::top("upstreams");
    let mut upstreams = Vec::new();
    match (&root.upstream, &root.upstreams) {
        (None, None) => {
            let path = FieldPath::top("upstream");
            reader.fail(&path, "it is missing; write the service's address, such as `upstream: http://127.0.0.1:3000`");
        }
        (Some(_), Some(_)) => {
            reader.fail(
                &path,
                "`upstream` and `upstreams` exclude each other; write the first as `default` in the second",
            );
        }
        (Some(one), None) => upstreams.push(upstream("default", &FieldPath::top("upstream"), one, reader)),
        (None, Some(Entries(several))) => {
            for (name, one) in several {
                if !is_name(name) {
                    reader.fail(&path.field(name), NAME_ADVICE);
                }
                upstreams.push(upstream(name, &path.field(name), one, reader));
            }
            match upstreams.iter().position(|upstream| upstream.name == "default") {
                Some(at) => upstreams[..=at].rotate_right(1),
                None => reader.fail(&path, "none is called `default`, which routes go to that name no other; add it"),
            }
        }
    }
    upstreams
}

/// Each upstream has an `identity` of its own: one that is added later is easily left without it.
pub fn warn_of_strangers(root: &Root, upstreams: &[Upstream], reader: &mut Reader<'_>) {
    let Some(told) = upstreams.iter().find(|upstream| !upstream.identity.is_empty()) else { return };
    for (name, raw) in entries(root.upstreams.as_ref()) {
        if !matches!(raw, Short::Fields(raw::Upstream { identity: Some(_), .. })) {
            reader.warn(
                &FieldPath::top("upstreams").field(name),
                format_args!(
                    "`{}` is told who calls and this service is not, since `identity` belongs to one upstream; \
                     write it here too, or `identity: {{}}` if that is meant",
                    told.name
                ),
            );
        }
    }
}

/// Whoever observes often stands behind another gateway still, which may set headers of the same names.
pub fn warn_of_removed_copies(root: &Root, upstreams: &[Upstream], mode: Mode, reader: &mut Reader<'_>) {
    for upstream in upstreams.iter().filter(|upstream| mode == Mode::Observe && !upstream.identity.is_empty()) {
        let path = match &root.upstream {
            Some(_) => FieldPath::top("upstream"),
            None => FieldPath::top("upstreams").field(&upstream.name),
        };
        let names: Vec<_> = upstream.identity.iter().map(|(name, _)| name.as_str()).collect();
        reader.warn(
            &path.field("identity"),
            format_args!(
                "in observe mode, too, copies of {} that come in do not reach the service, also where the key is not \
                 known; if another gateway before this one sets them, leave `identity` out until it is gone",
                names.join(", ")
            ),
        );
    }
}

/// An upstream that is surely the gate's own listener: each request would come back, without its key.
pub fn refuse_own_address(root: &Root, upstreams: &[Upstream], own: SocketAddr, reader: &mut Reader<'_>) {
    for upstream in upstreams {
        let Target::Tcp { host, port, .. } = &upstream.target else { continue };
        if *port != 0 && *port == own.port() && is_own(host, own.ip()) {
            let path = match &root.upstream {
                Some(_) => FieldPath::top("upstream"),
                None => FieldPath::top("upstreams").field(&upstream.name),
            };
            reader.fail(
                &path,
                format_args!(
                    "`{host}:{port}` is where the gate itself listens (`{own}`); write the service's own port"
                ),
            );
        }
    }
}

/// Whether a host at the gate's port leads to the gate. Names but `localhost` are left alone, as are the other addresses of the
/// machine: where the configuration is checked they may be another's.
fn is_own(host: &str, own: IpAddr) -> bool {
    let Ok(host) = host.trim_matches(['[', ']']).parse::<IpAddr>().map(|host| host.to_canonical()) else {
        return host.eq_ignore_ascii_case("localhost") && (own.is_unspecified() || own.is_loopback());
    };
    // Whoever connects to no address at all gets to loopback.
    let host = if host.is_unspecified() {
        if host.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() }
    } else {
        host
    };
    // All of IPv6 takes IPv4 in, too.
    host == own || (own.is_unspecified() && host.is_loopback() && (own.is_ipv6() || host.is_ipv4()))
}

/// The upstream that a route or a key format names.
pub fn resolve(upstreams: &[Upstream], path: &FieldPath, name: &str, reader: &mut Reader<'_>) -> UpstreamId {
    let place = upstreams.iter().position(|upstream| upstream.name == name);
    if place.is_none() {
        let advice = suggestion::advice(name, upstreams.iter().map(|upstream| upstream.name.as_str()));
        reader.fail(path, format_args!("there is no upstream `{name}`; {advice}"));
    }
    UpstreamId(place.unwrap_or(0))
}

fn upstream(name: &str, path: &FieldPath, raw: &Short<raw::Upstream>, reader: &mut Reader<'_>) -> Upstream {
    let nothing = raw::Upstream::default();
    let (fields, url) = match raw {
        Short::Text(url) => (&nothing, Some(url)),
        Short::Fields(fields) => {
            let example = "one such as `url: http://127.0.0.1:3000`";
            (fields, reader.required(&path.field("url"), fields.url.as_ref(), example))
        }
    };
    let target = url.and_then(|url| target(&path.field("url"), url, reader));
    let target = target.unwrap_or(Target::Unix(PathBuf::new()));
    let streams = fields.h2_streams.as_ref();
    let seconds = Duration::from_secs;
    let (connect, response) = (fields.connect_timeout.as_ref(), fields.response_timeout.as_ref());
    let identity = identity(&path.field("identity"), fields.identity.as_ref(), reader);
    let headers = headers(&path.field("headers"), fields.headers.as_ref(), &identity, reader);
    Upstream {
        name: name.to_owned(),
        connect_timeout: reader.read(&path.field("connect_timeout"), connect, seconds(2), scalar::time),
        response_timeout: reader.read(&path.field("response_timeout"), response, seconds(15), scalar::time),
        idle: reader.read(&path.field("idle"), fields.idle.as_ref(), seconds(60), scalar::time),
        h2_streams: reader.read(&path.field("h2_streams"), streams, 100, scalar::count(1, 100_000)),
        via: reader.read(&path.field("via"), fields.via.as_ref(), true, scalar::flag),
        identity,
        headers,
        tls: tls(&path.field("tls"), fields.tls.as_ref(), &target, reader),
        target,
    }
}

fn target(path: &FieldPath, scalar: &Scalar, reader: &mut Reader<'_>) -> Option<Target> {
    let url = reader.text(path, scalar)?;
    if let Some(socket) = url.strip_prefix("unix:") {
        let socket = socket.strip_prefix("//").unwrap_or(socket);
        return reader.location(path, &Scalar(socket.replace("${", "$${"))).map(Target::Unix);
    }
    let target = parse_url(&url).map_err(|problem| reader.fail(path, problem)).ok()?;
    if let Target::Tcp { host, protocol: Protocol::Http | Protocol::H2c, .. } = &target
        && !is_loopback(host)
    {
        reader.warn(path, format_args!("requests to `{host}` travel unencrypted; write `https://` if it can"));
    }
    Some(target)
}

/// `http://host[:port]`, `https://…`, `h2c://…`; an IPv6 host keeps its brackets. Of the text only the scheme is repeated in
/// errors: a login in it would be printed.
fn parse_url(url: &str) -> Result<Target, String> {
    let (scheme, rest) = url.split_once("://").ok_or(SHAPE)?;
    let (protocol, port) = match scheme {
        "http" => (Protocol::Http, 80),
        "https" => (Protocol::Https, 443),
        "h2c" => (Protocol::H2c, 80),
        _ if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => return Err(format!("`{scheme}://`: {SHAPE}")),
        _ => return Err(SHAPE.to_owned()),
    };
    let (host, port) = host_and_port(rest, port)?;
    Ok(Target::Tcp { host, port, protocol })
}

const SHAPE: &str = "this is no upstream; write `http://host:port`, `https://…`, `h2c://…`, or `unix:/path.sock`";

pub fn host_and_port(rest: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(
            "an upstream has no path and no query: sidegate forwards the request's own byte for byte and rewrites none; \
             end it after the port, and let the service, or a proxy behind the gate, map the path",
        );
    }
    if authority.contains('@') {
        return Err("a login does not belong into the address; set `headers: {Authorization: …}`");
    }
    let authority: Authority = authority.parse().map_err(|_| SHAPE)?;
    let host = authority.host();
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let has_port = authority.as_str().len() > authority.host().len();
    let port = match authority.port_u16() {
        Some(0) => return Err("port 0 is no port to connect to; write the service's"),
        Some(port) => port,
        None if has_port => return Err("the port is no number up to 65535; write the service's"),
        None => default_port,
    };
    if host.is_empty() || bracketed.is_some_and(|host| host.parse::<Ipv6Addr>().is_err()) {
        return Err(SHAPE);
    }
    Ok((host.to_owned(), port))
}

pub fn is_loopback(host: &str) -> bool {
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(is_loopback)
}

fn identity(
    path: &FieldPath,
    raw: Option<&Entries<Scalar>>,
    reader: &mut Reader<'_>,
) -> Vec<(HeaderName, Template<Identity>)> {
    let mut identity: Vec<(HeaderName, _)> = Vec::new();
    for (text, value) in entries(raw) {
        let path = path.field(text);
        let others: Vec<_> = identity.iter().map(|(name, _)| name.clone()).collect();
        let name = header::new_name(reader, &path, text, Use::Identity, others);
        let template = reader.parse(&path, value, |text| Template::parse(text, Identity::PLACEHOLDERS));
        if let (Some(name), Some(template)) = (&name, &template)
            && header::is_always_set(name)
            && may_be_empty(template)
        {
            reader.fail(
                &path,
                format_args!(
                    "where the value is empty the service would take the gate's own `{text}`, or its client's, for it; \
                     write another header, or a value that is never empty, such as `{{request_id}}`"
                ),
            );
        }
        identity.extend(name.zip(template));
    }
    identity
}

/// A request without a key has all of these empty but its own id and its client's address.
fn may_be_empty(template: &Template<Identity>) -> bool {
    let always = [Identity::RequestId, Identity::Client];
    template.render(|part, text| text.push_str(if always.contains(&part) { "some" } else { "" })).is_empty()
}

fn headers(
    path: &FieldPath,
    raw: Option<&Entries<Scalar>>,
    identity: &[(HeaderName, Template<Identity>)],
    reader: &mut Reader<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut headers: Vec<(HeaderName, HeaderValue)> = Vec::new();
    for (text, value) in entries(raw) {
        let path = path.field(text);
        let others: Vec<_> =
            identity.iter().map(|(name, _)| name).chain(headers.iter().map(|(name, _)| name)).cloned().collect();
        let name = header::new_name(reader, &path, text, Use::Fixed, others);
        let value = reader.text_or_file(&path, value).and_then(|text| secret_value(&path, &text, reader));
        if let Some(placeholder) = value.as_ref().and_then(placeholder) {
            reader.fail(
                &path,
                format_args!(
                    "a fixed header has no placeholders; write `{text}: \"{{{placeholder}}}\"` under `identity`"
                ),
            );
        }
        headers.extend(name.zip(value));
    }
    headers
}

/// The placeholder of identity headers that the whole value is; it would be sent as it stands.
fn placeholder(value: &HeaderValue) -> Option<&'static str> {
    let name = value.to_str().ok()?.strip_prefix('{')?.strip_suffix('}')?;
    Identity::PLACEHOLDERS.iter().map(|(known, _)| *known).find(|known| *known == name)
}

/// The value is not repeated in errors: it is likely a secret.
fn secret_value(path: &FieldPath, text: &str, reader: &mut Reader<'_>) -> Option<HeaderValue> {
    match HeaderValue::from_str(text) {
        Ok(mut value) if !text.is_empty() => {
            value.set_sensitive(true);
            Some(value)
        }
        _ => {
            reader.fail(path, "the value cannot stand in a header; write visible characters, without a line break");
            None
        }
    }
}

fn tls(path: &FieldPath, raw: Option<&ClientTls>, target: &Target, reader: &mut Reader<'_>) -> UpstreamTls {
    let Some(raw) = raw else { return UpstreamTls::default() };
    if !matches!(target, Target::Tcp { protocol: Protocol::Https, .. }) {
        reader.fail(path, "this upstream is not reached over TLS; write `https://` in its `url`, or remove `tls`");
    }
    let mut file =
        |name: &str, scalar: &Option<Scalar>| scalar.as_ref().and_then(|scalar| reader.file(&path.field(name), scalar));
    let (ca, cert, key) = (file("ca", &raw.ca), file("cert", &raw.cert), file("key", &raw.key));
    if raw.cert.is_some() != raw.key.is_some() {
        reader.fail(path, "a client certificate needs `cert` and `key`; write both");
    }
    let contents = [&ca, &cert, &key].into_iter().flatten().map(|file| contents(file)).collect();
    UpstreamTls { ca, client: cert.zip(key), contents }
}

/// Tells one content of a file from another; one that cannot be read is told when it is used.
fn contents(file: &Path) -> Option<Digest> {
    fs::read_to_string(file).ok().map(|text| Digest::of(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_upstreams_are_read() {
        let tcp = |host: &str, port, protocol| Ok(Target::Tcp { host: host.to_owned(), port, protocol });
        assert_eq!(parse_url("http://127.0.0.1:3000"), tcp("127.0.0.1", 3000, Protocol::Http));
        assert_eq!(parse_url("http://app/"), tcp("app", 80, Protocol::Http));
        assert_eq!(parse_url("https://app.example"), tcp("app.example", 443, Protocol::Https));
        assert_eq!(parse_url("h2c://[::1]:50051"), tcp("[::1]", 50051, Protocol::H2c));
        for wrong in [
            "",
            "app:3000",
            "ftp://app",
            "http://",
            "http://app/v1",
            "http://app?x",
            "http://u:p@app",
            "http://app:",
            "http://app:99999",
            "http://app:0",
            "http://a b",
            "http://[::1",
            "http://[zz]:1",
            "HTTP://app",
        ] {
            assert!(parse_url(wrong).is_err(), "{wrong}");
        }
    }
}
