//! Keeping keys beyond the store's own rules: over HTTP by those who are signed in, and what needs the gate's eyes.
//!
//! Requests come from the workers' `proxy::desk` to one thread of their own, where nobody's request waits for a disk or for
//! the session endpoint. `door` is their way on one screen; each file beside it has one concern. `store::keyring` is what both
//! this door and the command line change keys through.

pub mod authority;
pub mod cross_site;
pub mod door;
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

use self::door::{Door, Office};
use crate::proxy::Desk;
use crate::proxy::desk::Errand;
use crate::store::Store;

/// Requests that may wait for their turn; more are told that the gate is busy.
const QUEUE: usize = 256;
/// Requests that are answered at once: so many questions the session endpoint gets at a time.
const AT_ONCE: usize = 32;

/// Starts the thread that answers; it ends once no desk leads to it and what has come is answered. `store` is made on it,
/// since connections belong to the runtime that they start on.
pub fn open(office: Office, store: impl FnOnce() -> Store + Send + 'static) -> io::Result<Desk> {
    let (errands, arriving) = mpsc::channel(QUEUE);
    let desk = Desk::new(&office.settings.served_at(), operation::routes(&office.settings), errands);
    let (tell, told) = std_mpsc::channel();
    let run = move || match runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default()) {
        Err(error) => drop(tell.send(Err(error))),
        Ok(runtime) => runtime.block_on(async move {
            let door = Door::new(office, store());
            let _ = tell.send(Ok(()));
            serve(Rc::new(door), arriving).await;
        }),
    };
    thread::Builder::new().name("management".to_owned()).spawn(run)?;
    told.recv().unwrap_or_else(|_| Err(io::Error::other("key management ended before it began")))?;
    Ok(desk)
}

async fn serve(door: Rc<Door>, mut arriving: Receiver<Errand>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut answering = JoinSet::new();
    loop {
        // Nobody closes it.
        let place = room.clone().acquire_owned().await.ok();
        let errand = tokio::select! {
            errand = arriving.recv() => errand,
            Some(_) = answering.join_next() => continue,
        };
        let Some(errand) = errand else { break };
        let door = door.clone();
        answering.spawn_local(async move {
            let answer = door.handle(&errand).await;
            // Whoever has gone meanwhile does not want to know.
            let _ = errand.answer.send(answer);
            drop(place);
        });
    }
    while answering.join_next().await.is_some() {}
}
