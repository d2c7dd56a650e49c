//! `listen`, `admin`, `workers`, `drain`, `log`, `ready`: the listeners and the process.

use std::net::{IpAddr, SocketAddr};
use std::thread;
use std::time::Duration;

use ipnet::IpNet;

use super::address::{network, socket_address};
use super::listen_limits::bounds;
use super::probes::probes;
use super::reader::{Reader, items};
use crate::config::field_path::FieldPath;
use crate::config::raw::{self, Root, Short};
use crate::config::scalar;
use crate::listen::settings::{CertificateFiles, Drain, Settings, Tls};
use crate::proxy::settings::Streams;
use crate::{admin, observe};

const DEFAULT_ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9900);

pub fn listen(root: &Root, reader: &mut Reader<'_>) -> Option<Settings> {
    let path = FieldPath::top("listen");
    let nothing = raw::Listen::default();
    let (listen, text) = match &root.listen {
        None => {
            reader.fail(&path, "it is missing; write where to listen, such as `listen: 127.0.0.1:8080`");
            (&nothing, None)
        }
        Some(Short::Text(text)) => (&nothing, Some(text)),
        Some(Short::Fields(listen)) => {
            reader.required(&path.field("address"), listen.address.as_ref(), "one such as `127.0.0.1:8080`");
            (listen, listen.address.as_ref())
        }
    };
    let address = text.and_then(|text| socket_address(&path.field("address"), text, reader));
    let flag = path.field("proxy_protocol");
    let proxy_protocol = reader.read(&flag, listen.proxy_protocol.as_ref(), false, scalar::flag);
    let tls = listen.tls.as_ref().and_then(|tls| tls_files(&path.field("tls"), tls, reader));
    let trusted_proxies = trusted_proxies(&path.field("trusted_proxies"), listen, reader);
    if proxy_protocol && listen.trusted_proxies.as_ref().is_none_or(|list| list.0.is_empty()) {
        reader.fail(
            &flag,
            "nobody is named whose PROXY header is believed, and anybody could claim any address in one; write whose \
             connections begin with one, such as `trusted_proxies: [10.0.0.0/8]`",
        );
    }
    let settings = Settings {
        address: address.unwrap_or(DEFAULT_ADMIN),
        tls,
        trusted_proxies,
        bounds: bounds(&path.field("limits"), listen.limits.as_ref(), reader),
        proxy_protocol,
        drain: drain(root, reader),
        workers: reader.read(&FieldPath::top("workers"), root.workers.as_ref(), workers(), scalar::count(1, 1024)),
    };
    address.map(|_| settings)
}

fn trusted_proxies(path: &FieldPath, listen: &raw::Listen, reader: &mut Reader<'_>) -> Vec<IpNet> {
    let proxies = reader.parse_all(path, listen.trusted_proxies.as_ref(), network);
    for all in proxies.iter().filter(|network| network.prefix_len() == 0) {
        reader.warn(path, format_args!("{all} are all addresses: every client may say in X-Forwarded-For who it is"));
    }
    proxies
}

/// One per core up to four, and no more than the cgroup's CPU quota, which the standard library takes into account.
fn workers() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

fn tls_files(path: &FieldPath, tls: &raw::ListenTls, reader: &mut Reader<'_>) -> Option<Tls> {
    let client_ca = tls.client_ca.as_ref().and_then(|file| reader.file(&path.field("client_ca"), file));
    let path = path.field("certificates");
    let Some(list) = tls.certificates.as_ref().filter(|list| !list.0.is_empty()) else {
        reader.fail(&path, "there is none; write `certificates: [{cert: tls.crt, key: tls.key}]`");
        return None;
    };
    let mut certificates = Vec::new();
    for (path, pair) in items(&path, list) {
        let (cert_path, key_path) = (path.field("cert"), path.field("key"));
        let cert = reader.required(&cert_path, pair.cert.as_ref(), "the PEM file of the certificate chain");
        let cert = cert.and_then(|cert| reader.file(&cert_path, cert));
        let key = reader.required(&key_path, pair.key.as_ref(), "the PEM file of the private key");
        let key = key.and_then(|key| reader.file(&key_path, key));
        certificates.extend(cert.zip(key).map(|(cert, key)| CertificateFiles { cert, key }));
    }
    Some(Tls { certificates, client_ca })
}

