//! Writes a JSON object on one line, field by field into one buffer. Names are constants and need no escaping; every text is
//! escaped as serde_json does, so that no client can end a line or begin a field. (A derived `Serialize` costs three times as
//! much.)

use std::time::Duration;

/// The capacity: most lines fit, and are not reallocated.
const USUAL: usize = 768;

/// A field's name with its punctuation, so that it is copied at once: `,"name":`.
macro_rules! name {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use name;

/// A line under construction. Names are made with `name!`.
#[derive(Debug)]
pub struct JsonLine(Vec<u8>);

impl JsonLine {
    /// Begins a line with its timestamp, which needs no escaping and no comma before it.
    pub fn at(timestamp: &[u8]) -> Self {
        let mut line = Self(Vec::with_capacity(USUAL));
        line.0.extend_from_slice(b"{\"timestamp\":");
        line.quote(timestamp);
        line
    }

    // Inlined, so that a name is copied as a constant.
    #[inline(always)]
    pub fn text(&mut self, name: &'static str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.escape(value);
    }

    /// A text that is known to need no escaping, such as digits or a constant.
    #[inline(always)]
    pub fn plain(&mut self, name: &'static str, value: &[u8]) {
        self.0.extend_from_slice(name.as_bytes());
        self.quote(value);
    }

    #[inline(always)]
    pub fn plain_if(&mut self, name: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.plain(name, value);
        }
    }

    #[inline(always)]
    pub fn text_if(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(name, value);
        }
    }

    #[inline(always)]
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    /// Milliseconds with three places: `1.500`.
    pub fn milliseconds(&mut self, name: &'static str, took: Duration) {
        // Not `as_micros`, which computes in 128 bits.
        let whole = took.as_secs().saturating_mul(1000).saturating_add(took.subsec_millis().into());
        self.number(name, whole);
        let rest = took.subsec_micros() % 1000;
        let digit = |place: u32| b'0' + (rest / place % 10) as u8;
        self.0.extend_from_slice(&[b'.', digit(100), digit(10), digit(1)]);
    }

    pub fn milliseconds_if(&mut self, name: &'static str, took: Option<Duration>) {
        if let Some(took) = took {
            self.milliseconds(name, took);
        }
    }

    /// The whole line, its end included.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }

    #[inline(always)]
    fn quote(&mut self, value: &[u8]) {
        self.0.push(b'"');
        self.0.extend_from_slice(value);
        self.0.push(b'"');
    }

    fn escape(&mut self, value: &str) {
        // Without an early exit, so that it is vectorised; most texts need no escaping.
        let plain = !value.bytes().fold(false, |found, byte| found | (byte < b' ') | (byte == b'"') | (byte == b'\\'));
        if plain {
            self.quote(value.as_bytes());
        } else {
            // Text is always JSON, and a vector takes every write.
            let _ = serde_json::to_writer(&mut self.0, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object_whatever_its_texts_hold() {
        let mut line = JsonLine::at(b"0-9");
        line.text(name!("a"), "x\"\n\u{1b}\\");
        line.number(name!("b"), 7);
        line.text_if(name!("c"), None);
        for (name, micros) in [(name!("d"), 1_234_567), (name!("e"), 5), (name!("f"), 0), (name!("g"), 1_060)] {
            line.milliseconds(name, Duration::from_micros(micros));
        }
        line.milliseconds_if(name!("h"), None);
        line.plain(name!("k"), b"z");
        line.plain_if(name!("j"), None);
        let line = line.end();
        assert_eq!(line.iter().filter(|byte| byte.is_ascii_control()).count(), 1, "the newline at the end");
        let value: serde_json::Value = serde_json::from_slice(&line).expect("one JSON document");
        let expected = serde_json::json!({
            "a": "x\"\n\u{1b}\\", "b": 7, "d": 1234.567, "e": 0.005, "f": 0.0, "g": 1.06, "k": "z",
            "timestamp": "0-9"
        });
        assert_eq!(value, expected);
    }
}
