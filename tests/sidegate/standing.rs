//! Whose a key is and what it may do, as the documents in the store say at this moment: no cache delay, on any sidecar.

use serde_json::{Value, json};

use crate::support::{Answer, AnswerTo as _, Gate, Key, Stage};

const YAML: &str = "
scopes: {implies: {admin: ['*'], write: [read]}}
plans: {free: {api: false}, pro: {}, pro-plus: {limits: {per-key: 70/1m}}}
limits: {per-key: {by: key, windows: 60/1m}}
defaults: {limits: [per-key]}
routes:
  GET /things/**: 'things:read'
  POST /things/**: 'things:write'
  GET /reports: {scopes: ['things:read', 'reports:read']}
  GET /either: {any_scope: ['things:read', 'reports:read']}
  GET /coarse: read
  GET /anything: any
";

#[tokio::test]
async fn a_document_changed_in_redis_acts_on_the_very_next_request_on_every_sidecar() {
    let yard = Yard::set();
    let limit_is = |limit: u64| move |answer: &Answer| answer.number("x-ratelimit-limit") == limit;
    let status_is = |status: u16| move |answer: &Answer| answer.status == status;

    let key = yard.key(json!({}));
    yard.next(&key, "as minted", status_is(200)).await;
    yard.change(&key, json!({"scopes": ["reports:read"]}));
    yard.next(&key, "other scopes", status_is(403)).await;
    yard.change(&key, json!({"scopes": ["things:read"]}));
    yard.next(&key, "its scopes again", status_is(200)).await;
    yard.change(&key, json!({"limits": {"per-key": "7000/1m"}}));
    yard.next(&key, "another limit", limit_is(7000)).await;
    yard.change(&key, json!({"limits": null}));
    yard.next(&key, "no limit of its own", limit_is(60)).await;
    yard.business(json!({"plan": "pro-plus"}));
    yard.next(&key, "a plan with a limit", limit_is(70)).await;
    yard.business(json!({"plan": "pro", "limits": {"per-key": "80/1m"}}));
    yard.next(&key, "a limit of the business", limit_is(80)).await;
    yard.business(json!({"plan": "free"}));
    yard.next(&key, "a plan without API access", status_is(403)).await;
    yard.business(json!({"plan": "pro", "status": "suspended"}));
    yard.next(&key, "a suspended business", status_is(403)).await;
    yard.business(json!({"plan": "pro", "status": "odd"}));
    yard.next(&key, "a status that nobody knows", status_is(403)).await;
    yard.business(json!({"plan": "pro"}));
    yard.change(&key, json!({"expires_at": "2026-03-23T14:30:00Z"}));
    yard.next(&key, "expired", status_is(401)).await;
    yard.change(&key, json!({"expires_at": "2126-03-23T14:30:00Z"}));
    yard.next(&key, "a later expiry", status_is(200)).await;
    yard.change(&key, json!({"revoked_at": "2126-03-23T14:30:00Z"}));
    yard.next(&key, "revoked, whatever the time", status_is(401)).await;
    yard.change(&key, json!({"revoked_at": null}));
    yard.next(&key, "not revoked", status_is(200)).await;
    yard.stage.redis.delete(&key.document());
    yard.next(&key, "deleted", status_is(401)).await;
}

#[tokio::test]
async fn a_business_that_appears_or_goes_acts_on_the_next_request() {
    let yard = Yard::set();
    let key = yard.key(json!({}));
    yard.stage.redis.delete("sg:{b:acme}:business");
    yard.next(&key, "no document is no plan", |answer| answer.denial() == (403, "plan_required".to_owned())).await;
    yard.business(json!({}));
    yard.next(&key, "a document without a plan", |answer| answer.status == 403).await;
    yard.business(json!({"plan": "pro"}));
    yard.next(&key, "a plan", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn a_key_expires_by_the_stores_clock_while_it_is_in_use() {
    let yard = Yard::set();
    let expires_at = yard.stage.redis.now_ms() / 1000 + 6;
    let key = yard.key(json!({"expires_at": sidegate::clock::rfc3339(expires_at * 1000)}));
    yard.next(&key, "before", |answer| answer.status == 200).await;
    yard.stage.redis.wait_until(expires_at * 1000);
    yard.next(&key, "from this second on", |answer| answer.denial() == (401, "invalid_api_key".to_owned())).await;
}

#[tokio::test]
async fn a_key_minted_where_an_unknown_one_was_asked_about_works_at_once() {
    let yard = Yard::set();
    let text = "sg_0123456789012345678901234567890123456789012";
    let unknown = yard.gates[0].get("/things").bearer_auth(text).answer().await;
    assert_eq!(unknown.denial(), (401, "invalid_api_key".to_owned()));
    let key = yard.stage.redis.mint_as(text, json!({"business": "acme", "scopes": ["things:read"]}));
    yard.next(&key, "minted since", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn a_key_that_moved_to_another_tenant_is_found_there() {
    let yard = Yard::set();
    let key = yard.key(json!({}));
    yard.next(&key, "at home", |answer| answer.status == 200).await;
    yard.stage.redis.set_business("umbrella", json!({"plan": "pro"}));
    let moved = yard.stage.redis.mint_as(&key.text, json!({"business": "umbrella", "scopes": ["things:read"]}));
    yard.stage.redis.delete(&key.document());
    yard.next(&moved, "moved", |answer| answer.status == 200).await;
}

#[tokio::test]
async fn scopes_are_held_by_name_by_star_by_prefix_and_by_implication() {
    let yard = Yard::set();
    for (scopes, path, status) in [
        (json!(["things:read"]), "/things/7", 200),
        (json!(["things:write"]), "/things/7", 403),
        (json!(["*"]), "/things/7", 200),
        (json!(["admin"]), "/things/7", 200),
        (json!(["things:*"]), "/things/7", 200),
        (json!(["thing:*"]), "/things/7", 403),
        (json!(["reports:*"]), "/things/7", 403),
        (json!(["things:rea"]), "/things/7", 403),
        (json!(["Things:Read"]), "/things/7", 403),
        (json!([]), "/things/7", 403),
        (json!(["things:read"]), "/reports", 403),
        (json!(["things:read", "reports:read"]), "/reports", 200),
        (json!(["reports:read"]), "/either", 200),
        (json!(["other"]), "/either", 403),
        (json!(["write"]), "/coarse", 200),
        (json!(["read"]), "/coarse", 200),
        (json!([]), "/anything", 200),
    ] {
        let key = yard.key(json!({"scopes": scopes}));
        let answer = yard.gates[0].get(path).bearer_auth(&key.text).answer().await;
        assert_eq!(answer.status, status, "{scopes} on {path}");
    }
}

#[tokio::test]
async fn a_key_of_a_user_is_refused_where_plans_are_asked_about_and_no_business_is_named() {
    let yard = Yard::set();
    let key = yard.stage.redis.mint(json!({"user": "u_42", "scopes": ["things:read"]}));
    yard.next(&key, "names none", |answer| answer.denial() == (403, "business_forbidden".to_owned())).await;
}

#[tokio::test]
async fn a_named_business_spends_from_its_own_limit() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
business: {from: [{query: business_id}]}
limits: {per-business: {by: business, windows: 60/1h}}
routes: {/things: {any: true, limits: [per-business]}}
",
    );
    let key = stage.redis.mint(json!({"user": "u_42"})).text;
    stage.redis.own("u_42", "acme");
    stage.redis.own("u_42", "umbrella");
    stage.redis.room(3_600_000, 30_000);
    for (business, remaining) in [("acme", 59), ("umbrella", 59), ("acme", 58)] {
        let answer = gate.get(&format!("/things?business_id={business}")).bearer_auth(&key).answer().await;
        assert_eq!((answer.status, answer.number("x-ratelimit-remaining")), (200, remaining), "{business}");
    }
    stage.redis.set_business("acme", json!({"status": "suspended"}));
    let suspended = gate.get("/things?business_id=acme").bearer_auth(&key).answer().await;
    assert_eq!(suspended.denial(), (403, "business_suspended".to_owned()));
    stage.redis.ask::<()>(&["SREM", "sg:{u:u_42}:businesses", "umbrella"]);
    let lost = gate.get("/things?business_id=umbrella").bearer_auth(&key).answer().await;
    assert_eq!(lost.denial(), (403, "business_forbidden".to_owned()));
    let strange = gate.get("/things?business_id=a%20b").bearer_auth(&key).answer().await;
    assert_eq!(strange.status, 400, "an id that no business can have");
}

#[tokio::test]
async fn a_business_named_in_a_way_that_only_some_services_read_is_refused() {
    let stage = Stage::set();
    let gate = stage.gate("business: {from: [{query: business_id}]}\nroutes: {/things: any}");
    let key = format!("X-API-Key: {}", stage.redis.mint(json!({"business": "acme"})).text);
    let asked = |query: &str| gate.raw("GET", format!("/things?{query}"), &[key.as_bytes()]).status;
    for alike in ["business.id", "business%20id", "business+id", "business%5Bid", "Business_ID", "business_id[]"] {
        assert_eq!(asked(&format!("{alike}=b2")), 400, "{alike}");
        assert_eq!(asked(&format!("business_id=acme&{alike}=b2")), 400, "beside its own business: {alike}");
    }
    assert_eq!(asked("business_id=acme&business-id=b2&businessid=b2"), 200, "no service takes these for it");
}

#[tokio::test]
async fn a_key_with_allowed_addresses_works_from_these_alone() {
    let yard = Yard::set();
    let key = yard.key(json!({"allow_addresses": ["127.0.0.1/32"]}));
    yard.next(&key, "its own address", |answer| answer.status == 200).await;
    yard.change(&key, json!({"allow_addresses": ["192.0.2.0/24"]}));
    yard.next(&key, "another", |answer| answer.denial() == (403, "denied_address".to_owned())).await;
}

/// Two sidecars and a business on a plan.
struct Yard {
    stage: Stage,
    gates: [Gate; 2],
}

impl Yard {
    fn set() -> Self {
        let stage = Stage::set();
        let gates = [stage.gate(YAML), stage.gate(YAML)];
        let yard = Self { stage, gates };
        yard.business(json!({"plan": "pro"}));
        yard
    }

    fn business(&self, document: Value) {
        self.stage.redis.set_business("acme", document);
    }

    fn key(&self, document: Value) -> Key {
        let mut whole = json!({"business": "acme", "scopes": ["things:read"]});
        for (name, value) in document.as_object().expect("a document is an object") {
            whole[name] = value.clone();
        }
        self.stage.redis.mint(whole)
    }

    fn change(&self, key: &Key, changes: Value) {
        self.stage.redis.rewrite(key, changes);
    }

    /// The next request on each sidecar is answered so.
    async fn next(&self, key: &Key, what: &str, holds: impl Fn(&Answer) -> bool) {
        for (sidecar, gate) in self.gates.iter().enumerate() {
            let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
            assert!(holds(&answer), "{what}, on sidecar {sidecar}: {answer:?} {}", answer.text());
        }
    }
}