fn drain(root: &Root, reader: &mut Reader<'_>) -> Drain {
    let path = FieldPath::top("drain");
    let (delay, deadline) = root.drain.as_ref().map_or((None, None), |d| (d.delay.as_ref(), d.deadline.as_ref()));
    Drain {
        delay: reader.read(&path.field("delay"), delay, Duration::from_secs(5), scalar::duration),
        deadline: reader.read(&path.field("deadline"), deadline, Duration::from_secs(30), scalar::duration),
    }
}

pub fn streams(root: &Root, reader: &mut Reader<'_>) -> Streams {
    let path = FieldPath::top("streams");
    let (recheck, max_age) = root.streams.as_ref().map_or((None, None), |s| (s.recheck.as_ref(), s.max_age.as_ref()));
    Streams {
        recheck: reader.read(&path.field("recheck"), recheck, Duration::from_secs(10), scalar::time),
        max_age: reader.read(&path.field("max_age"), max_age, Duration::from_secs(3600), scalar::time),
    }
}

pub fn admin(root: &Root, reader: &mut Reader<'_>) -> admin::settings::Settings {
    let path = FieldPath::top("admin").field("address");
    let address = match &root.admin {
        None => None,
        Some(Short::Text(address)) => Some(address),
        Some(Short::Fields(admin)) => reader.required(&path, admin.address.as_ref(), "one such as `127.0.0.1:9900`"),
    };
    let admin = address.and_then(|address| socket_address(&path, address, reader)).unwrap_or(DEFAULT_ADMIN);
    if !admin.ip().is_loopback() {
        reader.warn(&FieldPath::top("admin"), format_args!(
            "{admin} can be reached from other machines; keep it on loopback, `probes` is for the kubelet and Prometheus"
        ));
    }
    let path = FieldPath::top("ready").field("store");
    let ready = root.ready.as_ref().and_then(|ready| ready.store.as_ref());
    let (probes, app) = probes(root, reader);
    admin::settings::Settings { admin, probes, app, ready_needs_store: reader.read(&path, ready, true, scalar::flag) }
}

/// Two listeners on one address: the second would fail at the start.
pub fn refuse_shared_addresses(listen: &Settings, admin: &admin::settings::Settings, reader: &mut Reader<'_>) {
    let named = [("listen", Some(listen.address)), ("admin", Some(admin.admin)), ("probes", admin.probes)];
    for (index, (name, address)) in named.iter().enumerate() {
        let taken = named[..index].iter().find(|(_, other)| other == address);
        if let (Some((other, _)), Some(address)) = (taken, address)
            && address.port() != 0
        {
            reader.fail(
                &FieldPath::top(name),
                format_args!("`{other}` has the address {address} already; write another"),
            );
        }
    }
}

pub fn observe(root: &Root, reader: &mut Reader<'_>) -> observe::settings::Settings {
    use observe::settings::Format;
    use tracing::Level;
    let path = FieldPath::top("log");
    let nothing = raw::Log::default();
    let log = root.log.as_ref().unwrap_or(&nothing);
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    let formats = [("auto", Format::Auto), ("json", Format::Json), ("text", Format::Text)];
    observe::settings::Settings {
        level: reader.read(&path.field("level"), log.level.as_ref(), Level::INFO, scalar::choice(&levels)),
        format: reader.read(&path.field("format"), log.format.as_ref(), Format::Auto, scalar::choice(&formats)),
        sample: reader.read(&path.field("sample"), log.sample.as_ref(), 1.0, scalar::part),
    }
}
