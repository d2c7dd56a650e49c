//! `sidegate demo`: it needs nothing but curl, and what it prints to try answers as it says.

use std::process::{Child, Command, Stdio};

use crate::support::{
    client::printed_by,
    gate::{Lines, sidegate},
    until,
};

#[test]
fn the_lines_that_the_demo_prints_answer_as_printed() {
    let demo = Demo::start(&[]);
    let statuses: Vec<&str> = demo.examples().iter().map(|(status, _)| *status).collect();
    assert_eq!(statuses, ["200", "401", "403", "200", "429"], "{}", demo.page);
    demo.answers_as_printed();
}

#[test]
fn the_demo_of_each_profile_answers_as_printed() {
    for profile in ["salescaling", "callscaler", "bots", "scaling", "kaicalls"] {
        Demo::start(&["--profile", profile]).answers_as_printed();
    }
}

struct Demo {
    child: Child,
    page: String,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let arguments = [&["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], arguments].concat();
        let mut command = sidegate(&arguments, &[]);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the binary was built with the tests");
        let lines = Lines::of(child.stdout.take().expect("stdout is piped"));
        lines.find("Ctrl-C", |line| line.contains("Ctrl-C").then_some(()));
        Self { child, page: lines.all() }
    }

    /// Each curl line, with the status that the line above it promises.
    fn examples(&self) -> Vec<(&str, &str)> {
        let pairs = self.page.lines().zip(self.page.lines().skip(1));
        pairs.filter_map(|(above, line)| Some((above.strip_prefix("# ")?.split_once(": ")?.0, line))).collect()
    }

    fn answers_as_printed(&self) {
        let key = self.page.lines().find(|line| line.trim().starts_with("KEY=")).expect("the page shows the key");
        for (status, line) in self.examples() {
            let answered = || {
                let script = format!("{key}\n{line}");
                let printed = printed_by(Command::new("bash").args(["-c", &script]), "apt-get install curl");
                // Either a status line, or the count of a status.
                let (head, count) = (format!("HTTP/1.1 {status}"), format!(" {status}"));
                printed.lines().any(|line| line.starts_with(&head) || line.trim().ends_with(&count))
            };
            if line.contains("uniq -c") {
                // A burst may fall on both sides of an aligned second or minute, and pass: then the next one does not.
                until(line, || answered().then_some(()));
            } else {
                assert!(answered(), "{line}\ndid not answer {status}");
            }
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}
