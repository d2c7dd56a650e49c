//! The request that is asked about, as the listener would hand it to the gate.

use std::net::IpAddr;
use std::time::Instant;

use http::header::HOST;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use crate::config::Settings;
use crate::gate::{Denial, GateRequest, credential};
use crate::listen::client_addr;
use crate::proxy::Arrival;
use clap::Args;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  sidegate explain 'GET /v1/calls?business_id=b1'\n  sidegate explain 'POST /v1/calls' --header 'X-Business-Id: b1' --json < key.txt\n\nA key on standard input is asked about, too; nothing is spent. Exit code 0 whatever the verdict."
)]
pub struct ExplainArgs {
    /// Method and target, as a client would send them: `POST /v1/calls?business_id=b1`; without a method, GET
    pub request: String,
    /// A header of the request, `Name: value`; several times for several. Never the key: that stands on standard input
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub from: IpAddr,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// A request, and where it comes from.
pub struct ExplainedRequest {
    pub request: Request<()>,
    pub arrival: Arrival,
    /// Whether a key stood on standard input.
    pub with_key: bool,
}

impl ExplainedRequest {
    /// What the arguments describe, or why no client could send it.
    pub fn read(args: &ExplainArgs, key: Option<&str>, settings: &Settings) -> Result<Self, String> {
        let (method, target) = match args.request.trim().split_once(' ') {
            Some((method, target)) => (method, target.trim()),
            None => ("GET", args.request.trim()),
        };
        let method =
            Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is no method; write `GET /v1/x`"))?;
        if !target.starts_with('/') {
            return Err(format!("`{target}` is no path; write one that begins with `/`, without scheme and host"));
        }
        let uri: Uri = target.parse().map_err(|error| format!("`{target}` cannot be sent: {error}; encode it"))?;
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers(&args.header, settings)?;
        if let Some(key) = key {
            present(key, request.headers_mut(), settings)?;
        }
        request.headers_mut().entry(HOST).or_insert(HeaderValue::from_static("localhost"));
        let arrival = arrival(args.from, request.headers(), settings);
        Ok(Self { request, arrival, with_key: key.is_some() })
    }

    pub fn method(&self) -> &Method {
        self.request.method()
    }

    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    pub fn inquiry(&self) -> GateRequest<'_> {
        GateRequest {
            method: self.method(),
            path: self.path(),
            query: self.request.uri().query(),
            headers: self.request.headers(),
            client: self.arrival.client.ip(),
            length: None,
            oversize: None,
            arrived: Instant::now(),
        }
    }
}

fn headers(lines: &[String], settings: &Settings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::try_from(name.trim()).ok()?;
            Some((name, HeaderValue::try_from(value.trim()).ok()?))
        });
        // The line is not repeated: it may be a key in the wrong place.
        let (name, value) = parsed.ok_or("a header is no header; write `--header 'Name: value'`")?;
        headers.append(name, value);
    }
    match credential::read(&settings.policy.credentials, &headers) {
        Err(Denial::MissingKey | Denial::MalformedKey(_)) => Ok(headers),
        Ok(_) | Err(_) => Err("a header holds a key. Arguments stay in the shell's history and can be seen by every \
                               process; give the key on standard input"
            .to_owned()),
    }
}

/// Puts the key where a client would: in the first place that the configuration looks at.
fn present(key: &str, headers: &mut HeaderMap, settings: &Settings) -> Result<(), String> {
    let source = settings.policy.credentials.sources.first().ok_or("the configuration reads no key")?;
    let text = source.scheme.as_ref().map_or_else(|| key.to_owned(), |scheme| format!("{scheme} {key}"));
    let mut value = HeaderValue::try_from(text).map_err(|_| "what stands on standard input is not one key")?;
    value.set_sensitive(true);
    headers.append(source.header.clone(), value);
    Ok(())
}

/// As the listener would see the connection.
fn arrival(peer: IpAddr, headers: &HeaderMap, settings: &Settings) -> Arrival {
    let trusted = &settings.listen.trusted_proxies;
    Arrival {
        peer: peer.into(),
        client: client_addr::of(peer, headers, trusted).into(),
        trusted: client_addr::is_trusted(peer, trusted),
        secure: settings.listen.tls.is_some(),
        refused: None,
    }
}
