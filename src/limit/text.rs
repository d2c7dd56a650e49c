//! Names in an ask, which share the memory of the question's.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

/// A name in an ask: a part of the text that all names of a question share.
#[derive(Clone)]
pub struct Text {
    pub(super) whole: Arc<str>,
    begin: u32,
    end: u32,
}

impl Text {
    pub(super) fn part(whole: &Arc<str>, begin: usize, length: usize) -> Self {
        let at = |at: usize| u32::try_from(at).expect("ids and limits have names of a few hundred bytes");
        Self { whole: whole.clone(), begin: at(begin), end: at(begin + length) }
    }

    pub fn as_str(&self) -> &str {
        &self.whole[self.begin as usize..self.end as usize]
    }
}

impl<T: AsRef<str>> From<T> for Text {
    fn from(text: T) -> Self {
        let text = text.as_ref();
        Self::part(&text.into(), 0, text.len())
    }
}

impl Default for Text {
    fn default() -> Self {
        "".into()
    }
}

impl Deref for Text {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Text {}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}
