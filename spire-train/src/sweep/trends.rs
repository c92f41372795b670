//! Whether the figures of a picture follow the strength that a prompt requests (paper, Figures 7 and 10).

use serde::Serialize;
use spire_eval::evaluation::{BenchmarkResults, Metric, Results};

use super::cells::{Cell, row, row_of_seed};
use super::config::SweepConfig;
use super::statistics::{Estimate, rank_correlation};

/// The rank correlations of a variant over the methods of a trend.
#[derive(Clone, Debug, Serialize)]
pub struct Trend {
    /// Variant and trend.
    pub name: String,
    /// Test set and metric of each correlation.
    pub columns: Vec<(String, Metric)>,
    /// Mean over pictures, then over seeds; `None` if it was not measured.
    pub correlations: Vec<Option<Estimate>>,
}

/// All trends of all variants that use the evaluation's methods, for every metric that single pictures have.
pub fn of(config: &SweepConfig, cells: &[Cell], evaluated: &Results) -> Vec<Trend> {
    let trends = config.evaluation.as_ref().map_or(&[][..], |evaluation| &evaluation.trends);
    let single = |benchmark: &BenchmarkResults, metric: &Metric| {
        benchmark.methods.iter().any(|method| method.per_image.contains_key(metric))
    };
    let metrics = |benchmark| Metric::ALL.into_iter().filter(move |metric| single(benchmark, metric));
    let columns: Vec<(&BenchmarkResults, Metric)> = evaluated
        .benchmarks
        .iter()
        .flat_map(|benchmark| metrics(benchmark).map(move |metric| (benchmark, metric)))
        .collect();
    let mut found = vec![];
    for of_variant in cells.chunk_by(|a, b| a.variant == b.variant) {
        let variant = &of_variant[0].variant;
        for trend in trends {
            let rows: Vec<String> = trend.methods.iter().map(|method| row(variant, method)).collect();
            if !rows.iter().all(|row| of_variant[0].rows().any(|own| own == *row)) {
                continue;
            }
            let of_seeds = |&(benchmark, metric): &(&BenchmarkResults, Metric)| {
                let of_cell = |cell: &Cell| {
                    let names = rows.iter().map(|row| row_of_seed(row, cell.seed));
                    let figures: Option<Vec<&Vec<f64>>> =
                        names.map(|name| benchmark.method(&name)?.per_image.get(&metric)).collect();
                    Some((cell.seed.to_string(), mean_correlation(&figures?)?))
                };
                Estimate::of(of_variant.iter().filter_map(of_cell).collect())
            };
            found.push(Trend {
                name: format!("{variant}, {}", trend.title),
                columns: columns.iter().map(|(benchmark, metric)| (benchmark.title.clone(), *metric)).collect(),
                correlations: columns.iter().map(of_seeds).collect(),
            });
        }
    }
    found
}

/// The rank correlation of a picture's figures with the order of the methods, averaged over pictures. `figures` has one
/// list per method, with a figure per picture.
fn mean_correlation(figures: &[&Vec<f64>]) -> Option<f64> {
    let pictures = figures.iter().map(|of_method| of_method.len()).min().filter(|&pictures| pictures > 0)?;
    let of_picture = |i: usize| rank_correlation(&figures.iter().map(|of_method| of_method[i]).collect::<Vec<_>>());
    Some((0..pictures).map(of_picture).sum::<f64>() / pictures as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_correlation_is_averaged_over_pictures() {
        // The first picture's figures rise along the methods, the second's fall.
        let methods = [vec![0.1, 0.9, 2.0], vec![0.2, 0.8, 1.0], vec![0.3, 0.7, 3.0]];
        let first: Vec<_> = methods.iter().map(|of_method| of_method[..1].to_vec()).collect();
        assert_eq!(mean_correlation(&first.iter().collect::<Vec<_>>()), Some(1.0));
        assert_eq!(mean_correlation(&methods.iter().collect::<Vec<_>>()), Some((1.0 - 1.0 + 0.5) / 3.0));
        assert_eq!(mean_correlation(&[]), None);
    }
}
