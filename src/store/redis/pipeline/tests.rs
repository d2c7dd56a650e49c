//! Commands and answers over memory, in pieces, and the ways in which the other side can be wrong.

use std::time::Duration;

use proptest::prelude::*;
use redis::cmd;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

use super::*;

/// Beyond any turn of a test's tasks.
const PATIENCE: Duration = Duration::from_secs(20);

/// A pipeline whose driver runs, with room for so many bytes on the way, and its other end.
fn connected(room: usize) -> (Pipeline, JoinHandle<StoreError>, DuplexStream) {
    let (near, far) = duplex(room);
    let (pipeline, mut driver) = open(Box::new(near));
    let driver = tokio::spawn(async move { driver.ended().await });
    (pipeline, driver, far)
}

/// Sends an ECHO of this text.
fn echo(pipeline: &Pipeline, text: &str) -> JoinHandle<Result<String, StoreError>> {
    let (pipeline, echo) = (pipeline.clone(), cmd("ECHO").arg(text).take());
    tokio::spawn(async move { pipeline.query(&echo).await })
}

/// The other side: the commands that arrive, in their order.
struct Server {
    far: DuplexStream,
    commands: ReplyDecoder,
}

impl Server {
    fn at(far: DuplexStream) -> Self {
        Self { far, commands: ReplyDecoder::new() }
    }

    /// The next command's last argument.
    async fn next_command(&mut self) -> String {
        loop {
            match self.commands.next().expect("commands are RESP") {
                Some(Value::Array(arguments)) => {
                    let Some(Value::BulkString(last)) = arguments.last() else { panic!("{arguments:?}") };
                    return String::from_utf8(last.clone()).expect("the tests ask text");
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    let read = timeout(PATIENCE, self.far.read_buf(self.commands.buffer())).await;
                    assert!(read.expect("a command comes").expect("memory can be read") > 0, "it was closed");
                }
            }
        }
    }

    async fn reply(&mut self, bytes: &str) {
        timeout(PATIENCE, self.far.write_all(bytes.as_bytes())).await.expect("it is read").expect("it is open");
    }

    async fn echo(&mut self, text: &str) {
        self.reply(&format!("${}\r\n{text}\r\n", text.len())).await;
    }
}

async fn answer(call: JoinHandle<Result<String, StoreError>>) -> Result<String, StoreError> {
    timeout(PATIENCE, call).await.expect("it is answered").expect("it does not panic")
}

#[tokio::test]
async fn a_command_is_written_before_the_driver_is_polled() {
    let (pipeline, _driver, far) = connected(1024);
    yield_now().await;
    let mut far = Server::at(far);
    let echo = cmd("ECHO").arg("now").take();
    let mut call = pin!(pipeline.query::<String>(&echo));
    assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let mut read = pin!(far.next_command());
    let Poll::Ready(text) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing was written")
    };
    assert_eq!(text, "now");
}

#[tokio::test]
async fn a_cancelled_call_shifts_nobodys_reply() {
    let (pipeline, _driver, far) = connected(1024);
    let mut far = Server::at(far);
    let calls: Vec<_> = ["a", "b", "c", "d"].map(|text| echo(&pipeline, text)).into();
    for expected in ["a", "b", "c", "d"] {
        assert_eq!(far.next_command().await, expected);
    }
    calls[0].abort();
    calls[2].abort();
    for text in ["a", "b", "c", "d"] {
        far.echo(text).await;
    }
    let mut calls = calls.into_iter();
    for expected in [None, Some("b"), None, Some("d")] {
        let call = calls.next().expect("there are four");
        match expected {
            Some(expected) => assert_eq!(answer(call).await.as_deref(), Ok(expected)),
            None => assert!(call.await.is_err_and(|error| error.is_cancelled())),
        }
    }
}

