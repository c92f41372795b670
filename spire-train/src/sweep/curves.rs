//! Loss curves of a sweep's variants, as SVG.

use std::collections::BTreeMap;
use std::error::Error;
use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::cells::{Cell, State};
use super::statistics::mean_and_error;
use crate::logging::metrics::StepMetrics;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

const WIDTH: u32 = 900;
const PANEL: u32 = 330;
const LINE: u32 = 24;
const MARGIN: u32 = 14;
/// The most points of a curve.
const POINTS: u64 = 40;
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);
/// Colours for colour-blind readers too (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(40, 40, 40),
];

/// The curves of a variant.
#[derive(Debug)]
struct Curve {
    name: String,
    training: Vec<Point>,
    validation: Vec<Point>,
}

/// A mean over seeds and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    step: f64,
    mean: f64,
    error: f64,
}

/// Draws the training and validation loss of every variant over the steps. Curves are means over complete seeds, with
/// bands of one standard error. A variant without a complete seed shows what it has.
///
/// # Errors
/// A log can't be read.
pub fn draw(cells: &[Cell]) -> Result<String> {
    let mut variants: Vec<&str> = cells.iter().map(|cell| cell.variant.as_str()).collect();
    variants.dedup();
    let mut curves = vec![];
    for variant in variants {
        let all: Vec<&Cell> = cells.iter().filter(|cell| cell.variant == variant).collect();
        let mut chosen: Vec<&Cell> = all.iter().copied().filter(|cell| cell.state() == State::Done).collect();
        let mut name = match chosen.len() {
            1 => format!("{variant} (1 seed)"),
            count => format!("{variant} ({count} seeds)"),
        };
        if chosen.is_empty() {
            name = format!("{variant} (not finished)");
            chosen = all;
        }
        let logs = chosen.iter().map(|cell| cell.steps()).collect::<Result<Vec<_>>>()?;
        let loss = |step: &StepMetrics| Some(step.loss);
        let validation = |step: &StepMetrics| step.more.get("validation_loss").copied().flatten();
        let longest = logs.iter().flatten().map(|step| step.step + 1).max().unwrap_or_default();
        let training = points(&logs, &loss, longest.div_ceil(POINTS).max(1));
        curves.push(Curve { name, training, validation: points(&logs, &validation, 1) });
    }
    let mut svg = String::new();
    paint(&mut svg, &curves).map_err(|error| anyhow!("can't draw the curves: {error}"))?;
    Ok(svg)
}

/// Means of `value` over bins of `width` steps and over seeds. Bins that are missing for a seed are left out.
fn points(logs: &[Vec<StepMetrics>], value: &dyn Fn(&StepMetrics) -> Option<f64>, width: u64) -> Vec<Point> {
    let of_seed = |log: &Vec<StepMetrics>| {
        let mut sums: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
        for (step, value) in
            log.iter().filter_map(|step| Some((step.step, value(step)?))).filter(|(_, value)| value.is_finite())
        {
            let (steps, values, count) = sums.entry(step / width).or_default();
            (*steps, *values, *count) = (*steps + step as f64 + 1.0, *values + value, *count + 1.0);
        }
        sums.into_iter().map(|(bin, (steps, values, count))| (bin, (steps / count, values / count))).collect()
    };
    let seeds: Vec<BTreeMap<u64, (f64, f64)>> = logs.iter().map(of_seed).collect();
    let Some(first) = seeds.first() else { return vec![] };
    let point = |(bin, &(step, _)): (&u64, &(f64, f64))| {
        let values = seeds.iter().map(|seed| seed.get(bin).map(|(_, value)| *value)).collect::<Option<Vec<f64>>>()?;
        let (mean, error) = mean_and_error(&values)?;
        Some(Point { step, mean, error: error.unwrap_or_default() })
    };
    first.iter().filter_map(point).collect()
}

fn paint(svg: &mut String, curves: &[Curve]) -> Drawn {
    let legend = curves.len() as u32 * LINE + 2 * MARGIN;
    let area = SVGBackend::with_string(svg, (WIDTH, 2 * PANEL + legend)).into_drawing_area();
    area.fill(&WHITE)?;
    let (panels, names) = area.split_vertically(2 * PANEL);
    let (upper, lower) = panels.split_vertically(PANEL);
    let points = curves.iter().flat_map(|curve| curve.training.iter().chain(&curve.validation));
    let last = points.map(|point| point.step).fold(1.0, f64::max);
    panel(&upper, "training loss", last, curves, |curve| &curve.training)?;
    panel(&lower, "validation loss", last, curves, |curve| &curve.validation)?;
    for (i, curve) in curves.iter().enumerate() {
        let y = (i as u32 * LINE + LINE / 2) as i32;
        names.draw(&PathElement::new([(70, y), (106, y)], colour(i).stroke_width(3)))?;
        names.draw(&Text::new(curve.name.clone(), (116, y), text(15, HPos::Left)))?;
    }
    area.present()?;
    Ok(())
}

