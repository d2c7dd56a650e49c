//! The process's own log: its format is the configuration's where that names one, and only a terminal gets colours.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{
    Gate, Stage,
    client::{self, exchange},
    gate::{Lines, on_terminal, sidegate},
    until, whole,
};

const ESCAPE: char = '\u{1b}';

fn configured(format: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let yaml = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\nupstream: http://127.0.0.1:1\nstore: {{redis: 'redis://127.0.0.1:1/0'}}\n\
         log: {{format: {format}}}\nroutes: {{/public: public}}\n"
    );
    fs::write(folder.path().join("sidegate.yaml"), yaml).expect("the folder is writable");
    folder
}

/// What a gate that runs for a moment writes to standard error, which is a file.
fn in_a_file(format: &str) -> String {
    let folder = configured(format);
    let file = folder.path().join("gate.log");
    let mut command = sidegate(&["run", "--config", "sidegate.yaml"], &[]);
    command.current_dir(&folder).stdin(Stdio::null()).stdout(Stdio::null()).env_remove("NO_COLOR");
    command.stderr(fs::File::create(&file).expect("the folder is writable"));
    let mut child = command.spawn().expect("the binary was built with the tests");
    let read = || fs::read_to_string(&file).expect("the log is UTF-8");
    until("it to listen", || read().contains("operators listening").then_some(()));
    let _ = child.kill();
    let _ = child.wait();
    read()
}

/// The line with its first address, of a gate on a terminal.
fn on_a_terminal(folder: &Path, no_color: Option<&str>) -> String {
    let mut command = sidegate(&[], &[]);
    command.env("SIDEGATE_CONFIG", "sidegate.yaml").env_remove("NO_COLOR");
    command.envs(no_color.map(|value| ("NO_COLOR", value)));
    let shell = format!("'{}' run & echo its pid is $! end; wait", command.get_program().display());
    let mut terminal: Command = on_terminal(&shell, &command);
    let mut child =
        terminal.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("script: bsdutils");
    let lines = Lines::of(child.stdout.take().expect("it is piped"));
    let pid = lines.find("its pid", |line| Some(line.split_once("its pid is ")?.1.split(' ').next()?.to_owned()));
    let line = lines.find("listening", |line| line.contains("listening").then(|| line.to_owned()));
    client::printed_by(Command::new("kill").args(["-KILL", &pid]), "`kill` belongs to every system");
    let _ = child.wait();
    line
}

#[test]
fn text_in_a_file_has_no_colours() {
    let log = in_a_file("text");
    assert!(!log.contains(ESCAPE) && !log.starts_with('{'), "{log:?}");
    assert!(log.contains(" INFO listening address=127.0.0.1:"), "{log:?}");
}

#[test]
fn json_is_one_object_a_line_and_what_is_written_where_nobody_looks() {
    for format in ["json", "auto"] {
        let log = in_a_file(format);
        let lines: Vec<serde_json::Value> = log
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert!(lines.iter().any(|line| line["message"] == "listening"), "{log}");
    }
}

#[test]
fn a_terminal_gets_colours_unless_its_owner_wants_none() {
    let folder = configured("auto");
    for (no_color, coloured) in [(None, true), (Some(""), true), (Some("1"), false)] {
        let line = on_a_terminal(folder.path(), no_color);
        assert_eq!(line.contains(ESCAPE), coloured, "NO_COLOR {no_color:?}: {line:?}");
    }
}

/// Nobody reads its logs any more, and lines of its own log were lost for it. Each request of these met an upstream that is away,
/// and has an answer all the same.
fn stalled() -> (Stage, Gate) {
    const AT_ONCE: usize = 500;
    let stage = Stage::set();
    let yaml = "log: {level: debug}\nworkers: 1\ndrain: {delay: 0s, deadline: 2s}\nupstream: http://127.0.0.1:1\n\
                routes: {/public: public}";
    let gate = Gate::unheard(&whole(yaml), stage.environment()).ready();
    gate.read_log(false);
    let request = "GET /public HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET /public HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let pipelined = request.repeat(AT_ONCE - 1) + last;
    until("lines to be lost", || {
        let answers = exchange(gate.address, pipelined.as_bytes());
        assert_eq!(String::from_utf8_lossy(&answers).matches("HTTP/1.1 502 ").count(), AT_ONCE);
        (gate.metric("sidegate_log_lines_dropped_total", &[r#"log="process""#]) > 0.0).then_some(())
    });
    (stage, gate)
}

#[test]
fn a_reader_that_stalls_holds_no_request_up_and_is_told_what_it_missed() {
    let (_stage, gate) = stalled();
    gate.read_log(true);
    let said: serde_json::Value = serde_json::from_str(&gate.said("log lines were lost")).expect("a line is JSON");
    assert_eq!(said["log"], "process", "{said}");
    assert!(said["lines"].as_u64().is_some_and(|lines| lines > 0), "{said}");
}

#[test]
fn a_gate_whose_logs_nobody_reads_ends_when_it_is_told_to() {
    let (_stage, mut gate) = stalled();
    gate.terminate();
    assert_eq!(gate.ended().code(), Some(0));
}

#[test]
fn an_upstream_that_is_away_is_one_line_a_minute() {
    let stage = Stage::set();
    let mut gate = stage.gate("drain: {delay: 0s}\nupstream: http://127.0.0.1:1\nroutes: {/public: public}");
    for _ in 0..20 {
        assert_eq!(gate.raw("GET", "/public", &[]).status, 502);
    }
    gate.terminate();
    let written = gate.written_to_the_end();
    let lines: Vec<_> = written.lines().filter(|line| line.contains("the upstream cannot be reached")).collect();
    // Whoever tests for longer than a minute sees it again, with how often it was kept back.
    assert!(!lines.is_empty() && lines.len() < 20, "{written}");
    assert!(lines[0].contains("\"repeated\":0"), "{written}");
    assert_eq!(written.matches("upstream_unreachable").count(), 20, "each is in the access log: {written}");
}
