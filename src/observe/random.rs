//! Random bytes for request and span ids, fetched from the system in blocks, since a system call for each id costs half a
//! microsecond (measured). They are not for secrets.

use std::cell::RefCell;

use uuid::Uuid;

/// Bytes that are fetched at once.
const BLOCK: usize = 4096;

/// One worker's source.
#[derive(Debug)]
pub struct Random {
    /// Random bytes, and how many of them are used.
    block: RefCell<(Box<[u8; BLOCK]>, usize)>,
}

impl Default for Random {
    fn default() -> Self {
        Self { block: RefCell::new((Box::new([0; BLOCK]), BLOCK)) }
    }
}

impl Random {
    /// N unused bytes; sixteen at most.
    pub fn take<const N: usize>(&self) -> [u8; N] {
        const { assert!(N <= 16) };
        let (bytes, used) = &mut *self.block.borrow_mut();
        let mut taken = [0; N];
        if *used + N > BLOCK {
            if getrandom::fill(&mut bytes[..]).is_err() {
                // uuid's own source, which panics if the system has none, is good enough for ids.
                taken.copy_from_slice(&Uuid::new_v4().as_bytes()[..N]);
                return taken;
            }
            *used = 0;
        }
        taken.copy_from_slice(&bytes[*used..*used + N]);
        *used += N;
        taken
    }
}
