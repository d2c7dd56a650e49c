//! The OpenAPI document, and a client that knows nothing else: it reads the document, asks what it describes, and holds every
//! answer against it.

use serde_json::{Value, json};

use super::{ADA, BOB, KEYS, yard};
use crate::support::{Answer, AnswerTo as _, Gate};

struct Client<'g> {
    gate: &'g Gate,
    document: Value,
}

impl<'g> Client<'g> {
    async fn of(gate: &'g Gate) -> Self {
        let answer = gate.get(&format!("{KEYS}/openapi.json")).answer().await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        Self { gate, document: answer.json() }
    }

    /// Where `$ref` leads, if there is one.
    fn resolved<'v>(&'v self, value: &'v Value) -> &'v Value {
        match value["$ref"].as_str() {
            Some(reference) => {
                self.document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere"))
            }
            None => value,
        }
    }

    /// Calls an operation by its name; the answer must be one that it documents.
    async fn call(&self, who: &str, name: &str, id: Option<&str>, body: Value) -> Answer {
        let paths = self.document["paths"].as_object().expect("there are paths");
        let found = paths.iter().find_map(|(path, methods)| {
            let methods = methods.as_object().expect("a path has methods");
            let (method, operation) = methods.iter().find(|(_, operation)| operation["operationId"] == name)?;
            Some((path, method, operation))
        });
        let (path, method, operation) = found.unwrap_or_else(|| panic!("no operation is called {name}"));
        let mut path = path.replace("{id}", id.unwrap_or_default());
        let named_by_query =
            operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == "id"));
        if named_by_query {
            path = format!("{path}?id={}", id.unwrap_or_default());
        }
        let request = self.gate.signed_in(who, &method.to_uppercase(), &path);
        let request = match operation["requestBody"]["content"].as_object().and_then(|kinds| kinds.iter().next()) {
            Some((kind, _)) if !body.is_null() => request.header("content-type", kind).body(body.to_string()),
            _ => request,
        };
        let answer = request.answer().await;
        let described = self.resolved(&operation["responses"][answer.status.to_string()]);
        assert!(described.is_object(), "{name}: {} is not documented", answer.status);
        match described["content"].as_object().and_then(|kinds| kinds.iter().next()) {
            Some((kind, content)) => {
                assert_eq!(answer.header("content-type"), Some(kind.as_str()), "{name} {}", answer.status);
                self.check(&content["schema"], &answer.json(), name);
            }
            None => assert!(answer.body.is_empty(), "{name}"),
        }
        answer
    }

    /// The part of JSON Schema that the document uses.
    fn check(&self, schema: &Value, value: &Value, at: &str) {
        let schema = self.resolved(schema);
        if let Some(any) = schema["anyOf"].as_array() {
            let null = any.iter().any(|one| one["type"] == "null");
            let other = any.iter().find(|one| one["type"] != "null").expect("something besides null");
            if !(null && value.is_null()) {
                self.check(other, value, at);
            }
            return;
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            kind => vec![kind.clone()],
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(kinds.contains(&json!(kind)), "{at}: {value} is not {kinds:?}");
        for item in value.as_array().into_iter().flatten() {
            self.check(&schema["items"], item, at);
        }
        let Some(members) = value.as_object() else { return };
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(members.contains_key(required), "{at}: {required} is missing in {value}");
        }
        for (name, member) in members {
            match schema["properties"].get(name) {
                Some(schema) => self.check(schema, member, &format!("{at}.{name}")),
                None => assert_ne!(schema["additionalProperties"], false, "{at}: {name} is not documented"),
            }
        }
    }
}

#[tokio::test]
async fn a_client_made_from_the_document_alone_can_do_everything() {
    for store in ["", super::FILE] {
        let (_stage, gate) = yard(store, "");
        let client = Client::of(&gate).await;
        assert!(client.document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1.")));
        let wanted = json!({"name": "n", "business_id": "acme", "scopes": ["calls:read"]});
        let created = client.call(ADA, "createKey", None, wanted.clone()).await.json();
        let id = created["id"].as_str();
        assert_eq!(client.call(ADA, "listKeys", None, Value::Null).await.json()["total"], 1);
        assert_eq!(client.call(ADA, "showKey", id, Value::Null).await.status, 200);
        assert_eq!(client.call(ADA, "updateKey", id, json!({"name": "m"})).await.json()["name"], "m");
        assert_eq!(client.call(ADA, "showUsage", id, Value::Null).await.status, 200);
        let new = client.call(ADA, "rotateKey", id, json!({"overlap": "1h"})).await.json();
        assert_eq!(client.call(ADA, "revokeNamedKey", id, Value::Null).await.status, 204);
        assert_eq!(client.call(ADA, "revokeKey", new["id"].as_str(), Value::Null).await.status, 204);
        for (who, name, body, status) in [
            ("sid=x", "createKey", wanted.clone(), 401),
            (BOB, "createKey", wanted, 403),
            (BOB, "showKey", Value::Null, 404),
            (ADA, "createKey", json!({"name": ""}), 422),
            (ADA, "rotateKey", Value::Null, 409),
        ] {
            assert_eq!(client.call(who, name, id, body).await.status, status, "{name}");
        }
    }
}

#[tokio::test]
async fn what_every_part_of_it_may_be_refused_for_is_in_the_document() {
    let (_stage, gate) = yard("", "");
    let client = Client::of(&gate).await;
    let large = json!({"name": "x".repeat(100_000), "business_id": "acme", "scopes": ["calls:read"]});
    assert_eq!(client.call(ADA, "createKey", None, large).await.status, 413);
    let paths = client.document["paths"].as_object().expect("there are paths");
    for (path, described) in paths {
        let path = path.replace("{id}", "4711");
        let answer = gate.signed_in(ADA, "PUT", &path).answer().await;
        assert_eq!(answer.denial(), (405, "method_not_allowed".to_owned()), "{path}");
        let allowed = answer.header("allow").expect("a 405 says what is there").to_lowercase();
        for (method, operation) in described.as_object().expect("a path has methods") {
            assert!(method == "parameters" || allowed.contains(method), "{path}: {allowed}");
            let is_described = client.resolved(&operation["responses"]["405"]).is_object();
            assert!(
                method == "parameters" || operation["operationId"] == "describe" || is_described,
                "{method} {path}"
            );
        }
    }
}
