//! Which windows of a route's limits hold for the key that is asked about, and who says so: it, its business, its plan, or the
//! configuration.

use std::sync::Arc;

use crate::config::Settings;
use crate::gate::asks::{LimitSource, windows};
use crate::gate::standing;
use crate::gate::trail::Caller;
use crate::limit::Windows;
use crate::policy::{Limit, Route};
use crate::store::file::FileStore;
use crate::store::layout::Layout;
use crate::store::record::BusinessDocument;
use crate::store::redis::RedisDocuments;
use crate::store::settings::Backend;

/// A limit of the route with the windows that hold for this key.
pub struct Holding {
    pub limit: Arc<Limit>,
    pub windows: Arc<Windows>,
    pub of: LimitSource,
    /// Of the plan or the business that says so.
    pub name: Option<String>,
}

pub async fn of(route: &Route, caller: &Caller, settings: &Settings) -> anyhow::Result<Vec<Holding>> {
    let business = match caller.business() {
        Some(id) => business(id, settings).await?,
        None => None,
    };
    let plan = standing::plan(&settings.policy, business.as_ref());
    let holding = route.limits.iter().map(|limit| {
        let (windows, of) = windows(limit, Some(&caller.key), business.as_ref(), plan);
        let name = match of {
            LimitSource::Business => caller.business().map(str::to_owned),
            LimitSource::Plan => Some(plan_name(caller.plan.as_deref(), settings)),
            LimitSource::Key | LimitSource::Configuration => None,
        };
        Holding { limit: limit.clone(), windows: windows.clone(), of, name }
    });
    Ok(holding.collect())
}

/// Where the business has none that is configured, `default` stands in.
fn plan_name(named: Option<&str>, settings: &Settings) -> String {
    let mut plans = settings.policy.plans.iter().flat_map(|plans| plans.iter());
    let known = named.filter(|named| plans.any(|(name, _)| name == named));
    known.unwrap_or("default").to_owned()
}

async fn business(id: &str, settings: &Settings) -> anyhow::Result<Option<BusinessDocument>> {
    let json = match &settings.store.backend {
        Backend::Redis(redis) => {
            let name = Layout::new(&redis.prefix).business(id);
            RedisDocuments::connect(redis).await?.get(&name).await?
        }
        Backend::File(file) => {
            let document = FileStore::open(file)?.contents()?.business(id);
            document.map(|document| serde_json::to_vec(&document)).transpose()?.map(Into::into)
        }
    };
    Ok(json.map(|json| BusinessDocument::parse(&json)).transpose()?)
}

impl Holding {
    /// `set on the key; the configuration says 20/1s`.
    pub fn whose(&self) -> String {
        let name = self.name.as_deref().unwrap_or_default();
        let whose = match self.of {
            LimitSource::Key => "set on the key".to_owned(),
            LimitSource::Business => format!("set on business {name}"),
            LimitSource::Plan => format!("of plan {name}"),
            LimitSource::Configuration => return "as configured".to_owned(),
        };
        format!("{whose}; the configuration says {}", self.limit.windows)
    }

    pub fn source(&self) -> &'static str {
        match self.of {
            LimitSource::Key => "key",
            LimitSource::Business => "business",
            LimitSource::Plan => "plan",
            LimitSource::Configuration => "configuration",
        }
    }
}
