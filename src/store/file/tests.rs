//! The embedded store from outside: what stands in a file, and what is answered.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::limit::{Algorithm, BucketAsk, Document, Member, Windows};
use crate::store::layout;
use crate::store::record::KeyDocument;

const NOW: u64 = 1_774_276_200_000;

struct Folder {
    folder: TempDir,
}

impl Folder {
    fn new() -> Self {
        Self { folder: TempDir::new().expect("a folder for the test") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("keys.yaml")
    }

    fn write(&self, yaml: &str) {
        fs::write(self.path(), yaml).expect("the file is written");
    }

    fn open(&self) -> Arc<FileStore> {
        FileStore::open(&self.path()).expect("the store opens")
    }
}

fn entry(key: &str, members: &str) -> String {
    format!("- {{sha256: {}, id: {key}, name: {key}{members}}}\n", Digest::of(key).to_hex())
}

fn file(entries: &[String]) -> String {
    format!(
        "keys:\n{}businesses: {{acme: {{plan: pro}}, none: }}\nusers: {{u_42: {{businesses: [acme, b2, 7, a b]}}}}\n",
        entries.concat()
    )
}

/// A question about this document alone.
fn about(slot: &str, name: &str, believed: Believed) -> Question {
    let document = Document { name: name.into(), believed };
    let ask = Ask { slot: slot.into(), documents: vec![document].into(), ..Ask::default() };
    Question { asks: [ask].into(), cost: 1, n: 1 }
}

fn outcome(store: &FileStore, question: &Question) -> Outcome {
    let answers = store.decide(std::slice::from_ref(question), NOW);
    let [answer] = answers.as_slice() else { panic!("one question, one answer") };
    assert_eq!(answer.now_ms, NOW);
    answer.outcome.clone()
}

fn stored(store: &FileStore, key: &str) -> Option<KeyDocument> {
    let digest = Digest::of(key);
    let tenant = store.lookup(&digest)?;
    let question = about(&tenant.to_string(), &layout::key_name(&digest), Believed::Unknown);
    let Outcome::Stale(documents) = outcome(store, &question) else { panic!("an unknown document is stale") };
    KeyDocument::parse(documents[0][0].as_ref()?).ok()
}

fn within_a_second(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it never came");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn documents_stand_under_the_names_that_redis_has() {
    let folder = Folder::new();
    folder.write(&file(&[
        entry("one", ", business: acme, scopes: [a], limits: {per-key: 60/1m}"),
        entry("two", ", user: u_42"),
    ]));
    let store = folder.open();
    assert_eq!(store.lookup(&Digest::of("one")), Some(Tenant::Business("acme".to_owned())));
    assert_eq!(store.lookup(&Digest::of("two")), Some(Tenant::User("u_42".to_owned())));
    assert_eq!(store.lookup(&Digest::of("three")), None);
    assert_eq!(stored(&store, "one").map(|d| d.limits["per-key"].to_string()), Some("60/1m".to_owned()));
    let business = outcome(&store, &about("b:acme", layout::BUSINESS, Believed::Unknown));
    assert_eq!(business, Outcome::Stale(vec![vec![Some(r#"{"plan":"pro"}"#.into())]]));
    assert_eq!(
        outcome(&store, &about("b:none", layout::BUSINESS, Believed::Unknown)),
        Outcome::Stale(vec![vec![Some("{}".into())]])
    );
}

#[test]
fn an_answer_is_the_first_that_holds_in_the_order_of_the_contract() {
    let folder = Folder::new();
    folder.write(&file(&[]));
    let store = folder.open();
    let mut question = about("u:u_42", layout::BUSINESS, Believed::Is("x".into()));
    question.asks.change(|asks| asks[0].not_after_ms = Some(NOW));
    question
        .asks
        .change(|asks| asks[0].member = Some(Box::new(Member { set: layout::BUSINESSES.into(), member: "b9".into() })));
    let windows = Arc::new(Windows::parse(["2/1m"]).expect("a window"));
    let bucket = BucketAsk { name: "count:l:u:u_42".into(), algorithm: Algorithm::Fixed, windows, observes: false };
    question.asks.change(|asks| asks[0].buckets.push(bucket));

    assert_eq!(outcome(&store, &question), Outcome::Stale(vec![vec![None]]));
    question.asks.change(|asks| asks[0].documents[0].believed = Believed::Absent);
    assert_eq!(outcome(&store, &question), Outcome::Expired);
    question.asks.change(|asks| asks[0].not_after_ms = Some(NOW + 1));
    assert_eq!(outcome(&store, &question), Outcome::Refused);
    question
        .asks
        .change(|asks| asks[0].member = Some(Box::new(Member { set: layout::BUSINESSES.into(), member: "7".into() })));
    for granted in [1, 1, 0] {
        let Outcome::Spent { granted: now, .. } = outcome(&store, &question) else { panic!("it is spent") };
        assert_eq!(now, granted);
    }
}

#[test]
fn a_change_acts_within_a_second_and_a_revoked_key_is_refused() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: acme")]));
    let store = folder.open();
    assert_eq!(stored(&store, "one").map(|d| d.revoked), Some(false));
    folder.write(&file(&[entry("one", ", business: acme"), entry("two", ", business: acme, revoked_at: ")]));
    within_a_second(|| store.lookup(&Digest::of("two")).is_some());
    assert_eq!(stored(&store, "two").map(|d| d.revoked), Some(true));
    assert_eq!(stored(&store, "one").map(|d| d.revoked), Some(false));
}

#[test]
fn nobody_waits_while_the_file_is_read() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: acme")]));
    let store = folder.open();
    let reading = store.last_read();
    let (tell, told) = mpsc::channel();
    let asking = store.clone();
    thread::spawn(move || {
        // Beyond the moment at which it is looked at again.
        thread::sleep(POLL_EVERY + Duration::from_millis(200));
        tell.send(asking.lookup(&Digest::of("one")).is_some())
    });
    assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(true));
    drop(reading);
}

#[test]
fn a_change_that_the_files_times_do_not_show_is_seen() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: b1")]));
    let store = folder.open();
    let written = fs::metadata(folder.path()).and_then(|metadata| metadata.modified()).expect("a time");
    folder.write(&file(&[entry("one", ", business: b2")]));
    let changed = fs::File::options().write(true).open(folder.path()).expect("the file is there");
    changed.set_modified(written).expect("the time is set");
    within_a_second(|| store.lookup(&Digest::of("one")) == Some(Tenant::Business("b2".to_owned())));
}

#[test]
fn a_bad_file_leaves_the_last_good_reading_in_force() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: acme, revoked_at: now")]));
    let store = folder.open();
    for bad in ["keys: [", "key: []", "keys: 1", "- x", "", "\n"] {
        folder.write(bad);
        store.refresh(&mut store.last_read());
        assert_eq!(stored(&store, "one").map(|d| d.revoked), Some(true), "{bad:?}");
        assert!(store.last_read().logged.is_some(), "{bad:?}");
    }
    fs::remove_file(folder.path()).expect("the file is there");
    store.refresh(&mut store.last_read());
    assert_eq!(stored(&store, "one").map(|d| d.revoked), Some(true));
    let good = file(&[entry("one", ", business: acme, revoked_at: now")]);
    for good in [good.clone(), good, file(&[])] {
        folder.write(&good);
        store.refresh(&mut store.last_read());
        assert_eq!(store.last_read().logged, None);
    }
    assert_eq!(stored(&store, "one"), None);
}

#[test]
fn a_revoked_key_never_comes_back_while_the_process_lives() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: acme, revoked_at: now")]));
    let store = folder.open();
    folder.write(&file(&[]));
    store.refresh(&mut store.last_read());
    assert_eq!(stored(&store, "one"), None);
    folder.write(&file(&[entry("one", ", business: acme")]));
    store.refresh(&mut store.last_read());
    assert_eq!(stored(&store, "one").map(|d| d.revoked), Some(true));
}

