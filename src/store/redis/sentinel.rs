//! Finds the master by asking the sentinels.
//!
//! All sentinels are asked and the report of the latest configuration epoch counts, so that one that was cut off from the others
//! during a failover leads nobody back to the old master. They are asked again every `EVERY` over connections that are kept:
//! nothing else shows that a master is isolated from the sentinels but not from us, nor would a subscription whose connection
//! silently died.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{cmd, pipe};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{Driver, dial};
use super::errors::pipeline_error;
use super::settings::{Address, LoginFiles, Sentinels, Settings, Topology};
use crate::store::StoreError;

/// How often a master that works is confirmed.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// How long the slower sentinels are waited for once one has answered.
const GRACE: Duration = Duration::from_millis(100);

/// The sentinels of one supervisor, with the connections that are kept to them.
#[derive(Debug)]
pub(super) struct SentinelClient {
    settings: Sentinels,
    /// How to reach a sentinel: the master's settings with the sentinels' login.
    dialing: Settings,
    connections: HashMap<Address, Sentinel>,
}

#[derive(Debug)]
struct Sentinel {
    connection: MultiplexedConnection,
    _driver: Driver,
}

/// What one sentinel reports.
struct MasterReport {
    epoch: u64,
    master: Address,
}

impl SentinelClient {
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let Topology::Sentinels(sentinels) = &settings.topology else { return None };
        let dialing = Settings {
            db: 0,
            username: sentinels.username.clone(),
            password: sentinels.password.clone(),
            login_files: LoginFiles::default(),
            ..settings.clone()
        };
        Some(Self { settings: sentinels.clone(), dialing, connections: HashMap::new() })
    }

    /// The master that the sentinel with the latest epoch names.
    pub(super) async fn master(&mut self) -> Result<Address, StoreError> {
        let mut queries = JoinSet::new();
        for address in &self.settings.addresses {
            let (address, dialing, kept) = (address.clone(), self.dialing.clone(), self.connections.remove(address));
            let (master, timeout_after) = (self.settings.master.clone(), self.dialing.connect_timeout);
            queries.spawn(async move {
                let report = timeout(timeout_after, query(&dialing, &address, kept, &master)).await;
                let report = report.unwrap_or_else(|_| Err(StoreError::Unreachable("no answer".to_owned())));
                (address, report)
            });
        }
        let mut until = Instant::now() + 2 * self.dialing.connect_timeout;
        let mut best: Option<MasterReport> = None;
        let mut problems = Vec::new();
        while let Ok(Some(answered)) = timeout_at(until, queries.join_next()).await {
            match answered {
                Ok((address, Ok((report, sentinel)))) => {
                    self.connections.insert(address, sentinel);
                    until = until.min(Instant::now() + GRACE);
                    if best.as_ref().is_none_or(|best| best.epoch < report.epoch) {
                        best = Some(report);
                    }
                }
                Ok((address, Err(error))) => problems.push(format!("{address}: {error}")),
                // It was aborted or panicked: no report.
                Err(_) => {}
            }
        }
        problems.sort_unstable();
        let nobody = || StoreError::Unreachable(format!("no sentinel names the master: {}", problems.join("; ")));
        best.map(|best| best.master).ok_or_else(nobody)
    }
}

async fn query(
    dialing: &Settings,
    address: &Address,
    kept: Option<Sentinel>,
    master: &str,
) -> Result<(MasterReport, Sentinel), StoreError> {
    if let Some(mut sentinel) = kept
        && let Ok(report) = query_master(&mut sentinel, master).await
    {
        return Ok((report, sentinel));
    }
    let (connection, driver) = dial(dialing, address).await?;
    let mut sentinel = Sentinel { connection, _driver: driver };
    Ok((query_master(&mut sentinel, master).await?, sentinel))
}

/// The address of the first answer is the new master's already while its failover ends; the epoch stands in the second.
async fn query_master(sentinel: &mut Sentinel, master: &str) -> Result<MasterReport, StoreError> {
    type Details = HashMap<String, String>;
    let (address, details): (Option<(String, u16)>, Option<Details>) = pipe()
        .add_command(cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).take())
        .add_command(cmd("SENTINEL").arg("MASTER").arg(master).take())
        .query_async(&mut sentinel.connection)
        .await
        .map_err(|error| pipeline_error(&error))?;
    let unknown = || StoreError::Refused(format!("it knows no master called `{master}`"));
    let (host, port) = address.ok_or_else(unknown)?;
    let details = details.ok_or_else(unknown)?;
    let epoch = details.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or_default();
    Ok(MasterReport { epoch, master: Address { host, port } })
}
