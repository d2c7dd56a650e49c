//! The tools of who puts the gate in front of a service that somebody else wrote: what it would do, before it does it.

use std::{
    io::{PipeWriter, pipe},
    path::Path,
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::{
    AnswerTo as _, Stage,
    gate::{on_config, on_terminal, sidegate, text},
    in_repository, profile, whole,
};

const ROUTES: &str = "
listen: {address: 127.0.0.1:0, trusted_proxies: [10.0.0.0/8]}
upstream: {url: \"${UPSTREAM_URL}\", identity: {X-Business-Id: '{business}'}, headers: {X-Gate-Secret: hunter2}}
base_path: /api
business: {from: [{query: business_id}]}
limits: {per-key: {by: key, windows: [20/1s, 5/1d]}, signup: {by: ip, windows: 5/1h}}
routes:
  GET /v1/calls/{id}: calls:read
  GET /v1/calls: {scopes: calls:read, limits: per-key, cost: 2, max_query: {limit: 100}}
  POST /v1/calls: calls:write
  /v1/**: any
  /v1/signup: {public: true, limits: signup}
  /open/{name}: public
  /open/admin: any
";

#[test]
fn every_profile_and_the_example_are_good_to_the_schema() {
    let printed = sidegate(&["schema"], &[]).output().expect("the binary was built");
    assert_eq!(printed.status.code(), Some(0));
    let schema: Value = serde_json::from_slice(&printed.stdout).expect("the schema is JSON");
    assert_eq!(schema["$schema"], "http://json-schema.org/draft-07/schema#");
    let validator = jsonschema::draft7::new(&schema).expect("it is a schema of draft 7");
    let profiles = ["salescaling", "callscaler", "bots", "scaling", "kaicalls"].map(|name| (name, profile(name)));
    let example = std::fs::read_to_string(in_repository("config.example.yaml")).expect("the example is there");
    for (name, yaml) in profiles.into_iter().chain([("example", example)]) {
        let mut value: Value = serde_yaml::from_str(&yaml).unwrap_or_else(|error| panic!("{name}: {error}"));
        let errors: Vec<_> = validator.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(errors.is_empty(), "{name}: {errors:?}");
        for (field, wrong) in
            [("rotues", json!({})), ("keys", json!("bearer")), ("routes", json!([])), ("listen", Value::Null)]
        {
            let before = value.clone();
            value[field] = wrong;
            assert!(!validator.is_valid(&value), "{name} with a wrong {field}");
            value = before;
        }
    }
}

#[test]
fn every_shell_is_offered_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = sidegate(&["completions", shell], &[]).output().expect("the binary was built");
        assert_eq!(output.status.code(), Some(0));
        for command in ["explain", "schema", "keys", "revoke", "report", "--since", "--config"] {
            let script = text(&output.stdout);
            assert!(script.contains(command.trim_start_matches('-')), "{shell} knows no {command}");
        }
    }
    let output = sidegate(&["completions", "cmd"], &[]).output().expect("the binary was built");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_route_is_explained_by_what_else_matches() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let explained = |request: &str| gate.json(&["explain", request, "--json"]);
    let told = explained("GET /api/v1/calls/7");
    assert_eq!(
        (&told["route"]["pattern"], &told["others"]),
        (&json!("GET /v1/calls/{id}"), &json!([{"route": "/v1/**", "relation": "looser"}]),)
    );
    assert_eq!(explained("HEAD /api/v1/calls/7")["route"]["pattern"], "GET /v1/calls/{id}");
    let told = explained("DELETE /api/v1/calls/7");
    assert_eq!((&told["denial"]["reason"], &told["route"]), (&json!("method_not_allowed"), &Value::Null));
    assert!(told["why"].as_str().is_some_and(|why| why.contains("GET, HEAD") && why.contains("looser")), "{told}");
    let told = explained("GET /api/open/ADMIN");
    assert_eq!(told["denial"]["reason"], "route_not_found");
    assert_eq!(told["others"], json!([{"route": "/open/admin", "relation": "near_miss"}]));
    assert_eq!(explained("/v1/calls")["denial"]["reason"], "route_not_found", "it is not below the base path");
    assert_eq!(explained("/api/v1/../x")["denial"]["status"], 400);
    let told = explained("/api/v1/calls?limit=500");
    assert_eq!((&told["denial"]["reason"], &told["route"]["cost"]), (&json!("missing_key"), &json!(2)));
    assert_eq!(told["would_go"]["target"], "/api/v1/calls?limit=100");
    assert_eq!(told["would_go"]["set"], json!(["x-business-id", "x-gate-secret"]));
}

#[tokio::test]
async fn a_key_is_explained_and_nothing_is_spent() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let key = gate.new_key(&["--name", "n", "--business", "b1", "--scopes", "calls:read"]);
    let explained = |arguments: &[&str]| {
        let output = gate.command_reading(&[&["explain", "--json"], arguments].concat(), &key);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(!text(&output.stdout).contains(&key) && !text(&output.stdout).contains("hunter2"));
        serde_json::from_slice::<Value>(&output.stdout).expect("one JSON document")
    };
    for _ in 0..20 {
        let told = explained(&["/api/v1/calls?business_id=b1&limit=500", "--header", "X-Business-Id: forged"]);
        assert_eq!(told["allowed"], true, "{told}");
        assert_eq!(told["windows"][1]["remaining"], 5);
        assert_eq!(told["forwarded"]["target"], "/api/v1/calls?business_id=b1&limit=100");
        let set = told["forwarded"]["set"].as_array().expect("a list");
        assert!(set.contains(&json!({"name": "x-business-id", "value": "b1"})), "{set:?}");
        assert!(set.contains(&json!({"name": "x-gate-secret", "value": null})), "{set:?}");
        assert_eq!(told["forwarded"]["stripped"], json!(["authorization"]));
    }
    for (request, reason, status) in [
        ("POST /api/v1/calls", "insufficient_scope", 403),
        ("GET /api/v1/calls/7?business_id=b2", "business_forbidden", 403),
        ("GET /api/v1/calls?limit=x", "bad_request", 400),
    ] {
        let told = explained(&[request]);
        assert_eq!((&told["denial"]["reason"], &told["denial"]["status"]), (&json!(reason), &json!(status)), "{told}");
    }
    for _ in 0..2 {
        assert_eq!(gate.get("/api/v1/calls").bearer_auth(&key).answer().await.status, 200);
    }
    let told = explained(&["/api/v1/calls"]);
    assert_eq!((&told["denial"]["reason"], &told["windows"][1]["remaining"]), (&json!("rate_limited"), &json!(1)));
    assert_eq!(gate.get("/api/v1/calls").bearer_auth(&key).answer().await.status, 429, "as it was told");
}

#[test]
fn an_explanation_is_for_people_and_a_key_is_never_an_argument() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    let output =
        gate.command(&["explain", "/api/v1/signup", "--from", "10.0.0.1", "--header", "X-Forwarded-For: 203.0.113.9"]);
    let said = text(&output.stdout);
    for told in
        ["GET /api/v1/signup from 203.0.113.9", "PUBLIC", "signup: 5 of 5/1h", "allowed", "goes to", "x-request-id"]
    {
        assert!(said.contains(told), "no {told:?} in\n{said}");
    }
    assert!(!said.contains('\u{1b}'), "colour is for terminals:\n{said}");
    let output = gate.command(&["explain", "/api/v1/calls", "--header", "Authorization: Bearer verysecret"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(!text(&output.stderr).contains("verysecret"), "{}", text(&output.stderr));
    for wrong in ["v1/calls", "GET http://h/v1/calls", "G@T /v1", "GET /a b"] {
        assert_eq!(gate.command(&["explain", wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn on_a_terminal_what_people_read_is_coloured_unless_they_want_none() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let yaml = "listen: 127.0.0.1:0\nupstream: http://127.0.0.1:1\nstore: redis://127.0.0.1:1\nroutes: {/a: any, /b: public}\n";
    let line = json!({
        "timestamp": "2026-03-23T14:00:00.000Z", "http.request.method": "GET", "url.path": "/a", "http.route": "/a",
        "http.response.status_code": 401, "client.address": "192.0.2.1", "sidegate.request_id": "r",
        "sidegate.decision": "denied", "sidegate.reason": "missing_key",
    });
    for (name, content) in [("sidegate.yaml", yaml.to_owned()), ("access.log", format!("{line}\n"))] {
        std::fs::write(folder.path().join(name), content).expect("the folder can be written");
    }
    for (arguments, said) in
        [("explain /a", "missing_key"), ("explain /b", "PUBLIC"), ("report access.log", "missing_key")]
    {
        for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
            let shown = shown(folder.path(), arguments, no_color);
            assert!(shown.contains(said), "no {said:?} in\n{shown}");
            assert_eq!(shown.contains('\u{1b}'), coloured, "NO_COLOR {no_color:?}: {shown:?}");
        }
    }
}

/// What a command that needs neither gate nor store shows on a terminal.
fn shown(folder: &Path, arguments: &str, no_color: Option<&str>) -> String {
    let mut command = sidegate(&[], &[]);
    command.env("SIDEGATE_CONFIG", "sidegate.yaml").env_remove("NO_COLOR");
    command.envs(no_color.map(|value| ("NO_COLOR", value)));
    let shell = format!("exec '{}' {arguments}", command.get_program().display());
    let output = on_terminal(&shell, &command).current_dir(folder).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("script: {error}; install it with `apt-get install bsdutils`"));
    assert_eq!(output.status.code(), Some(0), "{arguments}: {}", text(&output.stdout));
    text(&output.stdout)
}

#[test]
fn a_route_is_explained_without_a_store() {
    let yaml = "listen: 127.0.0.1:0\nupstream: http://127.0.0.1:1\nstore: redis://127.0.0.1:1\nroutes: {/a: any, /b: public}\n";
    let explain = |request: &str| -> Value {
        let output = on_config(yaml, &["explain", request, "--json"], &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    assert_eq!(explain("/a")["denial"]["reason"], "missing_key");
    assert_eq!(explain("/b")["allowed"], true);
}

/// What no description has: paths of no API, of another one, and deeper than an API goes.
const OTHERS: [&str; 8] = [
    "/",
    "/v1",
    "/bots",
    "/v1/bots/7/flows",
    "/v1/other",
    "/api/v1/other",
    "/api/v1/contacts/7/notes",
    "/api/v1/businesses/7/leads",
];

#[test]
fn a_description_becomes_routes_that_allow_what_the_profile_allows() {
    let profiles = std::fs::read_dir(in_repository("deploy/profiles")).expect("the profiles are there");
    let names = profiles.map(|file| file.expect("the folder is readable").path());
    let names: Vec<_> =
        names.filter_map(|file| Some(file.file_name()?.to_str()?.strip_suffix(".yaml")?.to_owned())).collect();
    assert!(names.len() >= 5, "{names:?}");
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| compare(name));
        }
    });
}

/// What is described is open to the same callers, and what is not only where the profile's `/**` reaches farther than a
/// description can. Limits and clamps are not compared, since no description has them.
fn compare(name: &str) {
    let file = in_repository(&format!("tests/sidegate/descriptions/{name}.yaml"));
    let described = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let file = file.to_str().expect("its name is UTF-8");
    let made = sidegate(&["openapi", file], &[]).output().expect("the binary was built");
    assert_eq!((made.status.code(), text(&made.stderr).as_str()), (Some(0), ""), "{name}");
    let (made, profile) = (text(&made.stdout), profile(name));
    for config in [&made, &profile] {
        let output = on_config(config, &["check", "--openapi", file], &[]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", text(&output.stdout), text(&output.stderr));
    }
    let described: Value = serde_yaml::from_str(&described).expect("a description is YAML");
    for path in paths(&described) {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
            let request = format!("{method} {path}");
            assert_eq!(needs(&made, &request), needs(&profile, &request), "{name}: {request}");
        }
    }
    let mut refused = 0;
    for request in OTHERS.iter().flat_map(|path| [format!("GET {path}"), format!("POST {path}")]) {
        assert_eq!(needs(&made, &request).0, "route_not_found", "{name}: {request}");
        match explained(&profile, &request)["route"]["pattern"].as_str() {
            Some(pattern) => assert!(pattern.ends_with("/**"), "{name}: {request} is not described"),
            None => refused += 1,
        }
    }
    assert!(refused > 0, "{name}: the profile refused nothing");
}

/// The described paths below the server's, with something in the place of each parameter.
fn paths(described: &Value) -> Vec<String> {
    let server = described["servers"][0]["url"].as_str().expect("the first server has a URL");
    let base = server.trim_start_matches("https://api.example.com").trim_end_matches('/');
    let paths = described["paths"].as_object().expect("paths are a map").keys();
    let filled = |part| if str::starts_with(part, '{') { "7" } else { part };
    paths.map(|path| base.to_owned() + &path.split('/').map(filled).collect::<Vec<_>>().join("/")).collect()
}

fn explained(yaml: &str, request: &str) -> Value {
    let output = on_config(yaml, &["explain", request, "--json"], &[]);
    assert_eq!(output.status.code(), Some(0), "{request}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

/// What a request needs, or why no key helps.
fn needs(yaml: &str, request: &str) -> (Value, Value) {
    let told = explained(yaml, request);
    match &told["route"] {
        Value::Null => (told["denial"]["reason"].clone(), Value::Null),
        route => (route["needs"].clone(), route["scopes"].clone()),
    }
}

#[test]
fn keys_are_read_where_a_description_says_that_they_stand() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("api.yaml");
    let made = |security: &str| {
        let described = format!(
            "openapi: 3.0.3\ncomponents: {{securitySchemes: {{token: {{type: apiKey, in: header, name: X-Token}}, \
             bearer: {{type: http, scheme: bearer}}, basic: {{type: http, scheme: basic}}, whole: {{type: apiKey, in: header, \
             name: authorization}}, query: {{type: apiKey, in: query, name: key}}, unused: {{type: apiKey, in: cookie}}}}}}\n\
             security: {security}\npaths: {{/a: {{get: {{}}}}}}"
        );
        std::fs::write(&file, described).expect("the folder is writable");
        let made = sidegate(&["openapi", &file.to_string_lossy()], &[]).output().expect("the binary was built");
        assert_eq!(made.status.code(), Some(0), "{security}: {}", text(&made.stderr));
        (text(&made.stdout), text(&made.stderr))
    };
    let from = |security: &str| {
        let yaml: Value = serde_yaml::from_str(&made(security).0).expect("it is YAML");
        yaml["keys"]["from"].clone()
    };
    assert_eq!(from("[{token: []}]"), json!([{"header": "X-Token"}]));
    let both = json!([{"header": "Authorization", "scheme": "Bearer"}, {"header": "X-Token"}]);
    assert_eq!(from("[{token: []}, {bearer: []}]"), both);
    assert_eq!(from("[{bearer: []}]"), json!(null), "that is read anyway");
    assert_eq!(made("[{token: []}]").1, "");
    for (security, told) in [
        ("[{query: []}]", "securitySchemes.query: its key stands in the query"),
        ("[{basic: []}, {token: []}]", "securitySchemes.basic: `basic` brings no key"),
        ("[{whole: []}]", "securitySchemes.whole: whether `Authorization` has the key alone is not said"),
    ] {
        let said = made(security).1;
        assert!(said.contains(told) && said.lines().count() == 1, "no {told:?} in\n{said}");
    }
}

#[test]
fn what_a_description_leaves_open_is_told_and_left_out() {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("api.yaml");
    let described = "
openapi: 3.0.3
servers: [{url: 'https://h/api'}, {url: /other}]
paths:
  /open: {get: {security: []}}
  /account: {get: {security: [{bearer: []}]}, put: {security: [{a: [x], b: [y]}]}}
  /either: {get: {security: [{a: [x]}, {b: [y]}]}}
  /sets: {get: {security: [{a: [x, y]}, {b: [z]}]}}
  /silent: {get: {}}
  /files/{name}.json: {get: {security: []}}
  /users/{user-id}: {get: {security: [{a: ['any']}]}, trace: {}}
";
    std::fs::write(&file, described).expect("the folder is writable");
    let file = file.to_str().expect("its name is UTF-8");
    let made = sidegate(&["openapi", file], &[]).output().expect("the binary was built");
    let (routes, said) = (text(&made.stdout), text(&made.stderr));
    assert_eq!(made.status.code(), Some(0), "{said}");
    for told in ["GET /silent", "GET /sets", "GET /files/{name}.json", "TRACE /users", "base paths differ"] {
        assert!(said.contains(told), "no {told:?} in\n{said}");
    }
    for (request, meant) in [
        ("/api/open", json!(["public", []])),
        ("/api/account", json!(["any", []])),
        ("PUT /api/account", json!(["scopes", ["x", "y"]])),
        ("/api/either", json!(["any_scope", ["x", "y"]])),
        ("/api/users/7", json!(["scopes", ["any"]])),
        ("/api/silent", json!(["route_not_found", null])),
        ("/api/sets", json!(["route_not_found", null])),
    ] {
        let (needs, scopes) = needs(&routes, request);
        assert_eq!(json!([needs, scopes]), meant, "{request} of\n{routes}");
    }

    let agrees = on_config(&routes, &["check", "--openapi", file], &[]);
    assert_eq!(agrees.status.code(), Some(1));
    let said = text(&agrees.stdout);
    assert!(said.contains("GET /api/silent is not covered (404)") && !said.contains("/api/open"), "{said}");
    let other = routes.replace("GET /open", "GET /stale");
    let said = text(&on_config(&other, &["check", "--openapi", file], &[]).stdout);
    for told in ["GET /api/open is not covered (404)", "route `GET /stale` is not in the description"] {
        assert!(said.contains(told), "no {told:?} in\n{said}");
    }
    for wrong in ["/nowhere.yaml", &*in_repository("config.example.yaml").to_string_lossy()] {
        let output = sidegate(&["openapi", wrong], &[]).output().expect("the binary was built");
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn what_the_key_api_and_browsers_meet_is_explained() {
    let yaml = "
listen: 127.0.0.1:0
upstream: http://127.0.0.1:1
store: {redis: 'redis://127.0.0.1:1', outage: {keys: {known_for: 5m}}}
base_path: /api
keys: {guessing: 60/1m}
cors: {origins: ['https://app.example.com'], preflight: forward}
management: {path: /v1/keys, session: 'http://127.0.0.1:1/session', roles: [admin, owner]}
routes:
  GET /v1/calls: any
  POST /v1/calls: {any: true, preflight: deny}
";
    let explain = |arguments: &[&str]| -> Value {
        let output = on_config(yaml, &[&["explain", "--json"], arguments].concat(), &[]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("one JSON document")
    };
    let told = explain(&["POST /api/v1/keys/k_1/rotate"]);
    assert_eq!(told["key_api"]["operation"], "POST /v1/keys/{id}/rotate");
    assert_eq!((&told["key_api"]["roles"], &told["allowed"]), (&json!(["admin", "owner"]), &Value::Null));
    assert_eq!(explain(&["PUT /api/v1/keys"])["denial"], json!({"reason": "method_not_allowed", "status": 405}));
    assert_eq!(explain(&["GET /api/v1/keysx"])["key_api"], Value::Null);
    let output = on_config(yaml, &["explain", "GET /api/v1/keys"], &[]);
    assert!(
        text(&output.stdout).contains("answers at and below /api/v1/keys, before any route"),
        "{}",
        text(&output.stdout)
    );

    let asks = |method: &str| {
        let method = format!("Access-Control-Request-Method: {method}");
        explain(&["OPTIONS /api/v1/calls", "--header", "Origin: https://app.example.com", "--header", &method])
    };
    let told = asks("GET");
    assert_eq!((&told["allowed"], &told["forwarded"]["target"]), (&json!(true), &json!("/api/v1/calls")), "{told}");
    for (told, said) in [
        (&told, "`GET /v1/calls` forwards it to the service"),
        (&told, "Scripts of https://app.example.com may read"),
        (&asks("POST"), "`POST /v1/calls` does not let pass"),
        (&asks("DELETE"), "no route at this path"),
        (&explain(&["OPTIONS /api/v1/calls"]), "It is no preflight"),
        (&explain(&["/api/v1/calls", "--header", "Origin: https://evil.example"]), "may not read"),
    ] {
        assert!(told["notes"].to_string().contains(said), "no {said:?} in {told}");
    }
}

#[test]
fn what_a_gate_remembers_is_part_of_an_explanation() {
    let stage = Stage::set();
    let gate = stage.gate("keys: {guessing: 60/1m}\nroutes: {/a: any}");
    let told = gate.command_reading(&["explain", "/a"], "sg_0123456789012345678901234567890123456789012");
    assert!(text(&told.stdout).contains("60/1m, `keys.guessing`"), "{}", text(&told.stdout));
    let gone = "store: {redis: 'redis://127.0.0.1:1', outage: {keys: {known_for: 5m}}}\nroutes: {/a: any}";
    gate.configure(gone);
    let told = gate.command_reading(&["explain", "/a"], "sg_0123456789012345678901234567890123456789012");
    assert!(text(&told.stdout).contains("less than 5m ago"), "{}{}", text(&told.stdout), text(&told.stderr));
}

/// As `sidegate check | head -1` leaves it, or `2>&1 | head -1`.
#[test]
fn a_command_whose_reader_has_gone_ends_without_a_word() {
    let stage = Stage::set();
    let gate = stage.gate(ROUTES);
    gate.new_key(&["--name", "n", "--business", "b1", "--scopes", "calls:read"]);
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, ports: [{containerPort: 80}]}]}}";
    for (name, content) in [
        ("api.yaml", "{openapi: 3.0.0, info: {title: t, version: '1'}, paths: {/a: {get: {security: []}}}}"),
        ("access.log", "10.0.0.1 - - [23/Mar/2026:14:30:00 +0000] \"GET /b HTTP/1.1\" 200 5\n"),
        ("pod.yaml", pod),
        ("bad.yaml", &whole("routes: {/a: any, /b: nobody}\nmodes: no")),
    ] {
        std::fs::write(gate.folder().join(name), content).expect("the folder can be written");
    }
    for (arguments, code) in [
        ("check", 1),
        ("check --openapi api.yaml", 1),
        ("check --log access.log", 1),
        ("openapi api.yaml", 1),
        ("explain /api/v1/calls", 1),
        ("explain /api/v1/calls --json", 1),
        ("report access.log", 1),
        ("report access.log --json", 1),
        ("keys list", 1),
        ("keys list --json", 1),
        ("keys export", 1),
        ("inject -f pod.yaml", 1),
        ("uninject -f pod.yaml", 1),
        ("demo --listen 127.0.0.1:0 --admin 127.0.0.1:0", 1),
        ("schema", 1),
        ("completions bash", 1),
        ("version", 1),
        ("--help", 0),
        // What is wrong is told by the exit code, too.
        ("check --config bad.yaml", 2),
        ("run --config bad.yaml", 2),
        ("keys list --config bad.yaml", 2),
    ] {
        let unread = || {
            let mut command = sidegate(&arguments.split(' ').collect::<Vec<_>>(), &stage.environment());
            command.env("SIDEGATE_CONFIG", "sidegate.yaml").current_dir(gate.folder()).stdin(Stdio::null());
            command.stdout(closed());
            command
        };
        let output = unread().output().expect("the binary was built");
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {said}");
        assert!(code == 2 || !said.contains("panicked") && !said.contains("error"), "{arguments}: {said}");
        let status = unread().stderr(closed()).status().expect("the binary was built");
        assert_eq!(status.code(), Some(code), "{arguments}, and standard error");
    }
}

/// The end of a pipe that nobody reads.
fn closed() -> PipeWriter {
    let (reader, writer) = pipe().expect("a process may have two descriptors more");
    drop(reader);
    writer
}
