//! The command line: one file per subcommand. Everything that people and scripts see of sidegate without HTTP.

pub mod keys;
