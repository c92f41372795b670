//! How much the program tells: `--quiet` and `--verbose`.

use spire_core::{message, progress};
use tracing_subscriber::EnvFilter;

#[derive(clap::Args)]
pub struct Verbosity {
    /// Print results, warnings and errors alone: no progress
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Print what the program does in detail
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    verbose: bool,
}

impl Verbosity {
    /// Starts the log on stderr. The variable `RUST_LOG` replaces the levels.
    pub fn start_log(&self) {
        if self.quiet {
            progress::be_quiet();
        }
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(self.levels()));
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(|| progress::Stderr)
            .log_internal_errors(false)
            .without_time()
            .with_target(false)
            .with_ansi(message::stderr_has_colours())
            .init();
    }

    fn levels(&self) -> String {
        let own = match self {
            Self { quiet: true, .. } => "warn",
            Self { verbose: true, .. } => "debug",
            _ => "info",
        };
        // Silence dependencies: GPU compilers log every kernel.
        let crates = [
            "spire",
            "spire_core",
            "spire_data",
            "spire_eval",
            "spire_model",
            "spire_restore",
            "spire_serve",
            "spire_train",
        ];
        let levels: String = crates.iter().map(|name| format!(",{name}={own}")).collect();
        format!("warn,hf_hub=off{levels}")
    }
}
