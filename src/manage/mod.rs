//! Keeping keys beyond the store's own rules: over HTTP by those who are signed in, and what needs the gate's eyes.
//!
//! Requests come from the workers' `proxy::management` to one thread of their own, where nobody's request waits for a disk or for
//! the session endpoint. `api` is their way on one screen; each file beside it has one concern. `store::keyring` is what both
//! this door and the command line change keys through.

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

/// Requests that may wait for their turn; more are told that the gate is busy.
const QUEUE: usize = 256;
/// Requests that are answered at once: so many questions the session endpoint gets at a time.
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
        // Nobody closes it.
        let place = room.clone().acquire_owned().await.ok();
        let request = tokio::select! {
            request = arriving.recv() => request,
            Some(_) = answering.join_next() => continue,
        };
        let Some(request) = request else { break };
        let api = api.clone();
        answering.spawn_local(async move {
            let answer = api.handle(&request).await;
            // Whoever has gone meanwhile does not want to know.
            let _ = request.answer.send(answer);
            drop(place);
        });
    }
    while answering.join_next().await.is_some() {}
}
