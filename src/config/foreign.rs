//! Words of other gateways' configurations for what sidegate leaves to others: who brings one is told so, and what to do instead.

const PATHS: &str = "sidegate rewrites no path: what was decided on is forwarded byte for byte; write the paths that clients send, and \
                     let the service, or a proxy behind the gate, map them";
const HOSTS: &str = "sidegate does not route by host; run one gate for each service, and let a proxy or an ingress before them tell \
                     hosts apart";
const QUERY: &str = "sidegate reads no key from a query, which logs and histories keep; let callers send it in a header, such as \
                     `{header: X-API-Key}` in `keys.from`";
const BALANCING: &str =
    "sidegate does not balance over several addresses; write the address of a balancer, or of a Service";

/// For a field that is not known at this path; `None`: it is no such word.
pub fn advice(path: &str, field: &str) -> Option<&'static str> {
    let in_any = |places: &[&str]| path.is_empty() || places.iter().any(|place| path.starts_with(place));
    match &*field.to_ascii_lowercase().replace('-', "_") {
        "strip_prefix" | "strip_path" | "strip_uri" | "path_prefix" | "prefix" | "prefix_rewrite" | "rewrite"
        | "rewrites" | "rewrite_path" | "rewrite_target" | "path_rewrite" | "url_rewrite" | "replace_path"
        | "target_path"
            if in_any(&["routes", "upstream", "defaults"]) =>
        {
            Some(PATHS)
        }
        "host" | "hosts" | "hostnames" | "server_name" | "server_names" | "domains" | "virtual_hosts"
            if in_any(&["routes", "defaults"]) =>
        {
            Some(HOSTS)
        }
        "query" | "param" | "parameter" | "query_param" | "query_parameter" | "key_in_query"
            if path.starts_with("keys") =>
        {
            Some(QUERY)
        }
        "key_in_query" => Some(QUERY),
        "targets" | "nodes" | "servers" | "endpoints" | "health_check" | "health_checks"
            if path.starts_with("upstream") =>
        {
            Some(BALANCING)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_another_gateway_is_known_where_it_would_stand() {
        assert_eq!(advice("routes./a", "strip_path"), Some(PATHS));
        assert_eq!(advice("upstream", "strip-prefix"), Some(PATHS));
        assert_eq!(advice("", "hosts"), Some(HOSTS));
        assert_eq!(advice("keys.from[0]", "query"), Some(QUERY));
        assert_eq!(advice("upstreams.default", "targets"), Some(BALANCING));
        for (path, field) in [("routes./a", "query"), ("upstream", "host"), ("store", "prefix"), ("routes./a", "scope")]
        {
            assert_eq!(advice(path, field), None, "{path} {field}");
        }
    }
}
