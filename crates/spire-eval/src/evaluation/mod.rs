//! Methods on benchmarks: a figure for each metric, how it came about, and tables of them.

mod bootstrap;
mod config;
mod protocol;
mod results;
mod score;
mod table;

pub use bootstrap::{Interval, interval};
pub use config::{BenchmarkChoice, EvalConfig, MethodConfig, MethodKind, RestorationPrompt, slug};
pub use protocol::{MethodProtocol, Protocol};
pub use results::{BenchmarkResults, Figure, MethodResults, Results};
pub use score::{Metric, Scorer, Scores};
pub use table::{Align, Table};
