//! Reading a credential: one key in one place, clear answers for everything else, and no Redis call for what is malformed.

use std::net::IpAddr;

use serde_json::json;

use crate::support::{
    Answer, AnswerTo as _, Gate, Stage, client,
    gate::{on_config, text},
    until, whole,
};

const YAML: &str = "
realm: things
routes:
  /things: any
  /public: public
";

#[tokio::test]
async fn a_key_is_read_from_either_header_and_stripped() {
    let yard = Yard::set(YAML);
    for header in
        ["Authorization: Bearer ", "authorization: bEaReR ", "AUTHORIZATION: BEARER ", "X-API-Key: ", "x-api-key:"]
    {
        assert_eq!(yard.with(&[&format!("{header}{}", yard.key)]).status, 200, "{header}");
        let seen = yard.stage.upstream.only();
        assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (None, None), "{header}");
    }
    // HTTP itself takes the white space around a header's value off.
    assert_eq!(yard.with(&[&format!("X-API-Key:  \t{}\t ", yard.key)]).status, 200);
}

#[tokio::test]
async fn no_key_at_all_is_a_missing_key() {
    let yard = Yard::set(YAML);
    for headers in [vec![], vec!["Cookie: key=1".to_owned()], vec![format!("X-Other: {}", yard.key)]] {
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let answer = yard.with(&headers);
        assert_eq!(answer.denial(), (401, "missing_key".to_owned()));
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"things\""), "no error attribute (RFC 6750)");
    }
}

#[tokio::test]
async fn a_query_never_carries_a_key() {
    let yard = Yard::set(YAML);
    for name in ["apikey", "api_key", "access_token", "X-API-Key"] {
        let answer = yard.gate.raw("GET", format!("/things?{name}={}", yard.key), &[]);
        assert_eq!(answer.denial(), (401, "missing_key".to_owned()), "{name}");
    }
}

#[tokio::test]
async fn two_candidates_are_ambiguous_even_when_equal() {
    let yard = Yard::set(YAML);
    let mut watch = yard.stage.redis.watch();
    let bearer = format!("Authorization: Bearer {}", yard.key);
    let header = format!("X-API-Key: {}", yard.key);
    for headers in [
        vec![bearer.as_str(), bearer.as_str()],
        vec![bearer.as_str(), "Authorization: Bearer other"],
        vec![bearer.as_str(), "Authorization: Basic dTpw"],
        vec![bearer.as_str(), header.as_str()],
        vec![header.as_str(), header.as_str()],
        vec!["X-API-Key: a, b"],
        vec!["Authorization: Bearer a, Bearer b"],
        vec!["Authorization: Bearer a,Bearer a"],
    ] {
        assert_eq!(yard.with(&headers).denial(), (400, "ambiguous_key".to_owned()), "{headers:?}");
    }
    assert_eq!(watch.calls(), [""; 0]);
    assert!(yard.stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn what_is_no_key_is_refused_without_asking_redis() {
    let yard = Yard::set(YAML);
    let mut watch = yard.stage.redis.watch();
    let key = &yard.key;
    for header in [
        "Authorization: Basic dTpw".to_owned(),
        "Authorization: Bearer".to_owned(),
        "Authorization: Bearer ".to_owned(),
        "Authorization:".to_owned(),
        "X-API-Key:".to_owned(),
        format!("Authorization: Bearer  {key}"),
        format!("Authorization: Bearer\t{key}"),
        format!("Authorization: Bearer{key}"),
        format!("Authorization: Bearer {key} x"),
        format!("Authorization: {key}"),
        format!("X-API-Key: {key} x"),
        format!("X-API-Key: \"{key} \""),
    ] {
        let answer = yard.with(&[&header]);
        assert_eq!(answer.denial(), (401, "invalid_api_key".to_owned()), "{header}");
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert!(challenge.contains("error=\"invalid_token\""), "{header}: {challenge}");
    }
    // Control characters have no place in a field (RFC 9110 §5.5); anything else is a field, and no key.
    for (value, status) in
        [(&b"\xff\xfe"[..], 401), (b"sg_\x00", 400), (b"sg_\x01x", 400), ("sg_é".as_bytes(), 401), (&[b'a'; 8192], 401)]
    {
        let answer = yard.gate.raw("GET", "/things", &[&[b"X-API-Key: ", value].concat()]);
        assert_eq!(answer.status, status, "{:?}", &value[..2]);
    }
    assert_eq!(watch.calls(), [""; 0]);
    assert!(yard.stage.upstream.seen().is_empty());
}

#[tokio::test]
async fn another_scheme_beside_a_key_passes_on_untouched() {
    let yard = Yard::set(YAML);
    let header = format!("X-API-Key: {}", yard.key);
    assert_eq!(yard.with(&["Authorization: Basic dTpw", &header]).status, 200);
    let seen = yard.stage.upstream.only();
    assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (Some("Basic dTpw"), None));
}

#[tokio::test]
async fn a_key_is_stripped_on_public_routes_too() {
    let yard = Yard::set(YAML);
    let bearer = format!("Authorization: Bearer {}", yard.key);
    for header in [bearer.as_str(), "Authorization: Bearer unknown", "X-API-Key: unknown"] {
        assert_eq!(yard.gate.raw("GET", "/public", &[header.as_bytes()]).status, 200);
        let seen = yard.stage.upstream.only();
        assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (None, None), "{header}");
    }
    assert_eq!(yard.gate.raw("GET", "/public", &[b"Authorization: Basic dTpw"]).status, 200);
    assert_eq!(yard.stage.upstream.only().header("authorization"), Some("Basic dTpw"));
}

