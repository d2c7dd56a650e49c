//! Sends questions in one call where one node has all the keys, and slot by slot in a cluster or where keys of several slots in
//! one script are refused.
//!
//! A question is split by slot. Its parts are sent one after the other, those with documents first, since a key that no longer
//! stands ends it before anything else is spent. In each stage the parts of one slot share a call, and the calls run at the same
//! time. What an earlier slot granted and a later one denied is given back (`scripts/give_back.lua`). `cluster` knows the node
//! of a slot.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::hash_slot::slot_of;
use super::script::{Call, Keys, Script};
use crate::limit::{Algorithm, Answer, Ask, Believed, Outcome, Question, WindowsNow};
use crate::store::StoreError;
use crate::store::layout::Layout;

/// How long giving back may take: nobody waits for it beyond the deadline of the request.
const GIVING_BACK: Duration = Duration::from_secs(1);

type Documents = Vec<Option<bytes::Bytes>>;

/// Answers the questions of so many requests, each for itself: in a cluster a slot that is out of reach harms those alone that
/// need it. With one command where one node has all the keys.
///
/// A call without an answer may or may not have spent; it is never sent twice.
pub(super) async fn decide(
    client: &Client,
    questions: &[Question],
    requests: usize,
    started: Instant,
    deadline: Instant,
) -> Vec<Result<Answer, StoreError>> {
    if !client.is_slot_by_slot() {
        let answers = client.decide(questions, deadline).await;
        client.calls().decided(&answers, requests, started.elapsed());
        match answers {
            Ok(answers) => return answers.into_iter().map(Ok).collect(),
            // It did nothing: the keys were looked at before the script ran.
            Err(StoreError::Refused(text)) if text.starts_with("CROSSSLOT") => client.switch_to_slot_by_slot(),
            Err(error) => return questions.iter().map(|_| Err(error.clone())).collect(),
        }
    }
    let answers = slot_by_slot(client, questions, deadline).await;
    let whole = answers.iter().cloned().collect();
    client.calls().decided(&whole, requests, started.elapsed());
    answers
}

async fn slot_by_slot(client: &Client, questions: &[Question], deadline: Instant) -> Vec<Result<Answer, StoreError>> {
    let mut splits: Vec<SplitQuestion> = questions.iter().cloned().map(SplitQuestion::new).collect();
    if splits.iter().all(|split| split.parts.len() < 2) {
        run_stages(client, &mut splits, deadline).await;
        return splits.into_iter().map(SplitQuestion::answer).collect();
    }
    // A task of its own: a cancelled request must not leave in one slot what another denied.
    let owned = client.clone();
    let stages = tokio::spawn(async move {
        run_stages(&owned, &mut splits, deadline).await;
        give_back(&owned, &mut splits, deadline).await;
        splits.into_iter().map(SplitQuestion::answer).collect()
    });
    let lost = || StoreError::Unreachable("the question was cut short".to_owned());
    stages.await.unwrap_or_else(|_| questions.iter().map(|_| Err(lost())).collect())
}

/// Sends the next part of each question, until every question has its outcome.
async fn run_stages(client: &Client, splits: &mut [SplitQuestion], deadline: Instant) {
    loop {
        let mut calls: BTreeMap<u16, (Vec<usize>, Vec<Question>)> = BTreeMap::new();
        for (index, split) in splits.iter().enumerate() {
            if let Some((slot, part)) = split.next_part() {
                let (indices, parts) = calls.entry(slot).or_default();
                indices.push(index);
                parts.push(part);
            }
        }
        if calls.is_empty() {
            return;
        }
        if let (1, Some((slot, (indices, parts)))) = (calls.len(), calls.first_key_value()) {
            let answers = client.decide_in_slot(*slot, parts, deadline).await;
            record(client, splits, indices, answers);
            continue;
        }
        let mut calls_in_flight = JoinSet::new();
        for (slot, (indices, parts)) in calls {
            let client = client.clone();
            calls_in_flight.spawn(async move { (indices, client.decide_in_slot(slot, &parts, deadline).await) });
        }
        while let Some(answered) = calls_in_flight.join_next().await {
            // A call that panicked would leave its parts as the next ones, to be sent again.
            let (indices, answers) = answered.expect("a call neither panics nor is it aborted");
            record(client, splits, &indices, answers);
        }
    }
}

fn record(client: &Client, splits: &mut [SplitQuestion], indices: &[usize], answers: Result<Vec<Answer>, StoreError>) {
    match answers {
        Ok(answers) => {
            indices.iter().zip(answers).for_each(|(&index, answer)| splits[index].record(answer));
        }
        Err(error) => indices.iter().for_each(|&index| splits[index].record_failure(client, &error)),
    }
}