#[tokio::test]
async fn asking_stands_right_before_its_command() {
    let (pipeline, _driver, far) = connected(1024);
    let mut far = Server::at(far);
    let asking = |pipeline: &Pipeline, text: &str| {
        let (pipeline, echo) = (pipeline.clone(), cmd("ECHO").arg(text).take());
        tokio::spawn(async move { pipeline.call::<String>(true, |to| echo.write_packed_command(to)).await })
    };
    let calls = [echo(&pipeline, "a"), asking(&pipeline, "b"), asking(&pipeline, "c"), echo(&pipeline, "d")];
    for expected in ["a", "ASKING", "b", "ASKING", "c", "d"] {
        assert_eq!(far.next_command().await, expected);
    }
    far.reply("$1\r\na\r\n+OK\r\n$1\r\nb\r\n-ERR no cluster\r\n$1\r\nc\r\n$1\r\nd\r\n").await;
    let refused = Err(StoreError::Refused("ERR no cluster".to_owned()));
    let expected = [Ok("a".to_owned()), Ok("b".to_owned()), refused, Ok("d".to_owned())];
    for (call, expected) in calls.into_iter().zip(expected) {
        assert_eq!(answer(call).await, expected);
    }
}

#[tokio::test]
async fn an_error_of_the_server_fails_its_call_alone() {
    let (pipeline, _driver, far) = connected(1024);
    let mut far = Server::at(far);
    let calls = ["a", "b", "c"].map(|text| echo(&pipeline, text));
    for _ in 0..3 {
        far.next_command().await;
    }
    far.reply("-WRONGTYPE it is a list\r\n-NOPERM you may not\r\n$1\r\nc\r\n").await;
    let broken = StoreError::Broken("it is a list".to_owned());
    let refused = StoreError::Refused("NOPERM you may not".to_owned());
    for (call, expected) in calls.into_iter().zip([Err(broken), Err(refused), Ok("c".to_owned())]) {
        assert_eq!(answer(call).await, expected);
    }
}

/// Sends this to three calls that wait, and closes: those without a complete reply fail as unreachable.
async fn ends(bytes: &str, answered: usize, closes: bool) {
    let (pipeline, driver, far) = connected(1024);
    let mut far = Server::at(far);
    let calls = ["a", "b", "c"].map(|text| echo(&pipeline, text));
    for _ in 0..3 {
        far.next_command().await;
    }
    far.reply(bytes).await;
    let far = (!closes).then_some(far);
    for (index, call) in calls.into_iter().enumerate() {
        match answer(call).await {
            Ok(_) => assert!(index < answered, "{bytes}"),
            Err(StoreError::Unreachable(_)) => assert!(index >= answered, "{bytes}"),
            Err(other) => panic!("{bytes}: {other:?}"),
        }
    }
    let why = timeout(PATIENCE, driver).await.expect("the driver ends").expect("it does not panic");
    assert_eq!(answer(echo(&pipeline, "later")).await, Err(why));
    if let Some(mut far) = far {
        assert!(matches!(far.far.read(&mut [0]).await, Ok(0)), "the socket is closed");
    }
}

#[tokio::test]
async fn whatever_is_no_reply_ends_the_connection_and_all_calls_fail() {
    ends("", 0, true).await;
    ends("$1\r\na\r\n$1\r\nb", 1, true).await;
    ends("$1\r\na\r\nHTTP/1.1 400 Bad Request\r\n", 1, false).await;
    ends("$1\r\na\r\n>2\r\n+message\r\n+x\r\n", 1, false).await;
    ends("$1\r\na\r\n$1\r\nbb\r\n", 1, false).await;
    ends("$1000000000\r\n", 0, false).await;
    ends("$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n", 3, false).await;
}

#[tokio::test]
async fn replies_that_came_before_the_connection_broke_count() {
    let (pipeline, driver, far) = connected(1024);
    let mut far = Server::at(far);
    let first = echo(&pipeline, "a");
    assert_eq!(far.next_command().await, "a");
    far.echo("a").await;
    drop(far);
    // It is written to before anybody has read.
    let second = cmd("ECHO").arg("b").take();
    let second = pipeline.query::<String>(&second).await;
    assert!(matches!(second, Err(StoreError::Unreachable(_))), "{second:?}");
    assert_eq!(answer(first).await.as_deref(), Ok("a"));
    assert!(matches!(driver.await, Ok(StoreError::Unreachable(_))));
}

#[tokio::test]
async fn a_driver_that_is_dropped_closes_the_connection_and_all_calls_fail() {
    let (pipeline, driver, far) = connected(1024);
    let mut far = Server::at(far);
    let call = echo(&pipeline, "a");
    assert_eq!(far.next_command().await, "a");
    driver.abort();
    assert!(matches!(answer(call).await, Err(StoreError::Unreachable(_))));
    assert!(matches!(answer(echo(&pipeline, "b")).await, Err(StoreError::Unreachable(_))));
    assert!(matches!(far.far.read(&mut [0]).await, Ok(0)), "the socket is closed, though there are handles");
}