#[tokio::test]
async fn a_key_where_or_as_it_is_not_read_reaches_no_service() {
    for formats in ["", "keys: {formats: [{prefix: sg_, length: 43}]}"] {
        let yard = Yard::set(&format!("{formats}{YAML}"));
        let own = yard.gate.new_key(&["--name", "test", "--business", "acme"]);
        for line in [
            format!("Authorization: {own}"),
            format!("Authorization: Bearer  {own}"),
            format!("Authorization: Bearer{own}"),
            format!("Authorization: Token token=\"{own}\""),
            format!("X-API-Key: Bearer {own}"),
            format!("X-API-Key: '{own}'"),
        ] {
            assert_eq!(yard.gate.raw("GET", "/public", &[line.as_bytes()]).status, 200);
            let seen = yard.stage.upstream.only();
            assert!(seen.headers.iter().all(|(_, value)| !value.contains(&own)), "{line}: {seen:?}");
        }
        // Another one beside the one that is read.
        let beside = format!("Authorization: {own}");
        let read = yard.gate.new_key(&["--name", "other", "--business", "acme"]);
        assert_eq!(yard.with(&[&beside, &format!("X-API-Key: {read}")]).status, 200);
        let seen = yard.stage.upstream.only();
        assert_eq!((seen.header("authorization"), seen.header("x-api-key")), (None, None), "{seen:?}");
    }
}

#[tokio::test]
async fn a_key_is_read_before_connection_can_name_its_header() {
    let yard = Yard::set(YAML);
    let bearer = format!("Authorization: Bearer {}", yard.key);
    assert_eq!(yard.with(&["Connection: authorization", &bearer]).status, 200);
    assert_eq!(yard.stage.upstream.only().header("authorization"), None);
}

#[tokio::test]
async fn the_key_reaches_the_upstream_only_where_the_configuration_says_so() {
    let yard = Yard::set(&format!("keys: {{forward: true}}{YAML}"));
    let bearer = format!("Bearer {}", yard.key);
    assert_eq!(yard.with(&[&format!("Authorization: {bearer}")]).status, 200);
    assert_eq!(yard.stage.upstream.only().all("authorization"), [bearer.as_str()]);
}

#[tokio::test]
async fn a_value_outside_the_formats_is_refused_without_asking_redis() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
keys:
  formats:
    - {prefix: ab_, length: [20, 24]}
    - {prefix: ab_test_, length: 20, reject: Not here}
