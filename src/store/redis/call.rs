//! One call to Redis: the decision script or a plain command, once, within a deadline, over one connection.
//!
//! Draws the conclusions from a failure: health, and whether the connection is doubtful. Which connection it is, is left to `line`
//! and `cluster`.

use std::borrow::Cow;

use redis::Cmd;
use tokio::time::Instant;

use super::connect::{self, Connection, Doubt, Link};
use super::lateness;
use super::script::{self, Script};
use crate::store::StoreError;
use crate::store::health::StoreHealth;

/// How often one call loads the script again: a flush may fall between the loading and the call.
const RELOADS: usize = 5;

/// What one call is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    Script(Script, &'a script::Call),
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
    let answer = lateness::until(deadline, evaluate(&link, request, asking)).await.unwrap_or(Err(StoreError::Deadline));
    match &answer {
        Ok(_) if matches!(request, Request::Script(Script::Decide, _)) => health.answered(connection.node()),
        Ok(_) | Err(StoreError::Broken(_)) => {}
        Err(StoreError::Refused(text)) if is_direction(text) => {}
        Err(error) => {
            health.failed(connection.node());
            if let Some(doubt) = doubt(error) {
                connection.doubt(&link, doubt);
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

/// What a failure says of the connection: it broke, it may be dead, its master became a replica, its login ended.
fn doubt(error: &StoreError) -> Option<Doubt> {
    let useless = ["READONLY", "NOAUTH", "WRONGPASS", "MASTERDOWN"];
    match error {
        StoreError::Unreachable(_) => Some(Doubt::Useless),
        StoreError::Deadline => Some(Doubt::Late),
        StoreError::Refused(text) => useless.iter().any(|code| text.contains(code)).then_some(Doubt::Useless),
        StoreError::Broken(_) => None,
    }
}
