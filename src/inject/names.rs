//! The names and ports that injection writes, and knows again.

/// Opt-in, on a namespace or on a pod or Service, which wins.
pub const LABEL: &str = "sidegate.dev/inject";
/// What was done, or why nothing was.
pub const STATUS: &str = "sidegate.dev/status";
/// What stood where injection has changed something.
pub const ORIGINAL: &str = "sidegate.dev/original";

/// Where the gate listens in a pod; the configuration in the ConfigMap says the same.
pub const GATE_PORT: u16 = 8443;
pub const PROBES_PORT: u16 = 9901;
pub const ADMIN_PORT: u16 = 9900;
/// The gate's container, and what its volumes' and ports' names begin with.
pub const NAME: &str = "sidegate";
