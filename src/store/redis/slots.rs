//! Questions in one call where one node has all the keys, and slot by slot in a cluster and for whatever refuses keys of several
//! slots in one script.
//!
//! A question's asks go out one slot after the other, those with documents first, since a key that no longer stands ends it
//! before anything else is spent; the questions of one slot share a call, and the slots of one stage are asked at the same
//! time. What an earlier slot granted and a later one denied is given back (`scripts/give_back.lua`). Where a slot's node is,
//! `cluster` knows.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::hash_slot::slot_of;
use super::line::Line;
use super::script::{Call, Script};
use crate::limit::{Algorithm, Answer, Ask, Believed, Outcome, Question, WindowsNow};
use crate::store::StoreError;
use crate::store::layout::Layout;

/// How long giving back may take: nobody waits for it beyond the deadline of the request.
const GIVING_BACK: Duration = Duration::from_secs(1);

type Found = Vec<Option<bytes::Bytes>>;

/// Answers the questions of so many requests, each for itself: in a cluster a slot that is out of reach harms those alone that
/// need it. With one command where one node has all the keys.
///
/// A call without an answer may or may not have spent; it is never sent twice.
pub(super) async fn decide(
    line: &Line,
    questions: &[Question],
    requests: usize,
    started: Instant,
    deadline: Instant,
) -> Vec<Result<Answer, StoreError>> {
    if !line.is_slot_by_slot() {
        let answers = line.ask(questions, deadline).await;
        line.calls().decided(&answers, requests, started.elapsed());
        match answers {
            Ok(answers) => return answers.into_iter().map(Ok).collect(),
            // It did nothing: the keys were looked at before the script ran.
            Err(StoreError::Refused(text)) if text.starts_with("CROSSSLOT") => line.go_slot_by_slot(),
            Err(error) => return questions.iter().map(|_| Err(error.clone())).collect(),
        }
    }
    let answers = slot_by_slot(line, questions, deadline).await;
    let whole = answers.iter().cloned().collect();
    line.calls().decided(&whole, requests, started.elapsed());
    answers
}

async fn slot_by_slot(line: &Line, questions: &[Question], deadline: Instant) -> Vec<Result<Answer, StoreError>> {
    let mut journeys: Vec<Journey> = questions.iter().cloned().map(Journey::new).collect();
    if journeys.iter().all(|journey| journey.legs.len() < 2) {
        travel(line, &mut journeys, deadline).await;
        return journeys.into_iter().map(Journey::answer).collect();
    }
    // A task of its own: a request that gives up must not leave in one slot what another denied.
    let owned = line.clone();
    let travelled = tokio::spawn(async move {
        travel(&owned, &mut journeys, deadline).await;
        give_back(&owned, &mut journeys, deadline).await;
        journeys.into_iter().map(Journey::answer).collect()
    });
    let lost = || StoreError::Unreachable("the question was cut short".to_owned());
    travelled.await.unwrap_or_else(|_| questions.iter().map(|_| Err(lost())).collect())
}

/// Stage by stage, until every question has its end.
async fn travel(line: &Line, journeys: &mut [Journey], deadline: Instant) {
    loop {
        let mut calls: BTreeMap<u16, (Vec<usize>, Vec<Question>)> = BTreeMap::new();
        for (index, journey) in journeys.iter().enumerate() {
            if let Some((slot, part)) = journey.part() {
                let (travellers, parts) = calls.entry(slot).or_default();
                travellers.push(index);
                parts.push(part);
            }
        }
        if calls.is_empty() {
            return;
        }
        if let (1, Some((slot, (travellers, parts)))) = (calls.len(), calls.first_key_value()) {
            let answers = line.ask_slot(*slot, parts, deadline).await;
            arrive(line, journeys, travellers, answers);
            continue;
        }
        let mut asked = JoinSet::new();
        for (slot, (travellers, parts)) in calls {
            let line = line.clone();
            asked.spawn(async move { (travellers, line.ask_slot(slot, &parts, deadline).await) });
        }
        while let Some(answered) = asked.join_next().await {
            // A call that panicked would leave its questions where they are, to be asked again.
            let (travellers, answers) = answered.expect("a call neither panics nor is it aborted");
            arrive(line, journeys, &travellers, answers);
        }
    }
}

