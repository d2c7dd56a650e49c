//! What one who asks may do, over a file; that both stores hold the rules alike is shown from outside.

use tempfile::TempDir;

use super::*;
use crate::keys::change::Until;
use crate::store::audit::Origin;
use crate::store::file::FileStore;

const NOW: u64 = 1_774_276_200_000;

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn keyring(folder: &TempDir) -> Keyring {
    let store = FileStore::open(&folder.path().join("keys.yaml")).expect("the store opens");
    let known_scopes = texts(&["read", "write", "admin"]);
    let rules = Rules { known_scopes, default_scopes: texts(&["write"]), ..Rules::default() };
    Keyring::new(Formats::default(), rules, Registry::File { store })
}

fn wanted(scopes: &[&str]) -> KeyRequest {
    let business = Some("acme".to_owned());
    KeyRequest { name: "n".to_owned(), business, scopes: texts(scopes), ..KeyRequest::default() }
}

#[tokio::test]
async fn nobody_gives_a_key_more_than_their_role_may() {
    let folder = TempDir::new().expect("a folder");
    let keyring = keyring(&folder);
    let actor = Actor { name: "u_1".to_owned(), from: Origin::Http("192.0.2.7".to_owned()) };
    let all = Requester { actor: &actor, granting: Granting::Everything, now_ms: NOW };
    let scopes = Scopes::new(vec![("write".to_owned(), texts(&["read"])), ("admin".to_owned(), texts(&["*"]))]);
    let granted = texts(&["write"]);
    let some = Requester { granting: Granting::UpTo { granted: &granted, scopes: &scopes }, ..all };

    let is_refused =
        |error: KeyringError| matches!(error, KeyringError::Registry(RegistryError::Rule(RuleError::NotGranted(_))));
    for scopes in [&["read"][..], &["write", "read"], &[]] {
        assert!(keyring.create(wanted(scopes), None, some).await.is_ok(), "{scopes:?}");
    }
    for scopes in [&["admin"][..], &["*"], &["read", "admin"]] {
        let refused = keyring.create(wanted(scopes), None, some).await;
        assert!(refused.map(|_| ()).is_err_and(is_refused), "{scopes:?}");
    }
    let strong = keyring.create(wanted(&["admin"]), None, all).await.expect("an operator may").stored;
    let rotated = keyring.rotate(&strong, None, None, some).await;
    assert!(rotated.map(|_| ()).is_err_and(is_refused), "a successor would be handed to them");
    let change = |scopes: &[&str]| Change { scopes: Some(texts(scopes)), ..Change::default() };
    let updated = keyring.update(&strong, change(&["*"]), some).await;
    assert!(matches!(updated, Err(RegistryError::Rule(RuleError::NotGranted(_)))));
    assert!(keyring.update(&strong, change(&["read"]), some).await.is_ok());
    let records = audit::last(&keyring.registry, 10).await.expect("the audit is read");
    assert_eq!((records.len(), records[0]["from"].as_str()), (5, Some("http 192.0.2.7")));
}

