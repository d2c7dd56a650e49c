//! What holds for every pod: nothing panics, twice is once, and there is a way back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::documents::{inject, uninject};
use super::*;

fn injected(document: &Value) -> Outcome {
    injected_with(document, &Settings::default())
}

fn injected_with(document: &Value, settings: &Settings) -> Outcome {
    pod(document, &InjectionContext { settings, namespace: &BTreeMap::new(), job: false })
}

fn left(document: &Value) -> String {
    let outcome = injected(document);
    let status = shape::annotation(&outcome.document, STATUS).unwrap_or_default();
    let reason = outcome.left.unwrap_or_else(|| panic!("it was injected: {document}"));
    assert_eq!(serde_json::from_str::<Value>(status).expect("a status is JSON"), json!({"skipped": reason}));
    assert_eq!(restored(&outcome.document), *document);
    reason
}

/// A pod that nothing speaks against, with one more field somewhere.
fn good_with(path: &str, key: &str, value: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "annotations": {"a": "b"}},
        "spec": {"containers": [{"name": "app", "image": "i", "ports": [{"containerPort": 3000, "name": "http"}]}]},
    });
    let place = pod.pointer_mut(path).and_then(Value::as_object_mut).expect("the path leads to a map");
    place.insert(key.to_owned(), value);
    pod
}

#[test]
fn what_cannot_be_injected_rightly_is_left_alone_and_says_why() {
    let annotated = |key: &str, value: &str| good_with("/metadata/annotations", key, json!(value));
    let of_container = |key: &str, value: Value| good_with("/spec/containers/0", key, value);
    // The port a second time, with something of its own.
    let twice = |mut own: Value| {
        own["containerPort"] = json!(3000);
        json!([{"name": "http", "containerPort": 3000}, own])
    };
    let http = |path: &str, scheme: &str| json!({"httpGet": {"port": "http", "path": path, "scheme": scheme}});
    for (pod, reason) in [
        (good_with("/spec", "hostNetwork", json!(true)), "node's network"),
        (good_with("/spec", "os", json!({"name": "windows"})), "Windows"),
        (good_with("/spec", "nodeSelector", json!({"kubernetes.io/os": "windows"})), "Windows"),
        (good_with("/spec", "initContainers", json!([{"name": "sidegate"}])), "named sidegate"),
        (good_with("/spec", "volumes", json!([{"name": "sidegate-tls"}])), "volume whose name"),
        (good_with("/metadata", "labels", json!({LABEL: "yes"})), "neither enabled nor disabled"),
        (annotated("sidegate.dev/mode", "sidecar"), "neither native nor classic"),
        (annotated("sidegate.dev/upstream-prot", "3000"), "there is no annotation sidegate.dev/upstream-prot"),
        (annotated("sidegate.dev/upstream-port", "0"), "neither a port"),
        (annotated("sidegate.dev/upstream-port", "grpc"), "no container has a TCP port named grpc"),
        (annotated("sidegate.dev/config", "A"), "no name of an object"),
        (annotated("sidegate.dev/cpu-request", "much"), "no quantity"),
        (annotated("sidegate.dev/memory-request", "256Mi"), "memory-request 256Mi is above the limit of 128Mi"),
        (annotated("sidegate.dev/image", "a b"), "no name of an image"),
        (of_container("ports", json!([])), "no container declares a TCP port"),
        (of_container("ports", json!([{"containerPort": 53, "protocol": "UDP"}])), "no container declares a TCP port"),
        (
            of_container("ports", json!([{"containerPort": 1}, {"containerPort": 2}])),
            "several ports (1 of app, 2 of app)",
        ),
        (of_container("ports", json!([{"containerPort": 8443}])), "one of the gate's own"),
        (of_container("ports", json!([{"containerPort": 3, "name": "sidegate"}])), "one of the gate's own"),
        (of_container("ports", twice(json!({"name": "web"}))), "port 3000 is declared once more"),
        (of_container("ports", twice(json!({"hostPort": 80}))), "port 3000 is declared once more"),
        (of_container("ports", json!([{"containerPort": 3}, {"containerPort": 3, "name": "x"}])), "declared once more"),
        (of_container("readinessProbe", http("/", "HTTPS")), "asks over HTTPS"),
        (of_container("readinessProbe", http("/a b", "HTTP")), "percent-encoded"),
        (of_container("lifecycle", json!({"postStart": http("/", "HTTP")})), "write it as exec"),
    ] {
        let message = left(&pod);
        assert!(message.contains(reason), "{message}\nlacks {reason}");
    }
    let mut classic = annotated("sidegate.dev/mode", "classic");
    classic["spec"]["restartPolicy"] = json!("OnFailure");
    assert!(left(&classic).contains("keep this pod from ending"));
    for kind in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let sidecar = json!([{"name": "x", "restartPolicy": "Always", kind: {"tcpSocket": {"port": 3000}}}]);
        let message = left(&good_with("/spec", "initContainers", sidecar));
        assert!(message.contains(&format!("the {kind} of init container x asks the service's port")), "{message}");
    }
    let sidecar = json!([{"name": "x", "restartPolicy": "Always", "ports": [{"containerPort": 3000}]}]);
    for told in ["http", "3000"] {
        let mut pod = annotated("sidegate.dev/upstream-port", told);
        pod["spec"]["initContainers"] = sidecar.clone();
        assert!(left(&pod).contains("init container x declares the service's port 3000"));
    }
    let conflict = good_with("/spec", "initContainers", json!([{"name": "x", "ports": [{"containerPort": 9901}]}]));
    assert!(left(&conflict).contains("container x declares port 9901"));
}

