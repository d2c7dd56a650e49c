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

/// A pipe whose driver runs, with room for so many bytes on the way, and its other end.
fn laid(room: usize) -> (Pipe, JoinHandle<StoreError>, DuplexStream) {
    let (near, far) = duplex(room);
    let (pipe, mut driver) = open(Box::new(near));
    let driving = tokio::spawn(async move { driver.ended().await });
    (pipe, driving, far)
}

/// Asks for an echo of this text.
fn ask(pipe: &Pipe, text: &str) -> JoinHandle<Result<String, StoreError>> {
    let (pipe, echo) = (pipe.clone(), cmd("ECHO").arg(text).take());
    tokio::spawn(async move { pipe.ask(&echo).await })
}

/// The other side: what was asked, in the order in which it came.
struct Server {
    far: DuplexStream,
    commands: Answers,
}

impl Server {
    fn at(far: DuplexStream) -> Self {
        Self { far, commands: Answers::new() }
    }

    /// The next command's last argument.
    async fn asked(&mut self) -> String {
        loop {
            match self.commands.next().expect("commands are RESP") {
                Some(Value::Array(arguments)) => {
                    let Some(Value::BulkString(last)) = arguments.last() else { panic!("{arguments:?}") };
                    return String::from_utf8(last.clone()).expect("the tests ask text");
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    let read = timeout(PATIENCE, self.far.read_buf(self.commands.room())).await;
                    assert!(read.expect("a command comes").expect("memory can be read") > 0, "it was closed");
                }
            }
        }
    }

    async fn say(&mut self, bytes: &str) {
        timeout(PATIENCE, self.far.write_all(bytes.as_bytes())).await.expect("it is read").expect("it is open");
    }

    async fn echo(&mut self, text: &str) {
        self.say(&format!("${}\r\n{text}\r\n", text.len())).await;
    }
}

async fn answer(asked: JoinHandle<Result<String, StoreError>>) -> Result<String, StoreError> {
    timeout(PATIENCE, asked).await.expect("it is answered").expect("it does not panic")
}

#[tokio::test]
async fn a_command_leaves_before_the_driver_has_its_turn() {
    let (pipe, _driving, far) = laid(1024);
    yield_now().await;
    let mut far = Server::at(far);
    let echo = cmd("ECHO").arg("now").take();
    let mut asked = pin!(pipe.ask::<String>(&echo));
    assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    let mut read = pin!(far.asked());
    let Poll::Ready(text) = read.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("nothing has left")
    };
    assert_eq!(text, "now");
}

#[tokio::test]
async fn who_goes_away_shifts_nobodys_answer() {
    let (pipe, _driving, far) = laid(1024);
    let mut far = Server::at(far);
    let asked: Vec<_> = ["a", "b", "c", "d"].map(|text| ask(&pipe, text)).into();
    for expected in ["a", "b", "c", "d"] {
        assert_eq!(far.asked().await, expected);
    }
    asked[0].abort();
    asked[2].abort();
    for text in ["a", "b", "c", "d"] {
        far.echo(text).await;
    }
    let mut asked = asked.into_iter();
    for expected in [None, Some("b"), None, Some("d")] {
        let asked = asked.next().expect("there are four");
        match expected {
            Some(expected) => assert_eq!(answer(asked).await.as_deref(), Ok(expected)),
            None => assert!(asked.await.is_err_and(|error| error.is_cancelled())),
        }
    }
}

#[tokio::test]
async fn asking_stands_right_before_its_command() {
    let (pipe, _driving, far) = laid(1024);
    let mut far = Server::at(far);
    let led = |pipe: &Pipe, text: &str| {
        let (pipe, echo) = (pipe.clone(), cmd("ECHO").arg(text).take());
        tokio::spawn(async move { pipe.call::<String>(true, |to| echo.write_packed_command(to)).await })
    };
    let asked = [ask(&pipe, "a"), led(&pipe, "b"), led(&pipe, "c"), ask(&pipe, "d")];
    for expected in ["a", "ASKING", "b", "ASKING", "c", "d"] {
        assert_eq!(far.asked().await, expected);
    }
    far.say("$1\r\na\r\n+OK\r\n$1\r\nb\r\n-ERR no cluster\r\n$1\r\nc\r\n$1\r\nd\r\n").await;
    let refused = Err(StoreError::Refused("ERR no cluster".to_owned()));
    let expected = [Ok("a".to_owned()), Ok("b".to_owned()), refused, Ok("d".to_owned())];
    for (asked, expected) in asked.into_iter().zip(expected) {
        assert_eq!(answer(asked).await, expected);
    }
}