#[tokio::test]
async fn a_call_to_a_server_that_stalls_waits_for_room_and_is_served_in_the_end() {
    const ALL: usize = 4 * MOST_WAITING;
    let (pipeline, _driver, far) = connected(64 * 1024);
    let mut far = Server::at(far);
    let calls: Vec<_> = (0..ALL).map(|index| echo(&pipeline, &index.to_string())).collect();
    for _ in 0..20 {
        yield_now().await;
    }
    let (waiting, bytes) = {
        let state = pipeline.0.state();
        (state.waiting.len(), state.commands.len())
    };
    assert_eq!(waiting, MOST_WAITING);
    assert!(bytes < MOST_BYTES);
    // Half of those that wait for room are cancelled.
    calls.iter().skip(MOST_WAITING).step_by(2).for_each(JoinHandle::abort);
    let served = tokio::spawn(async move {
        loop {
            let text = far.next_command().await;
            far.echo(&text).await;
        }
    });
    for (index, call) in calls.into_iter().enumerate() {
        if index < MOST_WAITING || (index - MOST_WAITING) % 2 == 1 {
            assert_eq!(answer(call).await, Ok(index.to_string()));
        }
    }
    served.abort();
}

#[tokio::test]
async fn what_cannot_be_written_is_bounded_too() {
    let (pipeline, driver, far) = connected(1024);
    let long = "x".repeat(100_000);
    let calls: Vec<_> = (0..50).map(|_| echo(&pipeline, &long)).collect();
    for _ in 0..20 {
        yield_now().await;
    }
    let bytes = pipeline.0.state().commands.len();
    assert!((MOST_BYTES..MOST_BYTES + 200_000).contains(&bytes), "{bytes}");
    // Those that wait for room fail as well.
    drop(far);
    for call in calls {
        assert!(matches!(answer(call).await, Err(StoreError::Unreachable(_))));
    }
    assert!(matches!(driver.await, Ok(StoreError::Unreachable(_))));
}

/// What happens at a pipeline, in any order.
#[derive(Debug, Clone)]
enum Event {
    Call { length: usize },
    Cancel { which: prop::sample::Index },
    Yield(u8),
    Sleep,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..300_usize).prop_map(|length| Event::Call { length }),
        1 => any::<prop::sample::Index>().prop_map(|which| Event::Cancel { which }),
        2 => (0..4_u8).prop_map(Event::Yield),
        3 => Just(Event::Sleep),
    ]
}

/// Over a connection that carries so few bytes at once that nearly everything goes in pieces.
async fn play(events: Vec<Event>, room: usize) {
    let (pipeline, _driver, far) = connected(room);
    let mut far = Server::at(far);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel::<()>();
    let serving = tokio::spawn(async move {
        while receiver.recv().await.is_some() {
            let text = far.next_command().await;
            far.echo(&text).await;
        }
    });
    let mut calls: Vec<(String, JoinHandle<_>)> = Vec::new();
    for event in events {
        match event {
            Event::Call { length } => {
                let text = format!("{}{}", calls.len(), "x".repeat(length));
                calls.push((text.clone(), echo(&pipeline, &text)));
                sender.send(()).expect("the server is there");
            }
            Event::Cancel { which } if !calls.is_empty() => calls[which.index(calls.len())].1.abort(),
            Event::Cancel { .. } => {}
            Event::Yield(times) => {
                for _ in 0..times {
                    yield_now().await;
                }
            }
            Event::Sleep => tokio::time::sleep(Duration::ZERO).await,
        }
    }
    for (text, call) in calls {
        // One that was cancelled before its first poll has sent nothing.
        match timeout(PATIENCE, call).await.expect("it is answered") {
            Ok(answer) => assert_eq!(answer, Ok(text)),
            Err(error) => assert!(error.is_cancelled(), "{error}"),
        }
    }
    serving.abort();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_call_that_is_not_cancelled_gets_its_own_reply(events in prop::collection::vec(event(), 1..60), room in 1..200_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
        runtime.block_on(play(events, room));
    }
}
