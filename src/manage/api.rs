//! The API on one screen, in the contract's order: cross-site 403, session 401, content type 415, body and rules 422, role or
//! another's business 403, another's key 404, rate 429, maximum 409.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};

use super::authority::{Authority, Granted};
use super::operation::Operation;
use super::rate::UserRate;
use super::refusal::{broken, denied, failed, refusal, unconfirmed};
use super::resource::{self, Creation, answer, document, unprocessable};
use super::session::{Session, Sessions};
use super::settings::Settings;
use super::{cross_site, openapi, usage};
use crate::gate::Denial;
use crate::keys::change::{self, Change};
use crate::keys::creation::KeyRequest;
use crate::keys::mask;
use crate::keys::rules::Rules;
use crate::keys::tenant::is_id;
use crate::policy::{Policy, Reason};
use crate::proxy::connector::Connector;
use crate::proxy::management::ManagementRequest;
use crate::store::audit::{Actor, Origin};
use crate::store::keyring::{Granting, Keyring, Minted, Requester, Revocation};
use crate::store::registry::{Registry, RegistryError, StoredKey};
use crate::store::settings::{Backend, StoreSettings};
use crate::store::{Store, StoreError};

/// The parts of the API.
pub struct ApiParts {
    pub settings: Settings,
    pub policy: Arc<Policy>,
    pub rules: Rules,
    pub store: StoreSettings,
    /// To the session endpoint.
    pub session: Connector,
}

/// Answers requests for key management, on one thread.
pub struct ManagementApi {
    settings: Settings,
    policy: Arc<Policy>,
    rules: Rules,
    store_settings: StoreSettings,
    /// The gate's own store client, for what management's login may not do.
    store: Store,
    sessions: Sessions,
    creations: UserRate,
    changes: UserRate,
    keyring: RefCell<Option<Rc<Keyring>>>,
    described: Bytes,
}

/// One request with a session.
struct SignedIn<'d> {
    api: &'d ManagementApi,
    keyring: Rc<Keyring>,
    authority: Authority<'d>,
    actor: Actor,
    now_ms: u64,
}

/// What a request wants, read from its path, query and body.
enum ApiCall {
    Create(Creation),
    List(resource::Listing),
    Show(String),
    Update(String, Change),
    Rotate(String, Option<String>),
    Revoke(String),
    Usage(String),
}

impl ManagementApi {
    pub fn new(parts: ApiParts, store: Store) -> Self {
        let ApiParts { settings, policy, rules, store: store_settings, session } = parts;
        Self {
            sessions: Sessions::new(settings.session.clone(), session),
            creations: UserRate::of_creations(settings.create_rate.clone()),
            changes: UserRate::of_changes(),
            described: openapi::document(&settings.served_at()).to_string().into(),
            keyring: RefCell::default(),
            settings,
            policy,
            rules,
            store_settings,
            store,
        }
    }

    pub async fn handle(&self, request: &ManagementRequest) -> Result<Response<Bytes>, Denial> {
        self.answer(request).await.map_err(|denial| match denial {
            // The error may quote the body, in which somebody may have pasted a key into the wrong field.
            Denial::Unmanaged { reason, detail: Some(detail) } => {
                let masked = mask(&detail, &self.policy.credentials.formats).into_owned();
                refusal(reason, Some(masked))
            }
            denial => denial,
        })
    }

    async fn answer(&self, request: &ManagementRequest) -> Result<Response<Bytes>, Denial> {
        let operation = Operation::of(&request.route, &self.settings).ok_or(Denial::RouteNotFound)?;
        if self.policy.deny.holds_address(request.client) {
            return Err(Denial::DeniedAddress);
        }
        if operation == Operation::Describe {
            return Ok(self.describe());
        }
        cross_site::check(&request.headers)?;
        let formats = &self.policy.credentials.formats;
        let session = self.sessions.ask(&request.headers, formats, &self.store).await?;
        let session = session.ok_or_else(|| refusal(Reason::NoSession, None))?;
        let asked = ApiCall::read(operation, request)?;
        let caller = self.caller(&session, request).await?;
        let answered = match asked {
            ApiCall::Create(creation) => caller.create(creation).await,
            ApiCall::List(listing) => caller.list(listing).await,
            ApiCall::Show(id) => caller.show(&id).await,
            ApiCall::Update(id, change) => caller.update(&id, change).await,
            ApiCall::Rotate(id, overlap) => caller.rotate(&id, overlap.as_deref()).await,
            ApiCall::Revoke(id) => caller.revoke(&id).await,
            ApiCall::Usage(id) => caller.usage(&id).await,
        };
        if let Err(Denial::StoreUnavailable(_)) = &answered {
            // The next request reconnects.
            self.keyring.take();
        }
        answered
    }

