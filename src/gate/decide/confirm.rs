//! Has the store confirm a key's documents and spend in the same call, and repeats it with the new documents when they were
//! stale.
//!
//! During an outage what the store confirmed within `known_for` decides, if that is configured. What a request asks under these
//! documents is left to `evaluate`; what is kept of the answers, to `records`, `known`, `guessing` and `unknown`.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Gate, SharedState, show_in_force};
use crate::clock;
use crate::gate::Denial;
use crate::gate::asks::{Asked, Counted};
use crate::gate::documents::{Documents, Known, KnownBusiness};
use crate::gate::evaluate::{CachedEvaluation, Evaluation, Routed, business_to_confirm, conclude};
use crate::gate::known::CallTimes;
use crate::gate::permit::Basis;
use crate::gate::records::Remembered;
use crate::gate::standing::Standing;
use crate::gate::trail::{Caller, Trail};
use crate::keys::{Digest, Tenant};
use crate::limit::Outcome;
use crate::store::StoreError;

/// How often one request asks again because a document has changed meanwhile.
const ROUNDS: usize = 6;

impl Gate {
    /// Judges by what the store confirms; during an outage by what it confirmed within `known_for`.
    pub(super) async fn judge(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<(Rc<Caller>, Basis), Denial> {
        match self.confirm(routed, digest, deadline, trail).await {
            Err(Denial::StoreUnavailable(error)) if error.is_outage() => {
                Ok((self.answer_by_known(routed, digest, error, trail)?, Basis::KnownFor))
            }
            Err(denial) => {
                self.remember_denial(&denial, digest, routed);
                Err(denial)
            }
            Ok(caller) => Ok((caller, Basis::Key)),
        }
    }

    /// Asks until the store confirms the documents; each round starts from what the last one learned.
    async fn confirm(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Rc<Caller>, Denial> {
        let mut remembered = self.find_key(digest, routed, deadline, trail).await?;
        let mut looked_again = false;
        let mut not_owned = false;
        for _ in 0..ROUNDS {
            let cached = self.evaluate(digest, &remembered, routed, not_owned);
            let CachedEvaluation { evaluation: Evaluation { standing, asked }, business, .. } = &*cached;
            let (answer, seen) = self.ask(asked, deadline, trail).await?;
            let documents = Documents { digest, key: &remembered.key, business: business.as_deref() };
            if let Some(known) = &self.shared.known {
                known.on_answer(&documents, standing.as_ref(), &answer.outcome, seen);
            }
            match answer.outcome {
                Outcome::Broken(what) => {
                    trail.caller = standing.as_ref().map(Standing::unconfirmed);
                    return Err(StoreError::Broken(what).into());
                }
                Outcome::Expired => {
                    trail.caller = standing.as_ref().map(Standing::unconfirmed);
                    return Err(Denial::ExpiredKey);
                }
                Outcome::Refused => not_owned = true,
                Outcome::Stale(found) => {
                    if let Err(error) = self.learn(&documents, found, asked, seen) {
                        trail.caller = self.believed(digest);
                        return Err(error.into());
                    }
                    match self.records.key(digest) {
                        Some(known) if !matches!(known.key.document, Known::Absent) => remembered = known,
                        // No document in the tenant's slot: the key may have moved to another tenant, so the hint is read once
                        // more.
                        _ if looked_again => return Err(self.unknown(digest)),
                        _ => {
                            looked_again = true;
                            self.records.forget_key(digest);
                            remembered = Box::pin(self.look_up(digest, deadline, trail)).await?;
                        }
                    }
                }
                Outcome::Spent { granted, windows, observed } => {
                    let Some(standing) = standing else { return Err(self.unknown(digest)) };
                    trail.limits = asked.limits_now(Counted { granted, windows, observed }, answer.now_ms);
                    return conclude(standing, granted, trail);
                }
            }
        }
        Err(StoreError::Broken("the key's documents change faster than they can be read".to_owned()).into())
    }

    /// The cached evaluation, or a new one.
    fn evaluate(
        &self,
        digest: &Digest,
        remembered: &Remembered,
        routed: &Routed<'_>,
        not_owned: bool,
    ) -> Rc<CachedEvaluation> {
        let Remembered { key, evaluations } = remembered;
        let kept = if routed.spends { evaluations.recall(routed, not_owned) } else { None };
        kept.unwrap_or_else(|| {
            let business = business_to_confirm(key, routed.named.as_deref()).map(|id| self.records.business(id));
            let cached = CachedEvaluation::of(&self.policy, (digest, key), business, routed, not_owned);
            if !routed.spends {
                return Rc::new(cached);
            }
            // The cache outlives a reload, and its documents may name what only the former configuration had.
            if !evaluations.know(&self.policy) {
                self.report_unknown_names(&Documents { digest, key, business: cached.business.as_deref() });
            }
            evaluations.keep(cached)
        })
    }

    /// Judges by what the store last confirmed; `error` where that is not enough or too old.
    fn answer_by_known(
        &self,
        routed: &Routed<'_>,
        digest: &Digest,
        error: StoreError,
        trail: &mut Trail,
    ) -> Result<Rc<Caller>, Denial> {
        let now = clock::uptime_ms();
        let Some(known) = &self.shared.known else { return Err(error.into()) };
        let Some((key, now_ms)) = known.key(digest, now) else { return Err(error.into()) };
        let business = match business_to_confirm(&key, routed.named.as_deref()) {
            None => None,
            Some(id) => Some(KnownBusiness::new(id, known.business(id, now).ok_or(error.clone())?)),
        };
        let documents = Documents { digest, key: &key, business: business.as_ref() };
        let Evaluation { standing: Some(standing), asked } = documents.evaluate(&self.policy, routed, false) else {
            return Err(error.into());
        };
        if standing.owner().is_some_and(|(user, business)| !known.owns(user, business, now)) {
            return Err(error.into());
        }
        match self.shared.fallback.answer(&asked.question, now_ms)?.outcome {
            Outcome::Spent { granted, windows, observed } => {
                trail.limits = asked.limits_now(Counted { granted, windows, observed }, now_ms);
                show_in_force(&mut trail.limits, &self.shared.fallback, asked.question.cost);
                (trail.known_for, trail.store_ms) = (true, Some(now_ms));
                conclude(&standing, granted, trail)
            }
            Outcome::Expired => Err(Denial::ExpiredKey),
            Outcome::Broken(_) | Outcome::Stale(_) | Outcome::Refused => Err(error.into()),
        }
    }

    /// The cached key, or its tenant from the store. The lookup is refused to an address that guesses keys; not for a recheck, or
    /// guesses from the same address would end open requests.
    async fn find_key(
        &self,
        digest: &Digest,
        routed: &Routed<'_>,
        deadline: Instant,
        trail: &mut Trail,
    ) -> Result<Rc<Remembered>, Denial> {
        if let Some(known) = self.records.key(digest) {
            return Ok(known);
        }
        if let Some(guessing) = &self.shared.guessing
            && routed.spends
            && let Some(wait_ms) = guessing.wait_ms(routed.client, digest, clock::uptime_ms())
        {
            trail.guess_slowed = true;
            let retry_after = Some(wait_ms.div_ceil(1000).max(1));
            return Err(Denial::RateLimited { retry_after, violated: vec!["key-guessing".to_owned()] });
        }
        // Boxed: it is rare, and would make up most of every decision's future.
        Box::pin(self.look_up(digest, deadline, trail)).await
    }

    async fn look_up(&self, digest: &Digest, deadline: Instant, trail: &mut Trail) -> Result<Rc<Remembered>, Denial> {
        let started = Instant::now();
        let found = self.store.lookup(digest, deadline).await;
        trail.waited(started.elapsed());
        let tenant: Tenant = found?.ok_or(Denial::UnknownKey)?;
        if let Some(guessing) = &self.shared.guessing {
            guessing.exists(digest);
        }
        Ok(self.records.remember_tenant(*digest, tenant))
    }

    /// Caches documents that had changed.
    fn learn(
        &self,
        documents: &Documents<'_>,
        found: Vec<Vec<Option<Bytes>>>,
        asked: &Asked,
        seen: CallTimes,
    ) -> Result<(), StoreError> {
        let learned = self.records.learn(documents, &asked.question, found);
        self.report_unknown_names(documents);
        if let Some(known) = &self.shared.known {
            match self.records.key(documents.digest).filter(|_| learned.is_ok()) {
                Some(remembered) => known.learn_key(documents.digest, &remembered.key, seen),
                None => known.forget_key(documents.digest, seen.answered),
            }
            match documents.business {
                Some(KnownBusiness { id, .. }) if learned.is_ok() => {
                    known.learn_business(&self.records.business(id), seen)
                }
                Some(KnownBusiness { id, .. }) => known.forget_business(id, seen.answered),
                None => {}
            }
        }
        learned
    }

    /// The caller, if the key's document could be read where another could not.
    fn believed(&self, digest: &Digest) -> Option<Rc<Caller>> {
        let key = self.records.key(digest)?.key.document.document()?.clone();
        Some(Rc::new(Caller { key, ..Caller::default() }))
    }

    fn report_unknown_names(&self, documents: &Documents<'_>) {
        let SharedState { rules, unknown, .. } = &self.shared;
        if let Some(remembered) = self.records.key(documents.digest) {
            unknown.in_key(&remembered.key, rules);
        }
        if let Some(business) = documents.business {
            unknown.in_business(&self.records.business(&business.id), rules);
        }
    }

    /// Keeps what a denial says about the key, for later requests.
    fn remember_denial(&self, denial: &Denial, digest: &Digest, routed: &Routed<'_>) {
        let unknown = matches!(denial, Denial::UnknownKey);
        if let Some(known) = &self.shared.known
            && (unknown || matches!(denial, Denial::StoreUnavailable(_)))
        {
            known.forget_key(digest, Instant::now().into_std());
        }
        if let Some(guessing) = &self.shared.guessing
            && unknown
            && routed.spends
        {
            guessing.unknown(routed.client, clock::uptime_ms());
        }
    }

    fn unknown(&self, digest: &Digest) -> Denial {
        self.records.forget_key(digest);
        Denial::UnknownKey
    }
}