#[test]
fn who_declines_is_not_touched_and_who_declines_later_is_restored() {
    let mut pod = good_with("/metadata", "labels", json!({LABEL: "enabled"}));
    let mut outcome = injected(&pod);
    assert_eq!(outcome.left, None);
    outcome.document["metadata"]["labels"][LABEL] = json!("disabled");
    pod["metadata"]["labels"][LABEL] = json!("disabled");
    assert_eq!(injected(&outcome.document).document, pod);
    assert_eq!(injected(&pod).document, pod);
}

#[test]
fn another_version_of_the_gate_replaces_the_one_before() {
    let pod = good_with("/spec/containers/0", "readinessProbe", json!({"tcpSocket": {"port": 3000}}));
    let other = Settings { image: "elsewhere/sidegate:9".to_owned(), app_pre_stop: 0 };
    let first = injected(&pod).document;
    assert_eq!(injected_with(&first, &other).document, injected_with(&pod, &other).document);
    assert_eq!(injected(&injected_with(&pod, &other).document).document, first);
}

/// The API server fills in defaults and other webhooks add what is theirs; asked again, nothing of it is undone.
#[test]
fn what_others_have_added_since_stays() {
    let pod = good_with("/spec/containers/0", "livenessProbe", json!({"httpGet": {"port": "http"}}));
    let mut later = injected(&pod).document;
    later["spec"]["initContainers"][0]["terminationMessagePolicy"] = json!("File");
    later["spec"]["containers"][0]["livenessProbe"]["periodSeconds"] = json!(10);
    later["spec"]["containers"][0]["ports"][0]["protocol"] = json!("TCP");
    later["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "b"}]);
    assert_eq!(injected(&later).document, later);
    // One who rewrites our probe has reasons: it is not put back.
    later["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"] = json!(15020);
    let back = restored(&later);
    assert_eq!(back["spec"]["containers"][0]["livenessProbe"]["httpGet"]["port"], 15020);
}

#[test]
fn namespaces_tell_what_pods_do_not() {
    let pod = good_with("/metadata/annotations", "sidegate.dev/config", json!("own"));
    let told = [("config", "theirs"), ("mode", "classic"), ("tls-secret", "tls")];
    let namespace = told.map(|(key, value)| (format!("sidegate.dev/{key}"), value.to_owned())).into();
    let settings = Settings::default();
    let outcome = super::pod(&pod, &InjectionContext { settings: &settings, namespace: &namespace, job: false });
    let spec = &outcome.document["spec"];
    assert_eq!(spec["containers"][1]["name"], "sidegate");
    assert_eq!(spec["volumes"][0]["configMap"]["name"], "own");
    assert_eq!(spec["volumes"][1]["secret"]["secretName"], "tls");
}

/// A Service's target port by name leads to the first container that has it.
#[test]
fn no_name_leads_past_the_gate() {
    let second = |ports: Value, told: &str| {
        let mut pod = good_with("/metadata/annotations", "sidegate.dev/upstream-port", json!(told));
        let containers = pod["spec"]["containers"].as_array_mut().expect("it is a list");
        containers.push(json!({"name": "second", "ports": ports}));
        pod
    };
    for told in ["3000", "http"] {
        let again = second(json!([{"name": "web", "containerPort": 3000}]), told);
        assert!(
            left(&again).contains("declared once more, with a name or node's port of its own, by container second")
        );
        let same_name = second(json!([{"name": "http", "containerPort": 4000}]), told);
        assert!(left(&same_name).contains("container second has another port named http"));
        let harmless = json!([{"containerPort": 3000}, {"name": "web", "containerPort": 3000, "protocol": "UDP"}]);
        assert_eq!(injected(&second(harmless, told)).taken, Some(3000));
    }
}

/// Else it would lead to a port where nobody listens.
#[test]
fn a_service_whose_pods_lose_the_gate_is_restored_with_them() {
    let stream = |service_label: &str, pod: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: s, labels: {{{service_label}}}}}\n\
             spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 3000}}]}}\n---\n\
             apiVersion: v1\nkind: Pod\nmetadata: {{name: p, labels: {{app: web}}}}\n\
             spec: {{containers: [{{name: app, ports: [{{containerPort: 3000}}]}}]{pod}}}\n"
        )
    };
    let settings = Settings::default();
    for label in ["a: b", "sidegate.dev/inject: enabled"] {
        let first = inject(&stream(label, ""), &settings).expect("it is YAML").text;
        assert!(first.contains("targetPort: 8443"), "{first}");
        for (from, to) in [
            ("    app: web\n  name: p", "    app: web\n    sidegate.dev/inject: disabled\n  name: p"),
            ("  containers:", "  hostNetwork: true\n  containers:"),
        ] {
            let declined = first.replace(from, to);
            assert_ne!(declined, first);
            let second = inject(&declined, &settings).expect("it is YAML");
            assert_eq!(
                second.messages[0],
                "Service/s: restored: the gate was put into none of the pods that it selects"
            );
            assert!(second.text.contains("targetPort: 3000") && !second.text.contains("8443"), "{}", second.text);
            assert_eq!(inject(&second.text, &settings).expect("it is YAML").text, second.text);
        }
    }
    let never = inject(&stream("a: b", ", hostNetwork: true"), &settings).expect("it is YAML");
    assert_eq!(never.messages[0], "Service/s: left alone: the gate was put into none of the pods that it selects");
}