#[tokio::test]
async fn an_error_of_the_server_is_its_askers_alone() {
    let (pipe, _driving, far) = laid(1024);
    let mut far = Server::at(far);
    let asked = ["a", "b", "c"].map(|text| ask(&pipe, text));
    for _ in 0..3 {
        far.asked().await;
    }
    far.say("-WRONGTYPE it is a list\r\n-NOPERM you may not\r\n$1\r\nc\r\n").await;
    let broken = StoreError::Broken("it is a list".to_owned());
    let refused = StoreError::Refused("NOPERM you may not".to_owned());
    for (asked, expected) in asked.into_iter().zip([Err(broken), Err(refused), Ok("c".to_owned())]) {
        assert_eq!(answer(asked).await, expected);
    }
}

/// Says this to three who wait, and closes: who has no whole answer by then is told that the store is out of reach.
async fn ends(said: &str, answered: usize, closes: bool) {
    let (pipe, driving, far) = laid(1024);
    let mut far = Server::at(far);
    let asked = ["a", "b", "c"].map(|text| ask(&pipe, text));
    for _ in 0..3 {
        far.asked().await;
    }
    far.say(said).await;
    let far = (!closes).then_some(far);
    for (index, asked) in asked.into_iter().enumerate() {
        match answer(asked).await {
            Ok(_) => assert!(index < answered, "{said}"),
            Err(StoreError::Unreachable(_)) => assert!(index >= answered, "{said}"),
            Err(other) => panic!("{said}: {other:?}"),
        }
    }
    let why = timeout(PATIENCE, driving).await.expect("the driver ends").expect("it does not panic");
    assert_eq!(answer(ask(&pipe, "later")).await, Err(why));
    if let Some(mut far) = far {
        assert!(matches!(far.far.read(&mut [0]).await, Ok(0)), "the socket is closed");
    }
}

#[tokio::test]
async fn whatever_is_no_answer_ends_the_connection_and_everybody_is_told() {
    ends("", 0, true).await;
    ends("$1\r\na\r\n$1\r\nb", 1, true).await;
    ends("$1\r\na\r\nHTTP/1.1 400 Bad Request\r\n", 1, false).await;
    ends("$1\r\na\r\n>2\r\n+message\r\n+x\r\n", 1, false).await;
    ends("$1\r\na\r\n$1\r\nbb\r\n", 1, false).await;
    ends("$1000000000\r\n", 0, false).await;
    ends("$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n", 3, false).await;
}

#[tokio::test]
async fn what_was_answered_before_the_connection_broke_counts() {
    let (pipe, driving, far) = laid(1024);
    let mut far = Server::at(far);
    let first = ask(&pipe, "a");
    assert_eq!(far.asked().await, "a");
    far.echo("a").await;
    drop(far);
    // It is written to before anybody has read.
    let second = cmd("ECHO").arg("b").take();
    let second = pipe.ask::<String>(&second).await;
    assert!(matches!(second, Err(StoreError::Unreachable(_))), "{second:?}");
    assert_eq!(answer(first).await.as_deref(), Ok("a"));
    assert!(matches!(driving.await, Ok(StoreError::Unreachable(_))));
}

#[tokio::test]
async fn a_driver_that_is_dropped_closes_the_connection_and_everybody_is_told() {
    let (pipe, driving, far) = laid(1024);
    let mut far = Server::at(far);
    let asked = ask(&pipe, "a");
    assert_eq!(far.asked().await, "a");
    driving.abort();
    assert!(matches!(answer(asked).await, Err(StoreError::Unreachable(_))));
    assert!(matches!(answer(ask(&pipe, "b")).await, Err(StoreError::Unreachable(_))));
    assert!(matches!(far.far.read(&mut [0]).await, Ok(0)), "the socket is closed, though there are handles");
}