fn arrive(line: &Line, journeys: &mut [Journey], travellers: &[usize], answers: Result<Vec<Answer>, StoreError>) {
    match answers {
        Ok(answers) => {
            travellers.iter().zip(answers).for_each(|(&index, answer)| journeys[index].arrive(answer));
        }
        Err(error) => travellers.iter().for_each(|&index| journeys[index].miss(line, &error)),
    }
}

/// One question on its way through its slots.
struct Journey {
    question: Question,
    legs: Vec<Leg>,
    /// The leg that is next.
    at: usize,
    /// How many of `n` every slot has granted so far.
    granted: u32,
    now_ms: u64,
    /// Per ask, what its slot said of its buckets and documents.
    windows: Vec<Vec<WindowsNow>>,
    /// Per ask, how many each of its buckets that observe had room for.
    observed: Vec<Vec<u32>>,
    documents: Vec<Found>,
    /// Some document is not as believed: now only documents are read.
    stale: bool,
    end: Option<Result<Outcome, StoreError>>,
}

struct Leg {
    slot: u16,
    /// Which of the question's asks.
    asks: Vec<usize>,
    granted: u32,
}

impl Journey {
    fn new(question: Question) -> Self {
        let mut legs: Vec<Leg> = Vec::new();
        for (index, ask) in question.asks.iter().enumerate() {
            let slot = slot_of(&ask.slot);
            match legs.iter_mut().find(|leg| leg.slot == slot) {
                Some(leg) => leg.asks.push(index),
                None => legs.push(Leg { slot, asks: vec![index], granted: 0 }),
            }
        }
        legs.sort_by_key(|leg| leg.asks.iter().all(|&ask| question.asks[ask].documents.is_empty()));
        let believed = |ask: &Ask| ask.documents.iter().map(|document| as_believed(&document.believed)).collect();
        Self {
            legs,
            at: 0,
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

    /// What to ask next, and in which slot.
    fn part(&self) -> Option<(u16, Question)> {
        let leg = self.legs.get(self.at).filter(|_| self.end.is_none())?;
        let asks = leg.asks.iter().map(|&index| &self.question.asks[index]);
        let part = if self.stale {
            let documents =
                |ask: &Ask| Ask { slot: ask.slot.clone(), documents: ask.documents.clone(), ..Ask::default() };
            Question { asks: asks.map(documents).collect(), cost: 0, n: 1 }
        } else {
            // With n = 0 it only looks: a slot before has denied it, and the client is told of all windows.
            Question { asks: asks.cloned().collect(), cost: self.question.cost, n: self.granted }
        };
        Some((leg.slot, part))
    }

    /// The next slot is out of reach. Where it holds limits alone, and the key's own slot has answered, what the outage policy
    /// says is done for this slot; a public question leaves that to its asker, as one of a single node does.
    fn miss(&mut self, line: &Line, error: &StoreError) {
        let only_limits = |ask: &Ask| ask.documents.is_empty() && ask.member.is_none() && ask.not_after_ms.is_none();
        let leg = &self.legs[self.at];
        let is_beside_a_key = self.at > 0 && leg.asks.iter().all(|&ask| only_limits(&self.question.asks[ask]));
        let fallback = Some(line.fallback()).filter(|_| is_beside_a_key && !matches!(error, StoreError::Broken(_)));
        let counted =
            fallback.zip(self.part()).and_then(|(fallback, (_, part))| fallback.answer(&part, self.now_ms).ok());
        match counted {
            None => self.end = Some(Err(error.clone())),
            Some(answer) => {
                let at = self.at;
                self.arrive(answer);
                // It was not spent in this slot, so there is nothing to give back to it.
                self.legs[at].granted = 0;
            }
        }
    }

    fn arrive(&mut self, answer: Answer) {
        let leg = &mut self.legs[self.at];
        self.at += 1;
        self.now_ms = self.now_ms.max(answer.now_ms);
        match answer.outcome {
            Outcome::Spent { .. } if self.stale => {}
            Outcome::Spent { granted, windows, observed } => {
                let (mut windows, mut observed) = (windows.into_iter(), observed.into_iter());
                for &index in &leg.asks {
                    let buckets = &self.question.asks[index].buckets;
                    self.windows[index] = windows.by_ref().take(buckets.len()).collect();
                    let observing = buckets.iter().filter(|bucket| bucket.observes).count();
                    self.observed[index] = observed.by_ref().take(observing).collect();
                }
                if self.question.cost > 0 {
                    leg.granted = granted;
                }
                self.granted = granted;
            }
            Outcome::Stale(found) => {
                leg.asks.iter().zip(found).for_each(|(&ask, found)| self.documents[ask] = found);
                self.stale = true;
            }
            other => self.end = Some(Ok(other)),
        }
        if self.stale {
            // What has no documents has nothing to say any more.
            let asks = &self.question.asks;
            let silent = |leg: &Leg| leg.asks.iter().all(|&ask| asks[ask].documents.is_empty());
            while self.legs.get(self.at).is_some_and(silent) {
                self.at += 1;
            }
        }
    }

    /// How many requests passed in all slots.
    fn passed(&self) -> u32 {
        if self.stale || self.end.is_some() { 0 } else { self.granted }
    }

    /// Per slot, what was spent for requests that did not pass: the keys, and the numbers for the script.
    fn surplus(&self, layout: &Layout) -> Vec<(u16, Call)> {
        let passed = self.passed();
        let legs = self.legs.iter().filter(|leg| leg.granted > passed);
        let call = |leg: &Leg| {
            let (mut keys, mut entries) = (Vec::new(), Vec::new());
            for &index in &leg.asks {
                let ask = &self.question.asks[index];
                let amounts = self.too_much(leg, index, passed);
                for ((bucket, windows), amount) in ask.buckets.iter().zip(&self.windows[index]).zip(amounts) {
                    if amount == 0 {
                        continue;
                    }
                    keys.push(layout.in_slot(&ask.slot, &bucket.name));
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
            (!keys.is_empty()).then(|| (leg.slot, Call::new(&keys, &blob)))
        };
        legs.filter_map(call).collect()
    }

    /// What each bucket of an ask gave for requests that did not pass; one that observes may have given less than the others.
    fn too_much(&self, leg: &Leg, index: usize, passed: u32) -> Vec<u64> {
        let mut observed = self.observed[index].iter();
        let buckets = self.question.asks[index].buckets.iter();
        let given = buckets.map(|bucket| if bucket.observes { observed.next().copied() } else { Some(leg.granted) });
        given.map(|given| u64::from(given.unwrap_or(0).saturating_sub(passed)) * self.question.cost).collect()
    }

    /// Says of windows that were given something back how they stand now.
    fn settle(&mut self) {
        let (passed, cost) = (self.passed(), self.question.cost);
        for leg in self.legs.iter().filter(|leg| leg.granted > passed) {
            for &index in &leg.asks {
                let amounts = self.too_much(leg, index, passed);
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
async fn give_back(line: &Line, journeys: &mut [Journey], deadline: Instant) {
    let mut given = JoinSet::new();
    for journey in journeys.iter_mut() {
        for (slot, call) in journey.surplus(line.layout()) {
            let line = line.clone();
            given.spawn(async move { line.run(slot, Script::GiveBack, &call, Instant::now() + GIVING_BACK).await });
        }
        journey.settle();
    }
    let all = async { while given.join_next().await.is_some() {} };
    if timeout_at(deadline, all).await.is_err() {
        given.detach_all();
    }
}
