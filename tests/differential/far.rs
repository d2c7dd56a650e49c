//! A Redis that is far away: who has to wait for one call to return before its own leaves must not miss its deadline.

use std::net::SocketAddr;
use std::time::Duration;

use sidegate::limit::{Believed, Outcome};
use sidegate::store::redis::{RedisStore, Settings, Topology};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::server::RedisServer;
use super::store::{outcome, question, start};

const EACH_WAY: Duration = Duration::from_millis(100);

#[tokio::test]
async fn a_round_trip_of_more_than_half_the_deadline_leaves_time_for_every_request() {
    let server = RedisServer::start();
    let settings = server.settings();
    let Topology::Node(near) = settings.topology else { panic!("the test's server is one node") };
    let far = distant((near.host.as_str(), near.port)).await;
    let (store, _) = start(Settings::from_url(&format!("redis://{far}")).expect("a valid address"));
    // The distance is learned.
    for _ in 0..16 {
        outcome(&store, question(Believed::Absent)).await;
    }
    let mut missed = Vec::new();
    // A busy machine may take the time that there is for other things.
    for _ in 0..4 {
        missed.push(misses(&store).await);
        if missed.last() == Some(&0) {
            return;
        }
    }
    panic!("each time some of forty had no time: {missed:?}");
}

/// How many of forty questions, one after the other and each in time for one round trip and not for two, are not answered.
async fn misses(store: &RedisStore) -> usize {
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let store = store.clone();
        asked.spawn(async move {
            let deadline = Instant::now() + EACH_WAY * 7 / 2;
            store.decide(&question(Believed::Absent), deadline).await
        });
        sleep(Duration::from_millis(23)).await;
    }
    let mut missed = 0;
    while let Some(answer) = asked.join_next().await {
        match answer.expect("no question panics") {
            Ok(answer) => assert!(matches!(answer.outcome, Outcome::Spent { .. })),
            Err(_) => missed += 1,
        }
    }
    missed
}

/// An address behind which the other one stands, with all bytes later by `EACH_WAY`.
async fn distant(near: (&str, u16)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
    let near = (near.0.to_owned(), near.1);
    let address = listener.local_addr().expect("a bound socket has an address");
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(near.clone()).await.expect("the server accepts");
            let (client, server) = (client.into_split(), server.into_split());
            carry(client.0, server.1);
            carry(server.0, client.1);
        }
    });
    address
}

fn carry(mut from: impl AsyncRead + Unpin + Send + 'static, mut to: impl AsyncWrite + Unpin + Send + 'static) {
    let (pass, mut passed) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        let mut buffer = [0; 8192];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if pass.send((Instant::now() + EACH_WAY, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, bytes)) = passed.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
}
