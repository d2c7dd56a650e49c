//! One call to Redis: the decision script or a look-up, once, on the worker's connection, within a deadline.
//!
//! Draws the conclusions from a failure (health, whether the connection is doubtful) and counts the call. What goes into a
//! call is left to `batch`, the connection to `connect`.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, cmd};
use tokio::time::{Instant, timeout_at};

use super::connect::{self, Connection, Link};
use super::{Settings, script};
use crate::keys::Digest;
use crate::limit::{Answer, Question};
use crate::store::health::StoreHealth;
use crate::store::layout::Layout;
use crate::store::{Shared, StoreError};

/// A call that had less time than this proves nothing about the connection when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often one call loads the script again: a flush may fall between the loading and the call.
const RELOADS: usize = 5;

#[derive(Debug, Clone)]
pub(super) struct Line {
    connection: Connection,
    layout: Layout,
    shared: Shared,
}

impl Line {
    pub(super) fn start(settings: Settings, shared: Shared) -> Self {
        let layout = Layout::new(&settings.prefix);
        Self { connection: Connection::start(settings, shared.health.clone()), layout, shared }
    }

    /// The connection as it stands; while it is being made, waits for it until `deadline`.
    pub(super) async fn link(&self, deadline: Instant) -> Result<Link, StoreError> {
        self.connection.link(deadline).await
    }

    /// Answers the questions of so many requests, in their order, with one command.
    ///
    /// A call without an answer may or may not have spent; it is never sent twice.
    pub(super) async fn call(
        &self,
        link: &Link,
        questions: &[Question],
        requests: usize,
        deadline: Instant,
    ) -> Result<Vec<Answer>, StoreError> {
        let started = Instant::now();
        let call = script::encode(&self.layout, questions);
        let answer: Result<Vec<u8>, _> = self.supervised(link, deadline, evaluate(link, &call)).await;
        let answers = answer.and_then(|answer| {
            self.shared.health.answered();
            script::decode(questions, &answer)
        });
        self.shared.calls.decided(&answers, requests, started.elapsed());
        answers
    }

    /// What stands at `P:at:<sha256 hex>`.
    pub(super) async fn lookup(&self, digest: &Digest, deadline: Instant) -> Result<Option<Vec<u8>>, StoreError> {
        let started = Instant::now();
        let get = cmd("GET").arg(self.layout.at(digest)).take();
        let found = match self.link(deadline).await {
            Ok(link) => self.supervised(&link, deadline, connect::ask(&link.connection, &get)).await,
            Err(error) => Err(error),
        };
        self.shared.calls.looked_up(&found, started.elapsed());
        found
    }

    /// Runs the script without a question.
    pub(super) async fn probe(&self) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.shared.health.probe_within();
        let link = self.link(deadline).await?;
        self.supervised(&link, deadline, connect::try_script(&link.connection, &link.sha)).await?;
        self.shared.health.answered();
        Ok(())
    }

    pub(super) fn health(&self) -> &Arc<StoreHealth> {
        &self.shared.health
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
                self.shared.health.failed();
                if casts_doubt(error, patient) {
                    self.connection.doubt(link);
                }
            }
        }
        answer
    }
}

async fn evaluate(link: &Link, call: &script::Call) -> Result<Vec<u8>, StoreError> {
    let mut sha = link.sha.clone();
    for _ in 0..RELOADS {
        match connect::ask(&link.connection, &evalsha(&sha, call)).await {
            // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
            Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                sha = connect::load_script(&link.connection).await?;
            }
            answer => return answer,
        }
    }
    connect::ask(&link.connection, &evalsha(&sha, call)).await
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
