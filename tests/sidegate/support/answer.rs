//! An answer as a client sees it, whichever client asked: status, headers, and the whole body.

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// `gate.get("/v1/bots").answer().await`
pub trait AnswerTo {
    async fn answer(self) -> Answer;
}

impl AnswerTo for reqwest::RequestBuilder {
    async fn answer(self) -> Answer {
        let response = self.send().await.expect("the gate answers with valid HTTP");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("the body arrives whole").to_vec();
        Answer { status, headers, body }
    }
}

impl Answer {
    /// Reads what a raw connection brought: the first answer's head, and as its body everything behind it.
    pub fn parse(bytes: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer, but {:?}", text(bytes)));
        let head = text(&bytes[..end]);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().expect("split yields at least one part");
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a header name");
            (name, HeaderValue::from_str(value.trim()).expect("a header value"))
        });
        Self {
            status: status.unwrap_or_else(|| panic!("{status_line:?} is no status line")),
            headers: headers.collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("header values are visible ASCII"))
    }

    /// A header that is a number (`X-RateLimit-Remaining`, `Retry-After`).
    pub fn number(&self, name: &str) -> u64 {
        let value = self.header(name).unwrap_or_else(|| panic!("no {name} in {self:?}"));
        value.parse().unwrap_or_else(|_| panic!("{name}: {value} is no number"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The status and the problem's public code: what most denials are told apart by.
    pub fn denial(&self) -> (u16, String) {
        (self.status, self.json()["code"].as_str().unwrap_or_default().to_owned())
    }
}
