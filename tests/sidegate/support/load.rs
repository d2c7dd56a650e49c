//! Clients that ask while something is done to what stands behind the gate.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::{AnswerTo as _, Gate, PATIENCE};

/// Clients that ask without end, and what they were answered.
pub struct Load {
    clients: JoinSet<()>,
    answers: Arc<Mutex<Vec<u16>>>,
}

impl Load {
    pub fn start(gate: &Arc<Gate>, key: &str, clients: usize) -> Self {
        Self::on("/things", gate, key, clients)
    }

    pub fn on(path: &'static str, gate: &Arc<Gate>, key: &str, clients: usize) -> Self {
        let answers = Arc::new(Mutex::new(Vec::new()));
        let mut set = JoinSet::new();
        for _ in 0..clients {
            let (gate, key, answers) = (gate.clone(), key.to_owned(), answers.clone());
            set.spawn(async move {
                loop {
                    let status = gate.get(path).bearer_auth(&key).answer().await.status;
                    answers.lock().expect("no client panics").push(status);
                    sleep(Duration::from_millis(4)).await;
                }
            });
        }
        Self { clients: set, answers }
    }

    pub fn count(&self, status: u16) -> usize {
        self.answers.lock().expect("no client panics").iter().filter(|answer| **answer == status).count()
    }

    pub async fn passed(&self, count: usize) {
        self.until(200, count).await;
    }

    pub async fn refused(&self) {
        self.until(429, 20).await;
    }

    async fn until(&self, status: u16, count: usize) {
        let began = Instant::now();
        while self.count(status) < count {
            assert!(began.elapsed() < PATIENCE, "{count} answers {status} did not come: {}", self.count(status));
            sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn end(mut self) -> Vec<u16> {
        self.clients.shutdown().await;
        self.answers.lock().expect("no client panics").clone()
    }
}
