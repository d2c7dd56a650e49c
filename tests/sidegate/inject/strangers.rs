//! Any pod of a cluster can reach the webhook's port: what one that is no API server may do there, and what stays as it is for those
//! that are.

use serde_json::json;

use super::{ApiServer, Webhook, review};

#[test]
fn of_the_api_server_only_namespaces_are_asked() {
    let api = ApiServer::start();
    let webhook = Webhook::start_in(&api);
    let long = "a".repeat(64);
    let pod = json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
    for namespace in [
        "default/secrets/x",
        "../../../version",
        "default?a=1",
        "%2e%2e",
        "a#b",
        "a b",
        "Shop",
        "-a",
        "shop\r\n",
        &long,
    ] {
        let mut asked = review("Pod", &pod);
        asked["request"]["namespace"] = json!(namespace);
        let response = webhook.review(&asked).json()["response"].clone();
        let warned = response["warnings"].as_array().is_some_and(|warnings| {
            warnings.iter().any(|warning| warning.as_str().is_some_and(|warning| warning.contains("no name of one")))
        });
        assert!(warned, "{namespace}: {response}");
    }
    webhook.review(&review("Pod", &pod));
    let asked = api.asked.lock().expect("nobody panics with it").clone();
    assert_eq!(asked, ["get /api/v1/namespaces/shop http/1.1"]);
}
