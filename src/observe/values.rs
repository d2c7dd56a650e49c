//! Header values that are made for every request: its id, its trace, the numbers of its limits.
//!
//! They are slices of blocks that a few requests share. Made one by one, each would be allocated, allocated again when it is
//! first cloned, and freed twice.

use std::cell::RefCell;

use bytes::BytesMut;
use http::HeaderValue;
use http::header::InvalidHeaderValue;

/// Small, since a block is kept as long as any slice of it, such as the id of a stream that stays open for hours.
const BLOCK: usize = 1024;

/// One worker's source.
#[derive(Debug)]
pub struct Values(RefCell<BytesMut>);

impl Default for Values {
    fn default() -> Self {
        Self(RefCell::new(BytesMut::with_capacity(BLOCK)))
    }
}

impl Values {
    pub fn of(&self, text: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
        let mut block = self.0.borrow_mut();
        // Allocates another block, as large as the first, if this one is used up.
        block.extend_from_slice(text);
        HeaderValue::from_maybe_shared(block.split().freeze())
    }

    pub fn number(&self, number: u64) -> HeaderValue {
        self.of(itoa::Buffer::new().format(number).as_bytes()).expect("digits are a header's value")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_its_text_whatever_comes_after_it() {
        let values = Values::default();
        let made: Vec<HeaderValue> = (0..10_000).map(|number| values.number(number)).collect();
        for (number, value) in made.iter().enumerate() {
            assert_eq!(value.as_bytes(), number.to_string().as_bytes());
        }
        assert!(values.of(b"a\nb").is_err());
        assert_eq!(values.number(u64::MAX), u64::MAX.to_string());
    }
}
