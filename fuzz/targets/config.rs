//! Any text as a configuration: settings, or errors that stand somewhere in it and say something.

use std::path::Path;

use http::Method;
use sidegate::config::load;
use sidegate::policy::route::Found;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match load::from_text(text, Path::new("/nonexistent"), "fuzz.yaml") {
        Ok(settings) => {
            for path in ["/", "/a", "/a/b", "/a/B.", "/%61/%2F"] {
                if let Found::Route { route, .. } = settings.policy.routes.find(&Method::GET, path) {
                    assert!(!route.pattern.is_empty());
                }
            }
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without saying why: {text:?}");
            let lines = text.lines().count() + 1;
            for error in &errors.0 {
                assert!(!error.message.is_empty());
                assert!(error.place.is_none_or(|(line, column)| (1..=lines).contains(&line) && column >= 1), "{error}");
            }
        }
    }
}
