//! The subjects of usage counts, and the names of their counts in the store.

use crate::keys::Tenant;
use crate::store::layout::{GLOBAL_SLOT, Layout, business_slot};

/// For how many days usage is kept.
pub const DAYS: u64 = 90;
/// For how many minutes usage is kept.
pub const MINUTES: u64 = 60;
/// For how many days the last use of a key is known.
pub const LAST_DAYS: u64 = 400;

pub const DAYS_TOGETHER: u64 = 30;
pub const MINUTES_TOGETHER: u64 = 60;
pub const DAY_MS: u64 = 86_400_000;
pub const MINUTE_MS: u64 = 60_000;
/// How long a hash is kept: until its last day or minute is no longer shown.
const DAYS_LAST_S: u64 = (DAYS + DAYS_TOGETHER + 1) * 86_400;
const MINUTES_LAST_S: u64 = 2 * 3600 + 60;

/// The suffix of a field of denials. A field of requests is a bare number, which Redis stores in three bytes.
pub const DENIED: char = 'd';
pub const LAST: &str = "usage:last";

/// The member of `usage:last` for the business itself; not a valid id.
const WHOLE_BUSINESS: &str = "*";
/// The only member of `usage:since`.
pub const SINCE: &str = "since";

/// A key or a business whose usage is counted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    Key { tenant: Tenant, id: String },
    Business(String),
}

/// Requests of one subject within one span of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    pub requests: u64,
    /// Of these, the ones that were denied.
    pub denials: u64,
}

/// A day or a minute since the epoch, by the store's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Span {
    Day(u64),
    Minute(u64),
}

impl Subject {
    /// The hash of a span, its field for requests, and for how many seconds the hash is kept.
    pub fn place(&self, layout: &Layout, span: Span) -> (String, String, u64) {
        match span {
            Span::Day(day) => (self.days(layout, day / DAYS_TOGETHER), day.to_string(), DAYS_LAST_S),
            Span::Minute(minute) => {
                (self.minutes(layout, minute / MINUTES_TOGETHER), minute.to_string(), MINUTES_LAST_S)
            }
        }
    }

    /// The field for denials beside a field for requests.
    pub fn denied(field: &str) -> String {
        format!("{field}{DENIED}")
    }

    /// The sorted set of last uses; `member` names the subject in it.
    pub fn last(&self, layout: &Layout) -> String {
        match self {
            Self::Key { tenant, .. } => layout.in_slot(&tenant.to_string(), LAST),
            Self::Business(id) => layout.in_slot(&business_slot(id), LAST),
        }
    }

    pub fn member(&self) -> &str {
        match self {
            Self::Key { id, .. } => id,
            Self::Business(_) => WHOLE_BUSINESS,
        }
    }

    pub fn days(&self, layout: &Layout, n: u64) -> String {
        self.in_slot(layout, &format!("days:{n}"))
    }

    pub fn minutes(&self, layout: &Layout, n: u64) -> String {
        self.in_slot(layout, &format!("minutes:{n}"))
    }

    fn in_slot(&self, layout: &Layout, part: &str) -> String {
        match self {
            Self::Key { tenant, id } => layout.in_slot(&tenant.to_string(), &format!("usage:key:{id}:{part}")),
            Self::Business(id) => layout.in_slot(&business_slot(id), &format!("usage:business:{part}")),
        }
    }
}

/// The sorted set that holds since when usage is counted.
pub fn since_place(layout: &Layout) -> String {
    layout.in_slot(GLOBAL_SLOT, "usage:since")
}