fn panel(area: &Area, title: &str, last: f64, curves: &[Curve], of: impl Fn(&Curve) -> &Vec<Point>) -> Drawn {
    let all = || curves.iter().flat_map(&of);
    let (low, high) = all().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), point| {
        (low.min(point.mean - point.error), high.max(point.mean + point.error))
    });
    if !(low.is_finite() && high.is_finite()) {
        area.draw(&Text::new(format!("no {title}"), (WIDTH as i32 / 2, PANEL as i32 / 2), text(16, HPos::Center)))?;
        return Ok(());
    }
    // A range of more than a factor of ten needs a logarithmic axis.
    let logarithmic = low > 0.0 && high > 10.0 * low;
    let place = |value: f64| if logarithmic { value.log10() } else { value };
    let losses = padded(place(low), place(high));
    let digits = (1.0 - (high - low).max(1e-6).log10()).ceil().clamp(0.0, 6.0) as usize;
    let label = |value: &f64| match logarithmic {
        true => format!("{:.2e}", 10f64.powf(*value)),
        false => format!("{value:.digits$}"),
    };
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption(title, text(17, HPos::Left))
        .x_label_area_size(40)
        .y_label_area_size(62)
        .build_cartesian_2d(0.0..last, losses)?;
    chart
        .configure_mesh()
        .x_desc("step")
        .x_labels(8)
        .y_labels(6)
        .x_label_formatter(&|step| format!("{step:.0}"))
        .y_label_formatter(&label)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(INK)
        .label_style(("sans-serif", 14).into_font().color(&INK))
        .draw()?;
    let edge = |point: &Point, sign: f64| (point.step, place((point.mean + sign * point.error).max(low)));
    for (i, points) in curves.iter().map(&of).enumerate() {
        let upper = points.iter().map(|point| edge(point, 1.0));
        let outline: Vec<(f64, f64)> = upper.chain(points.iter().rev().map(|point| edge(point, -1.0))).collect();
        chart.draw_series([Polygon::new(outline, colour(i).mix(0.18).filled())])?;
    }
    for (i, points) in curves.iter().map(&of).enumerate() {
        let line: Vec<(f64, f64)> = points.iter().map(|point| edge(point, 0.0)).collect();
        // Mark the points if there are few.
        if line.len() < 20 {
            chart.draw_series(line.iter().map(|&at| Circle::new(at, 3, colour(i).filled())))?;
        }
        chart.draw_series([PathElement::new(line, colour(i).stroke_width(2))])?;
    }
    Ok(())
}

fn colour(i: usize) -> RGBColor {
    COLOURS[i % COLOURS.len()]
}

fn text(size: i32, side: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK).pos(Pos::new(side, VPos::Center))
}

fn padded(low: f64, high: f64) -> Range<f64> {
    let padding = if high > low { 0.05 * (high - low) } else { 0.05 * low.abs().max(1e-3) };
    low - padding..high + padding
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(losses: &[f64]) -> Vec<StepMetrics> {
        let step = |(step, &loss): (usize, &f64)| StepMetrics { step: step as u64, loss, ..StepMetrics::default() };
        losses.iter().enumerate().map(step).collect()
    }

    #[test]
    fn points_are_means_over_steps_and_seeds() {
        let loss = |step: &StepMetrics| Some(step.loss);
        let found = points(&[log(&[1.0, 3.0, 5.0, f64::NAN]), log(&[3.0, 5.0, 7.0])], &loss, 2);
        assert_eq!(found[0], Point { step: 1.5, mean: 3.0, error: 1.0 });
        assert_eq!(found[1], Point { step: 3.0, mean: 6.0, error: 1.0 });
        assert_eq!(points(&[log(&[1.0]), log(&[])], &loss, 1), []);
        assert_eq!(points(&[log(&[2.0])], &loss, 1), [Point { step: 1.0, mean: 2.0, error: 0.0 }]);
    }

    #[test]
    fn each_variant_has_a_curve_and_an_escaped_name() {
        let points =
            |factor: f64| (1..40).map(|i| Point { step: i as f64, mean: factor / i as f64, error: 0.001 }).collect();
        let curve = |name: &str, factor| Curve { name: name.into(), training: points(factor), validation: vec![] };
        let mut svg = String::new();
        paint(&mut svg, &[curve("a<b", 1.0), curve("c", 2.0)]).unwrap();
        assert!(svg.contains("a&lt;b") && svg.contains("no validation loss"), "{svg}");
        // One band per variant; a line in the panel and one in the legend.
        assert_eq!(svg.matches("<polygon").count(), 2);
        for (r, g, b) in [(0, 114, 178), (213, 94, 0)] {
            assert_eq!(svg.matches(&format!("stroke=\"#{r:02X}{g:02X}{b:02X}\"")).count(), 2);
        }
        // A factor of 39 needs a logarithmic axis.
        assert!(svg.contains("e-1"), "{svg}");
    }
}
