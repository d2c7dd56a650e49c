//! What a worker would find: for who checks a configuration before it serves.

use super::connect::{MAY_EVICT, Prepared, locate, prepare};
use super::nodes::Nodes;
use super::sentinel::Watchers;
use super::settings::{Settings, Shape};
use crate::store::StoreError;

/// Connects as a worker does before it decides, to every master where there are several, and hangs up again: whether the gate
/// would work, and what is doubtful if it does.
pub async fn rehearse(settings: &Settings) -> Result<Option<String>, StoreError> {
    let masters = match &settings.shape {
        Shape::Cluster(_) => Nodes::find(settings).await?.masters(),
        shape => vec![locate(shape, Watchers::of(settings).as_mut()).await?],
    };
    let mut doubt = None;
    for address in masters {
        let (_, _, Prepared { eviction, .. }) = prepare(settings, &address).await?;
        doubt = doubt.or(eviction.map(|policy| format!("{address}: {MAY_EVICT}: it is {policy}")));
    }
    Ok(doubt)
}
