//! Texts with placeholders, alone and as the bodies of denials: refused or rendered, and what is rendered is what was written.

use serde_json::Value;
use sidegate::policy::denial_text::{Entry, Facts};
use sidegate::policy::template::Template;
use sidegate::policy::{Reason, Texts};

const KNOWN: &[(&str, u8)] = &[("a", 0), ("detail", 1), ("retry_after", 2)];
const VALUES: [&str; 3] = ["", "{a}", "12"];

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let render = |template: &Template<u8>| template.render(|name, out| out.push_str(VALUES[usize::from(name)]));
    if let Ok(template) = Template::parse(text, KNOWN) {
        let rendered = render(&template);
        if let Some(name) = template.whole() {
            assert_eq!(rendered, VALUES[usize::from(name)], "{text:?}");
        }
        if !text.contains(['{', '}']) {
            assert_eq!(rendered, text);
        }
    }
    let escaped = text.replace('{', "{{").replace('}', "}}");
    let template = Template::parse(&escaped, KNOWN).expect("doubled braces are braces");
    assert_eq!(render(&template), text, "{escaped:?}");
    bodies(text);
}

/// As a body of JSON where it is some, else as a text: whatever compiles is worded for every reason.
fn bodies(text: &str) {
    let body = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let entry = Entry { body: Some(body.clone()), detail: Some("{title}".to_owned()), ..Entry::default() };
    let Ok(texts) = Texts::new(&[("default".to_owned(), entry)]) else { return };
    for reason in Reason::ALL {
        let facts = Facts { request_id: "\"}{", retry_after: Some(12), ..Facts::default() };
        let worded = texts.word(reason, &facts);
        assert_eq!(worded.status, reason.status());
        if !body.is_string() {
            serde_json::from_slice::<Value>(&worded.body).expect("a body of JSON is JSON");
        }
    }
}