routes: {/things: any}
",
    );
    let key = stage.redis.mint_as("ab_01234567890123456789", json!({"business": "acme"})).text;
    assert_eq!(gate.get("/things").bearer_auth(&key).answer().await.status, 200);
    let mut watch = stage.redis.watch();
    for wrong in [
        "ab_0123456789012345678",
        "ab_0123456789012345678901234",
        "ab_0123456789012345678-",
        "AB_01234567890123456789",
        "x",
    ] {
        let answer = gate.get("/things").bearer_auth(wrong).answer().await;
        assert_eq!(answer.denial(), (401, "invalid_api_key".to_owned()), "{wrong}");
        assert_eq!(answer.json()["detail"], "Invalid API key", "{wrong}");
    }
    let foreign = gate.get("/things").bearer_auth("ab_test_01234567890123456789").answer().await;
    assert_eq!((foreign.denial().1.as_str(), &foreign.json()["detail"]), ("invalid_api_key", &json!("Not here")));
    assert_eq!(watch.calls(), [""; 0]);
    // Where formats exist, a value that has none of them is no candidate: it passes on beside the one that has.
    let both = gate.get("/things").header("authorization", "Bearer of-the-service").header("x-api-key", &key);
    assert_eq!(both.answer().await.status, 200);
    assert_eq!(stage.upstream.take().pop().expect("two passed").header("authorization"), Some("Bearer of-the-service"));
}

#[tokio::test]
async fn a_wrong_checksum_is_refused_without_asking_redis() {
    let stage = Stage::set();
    let gate = stage.gate(
        "
keys: {formats: [{prefix: ck_, length: 40, checksum: true}]}
routes: {/things: any}
",
    );
    let key = gate.new_key(&["--name", "test", "--business", "acme", "--scopes", "*"]);
    assert_eq!(gate.get("/things").bearer_auth(&key).answer().await.status, 200);
    let mut watch = stage.redis.watch();
    for position in [3, 20, key.len() - 1] {
        let mut wrong = key.clone().into_bytes();
        wrong[position] = if wrong[position] == b'a' { b'b' } else { b'a' };
        let wrong = String::from_utf8(wrong).expect("keys are ASCII");
        let answer = gate.get("/things").bearer_auth(&wrong).answer().await;
        assert_eq!(answer.denial(), (401, "invalid_api_key".to_owned()), "position {position}");
    }
    assert_eq!(watch.calls(), [""; 0]);
}

#[tokio::test]
async fn the_break_glass_list_refuses_keys_and_addresses_without_redis() {
    let stage = Stage::set();
    let [by_id, by_digest, other] = [1, 2, 3].map(|_| stage.redis.mint(json!({"business": "acme"})));
    let gate = stage
        .gate(&format!("deny: {{keys: ['{}', '{}'], addresses: [127.0.0.2/32]}}{YAML}", by_id.id, by_digest.digest));
    for (key, status) in [(&by_id, 401), (&by_digest, 401), (&other, 200)] {
        let answer = gate.get("/things").bearer_auth(&key.text).answer().await;
        assert_eq!(answer.status, status);
        if status == 401 {
            assert_eq!(answer.denial().1, "invalid_api_key");
        }
    }
    let from = client::http(&[]).local_address(IpAddr::from([127, 0, 0, 2])).build().expect("loopback can be bound");
    let answer = from.get(gate.url("/things")).bearer_auth(&other.text).answer().await;
    assert_eq!(answer.denial(), (403, "denied_address".to_owned()));
}

/// For the time that Redis is away keys are refused as unknowable, but those of the list for good.
#[tokio::test]
async fn the_break_glass_list_refuses_while_redis_is_stopped() {
    let mut stage = Stage::set();
    let [listed, other] = [1, 2].map(|_| stage.redis.mint(json!({"business": "acme"})));
    let known = "store: {redis: '${REDIS_URL}', outage: {keys: {known_for: 5m}}}";
    let gate = stage.gate(&format!("{known}{YAML}"));
    for key in [&listed, &other] {
        until("the key to be known", || (status(&gate, &key.text) == 200).then_some(()));
    }
    stage.redis.kill();
    gate.reload(&format!("{known}\ndeny: {{keys: ['{}', '{}']}}{YAML}", listed.id, listed.digest));
    assert_eq!((status(&gate, &listed.text), status(&gate, &other.text)), (401, 200));
    gate.reload(&format!("{known}\ndeny: {{addresses: [127.0.0.1/32]}}{YAML}"));
    assert_eq!(status(&gate, &other.text), 403);
}

fn status(gate: &Gate, key: &str) -> u16 {
    gate.raw("GET", "/things", &[format!("Authorization: Bearer {key}").as_bytes()]).status
}

