//! Keeping keys beyond the store's own rules: what needs the gate's eyes. Beside the way of a request.

pub mod peek;
pub mod usage;