#[test]
fn a_bad_entry_harms_itself_alone() {
    let folder = Folder::new();
    folder.write(&file(&[
        "- {id: no-digest}\n- 7\n".to_owned(),
        entry("nobody", ""),
        entry("bad", ", business: acme, expires_at: soon"),
        entry("twice", ", business: acme, revoked_at: now"),
        entry("twice", ", business: acme"),
        entry("good", ", business: acme"),
    ]));
    let store = folder.open();
    assert_eq!(store.lookup(&Digest::of("nobody")), None);
    assert!(store.lookup(&Digest::of("bad")).is_some());
    assert_eq!(stored(&store, "bad"), None, "an unreadable document opens nothing");
    assert_eq!(stored(&store, "twice"), None);
    assert!(stored(&store, "good").is_some());
}

#[test]
fn a_missing_file_is_an_empty_store_and_a_bad_one_does_not_open() {
    let folder = Folder::new();
    let store = folder.open();
    assert_eq!(store.lookup(&Digest::of("one")), None);
    folder.write("keys: 7");
    let error = FileStore::open(&folder.path()).map(|_| ()).map_err(|error| error.to_string());
    assert!(error.is_err_and(|text| text.contains("`keys` is a list")));
    assert!(FileStore::open(folder.folder.path()).is_err(), "a folder is no store");
}

