//! How Redis's CPU per decision grows: with keys, windows, connections, and questions in one call.
//!
//! The real decision script is driven as the crate's store sends it, against a Redis of this bench's own. Sixteen calls
//! are always under way, spread over the connections, so that a row differs from the next by what it names alone. Cells are
//! interleaved and their medians printed as Markdown. Ends within three minutes: `cargo bench --bench growth`.

mod server;
mod world;

use std::time::{Duration, Instant};

use tokio::task::LocalSet;

use self::server::RedisServer;
use self::world::World;

const ROUNDS: usize = 3;
const RUN: Duration = Duration::from_millis(500);
const IN_FLIGHT: usize = 16;

/// What one measurement varies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Cell {
    job: Job,
    keys: usize,
    windows: usize,
    connections: usize,
    /// Questions in one call.
    batch: usize,
}

/// What is done with a key. All but the decision are controls, which show what of its growth is that of Redis itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Job {
    Decide,
    /// One plain MGET of the keys that a decision touches.
    Read,
    /// The script of the comparison with peers.
    CountAsPeersDo,
}

/// What one measurement showed.
#[derive(Debug, Clone, Copy)]
struct Shown {
    redis_us: f64,
    per_second: f64,
    /// On the wire, both ways.
    bytes: f64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo bench` passes flags of the standard harness, and `cargo test --all-targets` runs benches too: that has no use here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, bench())
}

async fn bench() -> Result<(), Box<dyn std::error::Error>> {
    let started = Instant::now();
    let server = RedisServer::start()?;
    let mut tables = Tables::default();
    // From few documents to many in one server, so that each number of keys is what the server holds at that time.
    for keys in [1, 1_000, 1_000_000] {
        let world = World::grow(&server, keys).await?;
        tables.memory.extend(world.memory());
        measure(&server, &world, &cells(keys), &mut tables).await?;
        eprintln!("{keys} keys: done after {:.0} s", started.elapsed().as_secs_f64());
    }
    tables.print();
    println!("\nMeasured in {:.0} s against Redis {}.", started.elapsed().as_secs_f64(), server.version()?);
    Ok(())
}

/// Everything against everything would take too long: windows and batches for all keys, connections where there are 1,000.
fn cells(keys: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for windows in world::WINDOWS {
        for batch in [1, 16] {
            cells.push(Cell { job: Job::Decide, keys, windows, connections: 4, batch });
        }
    }
    cells.extend([Job::Read, Job::CountAsPeersDo].map(|job| Cell { job, keys, windows: 1, connections: 4, batch: 1 }));
    if keys == 1_000 {
        for connections in [1, 4, 16] {
            for batch in [1, 4, 16, 32] {
                cells.push(Cell { job: Job::Decide, keys, windows: 1, connections, batch });
            }
        }
    }
    cells.sort_unstable();
    cells.dedup();
    cells
}

async fn measure(
    server: &RedisServer,
    world: &World,
    cells: &[Cell],
    tables: &mut Tables,
) -> Result<(), Box<dyn std::error::Error>> {
    for _ in 0..ROUNDS {
        for cell in cells {
            let shown = run(server, world, *cell).await?;
            tables.shown.entry(*cell).or_default().push(shown);
        }
    }
    Ok(())
}

/// One cell for a while, after a moment to connect and warm up.
async fn run(server: &RedisServer, world: &World, cell: Cell) -> Result<Shown, Box<dyn std::error::Error>> {
    let mut stores = Vec::new();
    for _ in 0..cell.connections {
        let store = server.asker().await?;
        world.ask(&store, cell, 0).await?;
        stores.push(store);
    }
    let traffic = server.traffic()?;
    let (before, started) = (server.cpu()?, Instant::now());
    let until = started + RUN;
    let mut askers = tokio::task::JoinSet::new();
    for asker in 0..IN_FLIGHT {
        let (store, world) = (stores[asker % stores.len()].clone(), world.clone());
        askers.spawn_local(async move {
            let (mut decided, mut turn) = (0_u64, asker as u64 + 1);
            while Instant::now() < until {
                decided += world.ask(&store, cell, turn).await?;
                turn += IN_FLIGHT as u64;
            }
            Ok::<_, server::Unexpected>(decided)
        });
    }
    let mut decided = 0;
    while let Some(asker) = askers.join_next().await {
        decided += asker??;
    }
    let (took, cpu) = (started.elapsed(), server.cpu()? - before);
    let count = decided as f64;
    let bytes = (server.traffic()? - traffic) / count;
    Ok(Shown { redis_us: cpu.as_secs_f64() * 1e6 / count, per_second: count / took.as_secs_f64(), bytes })
}

#[derive(Default)]
struct Tables {
    shown: std::collections::BTreeMap<Cell, Vec<Shown>>,
    /// What is stored, and how many bytes of Redis's memory one of it takes.
    memory: Vec<(String, f64)>,
}

impl Tables {
    fn print(&self) {
        println!("### Redis CPU µs a decision, 4 connections\n");
        println!("| keys | windows | one a call | 16 a call | decisions/s at 16 a call |\n|---|---|---|---|---|");
        for keys in [1, 1_000, 1_000_000] {
            for windows in world::WINDOWS {
                let cell = |batch| Cell { job: Job::Decide, keys, windows, connections: 4, batch };
                let (one, sixteen) = (self.redis_us(cell(1)), self.redis_us(cell(16)));
                let rate = self.median(cell(16), |shown| shown.per_second);
                println!("| {keys} | {windows} | {one:.1} | {sixteen:.1} | {rate:.0} |");
            }
        }
        println!("\n### Redis CPU µs a decision, 1,000 keys, one window, 16 calls under way\n");
        println!("| connections | one a call | 4 a call | 16 a call | 32 a call |\n|---|---|---|---|---|");
        for connections in [1, 4, 16] {
            let of = |batch| self.redis_us(Cell { job: Job::Decide, keys: 1_000, windows: 1, connections, batch });
            println!("| {connections} | {:.1} | {:.1} | {:.1} | {:.1} |", of(1), of(4), of(16), of(32));
        }
        self.print_controls();
        self.print_ratios();
        println!("\n### Redis memory and traffic\n\n| what | bytes |\n|---|---|");
        for batch in [1, 16] {
            let cell = Cell { job: Job::Decide, keys: 1_000, windows: 1, connections: 4, batch };
            println!("| on the wire for a decision, {batch} a call | {:.0} |", self.median(cell, |shown| shown.bytes));
        }
        for (what, bytes) in &self.memory {
            println!("| {what} | {bytes:.0} |");
        }
    }

    fn print_controls(&self) {
        println!("\n### What of the growth is that of Redis itself, CPU µs a call, 4 connections\n");
        println!("| keys | decision | plain MGET of its keys | nginx + Lua's script |\n|---|---|---|---|");
        let us = |job, keys| self.redis_us(Cell { job, keys, windows: 1, connections: 4, batch: 1 });
        let jobs = [Job::Decide, Job::Read, Job::CountAsPeersDo];
        for keys in [1, 1_000, 1_000_000] {
            let [decision, read, peers] = jobs.map(|job| us(job, keys));
            println!("| {keys} | {decision:.1} | {read:.1} | {peers:.1} |");
        }
        let [decision, read, peers] = jobs.map(|job| us(job, 1_000_000) - us(job, 1));
        println!("| from 1 to 10⁶ | + {decision:.1} | + {read:.1} | + {peers:.1} |");
        let [decision, read, peers] = jobs.map(|job| us(job, 1_000_000) / us(job, 1));
        println!("| … | × {decision:.2} | × {read:.2} | × {peers:.2} |");
    }

    fn print_ratios(&self) {
        let us = |keys, windows, batch| self.redis_us(Cell { job: Job::Decide, keys, windows, connections: 4, batch });
        let keys = us(1_000_000, 1, 1) / us(1, 1, 1);
        let (single, batched) = (us(1_000, 3, 1) / us(1_000, 1, 1), us(1_000, 3, 16) / us(1_000, 1, 16));
        println!("\n### Ratios\n\n| figure | must | goal | measured | |\n|---|---|---|---|---|");
        for (figure, must, goal, is) in [
            ("from 1 key to 10⁶ keys, Redis CPU a decision, one a call", 1.3, 1.1, keys),
            ("three windows instead of one, Redis CPU an ask, one a call", 1.8, 1.3, single),
            ("… 16 a call", 1.8, 1.3, batched),
        ] {
            let verdict = if is <= goal {
                "goal met"
            } else if is <= must {
                "must met"
            } else {
                "**not met**"
            };
            println!("| {figure} | ≤ {must} | ≤ {goal} | {is:.2} | {verdict} |");
        }
    }

    fn redis_us(&self, cell: Cell) -> f64 {
        self.median(cell, |shown| shown.redis_us)
    }

    fn median(&self, cell: Cell, figure: impl Fn(&Shown) -> f64) -> f64 {
        let mut values: Vec<f64> = self.shown.get(&cell).into_iter().flatten().map(figure).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
