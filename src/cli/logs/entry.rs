//! One request as any access log knows it.

use std::borrow::Cow;

/// One request as any access log knows it.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry<'l> {
    pub method: Cow<'l, str>,
    /// Without the query.
    pub path: Cow<'l, str>,
    pub status: u16,
    /// The gate that wrote the line refused the request, so that its status is not the service's.
    pub refused: bool,
}