    async fn caller<'d>(&'d self, session: &'d Session, request: &ManagementRequest) -> Result<SignedIn<'d>, Denial> {
        let (keyring, now_ms) = self.keyring().await?;
        let authority =
            Authority { session, roles: &self.settings.roles, grants: &self.rules.grants, scopes: &self.policy.scopes };
        let actor = Actor { name: session.user.clone(), from: Origin::Http(request.client.to_string()) };
        Ok(SignedIn { api: self, keyring, authority, actor, now_ms })
    }

    /// The keys, with management's own login, and the store's time.
    async fn keyring(&self) -> Result<(Rc<Keyring>, u64), StoreError> {
        let held = self.keyring.borrow().clone();
        if let Some(keyring) = held
            && keyring.registry.follows_master().await?
            && let Ok(now_ms) = keyring.registry.now_ms().await
        {
            return Ok((keyring, now_ms));
        }
        let registry = match (&self.store, &self.store_settings.backend) {
            // The gate's own instance, so that changes take effect at once.
            (Store::File { file, .. }, _) => Registry::File { store: file.clone() },
            (Store::Redis(_), Backend::Redis(gates)) => {
                Registry::connect(self.store_settings.management_redis.as_ref().unwrap_or(gates)).await?
            }
            (Store::Redis(_), Backend::File(_)) => Registry::open(&self.store_settings).await?,
        };
        let formats = self.policy.credentials.formats.clone();
        let keyring = Rc::new(Keyring::new(formats, self.rules.clone(), registry));
        let now_ms = keyring.registry.now_ms().await?;
        self.keyring.replace(Some(keyring.clone()));
        Ok((keyring, now_ms))
    }

