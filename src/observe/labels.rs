//! The values of metrics' labels that are neither configured nor a reason: each a closed set, all of which have a series from the
//! start.

/// The outcome of a limit check, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    Within,
    Near,
    Over,
    /// Exceeded, but only observed.
    Observed,
}

/// What broke off an answer, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BrokenBy {
    /// It closed too early, or sent a malformed answer.
    Upstream,
    /// It disconnected, or did not read for too long.
    Client,
    /// The gate ended it: its key was no longer valid, or it was too old.
    Gate,
}

/// Where a connection failed without a request that could be logged, as a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailedAt {
    Tls,
    /// The PROXY protocol's header.
    Proxy,
    /// An HTTP/1.1 request's head: malformed, or larger than hyper reads.
    Head,
    /// What h2 ends a connection for, with every request on it: heads far too large, floods, broken framing.
    Http2,
}

impl BrokenBy {
    pub(super) const ALL: [Self; 3] = [Self::Upstream, Self::Client, Self::Gate];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upstream => "upstream",
            Self::Client => "client",
            Self::Gate => "gate",
        }
    }
}

impl FailedAt {
    pub(super) const ALL: [Self; 4] = [Self::Tls, Self::Proxy, Self::Head, Self::Http2];

    pub fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Proxy => "proxy",
            Self::Head => "head",
            Self::Http2 => "http2",
        }
    }
}

impl Checked {
    pub(super) const ALL: [Self; 4] = [Self::Within, Self::Near, Self::Over, Self::Observed];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Within => "within",
            Self::Near => "near",
            Self::Over => "over",
            Self::Observed => "observed",
        }
    }
}
