//! What `explain` says beyond the verdict: whose limits hold, why a business is out of reach, and what the base path did.

use serde_json::{Value, json};

use crate::support::{Gate, Stage, gate::text};

const ROUTES: &str = "
base_path: /api
business: {from: [{query: business_id}]}
limits: {per-key: {by: key, windows: [20/1s, 5/1d]}}
routes:
  GET /v1/calls/{id}: calls:read
  GET /v1/calls: {scopes: calls:read, limits: per-key, cost: 2}
";

#[test]
fn a_limit_is_explained_as_it_holds_and_by_whom() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let create =
        |more: &[&str]| gate.new_key(&[&["--name", "n", "--business", "b1", "--scopes", "calls:read"], more].concat());
    let (plain, own) = (create(&[]), create(&["--limit", "per-key=7/1m"]));
    let explained = |key: &str| {
        let said = text(&gate.command_reading(&["explain", "/api/v1/calls"], key).stdout);
        let told = gate.command_reading(&["explain", "/api/v1/calls", "--json"], key);
        let told: Value = serde_json::from_slice(&told.stdout).expect("one JSON document");
        (said, told["route"]["limits"][0].clone())
    };
    let (said, limit) = explained(&plain);
    assert!(said.contains("per-key per key 20/1s, 5/1d (as configured), of which this takes 2"), "{said}");
    assert_eq!((&limit["windows"], &limit["from"]), (&json!("20/1s, 5/1d"), &json!("configuration")));
    let (said, limit) = explained(&own);
    assert!(said.contains("per-key per key 7/1m (set on the key; the configuration says 20/1s, 5/1d)"), "{said}");
    assert!(said.contains("per-key: 7 of 7/1m"), "{said}");
    assert_eq!(json!([limit["windows"], limit["configured"], limit["from"]]), json!(["7/1m", "20/1s, 5/1d", "key"]));
    assert!(gate.command(&["business", "set", "b1", "--limit", "per-key=9/1m"]).status.success());
    let (said, limit) = explained(&plain);
    assert!(said.contains("9/1m (set on business b1;"), "{said}");
    assert_eq!(limit["from"], "business");
    assert_eq!(explained(&own).1["from"], "key", "the most specific holds");
}

#[test]
fn a_limit_of_a_plan_is_explained_as_the_plans() {
    let stage = Stage::set();
    let plans = "plans: {default: {limits: {per-key: [8/1s, 4/1d]}}, pro: {limits: {per-key: [90/1s, 6/1d]}}}";
    let gate = stage.gate(&format!("{ROUTES}{plans}\n"));
    let key = gate.new_key(&["--name", "n", "--business", "b1", "--scopes", "calls:read"]);
    let explained = || text(&gate.command_reading(&["explain", "/api/v1/calls"], &key).stdout);
    assert!(explained().contains("8/1s, 4/1d (of plan default; the configuration says"), "{}", explained());
    assert!(gate.command(&["business", "set", "b1", "--plan", "pro"]).status.success());
    assert!(explained().contains("90/1s, 6/1d (of plan pro; the configuration says"), "{}", explained());
}

#[test]
fn a_business_out_of_reach_is_explained_by_what_would_reach_it() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let explained = |key: &str, request: &str| text(&gate.command_reading(&["explain", request], key).stdout);
    let unscoped = gate.new_key(&["--name", "n", "--user", "u1", "--scopes", "calls:read"]);
    let said = explained(&unscoped, "/api/v1/calls/7?business_id=b2");
    assert!(said.contains("whose set lacks `b2`; `SADD sg:{u:u1}:businesses b2` in Redis adds it"), "{said}");
    let bound = gate.new_key(&["--name", "n", "--business", "b1", "--scopes", "calls:read"]);
    let said = explained(&bound, "/api/v1/calls/7?business_id=b2");
    assert!(said.contains("Why: the key is bound to `b1`"), "{said}");
}

#[test]
fn a_path_on_the_wrong_side_of_the_base_path_is_explained() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let why = |gate: &Gate, request: &str| {
        gate.json(&["explain", request, "--json"])["why"].as_str().unwrap_or_default().to_owned()
    };
    let told = why(&gate, "GET /v1/calls");
    assert!(told.contains("Every route is below /api (`base_path`): GET /api/v1/calls matches"), "{told}");
    let told = why(&gate, "GET /nowhere");
    assert!(told.contains("Every route is below /api (`base_path`), and this path is not"), "{told}");
    assert!(!why(&gate, "GET /api/nowhere").contains("base_path"));
    let gate = stage.gate("base_path: /api\nroutes: {GET /api/v1/calls: any, /v2/calls: any}");
    let told = why(&gate, "GET /api/v1/calls");
    assert!(told.contains("`GET /api/v1/calls` repeats `base_path`"), "{told}");
}
