//! Counts and logs each request exactly once, however it ends: also where its client disconnects, or the process ends, before
//! there is an answer, which drops the request's future.

use std::time::Instant;

use super::arrival::Address;
use super::open::OpenRequests;
use super::request_info::{RequestInfo, Times};
use crate::gate::{Denial, Trail};
use crate::keys::Formats;
use crate::observe::{AccessLog, Counts, Finished};

/// One request's record, open until `close`. If it is dropped open, the client has gone or the worker ends.
pub struct RequestRecord<'a> {
    info: &'a RequestInfo,
    pub trail: Trail,
    pub times: Times,
    sinks: RecordSinks<'a>,
    is_open: bool,
}

/// Where it is counted and logged, and whose request it is.
#[derive(Clone, Copy)]
pub struct RecordSinks<'a> {
    pub counts: &'a Counts,
    pub access_log: &'a AccessLog,
    /// What looks like a key of one of these is masked.
    pub formats: &'a Formats,
    pub client: &'a Address,
    pub open: &'a OpenRequests,
}

impl<'a> RequestRecord<'a> {
    pub fn open(info: &'a RequestInfo, times: Times, sinks: RecordSinks<'a>) -> Self {
        Self { info, trail: Trail::default(), times, sinks, is_open: true }
    }

    /// There is an answer, with this status.
    pub fn close(&mut self, denial: Option<&Denial>, status: u16) {
        self.is_open = false;
        self.emit(denial, status, self.times.ended());
    }

    fn emit(&self, denial: Option<&Denial>, status: u16, ended: Instant) {
        let Self { info, trail, times, sinks, .. } = self;
        let finished = Finished {
            method: &info.method,
            path: info.uri.path(),
            client: sinks.client.as_str(),
            user_agent: info.user_agent.as_ref().and_then(|agent| agent.to_str().ok()),
            request_id: info.id.as_bytes(),
            span: &info.span,
            trail,
            denial,
            status,
            ended,
            took: ended - times.arrived,
            decided_in: times.decided_in(),
            upstream_took: times.upstream_took(),
        };
        sinks.counts.count(&finished);
        sinks.access_log.write(&finished, sinks.formats);
    }
}

impl Drop for RequestRecord<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let gone = if self.sinks.open.is_shutting_down() { Denial::ShuttingDown } else { Denial::ClientGone };
            self.emit(Some(&gone), gone.reason().status(), Instant::now());
        }
    }
}
