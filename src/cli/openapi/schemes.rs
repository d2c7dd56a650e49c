//! Where a description says that keys stand, as `keys.from` writes it, or why a gate cannot read them there.

use std::collections::BTreeSet;

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};

/// A header that has a key, alone or behind the name of its scheme.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// As it is written.
    pub header: String,
    pub scheme: Option<&'static str>,
}

/// Those of the schemes that something asks for. None where the description knows nothing but what a gate reads anyway.
pub fn sources(document: &Value, remarks: &mut Vec<String>) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for name in used(document) {
        let scheme = &document["components"]["securitySchemes"][name];
        match source(scheme) {
            Ok(None) => {}
            Ok(Some(source)) if sources.contains(&source) => {}
            Ok(Some(source)) if sources.iter().any(|other| other.header.eq_ignore_ascii_case(&source.header)) => {
                let header = source.header;
                remarks.push(format!("securitySchemes.{name}: `{header}` is read in another way already; choose one"));
            }
            Ok(Some(source)) => sources.push(source),
            Err(problem) => remarks.push(format!("securitySchemes.{name}: {problem}")),
        }
    }
    if sources.iter().all(|source| source.scheme.is_some()) {
        sources.clear();
    }
    sources
}

/// The names of the schemes that the operations ask for.
fn used(document: &Value) -> BTreeSet<&str> {
    let items = document["paths"].as_object().into_iter().flat_map(Map::values);
    let operations = items.filter_map(Value::as_object).flat_map(Map::values);
    let asking = operations.filter_map(|operation| operation.get("security")).chain(document.get("security"));
    let requirements = asking.filter_map(Value::as_array).flatten().filter_map(Value::as_object);
    requirements.flat_map(Map::keys).map(String::as_str).collect()
}

/// `None`: it is not described, so that there is nothing to say of it.
fn source(scheme: &Value) -> Result<Option<Source>, String> {
    if scheme.is_null() {
        return Ok(None);
    }
    let text = |member: &str| scheme[member].as_str().unwrap_or_default();
    let bearer = || Some(Source { header: "Authorization".to_owned(), scheme: Some("Bearer") });
    match (text("type"), text("in"), text("scheme")) {
        ("apiKey", "header", _) => in_header(text("name")).map(Some),
        ("apiKey", place, _) => {
            Err(format!("its key stands in the {place}, where no gate reads one; let clients send it in a header"))
        }
        ("http", _, scheme) if scheme.eq_ignore_ascii_case("bearer") => Ok(bearer()),
        ("oauth2" | "openIdConnect", ..) => Ok(bearer()),
        ("http", _, scheme) => Err(format!("`{scheme}` brings no key; write where the keys stand into `keys.from`")),
        ("mutualTLS", ..) => Err("certificates are asked for by `listen.tls.client_ca`, on every route".to_owned()),
        _ if scheme.get("$ref").is_some() => Err("it stands elsewhere (`$ref`), which is not followed".to_owned()),
        (kind, ..) => Err(format!("`{kind}` is no type of OpenAPI 3")),
    }
}

fn in_header(name: &str) -> Result<Source, String> {
    match HeaderName::from_bytes(name.as_bytes()) {
        // Written so where `Bearer …` is meant as often as where it is not.
        Ok(header) if header == AUTHORIZATION => {
            Err("whether `Authorization` has the key alone is not said; write it into `keys.from`, \
                 such as `[{header: Authorization, scheme: Bearer}]`"
                .to_owned())
        }
        Ok(_) => Ok(Source { header: name.to_owned(), scheme: None }),
        Err(_) => Err(format!("`{name}` is no name of a header")),
    }
}
