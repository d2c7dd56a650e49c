//! The API described for programs: OpenAPI 3.1, so that a client can be made from nothing but this document.
//!
//! Errors read as `errors:` in the configuration shapes them; what the document says of their bodies is the default.

use serde_json::{Map, Value, json};

/// The document of an API that is served at `path`.
pub fn document(path: &str) -> Value {
    let at = |below: &str| format!("{path}{below}");
    let mut paths = Map::new();
    paths.insert(at(""), json!({"get": list(), "post": create(), "delete": revoke_named()}));
    paths.insert(at("/{id}"), json!({"parameters": [id()], "get": show(), "patch": update(), "delete": revoke()}));
    paths.insert(at("/{id}/rotate"), json!({"parameters": [id()], "post": rotate()}));
    paths.insert(at("/{id}/usage"), json!({"parameters": [id()], "get": usage()}));
    paths.insert(at("/openapi.json"), json!({"get": describe()}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "API keys",
            "version": "1",
            "description": "Creates, lists, changes, rotates and revokes API keys for people who are signed in to the \
                            service. Requests that another site's page makes are refused.",
        },
        "servers": [{"url": "/"}],
        "security": [{"session": []}, {"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": "session",
                    "description": "The service's own session cookie, whatever its name."},
                "token": {"type": "http", "scheme": "bearer",
                    "description": "A token of the service's own; never an API key."},
            },
            "schemas": schemas(),
            "responses": refusals(),
        },
    })
}

fn create() -> Value {
    let answer = answer("The key. It is shown this once and can never be read back.", "NewKey");
    operation(
        "createKey",
        "Create a key",
        Some("Creation"),
        ("201", answer),
        &["403", "409", "413", "415", "422", "429"],
    )
}

fn list() -> Value {
    let parameter = |name: &str, schema: Value, description: &str| json!({"name": name, "in": "query", "required": false, "schema": schema, "description": description});
    let number =
        |most: u64, default: u64| json!({"type": "integer", "minimum": 1, "maximum": most, "default": default});
    let mut operation = operation(
        "listKeys",
        "List keys, the oldest first",
        None,
        ("200", answer("One page of the keys that the caller may manage.", "KeyList")),
        &["403", "422"],
    );
    operation["parameters"] = json!([
        parameter("business_id", reference("Id"), "Only the keys of this business."),
        parameter("page", number(u64::from(u32::MAX), 1), "Which page, from 1 on."),
        parameter("per_page", number(100, 50), "How many keys a page has."),
    ]);
    operation
}

fn revoke_named() -> Value {
    let mut operation = operation("revokeNamedKey", "Revoke the key that the query names", None, ended(), &ENDING);
    operation["parameters"] = json!([{"name": "id", "in": "query", "required": true, "schema": reference("Id")}]);
    operation
}

fn revoke() -> Value {
    operation("revokeKey", "Revoke a key", None, ended(), &ENDING)
}

fn show() -> Value {
    operation("showKey", "Show a key", None, ("200", answer("The key.", "Key")), &MISSING)
}

fn update() -> Value {
    let refused = ["403", "404", "409", "413", "415", "422", "429"];
    operation("updateKey", "Change a key", Some("Change"), ("200", answer("The key as it is now.", "Key")), &refused)
}

fn rotate() -> Value {
    let answer = answer("The successor. It is shown this once and can never be read back.", "NewKey");
    let refused = ["403", "404", "409", "413", "415", "422", "429"];
    let mut operation = operation(
        "rotateKey",
        "Replace a key by a new one with the same rights",
        Some("Rotation"),
        ("201", answer),
        &refused,
    );
    operation["requestBody"]["required"] = json!(false);
    operation
}

fn usage() -> Value {
    let answer = answer("What is left of the key's limits, and how much it and its business are used.", "Usage");
    operation("showUsage", "Show how much a key is used", None, ("200", answer), &MISSING)
}

