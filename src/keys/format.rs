#[derive(Debug, Default)]
pub struct Formats;
