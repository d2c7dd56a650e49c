//! `sidegate explain`: what one request would meet, and why. The gate itself is asked, at a cost of 0, so that nothing is read
//! in another way than it reads it, and nothing is spent.
//!
//! `request` reads what is asked about, `candidates` says why this route and not another one, `outcome` asks the gate,
//! `limits` says whose limits hold, `notes` what else does, `words` and `document` show that `explanation`; what is the key API's
//! is told by `key_api`. Exits with 0 whatever the verdict.

mod candidates;
mod document;
mod explanation;
mod key_api;
mod limits;
mod notes;
mod outcome;
mod request;
mod words;

use std::io::{self, IsTerminal, Read};
use std::sync::Arc;

use serde_json::Value;

use super::out;
use super::style::Style;
use crate::config::Settings;
use crate::gate::path;
use crate::keys::format::LONGEST;
use crate::policy::Route;
use crate::policy::route::Found;
use candidates::Candidates;
use explanation::Explanation;
use key_api::KeyApi;
pub use request::ExplainArgs;

use request::ExplainedRequest;

pub fn run(args: &ExplainArgs, mut settings: Settings) -> anyhow::Result<u8> {
    let key = key_on_standard_input()?;
    let explained = match ExplainedRequest::read(args, key.as_deref(), &settings) {
        Ok(explained) => explained,
        Err(wrong) => {
            out::remark(format_args!("error: {wrong}"));
            return Ok(super::exit::WRONG);
        }
    };
    if let Some(api) = KeyApi::of(&explained, &settings) {
        show(args, || api.document(&explained), || api.words(&explained, Style::for_stdout()))?;
        return Ok(super::exit::DONE);
    }
    let routes: Vec<Arc<Route>> = settings.policy.routes.iter().cloned().collect();
    let policy = Arc::get_mut(&mut settings.policy).expect("nobody else holds what was just loaded");
    policy.routes.uncharge();
    let route = route(&explained, &settings).and_then(|free| routes.into_iter().find(|r| r.pattern == free.pattern));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(outcome::of(&explained, &settings, route.as_ref().map_or(1, |route| route.cost)))?;
    let candidates = Candidates::of(&explained, &settings);
    let notes = notes::of(&explained, &settings, &outcome);
    let explanation = Explanation { settings: &settings, explained, route, candidates, outcome, notes };
    show(args, || document::of(&explanation), || words::of(&explanation, Style::for_stdout()))?;
    Ok(super::exit::DONE)
}

fn show(args: &ExplainArgs, document: impl FnOnce() -> Value, words: impl FnOnce() -> String) -> anyhow::Result<()> {
    if args.json { out::say(format_args!("{}\n", document())) } else { out::say(words()) }
}

/// The route that the request means, whether or not it may pass.
fn route<'s>(explained: &ExplainedRequest, settings: &'s Settings) -> Option<&'s Route> {
    let path = path::read(explained.path()).ok()?;
    match settings.policy.routes.find(explained.method(), &path.text) {
        Found::Route { route, .. } => Some(route),
        Found::OtherMethods { .. } | Found::Nothing => None,
    }
}

/// Somebody at a terminal has given none.
fn key_on_standard_input() -> anyhow::Result<Option<String>> {
    let input = io::stdin();
    if input.is_terminal() {
        return Ok(None);
    }
    let mut text = String::new();
    input.lock().take(4 * LONGEST as u64).read_to_string(&mut text)?;
    let key = text.trim();
    Ok((!key.is_empty()).then(|| key.to_owned()))
}