fn describe() -> Value {
    json!({
        "operationId": "describe",
        "summary": "This document",
        "security": [],
        "responses": {"200": {
            "description": "OpenAPI 3.1.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }},
    })
}

/// What an operation on one key refuses.
const MISSING: [&str; 3] = ["403", "404", "422"];
const ENDING: [&str; 4] = ["403", "404", "422", "429"];

fn operation(id: &str, summary: &str, body: Option<&str>, (status, answer): (&str, Value), refused: &[&str]) -> Value {
    let mut responses = Map::new();
    responses.insert(status.to_owned(), answer);
    for status in refused.iter().chain(&["400", "401", "405", "503"]) {
        responses.insert((*status).to_owned(), json!({"$ref": format!("#/components/responses/{}", named(status))}));
    }
    let mut operation = json!({"operationId": id, "summary": summary, "responses": responses});
    if let Some(schema) = body {
        operation["requestBody"] =
            json!({"required": true, "content": {"application/json": {"schema": reference(schema)}}});
    }
    operation
}

fn answer(description: &str, schema: &str) -> Value {
    json!({"description": description, "content": {"application/json": {"schema": reference(schema)}}})
}

fn ended() -> (&'static str, Value) {
    ("204", json!({"description": "The key is refused from now on. It stays listed."}))
}

fn id() -> Value {
    json!({"name": "id", "in": "path", "required": true, "schema": reference("Id")})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

const REFUSALS: [(&str, &str, &str); 11] = [
    ("400", "Malformed", "The request is malformed."),
    ("401", "NoSession", "Nobody is signed in."),
    ("403", "Forbidden", "The caller's role or businesses do not allow it, or another site's page asked."),
    ("404", "NoKey", "The caller has no such key."),
    ("405", "NoSuchMethod", "The path has no such method; `Allow` names those that it has."),
    (
        "409",
        "Conflict",
        "The business has as many active keys as it may have (`too_many_keys`); or the key was rotated already (`rotated_already`).",
    ),
    ("413", "TooLarge", "The body is larger than 64 KiB."),
    ("415", "NoJson", "The body is not `application/json`."),
    ("422", "Unprocessable", "The body or the query breaks a rule; `detail` says which."),
    ("429", "TooOften", "The caller creates or changes keys too often."),
    (
        "503",
        "Unavailable",
        "Keys cannot be managed right now (`store_unavailable`); or the key is revoked, and the store's replicas have not confirmed \
         it (`unconfirmed`).",
    ),
];

fn named(status: &str) -> &'static str {
    REFUSALS.iter().find(|(listed, ..)| *listed == status).map_or("Malformed", |(_, name, _)| name)
}

fn refusals() -> Value {
    let waits = json!({"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}});
    let all = REFUSALS.map(|(status, name, description)| {
        let content = json!({"application/problem+json": {"schema": reference("Problem")}});
        let mut response = json!({"description": description, "content": content});
        if ["429", "503"].contains(&status) {
            response["headers"] = waits.clone();
        }
        (name.to_owned(), response)
    });
    Value::Object(all.into_iter().collect())
}

fn schemas() -> Value {
    let text = || json!({"type": "string"});
    let time = || json!({"type": ["string", "null"], "format": "date-time"});
    let scopes = || json!({"type": "array", "items": {"type": "string"}});
    let name = || json!({"type": "string", "minLength": 1, "maxLength": crate::keys::rules::LONGEST_NAME});
    let object = |required: &[&str], properties: Value| json!({"type": "object", "required": required, "properties": properties, "additionalProperties": false});
    let members = || {
        json!({
            "id": reference("Id"),
            "prefix": {"type": ["string", "null"], "description": "How the key begins: enough to recognise it by."},
            "name": {"type": ["string", "null"]},
            "business_id": {"type": ["string", "null"], "description": "Null: it reaches every business that its user owns."},
            "user_id": {"type": ["string", "null"]},
            "scopes": scopes(),
            "created_at": time(), "expires_at": time(), "revoked_at": time(), "last_used_at": time(),
        })
    };
    let of_key = [
        "id",
        "prefix",
        "name",
        "business_id",
        "user_id",
        "scopes",
        "created_at",
        "expires_at",
        "revoked_at",
        "last_used_at",
    ];
    let mut new_members = members();
    new_members["key"] = json!({"type": "string", "description": "The key itself."});
    new_members["unconfirmed"] = json!({
        "type": "string",
        "description": "The key that it replaces has ended, and the store's replicas have not confirmed that. Revoke that one to \
                        wait again.",
    });
    let expires = json!({"type": "string", "description": "RFC 3339, or a duration such as `90d`."});
    let mut expires_or_never = expires.clone();
    expires_or_never["type"] = json!(["string", "null"]);
    let count = || json!({"type": "integer", "minimum": 0});
    let used = ["last_used_at", "requests", "denials", "minutes", "limits"];
    let of_use = json!({
        "last_used_at": time(),
        "requests": or_null(&counts(&count)),
        "denials": or_null(&counts(&count)),
        "minutes": {"anyOf": [reference("Minutes"), {"type": "null"}]},
        "limits": {"type": "array", "items": reference("Limit")},
    });
    let unseen = |kind: &str| json!({"type": [kind, "null"]});
    json!({
        "Id": {"type": "string", "pattern": "^[A-Za-z0-9._~@-]{1,128}$"},
        "Key": object(&of_key, members()),
        "NewKey": object(&[&of_key[..], &["key"]].concat(), new_members),
        "KeyList": object(&["keys", "total"], json!({"keys": {"type": "array", "items": reference("Key")}, "total": count()})),
        "Creation": object(&["name"], json!({
            "name": name(),
            "business_id": or_null(&reference("Id")),
            "unscoped": {"type": "boolean", "default": false, "description": "A key for no business, where that is allowed."},
            "scopes": or_null(&scopes()),
            "expires_at": expires_or_never,
        })),
        "Change": object(&[], json!({
            "name": or_null(&name()),
            "scopes": or_null(&scopes()),
            "expires_at": expires_or_never,
        })),
        "Rotation": object(&[], json!({
            "overlap": {"type": ["string", "null"], "description": "How long the old key goes on, such as `24h`; none by default."},
        })),
        "Usage": object(&[&used[..], &["id", "prefix", "business"]].concat(), merged(&of_use, json!({
            "id": reference("Id"), "prefix": {"type": ["string", "null"]},
            "business": {"anyOf": [reference("Use"), {"type": "null"}]},
        }))),
        "Use": object(&used, of_use),
        "Limit": object(&["name", "by", "window", "limit", "used", "remaining", "resets_at"], json!({
            "name": text(), "by": text(), "window": text(), "limit": count(),
            "from": {"type": "string", "description": "Who says how large it is: `key`, `business`, `plan pro`, `configuration`."},
            "used": unseen("integer"), "remaining": unseen("integer"), "resets_at": time(),
        })),
        "Minutes": object(&["requests", "denials"], json!({"requests": counts(&count), "denials": counts(&count)})),
        "Problem": {
            "type": "object",
            "description": "RFC 9457; a gate may be configured to word its errors otherwise.",
            "properties": {
                "type": text(), "title": text(), "status": {"type": "integer"}, "detail": text(), "code": text(),
                "request_id": text(),
            },
        },
    })
}

/// Numbers by the day or minute that they are of.
fn counts(count: &impl Fn() -> Value) -> Value {
    json!({"type": "object", "additionalProperties": count()})
}

fn or_null(schema: &Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// The members of both.
fn merged(some: &Value, more: Value) -> Value {
    let (mut all, more) = (some.clone(), more);
    if let (Some(all), Value::Object(more)) = (all.as_object_mut(), more) {
        all.extend(more);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_a_name_of_its_own() {
        let document = document("/api/v1/keys");
        let text = document.to_string();
        for reference in text.split("\"#/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(document.pointer(&format!("/{reference}")).is_some(), "{reference}");
        }
        let methods = ["get", "post", "patch", "delete"];
        let paths = document["paths"].as_object().into_iter().flatten();
        let operations =
            paths.flat_map(|(_, path)| methods.iter().filter_map(|method| path[*method]["operationId"].as_str()));
        let mut operations: Vec<_> = operations.collect();
        assert_eq!(operations.len(), 9);
        operations.sort_unstable();
        operations.dedup();
        assert_eq!(operations.len(), 9);
    }
}