    fn describe(&self) -> Response<Bytes> {
        let mut response = Response::new(self.described.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl ApiCall {
    fn read(operation: Operation, request: &ManagementRequest) -> Result<Self, Denial> {
        let (headers, query) = (&request.headers, request.query.as_deref());
        let body = || request.body.as_ref().map_err(Clone::clone);
        let id = || request.id.clone().ok_or(Denial::RouteNotFound);
        Ok(match operation {
            Operation::Create => Self::Create(resource::creation(headers, body()?)?),
            Operation::List => Self::List(resource::listing(query)?),
            Operation::RevokeNamed => Self::Revoke(resource::named(query)?),
            Operation::Show => Self::Show(id()?),
            Operation::Update => Self::Update(id()?, resource::change(headers, body()?)?),
            Operation::Revoke => Self::Revoke(id()?),
            Operation::Rotate => Self::Rotate(id()?, resource::rotation(headers, body()?)?),
            Operation::Usage => Self::Usage(id()?),
            Operation::Describe => return Err(Denial::RouteNotFound),
        })
    }
}

impl SignedIn<'_> {
    async fn create(&self, creation: Creation) -> Result<Response<Bytes>, Denial> {
        let wanted = self.wanted(creation)?;
        self.keyring.check(wanted.clone(), self.requester(&Granted::Everything)).map_err(broken)?;
        let granted = match &wanted.business {
            Some(business) => self.authority.over_business(business)?,
            None => self.authority.over_own()?,
        };
        self.keyring.check(wanted.clone(), self.requester(&granted)).map_err(broken)?;
        self.spend().await?;
        let minted = self.keyring.create(wanted, None, self.requester(&granted)).await.map_err(failed)?;
        Ok(answer(StatusCode::CREATED, &shown_once(&minted)))
    }

    async fn list(&self, listing: resource::Listing) -> Result<Response<Bytes>, Denial> {
        let tenants = self.authority.tenants(listing.business_id.as_deref())?;
        let all = self.keyring.registry.list_of(&tenants).await.map_err(denied)?;
        let skipped = (listing.page - 1).saturating_mul(listing.per_page);
        let [skipped, per_page] = [skipped, listing.per_page].map(|n| usize::try_from(n).unwrap_or(usize::MAX));
        let shown: Vec<StoredKey> = all.iter().skip(skipped).take(per_page).cloned().collect();
        let keys = self.documents(&shown).await?;
        Ok(answer(StatusCode::OK, &json!({"keys": keys, "total": all.len()})))
    }

    async fn show(&self, id: &str) -> Result<Response<Bytes>, Denial> {
        let (key, _) = self.key(id).await?;
        Ok(answer(StatusCode::OK, &self.document(&key).await?))
    }

    async fn update(&self, id: &str, change: Change) -> Result<Response<Bytes>, Denial> {
        self.keyring.rules.validate_change(change.clone(), self.now_ms).map_err(broken)?;
        let (key, granted) = self.key(id).await?;
        self.spend_change().await?;
        let changed = self.keyring.update(&key, change, self.requester(&granted)).await.map_err(denied)?;
        let key = changed.after.unwrap_or(changed.before);
        Ok(answer(StatusCode::OK, &self.document(&key).await?))
    }

    async fn rotate(&self, id: &str, overlap: Option<&str>) -> Result<Response<Bytes>, Denial> {
        let overlap_ms = change::overlap(overlap).map_err(broken)?;
        let (key, granted) = self.key(id).await?;
        self.spend().await?;
        let rotated = self.keyring.rotate(&key, overlap, None, self.requester(&granted)).await.map_err(failed)?;
        let mut document = shown_once(&rotated.successor);
        if overlap_ms == 0
            && let Err(error) = self.confirm(&rotated.predecessor).await
        {
            // An error instead would lose the new key, which nobody can read again.
            document["unconfirmed"] = unconfirmed("The old key has ended", &error).into();
        }
        Ok(answer(StatusCode::CREATED, &document))
    }

    /// When this is answered, every gate refuses the key.
    async fn revoke(&self, id: &str) -> Result<Response<Bytes>, Denial> {
        let (key, granted) = self.key(id).await?;
        self.spend_change().await?;
        let revoked = self.keyring.revoke(&key, self.requester(&granted)).await.map_err(denied)?;
        let (Revocation::Revoked(key) | Revocation::AlreadyRevoked(key)) = revoked;
        self.confirm(&key).await.map_err(|error| {
            let done = unconfirmed("The key is revoked", &error);
            refusal(Reason::Unconfirmed, Some(format!("{done}. Ask again to wait again")))
        })?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        Ok(response)
    }

    /// Waits until as many replicas as are wanted hold the key as it is now.
    async fn confirm(&self, key: &StoredKey) -> Result<(), RegistryError> {
        match self.api.store_settings.wait_replicas {
            0 => Ok(()),
            replicas => self.keyring.registry.wait_for_replicas(key, replicas).await,
        }
    }

    async fn usage(&self, id: &str) -> Result<Response<Bytes>, Denial> {
        let (key, _) = self.key(id).await?;
        let registry = &self.keyring.registry;
        // This is the gate's process, so that also the embedded store's counts are the real ones.
        let used = usage::of_key(&self.api.policy, &self.api.store, registry, &key, self.now_ms, true).await?;
        let business = usage::of_business_of(registry, &key, self.now_ms).await?;
        let mut document = json!(used);
        document["id"] = key.text("id").into();
        document["prefix"] = key.text("hint").into();
        document["business"] = json!(business);
        Ok(answer(StatusCode::OK, &document))
    }

    /// The owner is the session's user, whatever the body says.
    fn wanted(&self, creation: Creation) -> Result<KeyRequest, Denial> {
        let Creation { name, business_id, unscoped, scopes, expires_at } = creation;
        match (&business_id, unscoped) {
            (Some(_), true) => return Err(unprocessable("`business_id` and `unscoped` exclude each other".to_owned())),
            (None, false) => return Err(unprocessable("Name the key's business as `business_id`".to_owned())),
            (None, true) if !self.api.settings.unscoped => {
                return Err(unprocessable("Every key belongs to a business here; name it as `business_id`".to_owned()));
            }
            (Some(_), false) | (None, true) => {}
        }
        let user = Some(self.actor.name.clone());
        let scopes = scopes.unwrap_or_default();
        Ok(KeyRequest { name, business: business_id, user, scopes, expires: expires_at, ..KeyRequest::default() })
    }

    /// A key that the caller may manage, and what the caller may grant it.
    async fn key(&self, id: &str) -> Result<(StoredKey, Granted), Denial> {
        let found = match is_id(id) {
            true => self.keyring.registry.find_id(id).await.map_err(denied)?,
            false => None,
        };
        let key = found.ok_or_else(|| refusal(Reason::KeyNotFound, None))?;
        let granted = self.authority.over_key(&key)?;
        Ok((key, granted))
    }

    async fn spend(&self) -> Result<(), Denial> {
        self.api.creations.spend(&self.api.store, &self.actor.name).await
    }

    /// What cannot be counted is done all the same: a full Redis, or a login that may not count, must hold up no revocation.
    async fn spend_change(&self) -> Result<(), Denial> {
        match self.api.changes.spend(&self.api.store, &self.actor.name).await {
            Err(denial @ Denial::RateLimited { .. }) => Err(denial),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    async fn document(&self, key: &StoredKey) -> Result<Value, Denial> {
        Ok(self.documents(std::slice::from_ref(key)).await?.remove(0))
    }

    /// One for each key, with its last use where that is counted.
    async fn documents(&self, keys: &[StoredKey]) -> Result<Vec<Value>, Denial> {
        let used = usage::last_used(&self.keyring.registry, keys).await?.unwrap_or_default();
        let used = used.into_iter().chain(std::iter::repeat(None));
        Ok(keys.iter().zip(used).map(|(key, used)| document(key, used)).collect())
    }

    fn requester<'v>(&'v self, granted: &'v Granted) -> Requester<'v> {
        let granting = match granted {
            Granted::Everything => Granting::Everything,
            Granted::UpTo(granted) => Granting::UpTo { granted, scopes: &self.api.policy.scopes },
        };
        Requester { actor: &self.actor, granting, now_ms: self.now_ms }
    }
}

fn shown_once(minted: &Minted) -> Value {
    let mut document = document(&minted.stored, None);
    document["key"] = Value::from(minted.key.expose());
    document
}
