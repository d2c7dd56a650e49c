//! The configuration: one YAML file in, each room's settings out, or everything that is wrong with it.
//!
//! `load` reads the file; `precheck` looks it over; `raw` knows the YAML's shapes; `replace` fills in `${…}`; `scalar` reads single
//! values; `compile` makes the settings and finds what contradicts itself; `field_path` says where in the file; `foreign` knows words
//! of other gateways; `outline` reads what a pod has to agree with. Nothing on the way of a request comes here.

mod compile;
mod field_path;
mod foreign;
pub mod load;
pub mod outline;
mod precheck;
mod raw;
mod replace;
mod scalar;
mod suggestion;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::keys::rules::Rules;
use crate::policy::Policy;
use crate::store::settings::StoreSettings;
use crate::{admin, listen, manage, observe, proxy};

pub use load::{ConfigError, Errors};
pub use raw::document::document as schema;

/// A whole configuration that makes sense.
#[derive(Debug, Clone)]
pub struct Settings {
    pub policy: Arc<Policy>,
    pub proxy: proxy::settings::Settings,
    pub listen: listen::settings::Settings,
    pub admin: admin::settings::Settings,
    pub observe: observe::settings::Settings,
    pub store: StoreSettings,
    /// What new keys must have; their formats are in `policy.credentials`.
    pub keys: Rules,
    /// The key-management API; `None`: there is none.
    pub management: Option<manage::settings::Settings>,
    /// What every route's path begins with, though its pattern does not say it.
    pub base_path: Option<String>,
    /// Of the file's text, for telling two configurations apart.
    pub hash: String,
    /// What works but may not be meant.
    pub warnings: Vec<String>,
}