/// A pod that asks for more than it may have is refused by the API server.
#[test]
fn a_gate_asks_for_no_more_memory_than_it_may_have() {
    let memory = |told: &[(&str, &str)]| {
        let annotations = told.iter().map(|(key, value)| (format!("sidegate.dev/memory-{key}"), json!(value)));
        let outcome = injected(&good_with("/metadata", "annotations", Value::Object(annotations.collect())));
        let resources = &outcome.document["spec"]["initContainers"][0]["resources"];
        (resources["requests"]["memory"].clone(), resources["limits"]["memory"].clone())
    };
    assert_eq!(memory(&[]), (json!("32Mi"), json!("128Mi")));
    assert_eq!(memory(&[("limit", "16Mi")]), (json!("16Mi"), json!("16Mi")));
    assert_eq!(memory(&[("limit", "32768Ki")]), (json!("32Mi"), json!("32768Ki")));
    assert_eq!(memory(&[("request", "256Mi"), ("limit", "0.25Gi")]), (json!("256Mi"), json!("0.25Gi")));
    assert_eq!(memory(&[("request", "1Gi"), ("limit", "1G")]), (Value::Null, Value::Null));
}

/// The kubelet expands `$(NAME)` in environment values, and takes `$$` for `$`.
#[test]
fn what_the_kubelet_expands_is_escaped() {
    let probe = json!({"httpGet": {"port": 3000, "path": "/$(HOME)/$$"}});
    let outcome = injected(&good_with("/spec/containers/0", "readinessProbe", probe));
    let told = &outcome.document["spec"]["initContainers"][0]["env"][1]["value"];
    assert!(told.as_str().is_some_and(|told| told.contains("3000/$$(HOME)/$$$$\"")), "{told}");
}

