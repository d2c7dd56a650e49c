//! The shared store: one Redis that all sidecars decide in.
//!
//! `RedisStore` is a worker's: its own connection (`connect`), one script call for each batch of questions (`script`,
//! `scripts/decide.lua`). Folding and gathering questions is left to who calls `decide`; what to do while Redis is away to
//! `fallback` and the gate. `documents` is the command line's way in.

mod connect;
mod dial;
pub mod documents;
pub mod script;
mod sentinel;
mod settings;
pub mod tls;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::{Instant, timeout_at};

pub use documents::RedisDocuments;
pub use settings::{Address, LoginFiles, Sentinels, Settings, Shape, Tls, UrlError};

use self::connect::{Connection, Link};
use super::StoreError;
use super::health::StoreHealth;
use super::layout::Layout;
use crate::keys::{Digest, Tenant};
use crate::limit::{Answer, Question};

/// A call that had less time than this proves nothing about the connection when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// One worker's way to the shared store.
#[derive(Debug, Clone)]
pub struct RedisStore {
    connection: Connection,
    layout: Layout,
    health: Arc<StoreHealth>,
}

impl RedisStore {
    /// Starts to connect in the background. Must be called within the runtime that will use it.
    pub fn start(settings: Settings, health: Arc<StoreHealth>) -> Self {
        let layout = Layout::new(&settings.prefix);
        Self { connection: Connection::start(settings, health.clone()), layout, health }
    }

    /// Answers the questions, in their order, with one command. At most 32 at a time: a longer script holds up everybody.
    ///
    /// A call without an answer may or may not have spent; it is never sent twice. Once this future has been polled the
    /// call may be on its way, and dropping it leaves what it spends spent.
    pub async fn decide(&self, questions: &[Question], deadline: Instant) -> Result<Vec<Answer>, StoreError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let link = self.connection.link(deadline).await?;
        let call = script::encode(&self.layout, questions);
        let answer: Vec<u8> = self.supervised(&link, deadline, self.evaluate(&link, &call)).await?;
        self.health.answered();
        script::decode(questions, &answer)
    }

    /// Whose a key is: what stands at `P:at:<sha256 hex>`.
    pub async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Tenant>, StoreError> {
        let link = self.connection.link(deadline).await?;
        let get = cmd("GET").arg(self.layout.at(digest)).take();
        let found: Option<Vec<u8>> = self.supervised(&link, deadline, connect::ask(&link.connection, &get)).await?;
        let Some(found) = found else { return Ok(None) };
        let tenant = std::str::from_utf8(&found).ok().and_then(Tenant::parse);
        tenant.map(Some).ok_or_else(|| StoreError::Broken(format!("what stands at {digest:?} names no tenant")))
    }

    async fn evaluate(&self, link: &Link, call: &script::Call) -> Result<Vec<u8>, StoreError> {
        match connect::ask(&link.connection, &evalsha(&link.sha, call)).await {
            // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
            Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                let sha = connect::load_script(&link.connection).await?;
                connect::ask(&link.connection, &evalsha(&sha, call)).await
            }
            answer => answer,
        }
    }

    /// Bounds a call by the deadline and draws the conclusions from its failure.
    async fn supervised<T>(
        &self,
        link: &Link,
        deadline: Instant,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let patient = deadline.saturating_duration_since(Instant::now()) >= PATIENCE;
        let answer = timeout_at(deadline, call).await.unwrap_or(Err(StoreError::Deadline));
        match &answer {
            Ok(_) | Err(StoreError::Broken(_)) => {}
            Err(error) => {
                self.health.failed();
                if casts_doubt(error, patient) {
                    self.connection.doubt(link);
                }
            }
        }
        answer
    }
}

fn evalsha(sha: &str, call: &script::Call) -> Cmd {
    let mut evalsha = cmd("EVALSHA").arg(sha).arg(call.keys.len()).arg(&call.keys).arg(&call.blob).take();
    for text in &call.texts {
        evalsha.arg(text.as_ref());
    }
    evalsha
}

/// Whether another connection might do better: it broke, it is silent, its master became a replica, its login ended.
fn casts_doubt(error: &StoreError, patient: bool) -> bool {
    match error {
        StoreError::Unreachable(_) => true,
        StoreError::Deadline => patient,
        StoreError::Refused(text) => {
            ["READONLY", "NOAUTH", "WRONGPASS", "MASTERDOWN"].iter().any(|code| text.contains(code))
        }
        StoreError::Broken(_) => false,
    }
}
