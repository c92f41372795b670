//! `spire serve` with the real program and the built-in model.

#[path = "../common/browser.rs"]
mod browser;
#[path = "../common/mod.rs"]
mod common;
mod page;
mod programs;
mod server;