/// One question, split by slot, and what has come of it so far.
struct SplitQuestion {
    question: Question,
    parts: Vec<SlotPart>,
    /// Which part is sent next.
    next: usize,
    /// How many of `n` every slot has granted so far.
    granted: u32,
    now_ms: u64,
    /// Per ask, what its slot said of its buckets and documents.
    windows: Vec<Vec<WindowsNow>>,
    /// Per ask, how many each of its buckets that observe had room for.
    observed: Vec<Vec<u32>>,
    documents: Vec<Documents>,
    /// Some document is not as believed: now only documents are read.
    stale: bool,
    /// An outcome that makes further parts superfluous.
    end: Option<Result<Outcome, StoreError>>,
}

/// The asks of a question that live in one slot.
struct SlotPart {
    slot: u16,
    /// Which of the question's asks.
    asks: Vec<usize>,
    granted: u32,
}

impl SplitQuestion {
    fn new(question: Question) -> Self {
        let mut parts: Vec<SlotPart> = Vec::new();
        for (index, ask) in question.asks.iter().enumerate() {
            let slot = slot_of(&ask.slot);
            match parts.iter_mut().find(|part| part.slot == slot) {
                Some(part) => part.asks.push(index),
                None => parts.push(SlotPart { slot, asks: vec![index], granted: 0 }),
            }
        }
        parts.sort_by_key(|part| part.asks.iter().all(|&ask| question.asks[ask].documents.is_empty()));
        let believed = |ask: &Ask| ask.documents.iter().map(|document| as_believed(&document.believed)).collect();
        Self {
            parts,
            next: 0,
            granted: question.n,
            now_ms: 0,
            windows: vec![Vec::new(); question.asks.len()],
            observed: vec![Vec::new(); question.asks.len()],
            documents: question.asks.iter().map(believed).collect(),
            stale: false,
            end: None,
            question,
        }
    }

    /// The next part as a question of its own, and its slot.
    fn next_part(&self) -> Option<(u16, Question)> {
        let part = self.parts.get(self.next).filter(|_| self.end.is_none())?;
        let asks = part.asks.iter().map(|&index| &self.question.asks[index]);
        let question = if self.stale {
            let documents =
                |ask: &Ask| Ask { slot: ask.slot.clone(), documents: ask.documents.clone(), ..Ask::default() };
            Question { asks: asks.map(documents).collect(), cost: 0, n: 1 }
        } else {
            // With n = 0 it only reads: a slot before has denied it, and the client is told of all windows.
            Question { asks: asks.cloned().collect(), cost: self.question.cost, n: self.granted }
        };
        Some((part.slot, question))
    }

    /// The next slot is out of reach. Where it holds limits alone, and the key's own slot has answered, what the outage policy
    /// says is done for this slot; a public question leaves that to its asker, as one of a single node does.
    fn record_failure(&mut self, client: &Client, error: &StoreError) {
        let only_limits = |ask: &Ask| ask.documents.is_empty() && ask.member.is_none() && ask.not_after_ms.is_none();
        let part = &self.parts[self.next];
        let is_beside_a_key = self.next > 0 && part.asks.iter().all(|&ask| only_limits(&self.question.asks[ask]));
        let fallback = Some(client.fallback()).filter(|_| is_beside_a_key && !matches!(error, StoreError::Broken(_)));
        let counted =
            fallback.zip(self.next_part()).and_then(|(fallback, (_, part))| fallback.answer(&part, self.now_ms).ok());
        match counted {
            None => self.end = Some(Err(error.clone())),
            Some(answer) => {
                let failed = self.next;
                self.record(answer);
                // It was not spent in this slot, so there is nothing to give back to it.
                self.parts[failed].granted = 0;
            }
        }
    }

    fn record(&mut self, answer: Answer) {
        let part = &mut self.parts[self.next];
        self.next += 1;
        self.now_ms = self.now_ms.max(answer.now_ms);
        match answer.outcome {
            Outcome::Spent { .. } if self.stale => {}
            Outcome::Spent { granted, windows, observed } => {
                let (mut windows, mut observed) = (windows.into_iter(), observed.into_iter());
                for &index in &part.asks {
                    let buckets = &self.question.asks[index].buckets;
                    self.windows[index] = windows.by_ref().take(buckets.len()).collect();
                    let observing = buckets.iter().filter(|bucket| bucket.observes).count();
                    self.observed[index] = observed.by_ref().take(observing).collect();
                }
                if self.question.cost > 0 {
                    part.granted = granted;
                }
                self.granted = granted;
            }
            Outcome::Stale(found) => {
                part.asks.iter().zip(found).for_each(|(&ask, found)| self.documents[ask] = found);
                self.stale = true;
            }
            other => self.end = Some(Ok(other)),
        }
        if self.stale {
            // Parts without documents are not needed any more.
            let asks = &self.question.asks;
            let limits_only = |part: &SlotPart| part.asks.iter().all(|&ask| asks[ask].documents.is_empty());
            while self.parts.get(self.next).is_some_and(limits_only) {
                self.next += 1;
            }
        }
    }