#[tokio::test]
async fn nobody_prolongs_a_key_that_their_role_may_not_give() {
    let folder = TempDir::new().expect("a folder");
    let keyring = keyring(&folder);
    let actor = Actor { name: "u_1".to_owned(), from: Origin::CommandLine };
    let all = Requester { actor: &actor, granting: Granting::Everything, now_ms: NOW };
    let (scopes, granted) = (Scopes::new(Vec::new()), texts(&["write"]));
    let some = Requester { granting: Granting::UpTo { granted: &granted, scopes: &scopes }, ..all };
    let until = |until: Until| Change { expires: Some(until), ..Change::default() };
    let at = |end: &str| until(Until::At(end.to_owned()));
    for (own, may) in [("admin", false), ("write", true)] {
        let wanted = KeyRequest { expires: Some("1h".to_owned()), ..wanted(&[own]) };
        let key = keyring.create(wanted, None, all).await.expect("an operator may").stored;
        assert!(keyring.update(&key, at("30m"), some).await.is_ok(), "{own}: it ends sooner");
        for (later, now_ms) in [(at("2h"), NOW), (until(Until::Never), NOW), (until(Until::Never), NOW + 7_200_000)] {
            let updated = keyring.update(&key, later, Requester { now_ms, ..some }).await;
            let is_refused = matches!(updated, Err(RegistryError::Rule(RuleError::NotGranted(_))));
            assert_eq!((updated.is_ok(), is_refused), (may, !may), "{own}");
            keyring.update(&key, at("30m"), all).await.expect("an operator may");
        }
        let narrowed = Change { scopes: Some(texts(&["write"])), ..until(Until::Never) };
        assert_eq!(keyring.update(&key, narrowed, some).await.is_ok(), may, "{own}");
        let renamed = Change { name: Some("other".to_owned()), ..Change::default() };
        assert!(keyring.update(&key, renamed, some).await.is_ok(), "{own}");
        assert!(keyring.update(&key, until(Until::Never), all).await.is_ok(), "{own}: an operator may");
        assert!(keyring.revoke(&key, some).await.is_ok(), "{own}");
    }
}

#[tokio::test]
async fn a_key_that_has_ended_is_not_rotated_and_an_overlap_never_prolongs_one() {
    let folder = TempDir::new().expect("a folder");
    let keyring = keyring(&folder);
    let actor = Actor { name: "u_1".to_owned(), from: Origin::CommandLine };
    let requester = Requester { actor: &actor, granting: Granting::Everything, now_ms: NOW };
    let short = KeyRequest { expires: Some("1h".to_owned()), ..wanted(&[]) };
    let key = keyring.create(short, None, requester).await.expect("it is made").stored;
    let late = Requester { now_ms: NOW + 3_600_000, ..requester };
    let ended = |rotated: Result<Rotated, KeyringError>| rotated.map(|_| ()).map_err(|error| error.to_string());
    let text = ended(keyring.rotate(&key, None, None, late).await);
    assert!(text.is_err_and(|text| text.starts_with("this key has expired")));
    let rotated = keyring.rotate(&key, Some("30d"), None, requester).await.expect("it is rotated");
    assert_eq!(rotated.predecessor.text("expires_at"), key.text("expires_at"));
    let successor = rotated.successor.stored;
    keyring.revoke(&successor, requester).await.expect("it is revoked");
    let text = ended(keyring.rotate(&successor, None, None, requester).await);
    assert!(text.is_err_and(|text| text.starts_with("this key is revoked")));
}

#[tokio::test]
async fn beside_a_key_there_is_one_predecessor_at_the_most() {
    let folder = TempDir::new().expect("a folder");
    let keyring = keyring(&folder);
    let actor = Actor { name: "u_1".to_owned(), from: Origin::CommandLine };
    let requester = Requester { actor: &actor, granting: Granting::Everything, now_ms: NOW };
    let first = keyring.create(wanted(&[]), None, requester).await.expect("it is made").stored;
    let second = keyring.rotate(&first, Some("1h"), None, requester).await.expect("it is rotated").successor.stored;
    let later = |ms: u64| Requester { now_ms: NOW + ms, ..requester };
    let is_refused = |rotated: Result<Rotated, KeyringError>| match rotated {
        Ok(_) => false,
        Err(error) => error.to_string().starts_with("the key before this one works until 2026-03-23T15:30:00Z"),
    };
    assert!(is_refused(keyring.rotate(&second, Some("1h"), None, later(60_000)).await));
    // Without overlap as often as is wanted: the first key stays the one beside it.
    let third = keyring.rotate(&second, None, None, later(60_000)).await.expect("it is rotated").successor.stored;
    assert!(is_refused(keyring.rotate(&third, Some("1s"), None, later(3_599_999)).await));
    let fourth = keyring.rotate(&third, Some("1h"), None, later(3_600_000)).await;
    let fourth = fourth.expect("the first key has ended").successor.stored;
    assert_eq!(fourth.text(PREDECESSOR_UNTIL), Some("2026-03-23T16:30:00Z"));
}
