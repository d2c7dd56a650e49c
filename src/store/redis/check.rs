//! The connection check of `sidegate check`: whether a worker could connect and decide, before anything serves.

use std::time::Duration;

use super::connection::{MAY_EVICT, Prepared, locate_master, prepare};
use super::plain_client::PlainClient;
use super::round_trip;
use super::sentinel::SentinelClient;
use super::settings::{Settings, Topology};
use crate::store::StoreError;

/// Connects as a worker does before it decides, to every master where there are several, and disconnects. Returns warnings about a
/// store that works; `deadline` is that of one request's store work.
pub async fn check_connection(settings: &Settings, deadline: Duration) -> Result<Vec<String>, StoreError> {
    let masters = match &settings.topology {
        Topology::Cluster(_) => PlainClient::find(settings).await?.masters(),
        topology => vec![locate_master(topology, SentinelClient::of(settings).as_mut()).await?],
    };
    let (mut evicting, mut far) = (None, None);
    for address in masters {
        let (_, _, Prepared { eviction, round_trip, .. }) = prepare(settings, &address).await?;
        evicting = evicting.or(eviction.map(|policy| format!("{address}: {MAY_EVICT}: it is {policy}")));
        far = far.or(round_trip::warning(round_trip, deadline).map(|warning| format!("{address}: {warning}")));
    }
    Ok(evicting.into_iter().chain(far).collect())
}