#[test]
fn an_edit_is_seen_at_once_and_keeps_what_it_does_not_know() {
    use std::os::unix::fs::PermissionsExt;

    let folder = Folder::new();
    let store = folder.open();
    let document = serde_json::from_str(r#"{"id":"k1","user":"u","note":{"by":"me"}}"#).expect("an object");
    let push = |contents: &mut Contents| {
        contents.push(&Digest::of("one"), &document).map_err(StoreError::Broken)?;
        Ok::<_, StoreError>(((), true))
    };
    store.edit(push).expect("it is written");
    assert!(stored(&store, "one").is_some());
    let mode = fs::metadata(folder.path()).expect("the file is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let revoke = |contents: &mut Contents| {
        let (digest, mut document) = contents.entries().next().expect("an entry");
        document.insert("revoked_at".to_owned(), "2026-03-23T14:30:00Z".into());
        contents.replace(&digest, &document).map_err(StoreError::Broken)?;
        Ok::<_, StoreError>(((), true))
    };
    let other = folder.open();
    other.edit(revoke).expect("it is written");
    assert_eq!(stored(&other, "one").map(|d| d.revoked), Some(true));
    within_a_second(|| stored(&store, "one").is_some_and(|d| d.revoked));
    let yaml = fs::read_to_string(folder.path()).expect("the file is there");
    assert!(yaml.starts_with("# The keys of sidegate") && yaml.contains("by: me"), "{yaml}");
    let left: Vec<_> = fs::read_dir(folder.folder.path()).expect("the folder is there").flatten().collect();
    assert_eq!(left.len(), 2, "the file and its lock, nothing else: {left:?}");
}

#[test]
fn what_a_killed_writer_left_is_taken_away_by_the_next() {
    let folder = Folder::new();
    folder.write(&file(&[entry("one", ", business: acme")]));
    let left = folder.folder.path().join("keys.yaml.tmp");
    fs::write(&left, "half").expect("the folder is writable");
    folder.open().edit(push("two")).expect("it is written");
    assert!(!left.exists() && stored(&folder.open(), "two").is_some());
}

#[test]
fn a_file_that_has_vanished_is_not_begun_anew() {
    let folder = Folder::new();
    let store = folder.open();
    store.edit(push("one")).expect("a new file is begun");
    let audit = folder.folder.path().join("keys.yaml.audit.jsonl");
    fs::write(&audit, "{}\n").expect("the folder is writable");
    fs::rename(folder.path(), folder.folder.path().join("elsewhere")).expect("the folder is writable");
    let refused = folder.open().edit(push("two")).map_err(|error| error.to_string());
    assert!(refused.is_err_and(|said| said.contains("has vanished") && said.contains("put the file back")));
    assert!(!folder.path().exists());
    fs::rename(folder.folder.path().join("elsewhere"), folder.path()).expect("the folder is writable");
    store.edit(push("two")).expect("it is back");
    assert!(stored(&store, "one").is_some() && stored(&store, "two").is_some());
}

#[test]
fn nobody_waits_for_a_writer_that_does_not_end() {
    let folder = Folder::new();
    let name = folder.folder.path().join("keys.yaml.lock");
    let held = fs::File::create(&name).expect("the folder is writable");
    held.lock().expect("nobody else has it");
    let (tell, told) = mpsc::channel();
    let store = folder.open();
    thread::spawn(move || tell.send(store.edit(push("one")).map_err(|error| error.to_string())));
    let refused = told.recv_timeout(Duration::from_secs(60)).expect("it gives up");
    assert!(refused.is_err_and(|said| said.contains("another process has held") && said.contains("keys.yaml.lock")));
    drop(held);
    folder.open().edit(push("one")).expect("it is free again");
}

/// Adds this key.
fn push(key: &'static str) -> impl FnOnce(&mut Contents) -> Result<((), bool), StoreError> {
    move |contents| {
        let document = serde_json::from_str(&format!(r#"{{"id":"{key}","user":"u"}}"#)).expect("an object");
        contents.push(&Digest::of(key), &document).map_err(StoreError::Broken)?;
        Ok(((), true))
    }
}

#[test]
fn writers_wait_for_each_other() {
    let folder = Folder::new();
    thread::scope(|scope| {
        for writer in 0..4 {
            let store = folder.open();
            scope.spawn(move || {
                for key in 0..5 {
                    let name = format!("{writer}-{key}");
                    let document =
                        serde_json::from_str(&format!(r#"{{"id":"{name}","user":"u"}}"#)).expect("an object");
                    store
                        .edit(|contents| {
                            contents.push(&Digest::of(&name), &document).map_err(StoreError::Broken)?;
                            Ok::<_, StoreError>(((), true))
                        })
                        .expect("it is written");
                }
            });
        }
    });
    assert_eq!(folder.open().contents().expect("a good file").entries().count(), 20);
}