#[test]
fn documents_that_nothing_is_changed_in_stay_as_they_stand() {
    let text = "# first\nkind: ConfigMap # a comment\napiVersion: v1\ndata: {a: yes}\n--- # second\n\n---\n{\"kind\": \"X\"}\n";
    let done = inject(text, &Settings::default()).expect("it is YAML");
    assert_eq!((done.text.as_str(), done.messages.len()), (text, 2));
    assert!(inject("a: [", &Settings::default()).is_err());
    for whole in ["", "---\n", "\n# nothing\n"] {
        assert_eq!(uninject(whole).expect("it is YAML").text, whole);
    }
}

/// `kubectl` reads YAML 1.1, where a plain `yes` is true; one in quotes is a text, whatever quotes they are.
#[test]
fn plain_words_mean_what_kubectl_takes_them_for() {
    for (word, truth) in [("yes", true), ("On", true), ("Y", true), ("NO", false), ("off", false), ("n", false)] {
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, annotations: {{a: '{word}', b: \"{word}\"}}}}\n\
             spec:\n  hostNetwork: {word}\n  containers: [{{name: app, ports: [{{containerPort: 3000}}], env: &env [\n    \
             {{name: A, value: '{word}'}}, {{name: B, value: \"{word}\"}}]}}]\n  again: *env\n  folded: >-\n    {word}\n  told: !!str {word}\n"
        );
        let done = inject(&manifest, &Settings::default()).expect("it is YAML");
        assert_eq!(done.messages[0].contains("node's network"), truth, "{:?}", done.messages);
        for expected in [
            &format!("  hostNetwork: {truth}\n"),
            &format!("    a: '{word}'\n    b: '{word}'\n"),
            &format!("  again:\n  - name: A\n    value: '{word}'\n  - name: B\n    value: '{word}'\n"),
            &format!("  folded: '{word}'\n"),
            &format!("  told: '{word}'\n"),
        ] {
            assert!(done.text.contains(expected), "{expected}{}", done.text);
        }
    }
}

#[test]
fn merge_keys_are_merged_as_kubectl_merges_them() {
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  x:\n  - &image {image: i, name: other}\n  \
         - &both {<<: *image, ports: [{containerPort: 3000}]}\n  containers:\n  \
         - {name: app, <<: [*both, {image: later, tty: true}]}\n";
    let done = inject(manifest, &Settings::default()).expect("it is YAML");
    assert_eq!(done.messages, ["Pod/p: injected: sidegate takes the place of port 3000"]);
    assert!(
        done.text.contains("  containers:\n  - image: i\n") && done.text.contains("    name: app\n"),
        "{}",
        done.text
    );
    assert!(done.text.contains("    tty: true\n") && !done.text.contains("<<"), "{}", done.text);
    let error = inject("kind: Pod\nspec: {<<: 3}\n", &Settings::default()).expect_err("there is no map");
    assert!(error.to_string().contains("a merge key (`<<`) has neither a map nor a list of maps"), "{error}");
}

fn names() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,5}", Just("app".to_owned()), Just("sidegate".to_owned()), Just("istio-proxy".to_owned())]
}

fn port_number() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => Just(json!(3000)),
        1 => any::<u16>().prop_map(|port| json!(port)),
        1 => Just(json!("http")),
        1 => Just(json!(9901)),
        1 => Just(json!(-1)),
    ]
}

fn probe() -> impl Strategy<Value = Value> {
    let handler = prop_oneof![
        (port_number(), "[/a-z?$() ]{0,8}", "[A-Za-z-]{1,6}", "[ -~]{0,6}").prop_map(|(port, path, name, value)| {
            json!({"httpGet": {"port": port, "path": path, "httpHeaders": [{"name": name, "value": value}]}})
        }),
        port_number().prop_map(|port| json!({"tcpSocket": {"port": port}})),
        (port_number(), "[a-z.]{0,5}").prop_map(|(port, service)| json!({"grpc": {"port": port, "service": service}})),
        Just(json!({"exec": {"command": ["true"]}})),
    ];
    (handler, 0..4u8).prop_map(|(mut probe, seconds)| {
        probe["timeoutSeconds"] = json!(seconds);
        probe
    })
}

