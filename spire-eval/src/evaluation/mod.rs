//! Evaluation of methods on test sets: scores per metric, their protocols, and tables.

mod alike;
mod bootstrap;
mod config;
mod measurement;
mod method;
mod metric;
mod notes;
mod one_picture;
mod prompts;
mod protocol;
mod published;
mod report;
mod results;
mod row_names;
mod score;
mod scorer;
mod table;
mod tables;

pub use alike::Alike;
pub use bootstrap::{Interval, interval};
pub use config::{BenchmarkChoice, EvalConfig, FidConfig, SheetConfig, slug};
pub use method::{Captions, MethodConfig, MethodKind, RestorationPrompt};
pub use metric::Metric;
pub use notes::Notes;
pub use prompts::PromptPair;
pub use protocol::{MethodProtocol, Protocol};
pub use published::{PublishedGroup, PublishedRow, PublishedTable};
pub use report::{Shown, ShownMethod, write_report};
pub use results::{BenchmarkResults, Figure, MethodResults, MethodSummary, Results};
pub use score::{Ground, ScoreSettings, Scores};
pub use scorer::Scorer;
pub use table::{Align, Column, Table, TableCell, TableRow};
