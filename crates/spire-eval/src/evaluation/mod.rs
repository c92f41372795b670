//! Methods on benchmarks: a figure for each metric, how it came about, and tables of them.

mod bootstrap;
mod config;
mod measured;
mod metric;
mod protocol;
mod results;
mod score;
mod scorer;
mod table;

pub use bootstrap::{Interval, interval};
pub use config::{BenchmarkChoice, EvalConfig, FidConfig, MethodConfig, MethodKind, RestorationPrompt, slug};
pub use metric::Metric;
pub use protocol::{MethodProtocol, Protocol};
pub use results::{BenchmarkResults, Figure, MethodResults, Results};
pub use score::{Ground, ScoreSettings, Scores};
pub use scorer::Scorer;
pub use table::{Align, Table};
