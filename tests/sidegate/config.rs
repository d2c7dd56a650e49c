//! The configuration as its author meets it: `check` says what the gate will do, or every mistake with its place.

use std::process::Output;

use crate::support::{
    Stage,
    gate::{on_config, sidegate, text},
    in_repository, profile, whole,
};

#[test]
fn each_profile_passes_check_as_it_stands() {
    for name in ["salescaling", "callscaler", "bots", "scaling", "kaicalls"] {
        let output = on_config(&profile(name), &["check"], &[]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        assert!(said.contains('/'), "{name}: a summary names the routes: {said}");
    }
}

#[test]
fn the_summary_names_routes_limits_and_what_is_public() {
    let said = said(&on_config(&profile("kaicalls"), &["check"], &[]));
    for told in ["agents:read", "/v1/signup", "public", "5/1h", "signup", "/v1/businesses/{business_id}"] {
        assert!(said.contains(told), "no {told} in\n{said}");
    }
}

#[test]
fn the_example_with_every_field_runs_as_it_is() {
    let path = in_repository("config.example.yaml");
    let yaml = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let output = on_config(&yaml, &["check"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}

/// The first configuration, and the one of the hour, which the base's and `sidegate openapi` make together.
#[test]
fn the_configurations_that_the_readme_leads_to_are_good() {
    let read =
        |path: &str| std::fs::read_to_string(in_repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let readme = read("README.md");
    let first = readme.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next());
    let first = first.expect("README.md has a configuration");
    assert!(first.starts_with("# sidegate.yaml"), "{first}");
    let output = on_config(first, &["check"], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));

    let base = read("deploy/kubernetes/base/sidegate.yaml");
    let (kept, _) = base.split_once("\nroutes:").expect("it has routes");
    for name in ["salescaling", "callscaler", "bots", "scaling", "kaicalls"] {
        let file = in_repository(&format!("tests/sidegate/descriptions/{name}.yaml"));
        let made = sidegate(&["openapi", &file.to_string_lossy()], &[]).output().expect("the binary was built");
        let made = text(&made.stdout);
        let taken =
            made.lines().filter(|line| !["listen:", "upstream:", "store:"].iter().any(|own| line.starts_with(own)));
        let yaml = format!("{kept}\n{}\n", taken.collect::<Vec<_>>().join("\n"));
        let output = on_config(&yaml, &["check"], &[("REDIS_PASSWORD".to_owned(), "x".to_owned())]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", said(&output));
    }
}

#[test]
fn what_is_no_yaml_is_told_with_line_and_column() {
    is_refused("routes:\n  /things: public\n  /other: [public\nlimits: {}\n", &["line ", "column "]);
    is_refused("routes: {/things: public}\nroutes: {/other: public}\n", &["routes"]);
}

#[test]
fn an_unknown_field_is_told_with_its_place() {
    is_refused("routes: {/things: public}\nkeys:\n  forms: []\n", &["forms", "sidegate.yaml:3:3"]);
    is_refused("routes:\n  /things: {public: true, limit: [x]}\n", &["limit", "sidegate.yaml:2:"]);
    is_refused("routes: {/things: public}\nlisten:\n  adress: 127.0.0.1:0\n", &["adress", "sidegate.yaml:3:3"]);
}

#[test]
fn errors_of_meaning_come_all_at_once_each_with_its_path() {
    is_refused(
        "
plans: {pro: {limits: {per-hour: 5/1h}}}
limits:
  unused: {by: key, windows: 60/1m}
  wrong: {by: key, windows: sixty}
defaults: {limits: [undefined]}
routes:
  /things: any
  /{a}/x: any
  /{b}/x: any
  /items/:id: any
  /empty: {scopes: []}
",
        &["unused", "wrong", "sixty", "undefined", "per-hour", "/{b}/x", "/items/:id", "/empty", "60/1m"],
    );
}

#[test]
fn each_mistake_is_refused_and_named() {
    for (yaml, told) in [
        ("routes: {FETCH /things: public}", "FETCH"),
        ("routes: {'GET  /things': public}", "GET  /things"),
        ("routes: {things: public}", "things"),
        ("routes: {'/things?x': public}", "/things?x"),
        ("routes: {'/things#x': public}", "/things#x"),
        ("routes: {/a/**/b: public}", "/a/**/b"),
        ("routes: {'GET,POST /things': public, POST /things: public}", "/things"),
        ("routes: {/things: {public: true, scopes: [a]}}", "/things"),
        ("routes: {/things: {any: true, limits: [nobody]}}", "nobody"),
        ("limits: {l: {by: key, windows: 0/1m}}\nroutes: {/things: {any: true, limits: [l]}}", "0/1m"),
        ("limits: {l: {by: moon, windows: 1/1m}}\nroutes: {/things: {any: true, limits: [l]}}", "moon"),
        (
            "limits: {l: {by: key, windows: 1/1m, algorithm: magic}}\nroutes: {/things: {any: true, limits: [l]}}",
            "magic",
        ),
        ("routes: {/things: public}\nerrors: {default: {body: '{nonsense}'}}", "nonsense"),
        ("routes: {/things: public}\nerrors: {no_such_reason: {detail: x}}", "no_such_reason"),
        ("routes: {/things: public}\nkeys: {formats: [{prefix: a_, length: 5}]}", "length"),
        ("routes: {/things: public}\nkeys: {require: [scopes]}\nscopes: {default: [a]}", "scopes"),
        ("routes: {/things: public}\nstore: {redis: 'redis://127.0.0.1', prefix: 'a b'}", "prefix"),
        ("routes: {/things: public}\nupstream: ftp://127.0.0.1", "upstream.url"),
        ("routes: {/things: public}\nlisten: {address: nowhere}", "nowhere"),
        ("routes: {/things: {public: true, upstream: sandbox}}", "sandbox"),
    ] {
        is_refused(yaml, &[told]);
    }
}

#[test]
fn an_environment_variable_without_value_or_default_is_told_by_name() {
    is_refused("upstream: '${NO_SUCH_VARIABLE_HERE}'\nroutes: {/things: public}", &["NO_SUCH_VARIABLE_HERE"]);
}

#[test]
fn what_a_variable_holds_is_text_and_never_yaml() {
    let yaml = whole("realm: '${REALM}'\nroutes: {/things: public, /other: {any: true, cost: '${COST:-2}'}}");
    let environment = |realm: &str| {
        [
            ("REALM", realm),
            ("UPSTREAM_URL", "http://127.0.0.1:1"),
            ("REDIS_URL", "redis://127.0.0.1:1/0"),
            ("STORE_DEADLINE", "1s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    for realm in ["a: b", "[x", "{", "${COST}"] {
        let output = on_config(&yaml, &["check"], &environment(realm));
        assert_eq!(output.status.code(), Some(0), "{realm}: {}", said(&output));
    }
}

#[test]
fn run_refuses_what_check_refuses() {
    let output = on_config(&whole("routes: {things: public}"), &["run"], &Stage::set().environment());
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
}

#[test]
fn a_configuration_that_is_not_there_is_told_by_its_path() {
    let output =
        sidegate(&["check", "--config", "/nowhere/sidegate.yaml"], &[]).output().expect("the binary was built");
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("/nowhere/sidegate.yaml"), "{}", said(&output));
}

#[test]
fn wrong_arguments_exit_with_2_and_help_with_0() {
    for (arguments, code) in
        [(&["no-such-command"][..], 2), (&["run", "--no-such-flag"], 2), (&["--help"], 0), (&["run", "--help"], 0)]
    {
        let output = sidegate(arguments, &[]).output().expect("the binary was built");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
    }
}

/// Refused with exit code 2, and everything named.
fn is_refused(yaml: &str, told: &[&str]) {
    let environment =
        [("UPSTREAM_URL", "http://127.0.0.1:1"), ("REDIS_URL", "redis://127.0.0.1:1/0"), ("STORE_DEADLINE", "1s")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let output = on_config(&whole(yaml), &["check"], &environment);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(2), "{yaml}\n{said}");
    for told in told {
        assert!(said.contains(told), "no {told:?} for\n{yaml}\n{said}");
    }
}

fn said(output: &Output) -> String {
    text(&output.stdout) + &text(&output.stderr)
}
