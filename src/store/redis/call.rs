//! One call to Redis: the decision script or a plain command, once, within a deadline, over one connection.
//!
//! Draws the conclusions from a failure: health, and whether the connection is doubtful. Which connection it is, is left to `line`
//! and `cluster`.

use std::borrow::Cow;
use std::time::Duration;

use redis::Cmd;
use tokio::time::Instant;

use super::connect::{self, Connection, Link};
use super::lateness;
use super::script::{self, Script};
use crate::store::StoreError;
use crate::store::health::StoreHealth;

/// A call that had less time than this proves nothing about the connection when it gets no answer.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often one call loads the script again: a flush may fall between the loading and the call.
const RELOADS: usize = 5;

/// What one call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Script(Script, &'a script::Call<'a>),
    Plain(&'a Cmd),
}

/// Sends a request over one connection, bounds it by the deadline and draws the conclusions from its failure.
pub(super) async fn send(
    connection: &Connection,
    health: &StoreHealth,
    request: Request<'_>,
    asking: bool,
    deadline: Instant,
) -> Result<Option<Vec<u8>>, StoreError> {
    let link = connection.link(deadline).await?;
    let sent = Instant::now();
    let answer = lateness::until(deadline, evaluate(&link, request, asking)).await.unwrap_or(Err(StoreError::Deadline));
    match &answer {
        Ok(_) | Err(StoreError::Broken(_)) => {}
        Err(StoreError::Refused(text)) if is_direction(text) => {}
        Err(error) => {
            health.failed();
            if casts_doubt(error, sent.elapsed() >= PATIENCE) {
                connection.doubt(&link);
            }
        }
    }
    answer
}

async fn evaluate(link: &Link, request: Request<'_>, asking: bool) -> Result<Option<Vec<u8>>, StoreError> {
    let (script, call) = match request {
        Request::Plain(command) => return link.pipe.call(asking, |to| command.write_packed_command(to)).await,
        Request::Script(script, call) => (script, call),
    };
    let mut sha = Cow::from(match script {
        Script::Decide => &link.sha,
        Script::GiveBack => connect::known_sha(),
    });
    for _ in 0..RELOADS {
        match link.pipe.call(asking, |to| call.write_evalsha(&sha, to)).await {
            // The server has lost its scripts (a restart, SCRIPT FLUSH) and thereby done nothing.
            Err(StoreError::Refused(text)) if text.starts_with("NOSCRIPT") => {
                sha = connect::load_script(&link.pipe, script).await?.into();
            }
            answer => return answer,
        }
    }
    link.pipe.call(asking, |to| call.write_evalsha(&sha, to)).await
}

/// Whether a refusal is the cluster's ordinary way to say where to go, and no failure.
pub(super) fn is_direction(text: &str) -> bool {
    ["MOVED ", "ASK ", "TRYAGAIN", "CROSSSLOT"].iter().any(|code| text.starts_with(code))
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
