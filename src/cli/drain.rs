//! `sidegate drain`: tells the process on this machine that its pod ends.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{CONNECTION, HOST};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::Settings;
use crate::proxy::exchange::{ExchangeError, drive};

/// The operators' listener answers at once, or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

pub fn run(settings: &Settings) -> anyhow::Result<u8> {
    let admin = settings.admin.admin;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answered: Result<StatusCode, ExchangeError> = runtime.block_on(async {
        let exchange = async {
            let stream = TcpStream::connect(admin).await?;
            let request = Request::post("/drain").header(HOST, admin.to_string()).header(CONNECTION, "close");
            let request = request.body(Empty::<Bytes>::new())?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            drive(connection, async { Ok(sender.send_request(request).await?.status()) }).await
        };
        timeout(PATIENCE, exchange).await?
    });
    match answered.map_err(anyhow::Error::from_boxed).with_context(|| format!("{admin} (`admin`) cannot be asked"))? {
        StatusCode::ACCEPTED => Ok(super::exit::DONE),
        status => bail!("{admin} (`admin`) answers {status}; is it sidegate?"),
    }
}