fn container() -> impl Strategy<Value = Value> {
    let port = (port_number(), prop::option::of("[a-z]{1,4}|http"), any::<bool>()).prop_map(|(number, name, host)| {
        let mut port = json!({"containerPort": number});
        if let Some(name) = name {
            port["name"] = json!(name);
        }
        if host {
            port["hostPort"] = json!(80);
        }
        port
    });
    let ports = prop::option::of(prop::collection::vec(port, 1..3));
    let probes = prop::array::uniform3(prop::option::of(probe()));
    let lifecycle = prop::option::of(prop_oneof![
        Just(json!({"preStop": {"sleep": {"seconds": 3}}})),
        probe().prop_map(|hook| json!({"postStart": hook})),
    ]);
    let restart = prop::option::of(Just("Always"));
    (names(), ports, probes, lifecycle, restart).prop_map(|(name, ports, probes, lifecycle, restart)| {
        let kinds = ["readinessProbe", "livenessProbe", "startupProbe"].into_iter().zip(probes);
        let fields = kinds.filter_map(|(kind, probe)| Some((kind.to_owned(), probe?)));
        let mut container: Map<String, Value> = fields.collect();
        container.insert("name".to_owned(), json!(name));
        container.extend(ports.map(|ports| ("ports".to_owned(), json!(ports))));
        container.extend(lifecycle.map(|lifecycle| ("lifecycle".to_owned(), lifecycle)));
        container.extend(restart.map(|restart| ("restartPolicy".to_owned(), json!(restart))));
        Value::Object(container)
    })
}

prop_compose! {
    fn pods()(
        containers in prop::collection::vec(container(), 1..4),
        init in prop::option::of(prop::collection::vec(container(), 1..3)),
        annotations in prop::option::of(prop::collection::btree_map(
            "[a-z]{1,4}|sidegate.dev/(mode|upstream-port|config)", "native|classic|3000|http|[a-z]{1,6}", 1..3,
        )),
        grace in prop::option::of(0..60u32),
        policy in prop::option::of("Always|Never"),
    ) -> Value {
        let mut spec = json!({"containers": containers});
        let fields = [
            ("initContainers", init.map(|init| json!(init))),
            ("terminationGracePeriodSeconds", grace.map(|grace| json!(grace))),
            ("restartPolicy", policy.map(|policy| json!(policy))),
        ];
        for (key, value) in fields {
            if let Some(value) = value {
                spec[key] = value;
            }
        }
        let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = json!(annotations);
        }
        pod
    }
}

fn garbage() -> impl Strategy<Value = Value> {
    let key = "metadata|spec|containers|initContainers|name|ports|annotations|labels|readinessProbe|httpGet|port|sidegate.dev/status|sidegate.dev/original";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i32>().prop_map(|number| json!(number)),
        "\\PC{0,6}".prop_map(Value::String),
        Just(json!("{\"hash\": 1}")),
        Just(json!("{\"port\": {\"container\": \"\", \"number\": 1, \"declared\": 0}, \"kept\": [\"\"]}")),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::btree_map(key, inner, 0..5).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn twice_is_once_and_there_is_a_way_back(pod in pods()) {
        let once = injected(&pod);
        let twice = injected(&once.document);
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(restored(&once.document), pod.clone());
        let mut patched = pod.clone();
        let patch: json_patch::Patch =
            serde_json::from_value(json!(difference::patch(&pod, &once.document))).expect("it is RFC 6902's");
        json_patch::patch(&mut patched, &patch).expect("it is the difference");
        prop_assert_eq!(patched, once.document);
    }

    #[test]
    fn a_service_finds_its_way_back_too(ports in prop::collection::btree_map(1..99u16, prop::option::of(port_number()), 1..4)) {
        let ports: Vec<_> = ports.iter().map(|(port, target)| match target {
            Some(target) => json!({"port": port, "targetPort": target}),
            None => json!({"port": port}),
        }).collect();
        let bare = json!({"kind": "Service", "metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": ports}});
        let settings = Settings::default();
        let context = InjectionContext { settings: &settings, namespace: &BTreeMap::new(), job: false };
        let once = service(&bare, Some(3000), &context);
        prop_assert_eq!(&service(&once.document, Some(3000), &context), &once);
        prop_assert_eq!(restored(&once.document), bare);
    }

    #[test]
    fn garbage_never_panics(document in garbage()) {
        let once = injected(&document);
        prop_assert_eq!(&injected(&once.document).document, &once.document);
        let settings = Settings::default();
        let context = InjectionContext { settings: &settings, namespace: &BTreeMap::new(), job: false };
        service(&document, None, &context);
        restored(&document);
        let _ = review::Review::read(document.to_string().as_bytes());
        let _ = inject(&document.to_string(), &settings);
    }
}
