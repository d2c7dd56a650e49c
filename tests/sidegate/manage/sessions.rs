//! The session endpoint: what it is shown, what it may answer, and how long it is waited for.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{ADA, FILE, KEYS, YAML, create, text, yard};
use crate::support::{AnswerTo as _, Gate, Stage, Upstream};

/// A gate whose sessions are somebody else's to know.
fn with_sessions_of(endpoint: &Upstream) -> (Stage, Gate) {
    let stage = Stage::set();
    let at = format!("{}/session?of=gate", endpoint.url());
    let gate = stage.gate(&YAML.replace("${SESSION_URL}", &at));
    (stage, gate)
}

async fn status(gate: &Gate) -> u16 {
    gate.signed_in(ADA, "GET", KEYS).answer().await.status
}

#[tokio::test]
async fn it_is_shown_cookies_and_authorization_and_nothing_else() {
    let endpoint = Upstream::start();
    endpoint.respond_with(200, &[], json!({"user": "u", "businesses": [{"id": "acme", "role": "admin"}]}).to_string());
    let (_stage, gate) = with_sessions_of(&endpoint);
    let request = gate.signed_in("sid=ada; theme=dark", "GET", &format!("{KEYS}?page=1"));
    let request =
        request.header("authorization", "Bearer session-token").header("x-api-key", "sg_x").header("x-user", "u_1");
    assert_eq!(request.answer().await.status, 200);
    let seen = endpoint.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str(), seen.body.len()), ("GET", "/session?of=gate", 0));
    let mut names: Vec<_> = seen.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "authorization", "cookie", "host"]);
    assert_eq!(
        (seen.header("cookie"), seen.header("authorization")),
        (Some("sid=ada; theme=dark"), Some("Bearer session-token"))
    );
    assert_eq!(seen.header("host"), Some(endpoint.address.to_string().as_str()));
}

#[tokio::test]
async fn a_key_is_never_shown_to_it() {
    for store in ["", FILE] {
        let (stage, gate) = yard(store, "");
        let key = create(&gate, ADA, "acme").await;
        let key = text(&key, "key");
        let legacy =
            (store.is_empty()).then(|| stage.redis.mint_as("legacy-key-without-a-prefix", json!({"business": "acme"})));
        stage.upstream.take();
        let mut values = vec![format!("Bearer {key}"), format!("Basic x, Bearer {key}"), key.to_owned()];
        values.extend(legacy.map(|legacy| format!("Bearer {}", legacy.text)));
        for value in values {
            let answer = gate.get(KEYS).header("authorization", &value).answer().await;
            assert_eq!(answer.denial(), (401, "no_session".to_owned()));
            let beside = gate.signed_in(ADA, "GET", KEYS).header("authorization", &value).answer().await;
            assert_eq!(beside.status, 200, "the cookie is a session all the same");
            let cookie = gate.signed_in(&format!("sid=ada; k={key}"), "GET", KEYS).answer().await;
            assert_eq!(cookie.status, 200);
        }
        for seen in stage.upstream.take() {
            let shown = format!("{seen:?}");
            assert!(!shown.contains(key) && !shown.contains("legacy-key"), "{shown}");
        }
    }
}

#[tokio::test]
async fn whatever_is_not_a_session_is_none() {
    let endpoint = Upstream::start();
    let (_stage, gate) = with_sessions_of(&endpoint);
    let good = json!({"user": "u_1", "businesses": [{"id": "acme", "role": "admin"}]});
    let large = json!({"user": "u_1", "businesses": [{"id": "acme", "role": "admin"}], "x": "x".repeat(65 * 1024)});
    let elsewhere = format!("{}/other", endpoint.url());
    for (status_there, headers, body, expected) in [
        (200, vec![], good.to_string(), 200),
        (401, vec![], good.to_string(), 401),
        (201, vec![], good.to_string(), 401),
        (500, vec![], good.to_string(), 401),
        (302, vec![("location", elsewhere.as_str())], String::new(), 401),
        (307, vec![("location", elsewhere.as_str())], good.to_string(), 401),
        (200, vec![], "<html>sign in</html>".to_owned(), 401),
        (200, vec![], json!({"user": "u_1"}).to_string(), 401),
        (200, vec![], json!({"user": "u 1", "businesses": []}).to_string(), 401),
        (200, vec![], large.to_string(), 401),
    ] {
        endpoint.respond_with(status_there, &headers, body.clone());
        assert_eq!(status(&gate).await, expected, "{status_there} {:.80}", body);
        assert_eq!(endpoint.only().target, "/session?of=gate", "no redirect is followed");
    }
}

#[tokio::test]
async fn it_is_asked_again_with_every_request() {
    let (stage, gate) = yard("", "");
    assert_eq!(status(&gate).await, 200);
    stage.upstream.sign_all_out();
    assert_eq!(status(&gate).await, 401, "nothing is remembered");
    assert_eq!(gate.get(KEYS).answer().await.status, 401);
    assert_eq!(stage.upstream.take().len(), 2, "who shows nothing is not asked about");
}

// On two threads: the test waits while its own request does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_silent_or_gone_is_no_session_within_two_seconds_and_holds_nobody_up() {
    let endpoint = Upstream::start();
    let (stage, gate) = with_sessions_of(&endpoint);
    endpoint.fall_silent();
    let key = stage.redis.mint(json!({"business": "acme"}));
    let mut served_meanwhile = 0;
    // A busy machine may need two seconds for others, too.
    for _ in 0..3 {
        endpoint.take();
        let began = Instant::now();
        let waiting = tokio::spawn(gate.signed_in(ADA, "GET", KEYS).answer());
        endpoint.until("the question", |seen| seen.target == "/session?of=gate");
        assert_eq!(gate.get("/api/v1/calls").bearer_auth(&key.text).answer().await.status, 200);
        served_meanwhile += usize::from(!waiting.is_finished());
        assert_eq!(waiting.await.expect("it does not panic").denial(), (401, "no_session".to_owned()));
        assert!(began.elapsed() >= Duration::from_millis(1900), "it had its two seconds");
    }
    assert!(served_meanwhile > 0, "others are served meanwhile");
    drop(endpoint);
    assert_eq!(status(&gate).await, 401);
    gate.said("management.session");
}
