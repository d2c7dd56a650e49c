//! `sidegate business export`: all businesses as the JSON lines that `import` reads.

use serde_json::{Value, json};

use crate::cli::exit::{DONE, FAILED};
use crate::cli::keys::session::{KeysSetting, Session};
use crate::cli::keys::words::printable;
use crate::store::StoreError;
use crate::store::members::Members;
use crate::store::record::{BusinessDocument, Status};
use crate::store::registry::RegistryError;

pub(super) async fn run(setting: &KeysSetting, session: &mut Session<'_>) -> anyhow::Result<u8> {
    let registry = &setting.keyring.registry;
    let mut code = DONE;
    for id in registry.businesses().await? {
        let line = match registry.business(&id).await {
            // It was deleted meanwhile.
            Ok(None) => continue,
            Ok(Some(members)) => line(&id, &members),
            Err(RegistryError::Store(StoreError::Broken(what))) => Line::suspended(&id, &what),
            Err(error) => return Err(error.into()),
        };
        if let Some(doubt) = line.doubt {
            writeln!(session.err, "warning: {}", printable(&doubt))?;
            code = FAILED;
        }
        session.print_json(&line.document)?;
    }
    Ok(code)
}

struct Line {
    document: Value,
    doubt: Option<String>,
}

/// What `import` knows; members of other services stay where they are.
fn line(id: &str, members: &Members) -> Line {
    let status = match BusinessDocument::parse(Value::from(members.clone()).to_string().as_bytes()) {
        Err(error) => return Line::suspended(id, &error.to_string()),
        Ok(BusinessDocument { status: Status::Other, .. }) => None,
        Ok(BusinessDocument { status: Status::Suspended, .. }) => Some("suspended"),
        Ok(BusinessDocument { status: Status::Active, .. }) => Some("active"),
    };
    let doubt = status
        .is_none()
        .then(|| format!("{id}: the status {} refuses its keys, and is exported as `suspended`", members["status"]));
    let mut document = json!({"id": id});
    document["status"] = status.unwrap_or("suspended").into();
    for member in ["plan", "limits"] {
        if let Some(value) = members.get(member).filter(|value| !value.is_null()) {
            document[member] = value.clone();
        }
    }
    Line { document, doubt }
}

impl Line {
    /// The gate refuses the keys of a business that it cannot read. Without a document they would pass where this is imported.
    fn suspended(id: &str, why: &str) -> Self {
        let doubt = format!("{id} cannot be read, and is exported as suspended: {why}");
        Self { document: json!({"id": id, "status": "suspended"}), doubt: Some(doubt) }
    }
}
