//! The five systems that sidegate must be able to stand in front of, each driven through its profile as it stands.

mod bots;
mod callscaler;
mod kaicalls;
mod salescaling;
mod scaling;
