//! The `spire` command.

mod commands;
mod signals;

use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// Training allocates and frees millions of tensors. mimalloc keeps the memory of large ones; the system's allocator
/// returns it to the system each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Silence dependencies: GPU compilers log every kernel.
    let levels = "warn,hf_hub=off,spire=info,spire_core=info,spire_data=info,spire_eval=info,spire_model=info,\
                  spire_restore=info,spire_serve=info,spire_train=info";
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(levels));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .without_time()
        .with_target(false)
        .init();
    match commands::Cli::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
