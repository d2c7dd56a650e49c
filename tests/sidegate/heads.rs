//! Heads that are larger than they may be: answered, worded, logged and counted like every other request, as far as they can be
//! read at all.

use serde_json::json;

use crate::support::{Answer, Gate, Stage, until};

fn fields(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("x-{number}: 1").into_bytes()).collect()
}

fn ask(gate: &Gate, target: &str, fields: &[Vec<u8>]) -> Answer {
    let fields: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
    gate.raw("GET", target, &fields)
}

fn failed_heads(gate: &Gate) -> f64 {
    gate.metric("sidegate_connections_failed_total", &["why=\"head\""])
}

#[test]
fn a_head_of_too_many_fields_or_too_long_a_target_is_answered_like_every_denial() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public: public}");
    let long = format!("/public?{}", "x".repeat(40_000));
    let wide = vec![format!("x: {}", "x".repeat(40_000)).into_bytes()];
    for (target, fields, status, code) in [
        ("/public", fields(99), 431, "headers_too_large"),
        ("/public", fields(110), 431, "headers_too_large"),
        ("/public", fields(390), 431, "headers_too_large"),
        ("/public", wide, 431, "headers_too_large"),
        (long.as_str(), fields(0), 414, "uri_too_long"),
    ] {
        let count = fields.len();
        let (reason, sent) = (format!("reason=\"{code}\""), format!("status=\"{status}\""));
        let refused =
            || gate.metric("sidegate_denials_total", &[&reason]) + gate.metric("sidegate_requests_total", &[&sent]);
        let before = refused();
        let answer = ask(&gate, target, &fields);
        assert_eq!(answer.denial(), (status, code.to_owned()), "{count} fields");
        let line = gate.logged(answer.header("x-request-id").expect("every answer has one"));
        assert_eq!(
            (&line["http.response.status_code"], &line["sidegate.reason"]),
            (&json!(status), &json!(code)),
            "{count} fields: {line}"
        );
        assert!((refused() - before - 2.0).abs() < 0.1, "{count} fields are counted");
        assert_eq!(line["http.route"], "/public", "{count} fields: {line}");
    }
    assert!(stage.upstream.seen().is_empty());
    // With fewer, since the upstream of the tests takes a hundred too, and the gate adds some.
    assert_eq!(ask(&gate, "/public", &fields(80)).status, 200);
}

#[test]
fn a_head_of_too_many_fields_is_worded_as_configured() {
    let stage = Stage::set();
    let gate =
        stage.gate("errors: {headers_too_large: {status: 400, body: {error: '{code}'}}}\nroutes: {/public: public}");
    let answer = ask(&gate, "/public", &fields(110));
    assert_eq!((answer.status, answer.json()), (400, json!({"error": "headers_too_large"})));
}

/// Room for what is read of a head is bounded too. What is beyond it is not known well enough to be a request.
#[test]
fn a_head_that_cannot_be_read_gets_a_status_and_is_counted() {
    let stage = Stage::set();
    let gate = stage.gate("routes: {/public: public}");
    let before = failed_heads(&gate);
    for (number, (target, count, statuses)) in
        (1_u32..).zip([("/public".to_owned(), 500, [431, 431]), (format!("/{}", "x".repeat(70_000)), 0, [414, 431])])
    {
        let answer = ask(&gate, &target, &fields(count));
        assert!(statuses.contains(&answer.status), "{answer:?}");
        until("it to be counted", || (failed_heads(&gate) - before > f64::from(number) - 0.5).then_some(()));
    }
    gate.said("a connection failed before its request");
    assert!(stage.upstream.seen().is_empty());
}
