//! What is told of a request once it has ended, however it ends: one count and one line, also where its client leaves or the
//! process ends before there is an answer, which drops whatever was being done for it.

use std::time::Instant;

use super::arrival::Address;
use super::open::OpenRequests;
use super::told::{Times, Told};
use crate::gate::{Denial, Trail};
use crate::keys::Formats;
use crate::observe::{AccessLog, Counts, Finished};

/// One request's, open until `close`. One that is dropped open is that of a client that has gone, or of a worker that ends.
pub struct Account<'a> {
    told: &'a Told,
    pub trail: Trail,
    pub times: Times,
    books: Books<'a>,
    is_open: bool,
}

/// Where it is told, and whose request it is.
#[derive(Clone, Copy)]
pub struct Books<'a> {
    pub counts: &'a Counts,
    pub access_log: &'a AccessLog,
    /// What looks like a key of these is masked.
    pub formats: &'a Formats,
    pub client: &'a Address,
    pub open: &'a OpenRequests,
}

impl<'a> Account<'a> {
    pub fn open(told: &'a Told, times: Times, books: Books<'a>) -> Self {
        Self { told, trail: Trail::default(), times, books, is_open: true }
    }

    /// There is an answer, with this status.
    pub fn close(&mut self, denial: Option<&Denial>, status: u16) {
        self.is_open = false;
        self.tell(denial, status, self.times.ended());
    }

    fn tell(&self, denial: Option<&Denial>, status: u16, ended: Instant) {
        let Self { told, trail, times, books, .. } = self;
        let finished = Finished {
            method: &told.method,
            path: told.uri.path(),
            client: books.client.as_str(),
            user_agent: told.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
            request_id: told.id.as_bytes(),
            span: &told.span,
            trail,
            denial,
            status,
            ended,
            took: ended - times.arrived,
            decided_in: times.decided_in(),
            upstream_took: times.upstream_took(),
        };
        books.counts.count(&finished);
        books.access_log.write(&finished, books.formats);
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let gone = if self.books.open.are_cut() { Denial::ShuttingDown } else { Denial::ClientGone };
            self.tell(Some(&gone), gone.reason().status(), Instant::now());
        }
    }
}
