//! `listen.limits`: how slow, how much and how many. The defaults are those that the contract names.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::reader::Reader;
use crate::config::field_path::FieldPath;
use crate::config::raw::{ListenLimits, Scalar};
use crate::config::scalar::{self, ScalarError};
use crate::listen::settings::{Bounds, H2Bounds};

const MIB: u64 = 1024 * 1024;

/// Reads the fields of one block.
struct Fields<'f, 'r, 's> {
    path: &'f FieldPath,
    reader: &'r mut Reader<'s>,
}

pub fn bounds(path: &FieldPath, limits: Option<&ListenLimits>, reader: &mut Reader<'_>) -> Bounds {
    let nothing = ListenLimits::default();
    let limits = limits.unwrap_or(&nothing);
    let mut fields = Fields { path, reader };
    Bounds {
        connections: fields.count("connections", limits.connections.as_ref(), 10_000, 10_000_000),
        handshake: fields.seconds("handshake", limits.handshake.as_ref(), 10),
        header_read: fields.seconds("header_read", limits.header_read.as_ref(), 10),
        // hyper's own floor for its buffer is 8 KiB.
        header_bytes: fields.size("header_bytes", limits.header_bytes.as_ref(), 32 * 1024, 8 * 1024..=16 * MIB),
        headers: fields.count("headers", limits.headers.as_ref(), 100, 10_000),
        idle: fields.seconds("idle", limits.idle.as_ref(), 120),
        body_idle: fields.seconds("body_idle", limits.body_idle.as_ref(), 30),
        stream_idle: fields.seconds("stream_idle", limits.stream_idle.as_ref(), 300),
        in_flight: fields.count("in_flight", limits.in_flight.as_ref(), 10_000, 10_000_000),
        h2: h2(limits, &mut fields),
    }
}

fn h2(limits: &ListenLimits, fields: &mut Fields<'_, '_, '_>) -> H2Bounds {
    // RFC 9113 §6.9.2: a connection's window is never below this, a stream's may be.
    let least = 65_535;
    let windows = 1024..=u64::from(u32::MAX / 2);
    H2Bounds {
        streams: within_u32(fields.count("h2_streams", limits.h2_streams.as_ref(), 100, 100_000)),
        header_bytes: within_u32(fields.size(
            "h2_header_bytes",
            limits.h2_header_bytes.as_ref(),
            16 * 1024,
            1024..=16 * MIB,
        )),
        stream_window: within_u32(fields.size(
            "h2_stream_window",
            limits.h2_stream_window.as_ref(),
            64 * 1024,
            windows.clone(),
        )),
        connection_window: within_u32(fields.size(
            "h2_connection_window",
            limits.h2_connection_window.as_ref(),
            MIB as usize,
            least..=*windows.end(),
        )),
        pending_resets: fields.count("h2_pending_resets", limits.h2_pending_resets.as_ref(), 20, 100_000),
        local_resets: fields.count("h2_local_resets", limits.h2_local_resets.as_ref(), 256, 100_000),
        ping: fields.seconds("h2_ping", limits.h2_ping.as_ref(), 30),
        ping_answer: fields.seconds("h2_ping_answer", limits.h2_ping_answer.as_ref(), 10),
    }
}

impl Fields<'_, '_, '_> {
    fn seconds(&mut self, name: &str, value: Option<&Scalar>, default: u64) -> Duration {
        self.reader.read(&self.path.field(name), value, Duration::from_secs(default), scalar::time)
    }

    fn count(&mut self, name: &str, value: Option<&Scalar>, default: usize, most: u32) -> usize {
        self.reader.read(&self.path.field(name), value, default, scalar::count(1, most))
    }

    fn size(&mut self, name: &str, value: Option<&Scalar>, default: usize, range: RangeInclusive<u64>) -> usize {
        self.reader.read(&self.path.field(name), value, default, |text| {
            let size = scalar::size(text)?;
            let within = usize::try_from(size).ok().filter(|_| range.contains(&size));
            let (least, most) = (*range.start(), *range.end());
            within.ok_or_else(|| ScalarError::Number { text: text.to_owned(), least, most })
        })
    }
}

/// What is read here is bounded below this anyhow.
fn within_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
