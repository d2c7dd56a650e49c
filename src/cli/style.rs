//! Colour in what people read: on a terminal, unless its owner wants none (no-color.org).

use std::io::{self, IsTerminal};

/// Whether to write in colour.
#[derive(Debug, Clone, Copy)]
pub struct Style(bool);

impl Style {
    pub fn for_stdout() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty());
        Self(wanted && io::stdout().is_terminal())
    }

    pub fn paint(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

pub const GREEN: &str = "32";
pub const RED: &str = "31";
pub const YELLOW: &str = "33";
pub const BOLD: &str = "1";