#[tokio::test]
async fn who_asks_a_server_that_stalls_waits_for_room_and_is_served_in_the_end() {
    const ALL: usize = 4 * MOST_WAITING;
    let (pipe, _driving, far) = laid(64 * 1024);
    let mut far = Server::at(far);
    let asked: Vec<_> = (0..ALL).map(|index| ask(&pipe, &index.to_string())).collect();
    for _ in 0..20 {
        yield_now().await;
    }
    let (waiting, bytes) = {
        let wire = pipe.0.wire();
        (wire.waiting.len(), wire.commands.len())
    };
    assert_eq!(waiting, MOST_WAITING);
    assert!(bytes < MOST_BYTES);
    // Half of those that wait for room go away.
    asked.iter().skip(MOST_WAITING).step_by(2).for_each(JoinHandle::abort);
    let served = tokio::spawn(async move {
        loop {
            let text = far.asked().await;
            far.echo(&text).await;
        }
    });
    for (index, asked) in asked.into_iter().enumerate() {
        if index < MOST_WAITING || (index - MOST_WAITING) % 2 == 1 {
            assert_eq!(answer(asked).await, Ok(index.to_string()));
        }
    }
    served.abort();
}

#[tokio::test]
async fn what_cannot_be_written_is_bounded_too() {
    let (pipe, driving, far) = laid(1024);
    let long = "x".repeat(100_000);
    let asked: Vec<_> = (0..50).map(|_| ask(&pipe, &long)).collect();
    for _ in 0..20 {
        yield_now().await;
    }
    let bytes = pipe.0.wire().commands.len();
    assert!((MOST_BYTES..MOST_BYTES + 200_000).contains(&bytes), "{bytes}");
    // Those who wait for room are told as well.
    drop(far);
    for asked in asked {
        assert!(matches!(answer(asked).await, Err(StoreError::Unreachable(_))));
    }
    assert!(matches!(driving.await, Ok(StoreError::Unreachable(_))));
}

/// What happens at a pipe, in any order.
#[derive(Debug, Clone)]
enum Event {
    Ask { length: usize },
    GoAway { which: prop::sample::Index },
    Turns(u8),
    Answer,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..300_usize).prop_map(|length| Event::Ask { length }),
        1 => any::<prop::sample::Index>().prop_map(|which| Event::GoAway { which }),
        2 => (0..4_u8).prop_map(Event::Turns),
        3 => Just(Event::Answer),
    ]
}

/// Over a way that carries so few bytes at once that nearly everything goes in pieces.
async fn play(events: Vec<Event>, room: usize) {
    let (pipe, _driving, far) = laid(room);
    let mut far = Server::at(far);
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel::<()>();
    let serving = tokio::spawn(async move {
        while told.recv().await.is_some() {
            let text = far.asked().await;
            far.echo(&text).await;
        }
    });
    let mut asked: Vec<(String, JoinHandle<_>)> = Vec::new();
    for event in events {
        match event {
            Event::Ask { length } => {
                let text = format!("{}{}", asked.len(), "x".repeat(length));
                asked.push((text.clone(), ask(&pipe, &text)));
                tell.send(()).expect("the server is there");
            }
            Event::GoAway { which } if !asked.is_empty() => asked[which.index(asked.len())].1.abort(),
            Event::GoAway { .. } => {}
            Event::Turns(turns) => {
                for _ in 0..turns {
                    yield_now().await;
                }
            }
            Event::Answer => tokio::time::sleep(Duration::ZERO).await,
        }
    }
    for (text, asked) in asked {
        // Who went away before its first turn has asked nothing.
        match timeout(PATIENCE, asked).await.expect("it is answered") {
            Ok(answer) => assert_eq!(answer, Ok(text)),
            Err(error) => assert!(error.is_cancelled(), "{error}"),
        }
    }
    serving.abort();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whoever_stays_gets_its_own_answer(events in prop::collection::vec(event(), 1..60), room in 1..200_usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime can be built");
        runtime.block_on(play(events, room));
    }
}
