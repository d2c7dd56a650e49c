//! The webhook's metrics. Labels are constants and file names, never text of a review.

use prometheus::{Encoder, Gauge, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::inject::review::Verdict;
use crate::listen::tls::Certificate;

pub struct Counts {
    registry: Registry,
    injections: IntCounterVec,
    refused: IntCounterVec,
    reloads: IntCounterVec,
    certificate: IntGaugeVec,
}

impl Counts {
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let version = Opts::new("sidegate_build_info", "The version that runs.");
        let build = Gauge::with_opts(version.const_label("version", env!("CARGO_PKG_VERSION")))?;
        build.set(1.0);
        registry.register(Box::new(build))?;
        let counter = |name: &str, help: &str, labels: &[&str]| -> prometheus::Result<IntCounterVec> {
            let counter = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        let injections = counter(
            "sidegate_injections_total",
            "Objects that API servers asked about, by kind and outcome (injected, unchanged, left).",
            &["kind", "outcome"],
        )?;
        let refused = counter(
            "sidegate_reviews_refused_total",
            "Requests that got no review by the status instead: no review (400), not whole in time (408), too large (413), too many at once (503).",
            &["status"],
        )?;
        let reloads = counter("sidegate_config_reloads_total", "Readings of the certificate again.", &["outcome"])?;
        let help = "When the certificate ends, in seconds since the Unix epoch.";
        let certificate =
            IntGaugeVec::new(Opts::new("sidegate_tls_certificate_not_after_timestamp_seconds", help), &["file"])?;
        registry.register(Box::new(certificate.clone()))?;
        let counts = Self { registry, injections, refused, reloads, certificate };
        counts.start();
        Ok(counts)
    }

    /// A series that appears only with its first event has no rate until its second.
    fn start(&self) {
        for kind in ["Pod", "Service", "other"] {
            for verdict in Verdict::ALL {
                self.injections.with_label_values(&[kind, verdict.name()]);
            }
        }
        for status in ["400", "408", "413", "503"] {
            self.refused.with_label_values(&[status]);
        }
        for outcome in ["success", "failure"] {
            self.reloads.with_label_values(&[outcome]);
        }
    }

    pub fn answered(&self, kind: &str, verdict: Verdict) {
        self.injections.with_label_values(&[kind, verdict.name()]).inc();
    }

    pub fn refused(&self, status: http::StatusCode) {
        self.refused.with_label_values(&[status.as_str()]).inc();
    }

    pub fn reloaded(&self, well: bool) {
        self.reloads.with_label_values(&[if well { "success" } else { "failure" }]).inc();
    }

    pub fn certificates(&self, certificates: &[Certificate]) {
        for one in certificates {
            let end = i64::try_from(one.not_after).unwrap_or(i64::MAX);
            self.certificate.with_label_values(&[one.file.as_str()]).set(end);
        }
    }

    pub fn render(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}
