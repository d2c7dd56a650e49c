//! What a worker would find: for who checks a configuration before it serves.

use std::time::Duration;

use super::connect::{MAY_EVICT, Prepared, locate, prepare};
use super::distance;
use super::nodes::Nodes;
use super::sentinel::Watchers;
use super::settings::{Settings, Shape};
use crate::store::StoreError;

/// Connects as a worker does before it decides, to every master where there are several, and hangs up again: whether the gate
/// would work, and what is doubtful if it does; `deadline`: what one request's store work has.
pub async fn rehearse(settings: &Settings, deadline: Duration) -> Result<Vec<String>, StoreError> {
    let masters = match &settings.shape {
        Shape::Cluster(_) => Nodes::find(settings).await?.masters(),
        shape => vec![locate(shape, Watchers::of(settings).as_mut()).await?],
    };
    let (mut evicting, mut far) = (None, None);
    for address in masters {
        let (_, _, Prepared { eviction, round_trip, .. }) = prepare(settings, &address).await?;
        evicting = evicting.or(eviction.map(|policy| format!("{address}: {MAY_EVICT}: it is {policy}")));
        far = far.or(distance::doubt(round_trip, deadline).map(|doubt| format!("{address}: {doubt}")));
    }
    Ok(evicting.into_iter().chain(far).collect())
}
