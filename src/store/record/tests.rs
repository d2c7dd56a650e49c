//! What other services may write, and what is made of it.

use super::*;

fn key(members: &str) -> Result<KeyDocument, RecordError> {
    KeyDocument::parse(format!(r#"{{"id":"k1","name":"n","hint":"sg_abc","business":"acme"{members}}}"#).as_bytes())
}

fn business(json: &str) -> Result<BusinessDocument, RecordError> {
    BusinessDocument::parse(json.as_bytes())
}

#[test]
fn a_key_document_is_read_with_all_its_members() {
    let document = key(r#","user":"u_42","scopes":["a:read"],"created_at":"2026-03-23T14:30:00Z",
        "expires_at":"2026-03-23T16:30:01+02:00","limits":{"per-key":["20/1s","0/1m"],"x":"60/m"},
        "allow_addresses":["10.0.0.0/8","192.0.2.1","2001:db8::/32","::ffff:192.0.2.7"],"written_by":{"x":1}"#)
    .expect("a good document");
    assert_eq!((document.id.as_str(), document.user.as_deref()), ("k1", Some("u_42")));
    assert_eq!(document.tenant(), Tenant::Business("acme".to_owned()));
    assert_eq!(document.created_at, Some(1_774_276_200_000));
    assert_eq!(document.expires_at, Some(1_774_276_201_000));
    assert_eq!(document.limits["per-key"].to_string(), "20/1s, 0/1m");
    assert_eq!(document.limits["x"].to_string(), "60/1m");
    let allowed: Vec<_> = document.allow_addresses.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32", "192.0.2.7/32"]);
    assert!(!document.revoked);
    assert_eq!(KeyDocument::parse(document.to_json().as_bytes()), Ok(document));
}

#[test]
fn what_is_left_out_is_empty() {
    let document = KeyDocument::parse(br#"{"id":"k1","user":"u"}"#).expect("a good document");
    assert_eq!(document, KeyDocument { id: "k1".into(), user: Some("u".into()), ..KeyDocument::default() });
    assert_eq!(document.tenant(), Tenant::User("u".to_owned()));
    let nulls = r#","user":null,"scopes":null,"expires_at":null,"limits":null,"allow_addresses":null"#;
    assert_eq!(key(nulls), key(""));
    assert_eq!(key(r#","allow_addresses":[]"#).map(|d| d.allow_addresses), Ok(Some(Vec::new())));
}

#[test]
fn revoked_at_revokes_whatever_its_value() {
    for value in ["null", "false", "\"\"", "0", "{}", "[]", "\"2026-03-23T14:30:00Z\"", "\"9999-01-01T00:00:00Z\""] {
        assert_eq!(key(&format!(r#","revoked_at":{value}"#)).map(|d| d.revoked), Ok(true), "{value}");
    }
    assert_eq!(key(r#","revoked\u005fat":null"#).map(|d| d.revoked), Ok(true));
    let revoked = key(r#","revoked_at":null"#).expect("a good document");
    assert_eq!(KeyDocument::parse(revoked.to_json().as_bytes()), Ok(revoked), "and stays so when written");
}

#[test]
fn what_the_contract_does_not_know_makes_the_document_unreadable() {
    let wrong = [
        r#","expires_at":"tomorrow""#,
        r#","expires_at":"""#,
        r#","expires_at":1774276200"#,
        r#","expires_at":false"#,
        r#","scopes":"*""#,
        r#","scopes":[1]"#,
        r#","user":"a b""#,
        r#","user":"""#,
        r#","limits":[]"#,
        r#","limits":{"a":60}"#,
        r#","limits":{"a":[]}"#,
        r#","limits":{"a":"60"}"#,
        r#","limits":{"a":null}"#,
        r#","allow_addresses":"10.0.0.0/8""#,
        r#","allow_addresses":["10.0.0.0/33"]"#,
        r#","allow_addresses":["localhost"]"#,
    ];
    for members in wrong {
        assert!(key(members).is_err(), "{members}");
    }
    for json in ["", "null", "[]", "{}", r#"{"id":"k"}"#, r#"{"id":"","user":"u"}"#, r#"{"id":1,"user":"u"}"#] {
        assert!(KeyDocument::parse(json.as_bytes()).is_err(), "{json}");
    }
    assert!(KeyDocument::parse(br#"{"id":"k","business":null,"user":null}"#).is_err());
    assert!(KeyDocument::parse(br#"{"id":"k","user":"u"} {}"#).is_err());
    assert!(KeyDocument::parse(b"{\"id\":\"k\",\"user\":\"\xff\"}").is_err());
}

#[test]
fn a_member_that_stands_twice_is_an_error() {
    for members in [
        r#","scopes":["a"],"scopes":["*"]"#,
        r#","business":"other""#,
        r#","revoked_at":1,"revoked_at":1"#,
        r#","expires_at":"2026-03-23T14:30:00Z","expires_at":null"#,
        r#","limits":{"a":"0/1m","a":"60/1m"}"#,
    ] {
        assert!(key(members).is_err(), "{members}");
    }
    assert!(business(r#"{"status":"suspended","status":"active"}"#).is_err());
}

#[test]
fn an_error_names_the_member() {
    let error = key(r#","expires_at":"soon""#).map_err(|e| e.to_string());
    assert_eq!(error, Err("expires_at: `soon` is no RFC 3339 time".to_owned()));
    let error = key(r#","limits":{"per-key":"often"}"#).map_err(|e| e.to_string()).expect_err("a bad window");
    assert!(error.starts_with("limits.per-key: `often` is not a window"), "{error}");
}

#[test]
fn a_document_in_another_tenants_slot_is_unreadable() {
    let (json, acme) = (br#"{"id":"k","business":"acme","user":"u"}"#, Tenant::Business("acme".to_owned()));
    assert!(KeyDocument::parse_in(&acme, json).is_ok());
    assert!(KeyDocument::parse_in(&Tenant::User("u".to_owned()), json).is_err());
    assert!(KeyDocument::parse_in(&Tenant::Business("other".to_owned()), json).is_err());
}

#[test]
fn only_absent_and_active_are_active() {
    assert_eq!(business("{}"), Ok(BusinessDocument::default()));
    assert_eq!(
        business(r#"{"status":"active","plan":"pro"}"#).map(|b| (b.status, b.plan)),
        Ok((Status::Active, Some("pro".into())))
    );
    assert_eq!(business(r#"{"status":"suspended"}"#).map(|b| b.status), Ok(Status::Suspended));
    for other in ["null", "\"\"", "\"Active\"", "\"closed\"", "true", "{}"] {
        let status = business(&format!(r#"{{"status":{other}}}"#)).map(|b| b.status);
        assert_eq!(status, Ok(Status::Other), "{other}");
    }
    for wrong in ["", "null", "[]", r#"{"plan":1}"#, r#"{"limits":{"a":"x"}}"#] {
        assert!(business(wrong).is_err(), "{wrong}");
    }
}
