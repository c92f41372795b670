//! What a run costs: counted before it starts (`spire train --dry-run`) and measured (`spire bench`).

mod all_reduce;
mod dry_run;
mod dump;
mod measurement;
mod peak_flops;
mod restore;
mod train;
mod units;

pub use all_reduce::{AllReduce, all_reduce};
pub use dry_run::{DryRun, dry_run};
pub use measurement::{BenchSettings, Measurement};
pub use restore::restore;
pub use train::train;