#[tokio::test]
async fn what_the_break_glass_list_cannot_refuse_by_is_an_error_that_repeats_no_key() {
    let stage = Stage::set();
    let key = stage.redis.mint(json!({"business": "acme"}));
    let hint = key.text[..11].to_owned();
    for (listed, told) in [(&key.text, "a whole key"), (&hint, "a key's hint")] {
        let yaml = whole(&format!("deny: {{keys: ['{listed}']}}{YAML}"));
        let output = on_config(&yaml, &["check"], &stage.environment());
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("deny.keys") && said.contains(told) && !said.contains(listed.as_str()), "{said}");
    }
}

#[tokio::test]
async fn the_break_glass_list_refuses_a_key_of_another_system_that_was_put_there_whole() {
    let stage = Stage::set();
    let key = stage.redis.mint_as("legacy-4711", json!({"business": "acme"}));
    let gate = stage.gate(&format!("deny: {{keys: [legacy-4711]}}{YAML}"));
    assert_eq!(gate.get("/things").bearer_auth(&key.text).answer().await.status, 401);
}

#[tokio::test]
async fn an_address_that_guesses_keys_is_slowed_and_costs_redis_nothing_more() {
    let stage = Stage::set();
    let gate = stage.gate(&format!("keys: {{guessing: 5/1d}}{YAML}"));
    let [seen, new] = [1, 2].map(|_| stage.redis.mint(json!({"business": "acme"})));
    let ask = async |key: &str| gate.get("/things").bearer_auth(key).answer().await;
    stage.redis.room(86_400_000, 30_000);
    assert_eq!(ask(&seen.text).await.status, 200);
    for guess in 0..5 {
        assert_eq!(ask(&format!("guess-{guess}")).await.denial(), (401, "invalid_api_key".to_owned()));
    }
    let mut watch = stage.redis.watch();
    for guess in 5..50 {
        let answer = ask(&format!("guess-{guess}")).await;
        assert_eq!(answer.denial(), (429, "rate_limited".to_owned()));
        assert!(answer.number("retry-after") >= 1);
        assert_eq!(answer.header("x-ratelimit-limit"), None, "whose limit it is, is nobody's to know");
    }
    assert_eq!(watch.calls(), [""; 0]);
    // Whatever worker the connection is at.
    for _ in 0..10 {
        let answer = gate.raw("GET", "/things", &[format!("Authorization: Bearer {}", seen.text).as_bytes()]);
        assert_eq!(answer.status, 200, "a key that was here before is not slowed");
    }
    assert_eq!(ask(&new.text).await.status, 429, "one that is new waits with its address");
    let elsewhere = client::http(&[]).local_address(IpAddr::from([127, 0, 0, 2]));
    let elsewhere = elsewhere.build().expect("loopback can be bound");
    assert_eq!(elsewhere.get(gate.url("/things")).bearer_auth(&new.text).answer().await.status, 200);
    assert_eq!(gate.metric("sidegate_denials_total", &["rate_limited"]), 46.0);
    assert_eq!(gate.metric("sidegate_guesses_slowed_total", &[]), 46.0, "so that who is slowed is seen to guess on");
}

#[tokio::test]
async fn a_key_works_as_soon_as_it_is_created_though_it_was_tried_before() {
    let stage = Stage::set();
    let gate = stage.gate(&format!("keys: {{guessing: 60/1m}}{YAML}"));
    for index in 0..20 {
        let text = format!("sg_tried_before_it_was_created_{index}");
        assert_eq!(gate.get("/things").bearer_auth(&text).answer().await.status, 401);
        stage.redis.mint_as(&text, json!({"business": "acme"}));
        assert_eq!(gate.get("/things").bearer_auth(&text).answer().await.status, 200);
    }
}

struct Yard {
    stage: Stage,
    gate: Gate,
    key: String,
}

impl Yard {
    fn set(yaml: &str) -> Self {
        let stage = Stage::set();
        let gate = stage.gate(yaml);
        let key = stage.redis.mint(json!({"business": "acme"})).text;
        Self { stage, gate, key }
    }

    /// `GET /things` with these header lines, byte for byte.
    fn with(&self, headers: &[&str]) -> Answer {
        let headers: Vec<&[u8]> = headers.iter().map(|header| header.as_bytes()).collect();
        self.gate.raw("GET", "/things", &headers)
    }
}
