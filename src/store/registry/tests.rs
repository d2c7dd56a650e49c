//! The same promises for both stores: every test runs against a file and against a real `redis-server`.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::store::record::KeyDocument;
use crate::store::redis::Settings;

const NOW: u64 = 1_774_276_200_000;

/// A `redis-server` of this test's own; it ends with it.
struct Server {
    process: Child,
    settings: Settings,
}

impl Server {
    fn start() -> Self {
        // The port can be taken between the two lines; then the server ends at once and another is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
            let arguments = ["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
            let process = Command::new("redis-server").args(arguments).stdout(Stdio::null()).spawn();
            let process = process.expect("redis-server starts; install it with `apt-get install redis-server`");
            let settings = Settings::from_url(&format!("redis://127.0.0.1:{port}")).expect("an address");
            let mut server = Self { process, settings };
            if server.answers() {
                return server;
            }
        }
        panic!("redis-server did not come up on any of ten ports");
    }

    fn answers(&mut self) -> bool {
        for _ in 0..500 {
            if std::net::TcpStream::connect(("127.0.0.1", self.settings.topology.addresses()[0].port)).is_ok() {
                return true;
            }
            if self.process.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Both stores, empty.
struct Both {
    registries: Vec<Registry>,
    server: Server,
    _folder: TempDir,
}

async fn both() -> Both {
    let folder = TempDir::new().expect("a folder");
    let store = FileStore::open(&folder.path().join("keys.yaml")).expect("the store opens");
    let server = Server::start();
    let redis = Registry::connect(&server.settings).await.expect("redis-server answers");
    Both { registries: vec![Registry::File { store }, redis], server, _folder: folder }
}

fn members(value: Value) -> Members {
    let Value::Object(members) = value else { panic!("an object") };
    members
}

fn document(id: &str) -> Members {
    members(
        json!({"id": id, "name": "n", "hint": format!("sg_{id}"), "business": "acme", "user": "u", "note": {"x": 1}}),
    )
}

async fn insert(registry: &Registry, key: &str, wanted: Members) -> Result<Insertion, RegistryError> {
    registry.insert(&Digest::of(key), wanted, Bounds { most: None, now_ms: NOW }).await
}

fn ids(keys: &[StoredKey]) -> Vec<&str> {
    keys.iter().filter_map(|key| key.text("id")).collect()
}

#[tokio::test]
async fn inserting_twice_is_inserting_once() {
    for registry in both().await.registries {
        let first = insert(&registry, "one", document("k1")).await;
        let Ok(Insertion::Inserted(key)) = first else { panic!("{first:?}") };
        assert_eq!(key.text("created_at"), Some("2026-03-23T14:30:00Z"));
        assert_eq!(insert(&registry, "one", document("k1")).await, Ok(Insertion::AlreadyThere(key.clone())));
        let mut without_id = document("k1");
        without_id.remove("id");
        assert_eq!(insert(&registry, "one", without_id.clone()).await, Ok(Insertion::AlreadyThere(key)));

        let other = insert(&registry, "one", members(json!({"name": "other", "business": "acme"}))).await;
        assert_eq!(other, Err(RegistryError::Differs { id: "k1".to_owned(), member: "name".to_owned() }));
        let elsewhere = insert(&registry, "one", members(json!({"name": "n", "business": "b2"}))).await;
        assert_eq!(elsewhere, Err(RegistryError::Differs { id: "k1".to_owned(), member: "business".to_owned() }));
        assert_eq!(insert(&registry, "two", document("k1")).await, Err(RegistryError::IdTaken("k1".to_owned())));
        let Ok(Insertion::Inserted(given)) = insert(&registry, "two", without_id).await else { panic!("it is new") };
        assert_eq!(given.text("id").map(str::len), Some(36));
        assert!(matches!(
            insert(&registry, "three", members(json!({"name": "n"}))).await,
            Err(RegistryError::Unreadable(_))
        ));
    }
}

#[tokio::test]
async fn a_key_is_found_by_id_by_hint_and_by_itself() {
    for registry in both().await.registries {
        for (key, id) in [("one", "k1"), ("two", "k2")] {
            insert(&registry, key, document(id)).await.expect("it is inserted");
        }
        for name in ["k1", "sg_k1"] {
            assert_eq!(registry.find(name).await.map(|key| key.digest), Ok(Digest::of("one")), "{name}");
        }
        assert_eq!(registry.find_digest(&Digest::of("two")).await.map(|key| key.digest), Ok(Digest::of("two")));
        assert_eq!(registry.find("k3").await, Err(RegistryError::NotFound));
        assert_eq!(registry.find_digest(&Digest::of("k3")).await, Err(RegistryError::NotFound));

        let same_hint = members(json!({"id": "k3", "hint": "sg_k1", "user": "u"}));
        insert(&registry, "three", same_hint).await.expect("it is inserted");
        let ambiguous = registry.find("sg_k1").await;
        let Err(RegistryError::Ambiguous { mut ids, .. }) = ambiguous else { panic!("{ambiguous:?}") };
        ids.sort();
        assert_eq!(ids, ["k1", "k3"]);
    }
}

#[tokio::test]
async fn lists_are_filtered_and_sorted_by_age() {
    for registry in both().await.registries {
        let key = |id: &str, business: Option<&str>, user: &str, day: u32| {
            let mut key = members(json!({"id": id, "user": user, "created_at": format!("2026-01-{day:02}T00:00:00Z")}));
            key.extend(business.map(|business| ("business".to_owned(), json!(business))));
            key
        };
        let keys =
            [("a", Some("acme"), "u", 3), ("b", Some("b2"), "u", 1), ("c", None, "u", 2), ("d", Some("acme"), "v", 1)];
        for (id, business, user, day) in keys {
            insert(&registry, id, key(id, business, user, day)).await.expect("it is inserted");
        }
        let list = async |business: Option<&str>, user: Option<&str>| {
            let filter =
                Filter { business: business.map(str::to_owned), user: user.map(str::to_owned), created_before: None };
            ids(&registry.list(&filter).await.expect("a list")).join("")
        };
        assert_eq!(list(None, None).await, "bdca");
        assert_eq!(list(Some("acme"), None).await, "da");
        assert_eq!(list(None, Some("u")).await, "bca");
        assert_eq!(list(Some("acme"), Some("u")).await, "a");
        assert_eq!(list(Some("nobody"), None).await, "");
    }
}

#[tokio::test]
async fn redis_holds_the_layout_of_the_contract_and_an_interrupted_insertion_is_completed() {
    let both = both().await;
    let redis = RedisDocuments::connect(&both.server.settings).await.expect("redis-server answers");
    let registry = &both.registries[1];
    let hex = Digest::of("one").to_hex();
    let [at, place] = [format!("sg:at:{hex}"), format!("sg:{{b:acme}}:key:{hex}")];
    insert(registry, "one", document("k1")).await.expect("it is inserted");
    for interrupted in ["nothing", "at"] {
        redis.delete(if interrupted == "at" { &at } else { "none" }).await.expect("redis-server answers");
        assert!(matches!(insert(registry, "one", document("k1")).await, Ok(Insertion::AlreadyThere(_))));
        assert_eq!(redis.get(&at).await, Ok(Some("b:acme".into())));
        let stored = redis.get(&place).await.expect("redis-server answers").expect("the document");
        assert!(KeyDocument::parse(&stored).is_ok());
        assert_eq!(redis.sscan("sg:{b:acme}:keys").await, Ok(vec![hex.clone()]));
        assert_eq!(redis.get("sg:id:k1").await, Ok(Some(format!("b:acme {hex}").into())));
    }
}

#[tokio::test]
async fn a_broken_document_is_listed_and_said_to_be_one() {
    let both = both().await;
    let redis = RedisDocuments::connect(&both.server.settings).await.expect("redis-server answers");
    let place = format!("sg:{{b:acme}}:key:{}", Digest::of("one").to_hex());
    for broken in ["{", r#"{"id":"k1","business":"other"}"#] {
        redis.set(&place, broken.as_bytes()).await.expect("redis-server answers");
        let keys = both.registries[1].list(&Filter::default()).await.expect("a list");
        assert_eq!(keys.iter().map(|key| key.document.is_err()).collect::<Vec<_>>(), [true], "{broken}");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_deleted_and_what_led_to_it_too() {
    let both = both().await;
    let redis = RedisDocuments::connect(&both.server.settings).await.expect("redis-server answers");
    let registry = &both.registries[1];
    insert(registry, "one", document("k1")).await.expect("it is inserted");
    let place = format!("sg:{{b:acme}}:key:{}", Digest::of("one").to_hex());
    redis.set(&place, b"{").await.expect("redis-server answers");
    let key = registry.find_digest(&Digest::of("one")).await.expect("it is found");
    let bounds = Bounds { most: Some(10), now_ms: NOW };
    let changed = registry.change(&key, bounds, |_| Ok(Edit::Deleted)).await.expect("it is deleted");
    assert_eq!((changed.after, redis.scan("sg:*key*").await), (None, Ok(Vec::new())));
    assert_eq!(registry.find_digest(&Digest::of("one")).await, Err(RegistryError::NotFound));
    assert_eq!(registry.change(&key, bounds, |_| Ok(Edit::Deleted)).await, Err(RegistryError::NotFound));
}

#[tokio::test]
async fn a_change_keeps_every_member_that_it_does_not_know_and_is_refused_where_it_breaks_a_key() {
    for registry in both().await.registries {
        insert(&registry, "one", document("k1")).await.expect("it is inserted");
        let key = registry.find("k1").await.expect("it is found");
        let bounds = Bounds { most: None, now_ms: NOW };
        let set = |member: &'static str, value: Value| {
            move |before: &StoredKey| {
                let mut members = before.members.clone();
                members.insert(member.to_owned(), value.clone());
                Ok(Edit::Changed(members))
            }
        };
        let changed = registry.change(&key, bounds, set("name", json!("other"))).await.expect("it is changed");
        let after = changed.after.expect("it stands");
        assert_eq!((after.text("name"), &after.members["note"]), (Some("other"), &json!({"x": 1})));
        assert_eq!(registry.find("k1").await, Ok(after));
        let broken = registry.change(&key, bounds, set("expires_at", json!("soon"))).await;
        assert!(matches!(broken, Err(RegistryError::Unreadable(_))));
        let moved = registry.change(&key, bounds, set("business", json!("other"))).await;
        assert!(matches!(moved, Err(RegistryError::Unreadable(_))), "a key stays its tenant's");
    }
}

#[tokio::test]
async fn a_document_that_is_to_vanish_by_itself_still_does_after_a_change() {
    let both = both().await;
    let registry = &both.registries[1];
    insert(registry, "one", document("k1")).await.expect("it is inserted");
    let business = |plan: &'static str| move |_: &Members| members(json!({"plan": plan}));
    registry.change_business("acme", business("pro")).await.expect("it is made");
    let client = ::redis::Client::open(("127.0.0.1", both.server.settings.topology.addresses()[0].port));
    let mut connection = client.and_then(|client| client.get_connection()).expect("redis-server answers");
    let names = [format!("sg:{{b:acme}}:key:{}", Digest::of("one").to_hex()), "sg:{b:acme}:business".to_owned()];
    for name in &names {
        ::redis::cmd("EXPIRE").arg(name).arg(3600).query::<()>(&mut connection).expect("it stands");
    }
    let key = registry.find("k1").await.expect("it is found");
    let renamed = |before: &StoredKey| {
        let mut members = before.members.clone();
        members.insert("name".to_owned(), json!("other"));
        Ok(Edit::Changed(members))
    };
    registry.change(&key, Bounds { most: None, now_ms: NOW }, renamed).await.expect("it is changed");
    registry.change_business("acme", business("free")).await.expect("it is changed");
    for name in &names {
        let left: i64 = ::redis::cmd("TTL").arg(name).query(&mut connection).expect("it stands");
        assert!(left > 0, "{name}: {left}");
    }
}

#[tokio::test]
async fn use_is_added_up_over_flushes_and_read_by_day_and_by_minute() {
    use crate::store::redis::usage_writer::UsageWriter;
    use crate::store::usage::{Batch, Count, DAY_MS, Subject, last_used, read, since};

    let both = both().await;
    let Registry::Redis { key_admin, layout, .. } = &both.registries[1] else { panic!("the second is Redis") };
    let tenant = Tenant::Business("acme".to_owned());
    let key = Subject::Key { tenant: tenant.clone(), id: "k1".to_owned() };
    let business = Subject::Business("acme".to_owned());
    let count = |requests, denials| Count { requests, denials };
    let mut usage_writer = UsageWriter::new(both.server.settings.clone());
    for _ in 0..2 {
        let mut batch = Batch::default();
        for (ago, counted) in
            [(0, count(3, 1)), (90 * 60_000, count(1, 0)), (89 * DAY_MS, count(5, 5)), (91 * DAY_MS, count(100, 0))]
        {
            batch.add(key.clone(), NOW - ago, counted);
        }
        batch.add(business.clone(), NOW + 5, count(7, 0));
        let written = usage_writer.write(batch).await;
        assert_eq!((written.result, written.left.len(), written.lost), (Ok(()), 0, 0));
    }
    let mut late = Batch::default();
    late.add(key.clone(), NOW - 60_000, count(0, 0));
    usage_writer.write(late).await.result.expect("redis-server answers");
    let of_key = read(key_admin, layout, &key, NOW).await.expect("redis-server answers");
    assert_eq!((of_key.minutes.len(), of_key.days.len()), (1, 2));
    assert_eq!((of_key.total(), of_key.last_used_ms), (count(18, 12), Some(NOW)), "what comes late is no later use");
    let of_business = read(key_admin, layout, &business, NOW).await.expect("redis-server answers");
    assert_eq!((of_business.total(), of_business.last_used_ms), (count(32, 12), Some(NOW + 5)));
    assert_eq!(read(key_admin, layout, &Subject::Business("b2".to_owned()), NOW).await, Ok(Default::default()));
    let other = Tenant::User("u".to_owned());
    let asked = [(&other, "k1"), (&tenant, "k1"), (&tenant, "k2")];
    assert_eq!(last_used(key_admin, layout, &asked).await, Ok(vec![None, Some(NOW), None]));
    assert_eq!(since(key_admin, layout).await, Ok(Some(NOW)));
}

#[tokio::test]
async fn what_cannot_be_added_is_lost_and_the_rest_is_not() {
    use crate::store::redis::usage_writer::UsageWriter;
    use crate::store::usage::{Batch, Count, Subject, read};

    let both = both().await;
    let Registry::Redis { key_admin, layout, documents, .. } = &both.registries[1] else {
        panic!("the second is Redis")
    };
    let [bad, good] = ["bad", "good"].map(|id| Subject::Business(id.to_owned()));
    let days = NOW / 86_400_000 / 30;
    documents.set(&layout.in_slot("b:bad", &format!("usage:business:days:{days}")), b"x").await.expect("it answers");
    documents.set(&layout.in_slot("b:bad", "usage:last"), b"x").await.expect("it answers");
    let mut batch = Batch::default();
    for subject in [&bad, &good] {
        batch.add(subject.clone(), NOW, Count { requests: 2, denials: 0 });
    }
    let written = UsageWriter::new(both.server.settings.clone()).write(batch).await;
    assert_eq!((written.result, written.left.len(), written.lost), (Ok(()), 0, 1));
    let of_good = read(key_admin, layout, &good, NOW).await.expect("redis-server answers");
    assert_eq!((of_good.total().requests, of_good.last_used_ms), (2, Some(NOW)));
}

#[tokio::test]
async fn two_who_insert_the_same_key_at_once_leave_it_whole() {
    let both = both().await;
    let registry = &both.registries[1];
    let other = Registry::connect(&both.server.settings).await.expect("redis-server answers");
    for round in 0..20 {
        let (key, id) = (format!("key {round}"), format!("k{round}"));
        let (one, two) = tokio::join!(insert(registry, &key, document(&id)), insert(&other, &key, document(&id)));
        assert!(one.is_ok() || two.is_ok(), "{one:?} {two:?}");
        assert_eq!(registry.find(&id).await.map(|key| key.digest), Ok(Digest::of(&key)));
    }
}

#[tokio::test]
async fn a_key_that_two_tenants_insert_at_once_is_one_tenants() {
    let both = both().await;
    let one = &both.registries[1];
    let two = Registry::connect(&both.server.settings).await.expect("redis-server answers");
    let redis = RedisDocuments::connect(&both.server.settings).await.expect("redis-server answers");
    for round in 0..50 {
        let key = format!("key {round}");
        let of = |business: &str| members(json!({"name": "n", "business": business}));
        let came = tokio::join!(insert(one, &key, of("acme")), insert(&two, &key, of("b2")));
        let made = [&came.0, &came.1].into_iter().filter(|one| matches!(one, Ok(Insertion::Inserted(_)))).count();
        let hex = Digest::of(&key).to_hex();
        let documents = redis.scan(&format!("sg:*:key:{hex}")).await.expect("redis-server answers");
        let at = redis.get(&format!("sg:at:{hex}")).await.expect("redis-server answers").expect("it points to one");
        let at = String::from_utf8(at.to_vec()).expect("a tenant");
        assert!(documents.len() == made && made <= 1, "round {round}: {came:?} {documents:?}");
        assert!(documents.iter().all(|name| *name == format!("sg:{{{at}}}:key:{hex}")), "{at}: {documents:?}");
    }
    let Registry::Redis { documents, layout, .. } = one else { panic!("it is in Redis") };
    let keys = one.list(&Filter::default()).await.expect("a list").len();
    assert_eq!(documents.scan(&layout.id("*")).await.map(|names| names.len()), Ok(keys), "no id is left behind");
}

#[tokio::test]
async fn a_pointer_to_nothing_holds_up_nobody() {
    let both = both().await;
    let redis = RedisDocuments::connect(&both.server.settings).await.expect("redis-server answers");
    let at = format!("sg:at:{}", Digest::of("one").to_hex());
    redis.set(&at, b"b:other").await.expect("redis-server answers");
    assert!(matches!(insert(&both.registries[1], "one", document("k1")).await, Ok(Insertion::Inserted(_))));
    assert_eq!(redis.get(&at).await, Ok(Some("b:acme".into())));
    let full = Bounds { most: Some(1), now_ms: NOW };
    let refused = both.registries[1].insert(&Digest::of("two"), document("k2"), full).await;
    assert!(matches!(refused, Err(RegistryError::Full { .. })), "{refused:?}");
    assert_eq!(redis.scan("sg:at:*").await, Ok(vec![at]), "nothing is left of it");
}

#[tokio::test]
async fn who_loses_a_race_for_a_key_leaves_no_id_behind() {
    let both = both().await;
    let [_, redis] = both.registries.as_slice() else { panic!("two stores") };
    let others = [Registry::connect(&both.server.settings).await, Registry::connect(&both.server.settings).await];
    let [Ok(second), Ok(third)] = &others else { panic!("redis-server answers") };
    let mut wanted = document("k1");
    wanted.remove("id");
    for round in 0..30 {
        let key = format!("key {round}");
        // Each would give it an id of its own.
        let inserted = tokio::join!(
            insert(redis, &key, wanted.clone()),
            insert(second, &key, wanted.clone()),
            insert(third, &key, wanted.clone())
        );
        let came =
            [inserted.0, inserted.1, inserted.2].into_iter().filter(|one| matches!(one, Ok(Insertion::Inserted(_))));
        assert_eq!(came.count(), 1, "round {round}");
    }
    let Registry::Redis { documents, layout, .. } = redis else { panic!("it is in Redis") };
    assert_eq!(documents.scan(&layout.id("*")).await.map(|names| names.len()), Ok(30));
}