    /// How many requests passed in all slots.
    fn passed(&self) -> u32 {
        if self.stale || self.end.is_some() { 0 } else { self.granted }
    }

    /// Per slot, what was spent for requests that did not pass: the keys, and the numbers for the script.
    fn refunds(&self, layout: &Layout) -> Vec<(u16, Call<'static>)> {
        let passed = self.passed();
        let parts = self.parts.iter().filter(|part| part.granted > passed);
        let call = |part: &SlotPart| {
            let (mut keys, mut entries) = (Keys::default(), Vec::new());
            for &index in &part.asks {
                let ask = &self.question.asks[index];
                let amounts = self.excess(part, index, passed);
                for ((bucket, windows), amount) in ask.buckets.iter().zip(&self.windows[index]).zip(amounts) {
                    if amount == 0 {
                        continue;
                    }
                    keys.push(layout, &ask.slot, &bucket.name);
                    for (window, now) in bucket.windows.as_slice().iter().zip(windows) {
                        let (number, periods) = match bucket.algorithm {
                            Algorithm::Fixed => (0, 1),
                            Algorithm::Sliding => (1, 2),
                            Algorithm::Token => (2, 0),
                        };
                        // What was just spent from ends so many periods after it began.
                        let mark = now.reset_ms.saturating_sub(periods * window.duration_ms);
                        entries.push([keys.len() as u64, number, window.duration_ms, mark, amount]);
                    }
                }
            }
            let blob = rmp_serde::to_vec(&entries).expect("numbers and lists are always representable in MessagePack");
            (part.slot, Call { keys, blob, texts: Vec::new() })
        };
        parts.map(call).filter(|(_, call)| !call.keys.is_empty()).collect()
    }

    /// What each bucket of an ask gave for requests that did not pass; one that observes may have given less than the others.
    fn excess(&self, part: &SlotPart, index: usize, passed: u32) -> Vec<u64> {
        let mut observed = self.observed[index].iter();
        let buckets = self.question.asks[index].buckets.iter();
        let given = buckets.map(|bucket| if bucket.observes { observed.next().copied() } else { Some(part.granted) });
        given.map(|given| u64::from(given.unwrap_or(0).saturating_sub(passed)) * self.question.cost).collect()
    }

    /// Adds to the windows what is given back to them.
    fn apply_refunds(&mut self) {
        let (passed, cost) = (self.passed(), self.question.cost);
        for part in self.parts.iter().filter(|part| part.granted > passed) {
            for &index in &part.asks {
                let amounts = self.excess(part, index, passed);
                for (windows, amount) in self.windows[index].iter_mut().zip(amounts) {
                    for now in windows.iter_mut().filter(|_| amount > 0) {
                        now.remaining += amount;
                        if now.remaining >= cost {
                            now.wait_ms = now.wait_ms.map(|_| 0);
                        }
                    }
                }
            }
        }
        self.observed.iter_mut().flatten().for_each(|observed| *observed = (*observed).min(passed));
    }

    fn answer(self) -> Result<Answer, StoreError> {
        let outcome = match self.end {
            Some(end) => end?,
            None if self.stale => Outcome::Stale(self.documents),
            None => Outcome::Spent {
                granted: self.granted,
                windows: self.windows.into_iter().flatten().collect(),
                observed: self.observed.into_iter().flatten().collect(),
            },
        };
        Ok(Answer { now_ms: self.now_ms, outcome })
    }
}

/// What stands there if the asker is right.
fn as_believed(believed: &Believed) -> Option<bytes::Bytes> {
    match believed {
        Believed::Is(text) => Some(text.clone()),
        Believed::Absent | Believed::Unknown => None,
    }
}

/// Each at most once; one that fails is not tried again, so that nothing is given back twice.
async fn give_back(client: &Client, splits: &mut [SplitQuestion], deadline: Instant) {
    let mut refunds = JoinSet::new();
    for split in splits.iter_mut() {
        for (slot, call) in split.refunds(client.layout()) {
            let client = client.clone();
            refunds.spawn(async move { client.run(slot, Script::GiveBack, &call, Instant::now() + GIVING_BACK).await });
        }
        split.apply_refunds();
    }
    let all = async { while refunds.join_next().await.is_some() {} };
    if timeout_at(deadline, all).await.is_err() {
        refunds.detach_all();
    }
}
