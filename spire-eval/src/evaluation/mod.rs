//! Methods on benchmarks: a figure for each metric, how it came about, and tables of them.

mod alike;
mod bootstrap;
mod config;
mod measured;
mod metric;
mod prompts;
mod protocol;
mod published;
mod report;
mod results;
mod score;
mod scorer;
mod table;
mod tables;

pub use alike::Alike;
pub use bootstrap::{Interval, interval};
pub use config::{BenchmarkChoice, EvalConfig, FidConfig, MethodConfig, MethodKind, SheetConfig, slug};
pub use metric::Metric;
pub use prompts::{Captions, Prompts, RestorationPrompt};
pub use protocol::{MethodProtocol, Protocol};
pub use published::{PublishedGroup, PublishedRow, PublishedTable};
pub use report::{Shown, ShownMethod, write_report};
pub use results::{BenchmarkResults, Figure, MethodResults, MethodSummary, Results};
pub use score::{Ground, ScoreSettings, Scores};
pub use scorer::Scorer;
pub use table::{Align, Cell, Column, Row, Table};
pub use tables::Notes;
