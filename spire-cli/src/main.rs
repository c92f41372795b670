//! The `spire` command.

#[macro_use]
mod stdout;

mod commands;
#[cfg(test)]
mod documented;
mod signals;
mod verbosity;

use std::process::ExitCode;

use clap::Parser;
use spire_core::{message, progress};

/// Training allocates and frees millions of tensors. mimalloc keeps the memory of large ones; the system's allocator
/// returns it to the system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    signals::outlive_size_limit();
    match commands::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            progress::print(&format!("error: {}", message::with_causes(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}
