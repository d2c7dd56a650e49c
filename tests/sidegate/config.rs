//! The configuration as its author meets it: `check` says what the gate will do, or every mistake with its place.

use std::{process::Output, time::Duration};

use crate::support::{
    Certificate, Stage,
    gate::{on_config, sidegate, text},
    in_repository, profile, whole,
};

#[test]
fn each_profile_passes_check_as_it_stands() {
    for name in ["salescaling", "callscaler", "bots", "scaling", "kaicalls"] {
        let output = on_config(&profile(name), &["check"], &[]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(0), "{name}: {said}");
        // One profile has a webhook that answers 405 to all but POST, and means it.
        let expected = |line: &str| line.starts_with("warning: store: ") || line.contains("answers 405");
        let unexpected = said.lines().find(|line| line.starts_with("warning: ") && !expected(line));
        assert_eq!(unexpected, None, "{name}");
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

/// openssl makes such a one where it signs a request without `-extfile`.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIIBKDCBzwIUNSUNkCu1WpqpF11qbJXxJ2DR+7AwCgYIKoZIzj0EAwIwFjEUMBIG
A1UEAwwLb25lLmV4YW1wbGUwIBcNMjYxMTIzMDQ1MTQyWhgPMjEyNjEwMzAwNDUx
NDJaMBYxFDASBgNVBAMMC29uZS5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEcuuuYdWPvQt/1sgJnzdJlF14fBsGRAbRX7amSf7Sw6n2pyAEUQu0VVCO
5D8qNZCDDQuyP3jSHanFOGLO+VfxKzAKBggqhkjOPQQDAgNIADBFAiEAi/4oJCSl
j4rM6rIyl8uYQXnLpjaXl05axvs0+PRdABACIA4c4IMkEnkBh1scgG7KPc0zswXS
XdIpDBsC5nRPaTS+
-----END CERTIFICATE-----
";

#[test]
fn the_end_of_a_certificate_is_told_before_it_comes() {
    let stage = Stage::set();
    let (day, long_ago) = (Duration::from_secs(24 * 60 * 60), Duration::from_secs(978_307_200));
    let checked = |made: &Certificate| {
        let output = on_config(&with_certificate(made), &["check"], &stage.environment());
        (output.status.code(), said(&output))
    };
    let (code, told) = checked(&Certificate::ending_in("one.example", 3 * day + day / 2));
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("tls.crt ends 20") && told.contains(", in 3 days\n"), "{told}");
    assert!(told.contains("warning: listen.tls: ") && told.contains("in 3 days; renew it"), "{told}");
    let (_, told) = checked(&Certificate::ending_in("one.example", 30 * day + day / 2));
    assert!(told.contains(", in 30 days\n") && !told.contains("listen.tls"), "{told}");
    let (_, told) = checked(&Certificate::expired("one.example"));
    assert!(told.contains("tls.crt has expired on 2002-01-01; clients refuse it"), "{told}");
    let (code, told) = checked(&Certificate::from_to("one.example", long_ago + day, long_ago));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("ends before it begins"), "{told}");
    let old = Certificate::of("one.example");
    std::fs::write(old.cert_file(), VERSION_1).expect("the folder is writable");
    let (code, told) = checked(&old);
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("certificate of version 1") && told.contains("subjectAltName"), "{told}");

    let soon = Certificate::ending_in("one.example", 3 * day + day / 2);
    let gate = stage.gate(&with_certificate(&soon));
    assert!(gate.said("ends soon").contains("WARN"), "{}", gate.written());
}

fn with_certificate(made: &Certificate) -> String {
    whole(&format!(
        "listen: {{address: '127.0.0.1:0', tls: {{certificates: {{cert: '{}', key: '{}'}}}}}}\nroutes: {{/public: public}}",
        made.cert_file().display(),
        made.key_file().display(),
    ))
}

#[test]
fn an_address_that_is_taken_is_told_with_the_field_that_says_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound");
    for (field, yaml) in [
        ("listen", format!("listen: {address}\nadmin: 127.0.0.1:0")),
        ("admin", format!("admin: {address}")),
        ("probes", format!("admin: 127.0.0.1:0\nprobes: {address}")),
    ] {
        let yaml = whole(&format!("{yaml}\nroutes: {{/public: public}}"));
        let output = on_config(&yaml, &["run"], &Stage::set().environment());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let told = format!("error: {field}: {address} cannot be listened on");
        assert!(said(&output).contains(&told), "no {told:?} in\n{}", said(&output));
    }
}

#[test]
fn what_other_gateways_do_is_told_with_what_to_do_instead() {
    for (yaml, told) in [
        ("routes: {/a: {any: true, strip_path: true}}", "sidegate rewrites no path"),
        ("routes: {/a: {any: true, rewrite: /b}}", "sidegate rewrites no path"),
        ("upstream: {url: http://127.0.0.1:1, strip_prefix: /a}\nroutes: {/a: any}", "sidegate rewrites no path"),
        ("upstream: 'http://127.0.0.1:1/v1'\nroutes: {/a: any}", "rewrites none; end it after the port"),
        ("routes: {/a: {any: true, hosts: [a.example]}}", "sidegate does not route by host"),
        ("routes: {GET a.example/a: any}", "sidegate does not route by host"),
        ("keys: {from: [{query: apikey}]}\nroutes: {/a: any}", "sidegate reads no key from a query"),
    ] {
        is_refused(yaml, &[told]);
    }
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
