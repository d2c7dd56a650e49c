//! The services behind the gate, each with its pool of connections. Only a `Permit` gets a request forwarded.

use std::sync::Arc;
use std::time::Instant;

use http::header::HOST;
use http::uri::{Authority, Scheme};
use http::{HeaderName, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant as Deadline, sleep_until};

use super::arrival::Arrival;
use super::arriving::Arriving;
use super::body::{Forwarded, Progress};
use super::connector::{Connector, ConnectorError};
use super::headers::{self, Forwarding};
use super::request_id::RequestId;
use super::settings::{Protocol, Target, Upstream};
use crate::gate::{Denial, Permit};
use crate::policy::Policy;

/// One worker's clients, by `UpstreamId`.
pub struct Upstreams {
    upstreams: Vec<Pool>,
    /// Every identity header of every upstream: no client's copy passes, on public routes neither.
    reserved: Arc<[HeaderName]>,
}

struct Pool {
    settings: Upstream,
    client: Client<Connector, Forwarded>,
    scheme: Scheme,
    authority: Authority,
}

impl Upstreams {
    pub fn new(settings: &[Upstream]) -> Result<Self, ConnectorError> {
        let identity = settings.iter().flat_map(|upstream| &upstream.identity).map(|(name, _)| name.clone());
        let fixed = settings.iter().flat_map(|upstream| &upstream.headers).map(|(name, _)| name.clone());
        let reserved = identity.chain(fixed).filter(|name| name != HOST).collect();
        let upstreams = settings.iter().map(Pool::new).collect::<Result<_, _>>()?;
        Ok(Self { upstreams, reserved })
    }

    /// Forwards what was permitted. The body streams; the answer is the upstream's head with its body still to come.
    pub async fn forward(
        &self,
        permit: &Permit,
        policy: &Policy,
        request: Request<Arriving>,
        arrival: &Arrival,
        request_id: &RequestId,
    ) -> Result<Response<Incoming>, Denial> {
        // The configuration resolves every id that a route or a format names.
        let unknown = || Denial::UpstreamUnreachable("no such upstream".to_owned());
        let pool = self.upstreams.get(permit.upstream().0).ok_or_else(unknown)?;
        let most = permit.route().max_body;
        if let (Some(most), Some(length)) = (most, content_length(&request))
            && length > most
        {
            return Err(Denial::BodyTooLarge);
        }
        let (mut head, body) = request.into_parts();
        let forwarding = Forwarding {
            permit,
            policy,
            upstream: &pool.settings,
            reserved: &self.reserved,
            arrival,
            version: head.version,
            request_id,
        };
        headers::forward(&mut head.headers, &forwarding);
        head.uri = pool.uri(permit.target())?;
        head.version = Version::HTTP_11;
        if !pool.keeps_host() && !pool.settings.headers.iter().any(|(name, _)| name == HOST) {
            headers::set(&mut head.headers, HOST, pool.authority.as_str().to_owned());
        }
        let (body, progress) = Forwarded::new(body, most, self.reserved.clone());
        let patience = permit.route().response_timeout.unwrap_or(pool.settings.response_timeout);
        let response = pool.send(Request::from_parts(head, body), &progress, patience).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Denial::UpstreamInvalid("it switched protocols, which nobody asked for".to_owned()));
        }
        Ok(response)
    }
}

impl Pool {
    fn new(settings: &Upstream) -> Result<Self, ConnectorError> {
        let (scheme, authority) = match &settings.target {
            Target::Unix(_) => (Scheme::HTTP, "localhost".to_owned()),
            Target::Tcp { host, port, protocol } => {
                let (scheme, default_port) = match protocol {
                    Protocol::Https => (Scheme::HTTPS, 443),
                    Protocol::Http | Protocol::H2c => (Scheme::HTTP, 80),
                };
                (scheme, if *port == default_port { host.clone() } else { format!("{host}:{port}") })
            }
        };
        let h2c = matches!(settings.target, Target::Tcp { protocol: Protocol::H2c, .. });
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(settings.idle)
            .http2_only(h2c)
            // The head carries the right Host already.
            .set_host(false)
            .build(Connector::new(settings)?);
        let authority = Authority::try_from(authority.clone()).map_err(|_| ConnectorError::Name(authority))?;
        Ok(Self { settings: settings.clone(), client, scheme, authority })
    }

    /// A plain service beside the gate sees the host that the client asked for, as before. One that is reached by name
    /// over TLS or HTTP/2 is asked under that name, since its certificate and `:authority` say it.
    fn keeps_host(&self) -> bool {
        matches!(self.settings.target, Target::Unix(_) | Target::Tcp { protocol: Protocol::Http, .. })
    }

    /// The target byte for byte as it was decided on.
    fn uri(&self, target: &str) -> Result<Uri, Denial> {
        let uri = Uri::builder().scheme(self.scheme.clone()).authority(self.authority.clone()).path_and_query(target);
        let uri = uri
            .build()
            .map_err(|_| Denial::BadRequest("The query holds a character that must be percent-encoded".into()))?;
        match uri.path_and_query() {
            Some(kept) if kept.as_str() == target => Ok(uri),
            _ => Err(Denial::BadRequest("The request's target cannot be forwarded as it is".into())),
        }
    }

    /// Waits for the head: `patience` from the last frame of the request body that was forwarded.
    async fn send(
        &self,
        request: Request<Forwarded>,
        progress: &Progress,
        patience: std::time::Duration,
    ) -> Result<Response<Incoming>, Denial> {
        let mut response = std::pin::pin!(self.client.request(request));
        loop {
            let deadline = progress.last_frame() + patience;
            tokio::select! {
                biased;
                answer = &mut response => return answer.map_err(|error| failed(&error, progress)),
                () = sleep_until(Deadline::from_std(deadline)) => {
                    if Instant::now() >= progress.last_frame() + patience {
                        return Err(Denial::UpstreamTimeout);
                    }
                }
            }
        }
    }
}

fn content_length<B: hyper::body::Body>(request: &Request<B>) -> Option<u64> {
    request.body().size_hint().exact()
}

fn failed(error: &Error, progress: &Progress) -> Denial {
    if progress.is_too_large() {
        return Denial::BodyTooLarge;
    }
    if progress.is_broken() {
        // Nobody is left to read this; the log tells it apart from a failure of the upstream.
        return Denial::BadRequest("The request body broke off".into());
    }
    let told = chain(error);
    if error.is_connect() { Denial::UpstreamUnreachable(told) } else { Denial::UpstreamInvalid(told) }
}

/// The whole story of an error, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        told.push_str(": ");
        told.push_str(&cause.to_string());
        source = cause.source();
    }
    told
}
