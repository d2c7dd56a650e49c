//! A request that waits for its answer: its key is asked about again meanwhile, and it ends when it is too old, whatever patience
//! its client asks for.

use std::time::Duration;

use serde_json::json;

use crate::support::{Answer, AnswerTo as _, Gate, Stage, client, upstream::frames};

const PATIENCE: Duration = Duration::from_secs(20);
const CALL: [(&str, &str); 3] = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "1H")];

/// Its routes wait for longer than any test.
const ROUTES: &str = "
routes:
  /things: {scopes: ['things:read'], response_timeout: 1h}
  /public: {public: true, response_timeout: 1h}
  /short: {public: true, response_timeout: 300ms}
";

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_an_answer_gets_none_once_the_key_is_revoked() {
    for (http2, body) in [(false, ""), (false, "body"), (true, ""), (true, "body")] {
        for call in [false, true] {
            let (stage, gate) = silent("streams: {recheck: 200ms}");
            let key = stage.redis.mint(json!({"business": "acme", "scopes": ["things:read"]}));
            let request = ask(&gate, http2, "/things", call).bearer_auth(&key.text).body(body);
            let answer = tokio::spawn(request.answer());
            stage.upstream.until("the whole request", |seen| seen.complete);
            stage.redis.rewrite(&key, json!({"revoked_at": "2026-03-23T14:30:00Z"}));
            let answer = in_time(answer).await;
            let denied = if call { (200, Some("16")) } else { (401, None) };
            assert_eq!((answer.status, answer.header("grpc-status")), denied, "HTTP/2: {http2}, {body:?}: {answer:?}");
            assert_eq!(gate.logged("/things")["sidegate.reason"], "revoked_key");
        }
    }
}

/// Where nothing is wrong with a call its client may call again: its own deadline has not passed.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_never_older_than_max_age() {
    for (http2, body) in [(false, ""), (false, "body"), (true, ""), (true, "body")] {
        for call in [false, true] {
            let (_stage, gate) = silent("streams: {max_age: 300ms}");
            let answer = in_time(tokio::spawn(ask(&gate, http2, "/public", call).body(body).answer())).await;
            is_too_old(&answer, call);
            assert_eq!(gate.logged("/public")["sidegate.reason"], "max_age");
        }
    }
    // A call whose client goes on as well.
    let (_stage, gate) = silent("streams: {max_age: 300ms}");
    let (sends, body) = frames();
    sends.send("begun");
    let call = ask(&gate, true, "/short", true).body(reqwest::Body::wrap(body));
    is_too_old(&in_time(tokio::spawn(call.answer())).await, true);
    assert_eq!(gate.metric("sidegate_denials_total", &["reason=\"upstream_timeout\""]), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_call_has_a_deadline_of_its_own() {
    let (_stage, gate) = silent("streams: {max_age: 1h}");
    for http2 in [false, true] {
        let url = gate.url("/short");
        let request = of(http2).get(url).headers(call());
        let answer = in_time(tokio::spawn(request.answer())).await;
        assert_eq!(answer.denial(), (504, "upstream_timeout".to_owned()), "a GET is none");
    }
}

fn silent(yaml: &str) -> (Stage, Gate) {
    let stage = Stage::set();
    stage.upstream.fall_silent();
    let gate = stage.gate(&format!("{yaml}{ROUTES}"));
    (stage, gate)
}

fn of(http2: bool) -> reqwest::Client {
    let client = client::http(&[]);
    let client = if http2 { client.http2_prior_knowledge() } else { client };
    client.build().expect("the client's settings are valid")
}

fn call() -> http::HeaderMap {
    CALL.into_iter().map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value"))).collect()
}

fn ask(gate: &Gate, http2: bool, path: &str, is_call: bool) -> reqwest::RequestBuilder {
    let request = of(http2).post(gate.url(path));
    if is_call { request.headers(call()) } else { request }
}

async fn in_time(answer: tokio::task::JoinHandle<Answer>) -> Answer {
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    answer.expect("the wait ends").expect("the client gets an answer")
}

fn is_too_old(answer: &Answer, call: bool) {
    if call {
        let (status, message) = (answer.header("grpc-status"), answer.header("grpc-message"));
        assert_eq!((status, message), (Some("14"), Some("The request was open for too long")), "{answer:?}");
    } else {
        assert_eq!(answer.denial(), (503, "max_age".to_owned()));
    }
}
