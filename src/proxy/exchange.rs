//! One request on a connection of its own, for what is asked seldom: sessions, the service's own probes. Requests of clients go
//! over kept connections, which are `upstream`'s.

use std::error::Error;
use std::pin::pin;

pub type Failure = Box<dyn Error + Send + Sync>;

/// The exchange on its connection, which ends with it.
pub async fn driven<T>(
    connection: impl Future<Output = hyper::Result<()>>,
    exchange: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (mut connection, mut exchange) = (pin!(connection), pin!(exchange));
    tokio::select! {
        answer = &mut exchange => answer,
        // The exchange knows how far it came.
        _ = &mut connection => exchange.await,
    }
}
