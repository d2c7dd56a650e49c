//! The process that injects gates: an admission webhook over TLS, which API servers call for every pod and Service that opted in,
//! and a plain listener for the kubelet and Prometheus.
//!
//! `inject::review` makes the answers; `serving` serves connections, `reading` bounds a review's memory, `namespaces` fetches
//! namespaces' annotations, `counts` has the metrics. The certificate is read again when its files change.

mod counts;
mod namespaces;
mod reading;
mod serving;
mod settings;

use std::net::TcpListener;
use std::rc::Rc;

use tokio::runtime::{self, LocalOptions};
use tokio::time::timeout;
use tracing::{error, info, warn};

pub use self::settings::Settings;

use self::counts::Counts;
use self::namespaces::Namespaces;
use self::serving::{Endpoint, Serving};
use super::signals::{Signalled, Signals};
use super::{StartError, bind, systemd};
use crate::listen::drain;
use crate::listen::settings::Tls;
use crate::listen::tls::Acceptor;
use crate::reload::Files;

/// A webhook that is ready to serve.
pub struct Webhook {
    listener: TcpListener,
    probes: Option<TcpListener>,
    tls: Acceptor,
    /// The certificate's files, fingerprinted before they were read.
    files: Files,
    counts: Counts,
    settings: Settings,
}

impl Webhook {
    pub fn bind(settings: Settings) -> Result<Self, StartError> {
        let files = Files::now(vec![settings.cert.clone(), settings.key.clone()]);
        let tls = Acceptor::new(&settings.tls())?;
        let counts = Counts::new()?;
        counts.certificates(tls.certificates());
        let probes = settings.probes.map(|address| bind("--probes", address)).transpose()?;
        Ok(Self { listener: bind("--address", settings.address)?, probes, tls, files, counts, settings })
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub fn run(self) -> Result<(), StartError> {
        let mut builder = runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<(), StartError> {
        let mut signals = Signals::take()?;
        let (signal, drain) = drain::channel();
        let Self { listener, probes, tls, files, counts, settings } = self;
        info!(address = %listener.local_addr()?, "listening");
        let (limits, pair) = (settings.drain.clone(), settings.tls());
        let namespaces = Namespaces::new(&settings);
        let serving = Rc::new(Serving::new(settings, tls, namespaces, counts, drain));
        if let Some(probes) = probes {
            info!(address = %probes.local_addr()?, "probes listening");
            tokio::task::spawn_local(
                serving.clone().accept(tokio::net::TcpListener::from_std(probes)?, Endpoint::Probes),
            );
        }
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let accepting = tokio::task::spawn_local(serving.clone().accept(listener, Endpoint::Reviews));
        systemd::ready();
        let asked = serve_until_asked(&serving, &mut signals, files, &pair).await;
        systemd::stopping();
        let ended = async {
            match asked {
                // The delay lets API servers notice that the endpoint is removed.
                Signalled::Leave | Signalled::Drain => signal.leave(&limits).await,
                Signalled::Close | Signalled::Reload => signal.close(),
            }
            let _ = accepting.await;
            if timeout(limits.deadline, serving.idle()).await.is_err() {
                warn!("the drain's deadline has passed; what is still open ends now");
            }
        };
        tokio::select! {
            () = ended => {}
            () = signals.end_again() => warn!("asked to end a second time: what is still open ends now"),
        }
        Ok(())
    }
}

/// Reads the certificate again when asked to, or when its files have changed.
async fn serve_until_asked(serving: &Serving, signals: &mut Signals, mut files: Files, pair: &Tls) -> Signalled {
    loop {
        let asked = tokio::select! {
            asked = signals.next() => asked,
            () = files.changed() => Signalled::Reload,
        };
        if asked != Signalled::Reload {
            return asked;
        }
        files = Files::now(pair.certificates.iter().flat_map(|pair| [pair.cert.clone(), pair.key.clone()]).collect());
        match serving.renew(pair) {
            Ok(()) => info!("the certificate was read again"),
            Err(error) => error!(%error, "not reloaded; the certificate before stays in use"),
        }
    }
}
