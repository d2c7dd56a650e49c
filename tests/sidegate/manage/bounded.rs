//! What may be made: how many keys, how fast, and with which scopes.

use serde_json::{Value, json};

use super::{ADA, BOB, FILE, KEYS, YAML, ask, create, sign_in, text, uses, yard, yards};
use crate::support::{Answer, Stage, client::together};

#[tokio::test]
async fn of_eleven_keys_asked_for_at_once_on_each_of_two_sidecars_ten_are_made() {
    let (stage, one) = yard("", "");
    let two = stage.gate(YAML);
    let body = json!({"name": "n", "business_id": "acme", "scopes": ["*"]});
    let requests = (0..22).map(|n| [&one, &two][n % 2].signed_in(ADA, "POST", KEYS).json(&body));
    let answers = together(requests).await;
    let made: Vec<Value> = answers.iter().filter(|answer| answer.status == 201).map(Answer::json).collect();
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status != 201).map(Answer::denial).collect();
    assert_eq!((made.len(), refused), (10, vec![(409, "too_many_keys".to_owned()); 12]));
    for key in &made {
        assert_eq!((uses(&one, key).await, uses(&two, key).await), (200, 200));
    }
    assert_eq!(ask(&one, ADA, "DELETE", &format!("/{}", text(&made[0], "id")), Value::Null).await.status, 204);
    assert_eq!((uses(&two, &made[0]).await, uses(&one, &made[0]).await), (401, 401), "revoked everywhere at once");
    assert_eq!(ask(&two, ADA, "POST", "", body).await.status, 201, "there is room again");
}

#[tokio::test]
async fn of_eleven_keys_asked_for_at_once_beside_a_file_ten_are_made() {
    let (_stage, gate) = yard(FILE, "");
    let body = json!({"name": "n", "business_id": "acme", "scopes": ["*"]});
    let answers = together((0..11).map(|_| gate.signed_in(ADA, "POST", KEYS).json(&body))).await;
    let count = |status| answers.iter().filter(|answer| answer.status == status).count();
    assert_eq!((count(201), count(409)), (10, 1));
    assert_eq!(ask(&gate, ADA, "GET", "", Value::Null).await.json()["total"], 10);
}

#[tokio::test]
async fn a_role_gives_no_more_than_it_may() {
    for (_stage, gate) in yards("") {
        let key = create(&gate, ADA, "umbrella").await;
        let path = format!("/{}", text(&key, "id"));
        let widened = ask(&gate, ADA, "PATCH", &path, json!({"scopes": ["calls:read", "calls:write"]})).await;
        assert_eq!(widened.denial(), (403, "role_required".to_owned()));
        assert!(widened.text().contains("`calls:write` is more than your role may grant"), "{}", widened.text());
        assert_eq!(ask(&gate, ADA, "PATCH", &path, json!({"name": "other"})).await.status, 200);
        assert_eq!(ask(&gate, ADA, "PATCH", &path, json!({})).await.status, 422);
        let wide = gate.keys_create(&["--name", "wide", "--business", "umbrella", "--scopes", "*"]);
        let rotated = ask(&gate, ADA, "POST", &format!("/{}/rotate", text(&wide, "id")), Value::Null).await;
        assert_eq!(rotated.denial(), (403, "role_required".to_owned()), "a successor would be more than she may give");
        assert_eq!(ask(&gate, ADA, "DELETE", &format!("/{}", text(&wide, "id")), Value::Null).await.status, 204);
    }
}

