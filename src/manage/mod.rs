//! Key management over HTTP, for signed-in users; also usage and limits, as the gate sees them.
//!
//! Requests come from the workers' `proxy::management` to one thread of their own, so that no other request waits for a disk or
//! the session endpoint. `api` is the pipeline, on one screen; each file beside it has one concern. Both this API and the command
//! line change keys through `store::keyring`.

pub mod api;
pub mod authority;
pub mod cross_site;
pub mod openapi;
pub mod operation;
pub mod peek;
pub mod rate;
pub mod refusal;
pub mod resource;
pub mod session;
pub mod settings;
pub mod usage;

use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc as std_mpsc};
use std::thread;

use tokio::runtime::{self, LocalOptions};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver};
use tokio::task::JoinSet;

use self::api::{ApiParts, ManagementApi};
use crate::proxy::ManagementQueue;
use crate::proxy::management::ManagementRequest;
use crate::store::Store;

/// Requests that may wait in the queue; more are refused as overloaded.
const QUEUE: usize = 256;
/// Requests that are served concurrently, and thus the session endpoint's concurrency.
const AT_ONCE: usize = 32;

/// Starts the thread that answers; it ends once no queue leads to it and what has come is answered. `store` is made on it,
/// since connections belong to the runtime that they start on.
pub fn open(parts: ApiParts, store: impl FnOnce() -> Store + Send + 'static) -> io::Result<ManagementQueue> {
    let (requests, arriving) = mpsc::channel(QUEUE);
    let queue = ManagementQueue::new(&parts.settings.served_at(), operation::routes(&parts.settings), requests);
    let (tell, told) = std_mpsc::channel();
    let run = move || match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Err(error) => drop(tell.send(Err(error))),
        Ok(runtime) => runtime.block_on(async move {
            let api = ManagementApi::new(parts, store());
            let _ = tell.send(Ok(()));
            serve(Rc::new(api), arriving).await;
        }),
    };
    thread::Builder::new().name("management".to_owned()).spawn(run)?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("key management ended before it began")))?;
    Ok(queue)
}

async fn serve(api: Rc<ManagementApi>, mut arriving: Receiver<ManagementRequest>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut answering = JoinSet::new();
    loop {
        // It is never closed.
        let place = room.clone().acquire_owned().await.ok();
        let request = tokio::select! {
            request = arriving.recv() => request,
            Some(_) = answering.join_next() => continue,
        };
        let Some(request) = request else { break };
        let api = api.clone();
        answering.spawn_local(async move {
            let answer = api.handle(&request).await;
            // The client may have disconnected.
            let _ = request.answer.send(answer);
            drop(place);
        });
    }
    while answering.join_next().await.is_some() {}
}
