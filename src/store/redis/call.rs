//! One call to Redis: the decision script or a plain command, once, within a deadline, over one connection.
//!
//! A failure is noted in the store's health and reported to the connection's supervisor. Which connection it is, is left to
//! `client` and `cluster`.

use std::borrow::Cow;

use redis::Cmd;
use tokio::time::Instant;

use super::connection::{self, Connection, Fault, Link};
use super::script::{self, Script};
use super::worker_lag;
use crate::store::StoreError;
use crate::store::health::StoreHealth;

/// How often one call loads the script again: a flush may happen between loading and calling.
const RELOADS: usize = 5;

/// What one call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Command<'a> {
    Script(Script, &'a script::Call<'a>),
    Plain(&'a Cmd),
}

/// Sends a request over one connection, bounds it by the deadline and draws the conclusions from its failure.
pub(super) async fn send(
    connection: &Connection,
    health: &StoreHealth,
    command: Command<'_>,
    asking: bool,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, StoreError> {
    let link = connection.link(deadline).await?;
    let answer =
        worker_lag::until(deadline, evaluate(&link, command, asking)).await.unwrap_or(Err(StoreError::Deadline));
    match &answer {
        Ok(_) if matches!(command, Command::Script(Script::Decide, _)) => health.answered(connection.node()),
        Ok(_) | Err(StoreError::Broken(_)) => {}
        Err(StoreError::Refused(text)) if is_redirect(text) => {}
        Err(error) => {
            health.failed(connection.node());
            if let Some(fault) = fault(error) {
                connection.report(&link, fault);
            }
        }
    }
    answer
}

async fn evaluate(link: &Link, command: Command<'_>, asking: bool) -> Result<Option<Vec<u8>>, StoreError> {
    let (script, call) = match command {
        Command::Plain(command) => return link.pipeline.call(asking, |to| command.write_packed_command(to)).await,
        Command::Script(script, call) => (script, call),
    };
    let mut sha = Cow::from(match script {
        Script::Decide => &link.sha,
        Script::GiveBack => connection::give_back_sha(),
    });
    for _ in 0..RELOADS {
        match link.pipeline.call(asking, |to| call.write_evalsha(&sha, to)).await {
            // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
            Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                sha = connection::load_script(&link.pipeline, script).await?.into();
            }
            answer => return answer,
        }
    }
    link.pipeline.call(asking, |to| call.write_evalsha(&sha, to)).await
}

/// Whether a refusal is a cluster's redirect, and no failure.
pub(super) fn is_redirect(text: &str) -> bool {
    ["MOVED ", "ASK ", "TRYAGAIN", "CROSSSLOT"].iter().any(|code| text.starts_with(code))
}

/// What a failure says of the connection: it broke, it may be dead, its master became a replica, its login ended.
fn fault(error: &StoreError) -> Option<Fault> {
    let useless = ["READONLY", "NOAUTH", "WRONGPASS", "MASTERDOWN"];
    match error {
        StoreError::Unreachable(_) => Some(Fault::Unusable),
        StoreError::Deadline => Some(Fault::Timeout),
        StoreError::Refused(text) => useless.iter().any(|code| text.contains(code)).then_some(Fault::Unusable),
        StoreError::Broken(_) => None,
    }
}