#[tokio::test]
async fn a_user_creates_no_faster_than_he_may_on_all_sidecars_together() {
    for store in ["", FILE] {
        let yaml = format!("{store}{}", YAML.replace("1000/1m", "3/1h"));
        let stage = Stage::set();
        sign_in(&stage);
        stage.redis.room(3_600_000, 60_000);
        let one = stage.gate(&yaml);
        let two = if store.is_empty() { Some(stage.gate(&yaml)) } else { None };
        let two = two.as_ref().unwrap_or(&one);
        let body = json!({"name": "n", "business_id": "acme", "scopes": ["*"]});
        // What is refused before the rate is asked takes nothing from it.
        assert_eq!(
            ask(&one, ADA, "POST", "", json!({"name": "n", "business_id": "hooli", "scopes": ["*"]})).await.status,
            403
        );
        let requests = (0..6).map(|n| [&one, two][n % 2].signed_in(ADA, "POST", KEYS).json(&body));
        let answers = together(requests).await;
        let denied: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
        assert_eq!((answers.iter().filter(|answer| answer.status == 201).count(), denied.len()), (3, 3));
        assert!((1..=3600).contains(&denied[0].number("retry-after")));
        assert_eq!(denied[0].json()["violated-policies"], json!(["create-rate"]));
        let id = answers.iter().find(|answer| answer.status == 201).map(|answer| text(&answer.json(), "id").to_owned());
        let rotate = format!("/{}/rotate", id.expect("three were made"));
        assert_eq!(ask(&one, ADA, "POST", &rotate, Value::Null).await.status, 429, "a successor is a new key, too");
        assert_eq!(create(&one, BOB, "initech").await["user_id"], "u_bob", "others have their own");
    }
}

/// Or the audit, which keeps ten thousand changes, would soon hold nothing else.
#[tokio::test]
async fn a_user_changes_no_more_keys_a_minute_than_he_may() {
    for (_stage, gate) in yards("") {
        let key = create(&gate, ADA, "acme").await;
        let path = format!("/{}", text(&key, "id"));
        let mut passed = 0;
        let denied = loop {
            let answer = ask(&gate, ADA, "PATCH", &path, json!({"name": format!("n{passed}")})).await;
            match answer.status {
                200 => passed += 1,
                _ => break answer,
            }
            // However slow this machine is, the day has 3000.
            assert!(passed <= 3000);
        };
        assert!(passed >= 300, "{passed}");
        assert_eq!((denied.status, denied.json()["violated-policies"].clone()), (429, json!(["change-rate"])));
        assert!(denied.number("retry-after") >= 1);
        assert_eq!(ask(&gate, ADA, "GET", &path, Value::Null).await.status, 200, "looking is free");
        let other = create(&gate, BOB, "initech").await;
        let path = format!("/{}", text(&other, "id"));
        assert_eq!(ask(&gate, BOB, "DELETE", &path, Value::Null).await.status, 204, "others have their own");
    }
}

#[tokio::test]
async fn unscoped_keys_are_their_users_and_made_only_where_that_is_allowed() {
    for (_stage, gate) in yards("  unscoped: true\n") {
        let both = json!({"name": "n", "business_id": "acme", "unscoped": true, "scopes": ["calls:read"]});
        assert_eq!(ask(&gate, ADA, "POST", "", both).await.status, 422);
        let wide = json!({"name": "n", "unscoped": true, "scopes": ["calls:write"]});
        assert_eq!(ask(&gate, ADA, "POST", "", wide).await.status, 403, "in umbrella she may not give that");
        let created =
            ask(&gate, ADA, "POST", "", json!({"name": "n", "unscoped": true, "scopes": ["calls:read"]})).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let created = created.json();
        assert_eq!((&created["business_id"], text(&created, "user_id")), (&Value::Null, "u_ada"));
        assert_eq!(uses(&gate, &created).await, 200);
        let path = format!("/{}", text(&created, "id"));
        assert_eq!(ask(&gate, BOB, "GET", &path, Value::Null).await.status, 404);
        assert_eq!(ask(&gate, ADA, "GET", "", Value::Null).await.json()["total"], 1);
        let nobody = json!({"name": "n", "unscoped": true, "scopes": ["calls:read"]});
        assert_eq!(ask(&gate, "sid=nobody", "POST", "", nobody).await.denial(), (403, "role_required".to_owned()));
        assert_eq!(ask(&gate, ADA, "DELETE", &path, Value::Null).await.status, 204);
    }
}
