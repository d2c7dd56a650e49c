//! What injection has changed, as a JSON patch (RFC 6902): whole members of `metadata` and `spec`, such as all containers.
//!
//! A finer difference would be shorter, but is a stranger's to blow up: a list that has lost its first element differs in every
//! element, and each operation repeats its path. This one is never larger than the object.

use serde_json::{Map, Value, json};

/// `/spec/containers` is as deep as a path goes.
const DEEPEST: usize = 2;

pub fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare(before, after, "", &mut operations);
    operations
}

fn compare(before: &Value, after: &Value, path: &str, operations: &mut Vec<Value>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) if path.matches('/').count() < DEEPEST => {
            members(before, after, path, operations);
        }
        _ => operations.push(json!({"op": "replace", "path": path, "value": after})),
    }
}

fn members(before: &Map<String, Value>, after: &Map<String, Value>, path: &str, operations: &mut Vec<Value>) {
    let below = |name: &str| format!("{path}/{}", name.replace('~', "~0").replace('/', "~1"));
    for (name, was) in before {
        match after.get(name) {
            Some(is) => compare(was, is, &below(name), operations),
            None => operations.push(json!({"op": "remove", "path": below(name)})),
        }
    }
    for (name, is) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        operations.push(json!({"op": "add", "path": below(name), "value": is}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patched(before: &Value, after: &Value) -> Value {
        let operations: json_patch::Patch =
            serde_json::from_value(json!(patch(before, after))).expect("they are RFC 6902's");
        let mut patched = before.clone();
        json_patch::patch(&mut patched, &operations).expect("it is the difference");
        patched
    }

    #[test]
    fn a_patch_makes_the_one_of_the_other() {
        let pod =
            json!({"kind": "Pod", "metadata": {"a/b~c": 1, "labels": {"x": "y"}}, "spec": {"containers": [1, 2]}});
        for other in [
            pod.clone(),
            json!({"kind": "Pod", "metadata": {"a/b~c": 2}, "spec": {"containers": [2], "volumes": []}}),
            json!({"metadata": {"labels": {"x": "z", "v": "w"}, "annotations": {}}, "spec": null, "status": {}}),
            json!([]),
        ] {
            assert_eq!(patched(&pod, &other), other);
            assert_eq!(patched(&other, &pod), pod);
        }
        assert_eq!(patch(&pod, &pod), Vec::<Value>::new());
    }

    #[test]
    fn a_list_that_has_lost_its_first_element_is_written_once() {
        let volume = |fill: usize| json!({"k".repeat(10_000): vec![fill; 1000]});
        let before = json!({"spec": {"volumes": [volume(0), volume(1), volume(2)]}});
        let after = json!({"spec": {"volumes": [volume(1), volume(2)]}});
        assert_eq!(patched(&before, &after), after);
        assert!(json!(patch(&before, &after)).to_string().len() < before.to_string().len());
    }
}
