//! What becomes of a request for the key-management API, which is answered before any route is looked for, and by sessions
//! rather than keys.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::request::ExplainedRequest;
use crate::cli::coverage::is_key_api;
use crate::cli::keys::words::printable;
use crate::cli::style::{BOLD, RED, Style};
use crate::config::Settings;
use crate::gate::path;
use crate::manage::operation;
use crate::manage::settings::Settings as Management;
use crate::policy::route::Found;

/// The API, and what of it is asked for.
pub struct KeyApi<'s> {
    management: &'s Management,
    /// `POST /v1/keys/{id}/rotate`; or with which methods the path is known, or that it is not.
    operation: Result<String, (u16, String)>,
    pub why: String,
}

impl<'s> KeyApi<'s> {
    /// `None`: the request is the gate's to decide on.
    pub fn of(explained: &ExplainedRequest, settings: &'s Settings) -> Option<Self> {
        let path = path::read(explained.path()).ok()?.text;
        let management = settings.management.as_ref().filter(|_| is_key_api(&path, settings))?;
        let operation = match operation::routes(management).find(explained.method(), &path) {
            Found::Route { route, .. } => Ok(route.pattern.clone()),
            Found::OtherMethods { allow } => Err((405, format!("the path is known with {allow}"))),
            Found::Nothing => Err((404, "the API has no such path".to_owned())),
        };
        let why = format!("The key API answers at and below {}, before any route.", management.served_at());
        Some(Self { management, operation, why })
    }

    pub fn words(&self, explained: &ExplainedRequest, style: Style) -> String {
        let asked_for = format!("{} {}", explained.method(), explained.request.uri());
        let roles = self.management.roles.join(" or ");
        let verdict = match &self.operation {
            Ok(operation) => style.paint(BOLD, operation),
            Err((status, why)) => style.paint(RED, &format!("refused with {status}: {why}")),
        };
        let mut text = String::new();
        let _ = writeln!(
            text,
            "{} from {}\n",
            style.paint(BOLD, &printable(&asked_for)),
            explained.arrival.client.as_str()
        );
        let needs =
            format!("a session of {}, and of a business the role {roles}; no key", self.management.session.authority);
        for (name, value) in [("key API", &verdict), ("why", &self.why), ("needs", &needs)] {
            let _ = writeln!(text, "{name:<10}{value}");
        }
        text
    }

    /// With the members that every explanation has.
    pub fn document(&self, explained: &ExplainedRequest) -> Value {
        let refused = self.operation.as_ref().err();
        json!({
            "method": explained.method().as_str(),
            "target": explained.request.uri().to_string(),
            "client": explained.arrival.client.as_str(),
            "route": null,
            "key_api": {
                "operation": self.operation.as_ref().ok(),
                "session": self.management.session.authority,
                "roles": self.management.roles,
            },
            "why": self.why,
            "notes": [],
            "others": [],
            "with_key": explained.with_key,
            "key": null,
            // Whether it is allowed is the session endpoint's to say, which is not asked.
            "allowed": refused.map(|_| false),
            "denial": refused.map(|(status, _)| json!({
                "reason": if *status == 405 { "method_not_allowed" } else { "route_not_found" }, "status": status,
            })),
            "forwarded": null,
            "would_go": null,
            "windows": [],
        })
    }
}
