//! Random bytes for what tells requests and spans apart: many are asked of the system at a time, since a call for each id
//! would cost half a microsecond (measured). Nothing secret is made of them.

use std::cell::RefCell;

use uuid::Uuid;

/// Bytes that are asked of the system at a time.
const DRAWN: usize = 4096;

/// One worker's source.
#[derive(Debug)]
pub struct Random {
    /// Random bytes, and how many of them are used up.
    drawn: RefCell<(Box<[u8; DRAWN]>, usize)>,
}

impl Default for Random {
    fn default() -> Self {
        Self { drawn: RefCell::new((Box::new([0; DRAWN]), DRAWN)) }
    }
}

impl Random {
    /// So many bytes that nobody else gets; sixteen at most.
    pub fn take<const N: usize>(&self) -> [u8; N] {
        const { assert!(N <= 16) };
        let (bytes, used) = &mut *self.drawn.borrow_mut();
        let mut taken = [0; N];
        if *used + N > DRAWN {
            if getrandom::fill(&mut bytes[..]).is_err() {
                // Ids guard nothing: uuid's own source, or its panic, is as good.
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
