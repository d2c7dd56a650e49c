//! What an API server asks an admission webhook, and the answer: always allowed, with the difference as a JSON patch (RFC 6902),
//! and a warning for whoever sent the object where it was left alone.
//!
//! That an object is never refused here is by intent: whoever must not run without a gate is held to it by a
//! ValidatingAdmissionPolicy, which works while the webhook is away.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

use super::names::LABEL;
use super::outcome::{InjectionContext, Outcome, Settings};
use super::{difference, pod, service, shape};

const VERSION: &str = "admission.k8s.io/v1";
/// Longer warnings are cut by API servers.
const LONGEST_WARNING: usize = 256;

/// Why a body is no question.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ReviewError {
    #[error("this is no AdmissionReview: {0}")]
    Shape(String),
    #[error("{0} is not spoken here; write `admissionReviewVersions: [v1]`")]
    Version(String),
}

/// One question.
#[derive(Debug)]
pub struct Review {
    request: Request,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview {
    api_version: String,
    kind: String,
    request: Option<Request>,
}

#[derive(Debug, Deserialize)]
struct Request {
    uid: String,
    kind: Kind,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    object: Value,
}

#[derive(Debug, Deserialize)]
struct Kind {
    #[serde(default)]
    group: String,
    version: String,
    kind: String,
}

/// What became of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Injected,
    /// It has been injected already.
    Unchanged,
    Left,
}

/// The answer, as JSON.
#[derive(Debug)]
pub struct Answer {
    pub body: String,
    pub verdict: Verdict,
    /// Why it was left alone.
    pub left: Option<String>,
}

impl Review {
    pub fn read(body: &[u8]) -> Result<Self, ReviewError> {
        let review: AdmissionReview =
            serde_json::from_slice(body).map_err(|error| ReviewError::Shape(error.to_string()))?;
        if review.kind != "AdmissionReview" {
            return Err(ReviewError::Shape(format!("its kind is {}", review.kind)));
        }
        if review.api_version != VERSION {
            return Err(ReviewError::Version(review.api_version));
        }
        let request = review.request.ok_or_else(|| ReviewError::Shape("there is no request in it".to_owned()))?;
        Ok(Self { request })
    }

    /// Where the object is to stand, whose annotations it inherits.
    pub fn namespace(&self) -> &str {
        &self.request.namespace
    }

    /// `Pod`, `Service`, or what else an API server was told to send.
    pub fn kind(&self) -> &'static str {
        match (self.request.kind.group.as_str(), self.request.kind.version.as_str(), self.request.kind.kind.as_str()) {
            ("", "v1", "Pod") => "Pod",
            ("", "v1", "Service") => "Service",
            _ => "other",
        }
    }

    /// `namespace`: the annotations of the object's namespace; `warning`: what else its sender should know.
    pub fn answer(&self, settings: &Settings, namespace: &BTreeMap<String, String>, warning: Option<String>) -> Answer {
        let object = &self.request.object;
        let context = InjectionContext { settings, namespace, job: false };
        let outcome = match self.kind() {
            "Pod" => pod(object, &context),
            "Service" => service(object, None, &context),
            _ => Outcome::untouched(object, "sidegate is put into pods and before Services"),
        };
        let verdict = match &outcome.left {
            Some(_) => Verdict::Left,
            None if outcome.document == *object => Verdict::Unchanged,
            None => Verdict::Injected,
        };
        // Who has said that he does not want it need not be told that he does not get it.
        let declined = shape::label(object, LABEL) == Some("disabled");
        let left =
            outcome.left.clone().filter(|_| !declined).map(|reason| format!("sidegate is not injected: {reason}"));
        let warnings: Vec<_> = left.into_iter().chain(warning).map(shortened).collect();
        let body = self.response(&outcome, &warnings).to_string();
        Answer { body, verdict, left: outcome.left }
    }

    fn response(&self, outcome: &Outcome, warnings: &[String]) -> Value {
        let mut response = json!({"uid": self.request.uid, "allowed": true});
        let patch = difference::patch(&self.request.object, &outcome.document);
        if let Some(response) = response.as_object_mut() {
            if !patch.is_empty() {
                response.insert("patchType".to_owned(), json!("JSONPatch"));
                response.insert("patch".to_owned(), json!(BASE64_STANDARD.encode(json!(patch).to_string())));
            }
            if !warnings.is_empty() {
                response.insert("warnings".to_owned(), json!(warnings));
            }
        }
        json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response})
    }
}

fn shortened(warning: String) -> String {
    if warning.chars().count() <= LONGEST_WARNING {
        return warning;
    }
    let kept: String = warning.chars().take(LONGEST_WARNING - 1).collect();
    kept + "…"
}

impl Verdict {
    pub const ALL: [Self; 3] = [Self::Injected, Self::Unchanged, Self::Left];

    pub fn name(self) -> &'static str {
        match self {
            Self::Injected => "injected",
            Self::Unchanged => "unchanged",
            Self::Left => "left",
        }
    }
}
