//! Why a store gave no answer, and whether the next call would fail as well.

use thiserror::Error;

/// Why a store gave no answer. None of these carries a key or a password.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum StoreError {
    /// No connection, or it broke.
    #[error("the store is out of reach: {0}")]
    Unreachable(String),
    /// The deadline of the request's store work has passed.
    #[error("the store did not answer within the deadline")]
    Deadline,
    /// The store answered with an error (NOAUTH, LOADING, READONLY, OOM …).
    #[error("the store refused: {0}")]
    Refused(String),
    /// A value has an unexpected type or shape; the text names the value.
    #[error("the store holds something unreadable: {0}")]
    Broken(String),
}

/// Errors of a server that can serve no request for now: it loads its data, is a replica, requires a login, has lost its cluster,
/// or is stuck in a script. OOM, MISCONF, NOREPLICAS and NOPERM are not among them: they are answered at once, and to some calls
/// only, while keys can still be judged and routes without limits pass. They are reported (`refusal`) and fail the requests that
/// they concern. Nor is ERR, which may be about one document.
const SERVER_UNUSABLE: [&str; 7] = ["LOADING", "READONLY", "MASTERDOWN", "NOAUTH", "WRONGPASS", "CLUSTERDOWN", "BUSY"];

const BREAKER_OPEN: &str = "it failed repeatedly and is being probed";

impl StoreError {
    /// Whether it is an outage, to which `store.outage` applies, as opposed to an unreadable document.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Deadline | Self::Refused(_) => true,
            Self::Broken(_) => false,
        }
    }

    /// Whether the next call would fail as well, whatever it asks.
    pub fn is_of_the_whole_store(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Deadline => true,
            Self::Refused(text) => SERVER_UNUSABLE.iter().any(|code| text.starts_with(code)),
            Self::Broken(_) => false,
        }
    }

    /// Whether the login lacks the right to do this.
    pub fn is_forbidden(&self) -> bool {
        matches!(self, Self::Refused(text) if text.starts_with("NOPERM"))
    }

    /// The call was not made: the breaker is open.
    pub fn breaker_open() -> Self {
        Self::Unreachable(BREAKER_OPEN.to_owned())
    }

    /// The error code of a refusal (`OOM`), its first word: the rest may name users and keys.
    pub fn code(&self) -> Option<&str> {
        let Self::Refused(text) = self else { return None };
        text.split_ascii_whitespace().next().map(|word| word.trim_end_matches(':'))
    }

    /// For the access log: a word that no client can influence; of a refusal the server's code.
    pub fn cause(&self) -> &'static str {
        let refusals = [
            ("LOADING", "loading"),
            ("READONLY", "readonly"),
            ("MASTERDOWN", "masterdown"),
            ("NOAUTH", "noauth"),
            ("WRONGPASS", "wrongpass"),
            ("NOPERM", "noperm"),
            ("CLUSTERDOWN", "clusterdown"),
            ("BUSY", "busy"),
            ("OOM", "oom"),
            ("MISCONF", "misconf"),
            ("NOREPLICAS", "noreplicas"),
        ];
        match self {
            Self::Refused(text) => {
                let known = refusals.iter().find(|(code, _)| text.starts_with(code));
                known.map_or(self.outcome(), |(_, word)| word)
            }
            Self::Unreachable(why) if why == BREAKER_OPEN => "breaker_open",
            _ => self.outcome(),
        }
    }

    /// For the metric of store calls: a word that no client can influence.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Deadline => "deadline",
            Self::Refused(_) => "refused",
            Self::Broken(_) => "broken",
        }
    }
}
