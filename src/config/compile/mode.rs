//! `mode`, of the whole, of a route or of a limit.

use super::reader::Reader;
use crate::config::field_path::FieldPath;
use crate::config::raw::Scalar;
use crate::config::scalar;
use crate::policy::Mode;

/// `mode`, wherever it stands.
pub fn mode(path: &FieldPath, mode: Option<&Scalar>, default: Mode, reader: &mut Reader<'_>) -> Mode {
    reader.read(path, mode, default, scalar::choice(&[("enforce", Mode::Enforce), ("observe", Mode::Observe)]))
}
