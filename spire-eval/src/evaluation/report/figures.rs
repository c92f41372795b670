//! Figures of the report as SVG. Colours are names; the style sheet defines light and dark values.

use std::error::Error;
use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::super::Interval;

type Backend<'a> = SVGBackend<'a>;
type Area<'a> = DrawingArea<Backend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, Backend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
type Drawn<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Colour of text.
const INK: RGBColor = RGBColor(1, 2, 3);
/// Colour of grid lines.
const GRID: RGBColor = RGBColor(4, 5, 6);
/// Colour of data.
const ACCENT: RGBColor = RGBColor(7, 8, 9);
/// Colour of areas.
const FILL: RGBColor = RGBColor(16, 17, 18);
/// Colour of secondary text and lines.
const SOFT: RGBColor = RGBColor(19, 20, 21);

// Coordinates are integers, so everything is drawn at twice the displayed size.
const WIDTH: u32 = 860;
const ROW: u32 = 60;
const AXIS: u32 = 56;
const LABELS: u32 = 350;
/// Maximum number of characters of a label.
const LETTERS: usize = 24;
/// Number of histogram bins.
const BINS: usize = 41;

/// One dot with its interval per name. Empty if it can't be drawn.
pub fn intervals(rows: &[(&str, Interval)]) -> String {
    let bounds = range(rows.iter().flat_map(|(_, found)| [found.low, found.high]), 0.06);
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    draw(&names, bounds, 24, |_, chart| {
        for (i, (_, found)) in rows.iter().enumerate() {
            let y = middle(i, rows.len());
            chart.draw_series([PathElement::new([(found.low, y), (found.high, y)], ACCENT.stroke_width(5))])?;
            chart.draw_series([Circle::new((found.mean, y), 9, ACCENT.filled())])?;
        }
        Ok(())
    })
}

/// One histogram of the differences per name, scaled to its highest bin, with the fraction of improvements. Empty if it
/// can't be drawn.
pub fn spreads(rows: &[(&str, Vec<f64>)], rises: bool) -> String {
    let bounds = range(rows.iter().flat_map(|(_, values)| values.iter().copied()).chain([0.0]), 0.02);
    let width = (bounds.end - bounds.start) / BINS as f64;
    let count = |values: &[f64]| {
        let mut counts = [0_usize; BINS];
        values.iter().for_each(|value| counts[(((value - bounds.start) / width) as usize).min(BINS - 1)] += 1);
        counts
    };
    let names: Vec<&str> = rows.iter().map(|(name, _)| *name).collect();
    draw(&names, bounds.clone(), 120, |area, chart| {
        for (i, (_, values)) in rows.iter().enumerate() {
            let foot = middle(i, rows.len()) - 0.42;
            let counts = count(values);
            let most = counts.into_iter().max().unwrap_or_default().max(1);
            let mut outline = vec![(bounds.start, foot)];
            for (bin, count) in counts.into_iter().enumerate() {
                let (left, height) = (bounds.start + bin as f64 * width, foot + 0.84 * count as f64 / most as f64);
                outline.extend([(left, height), (left + width, height)]);
            }
            outline.push((bounds.end, foot));
            chart.draw_series([Polygon::new(outline.clone(), FILL.filled())])?;
            chart.draw_series([PathElement::new(outline, ACCENT.stroke_width(2))])?;
            let better = values.iter().filter(|&&value| if rises { value > 0.0 } else { value < 0.0 }).count();
            let share = format!("{:.0} %", 100.0 * better as f64 / values.len().max(1) as f64);
            let place = (WIDTH as i32 - 10, chart.backend_coord(&(bounds.start, middle(i, rows.len()))).1);
            area.draw(&Text::new(share, place, font(30, &INK, HPos::Right)))?;
        }
        let zero = [(0.0, 0.0), (0.0, rows.len() as f64)];
        chart.draw_series([PathElement::new(zero, SOFT.stroke_width(2))])?;
        Ok(())
    })
}

/// Draws one row per name above an axis and calls `paint`; keeps a margin of `right`.
fn draw(
    names: &[&str],
    bounds: Range<f64>,
    right: u32,
    paint: impl for<'a> FnOnce(&Area<'a>, &mut Chart<'a>) -> Drawn,
) -> String {
    let mut svg = String::new();
    if names.is_empty() {
        return svg;
    }
    let drawn = rows(&mut svg, names, bounds, right, paint);
    drawn.map_or(String::new(), |()| svg)
}

fn rows<'a>(
    svg: &'a mut String,
    names: &[&str],
    bounds: Range<f64>,
    right: u32,
    paint: impl FnOnce(&Area<'a>, &mut Chart<'a>) -> Drawn,
) -> Drawn {
    let height = names.len() as u32 * ROW + AXIS + 8;
    let area = SVGBackend::with_string(svg, (WIDTH, height)).into_drawing_area();
    let digits = (1.0 - (bounds.end - bounds.start).log10()).ceil().clamp(0.0, 9.0) as usize;
    let mut chart = ChartBuilder::on(&area)
        .margin_left(LABELS)
        .margin_right(right)
        .margin_top(8)
        .x_label_area_size(AXIS)
        .build_cartesian_2d(bounds.clone(), 0.0..names.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .x_labels(5)
        .x_label_formatter(&|value| format!("{value:.digits$}"))
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .axis_style(GRID)
        .label_style(("sans-serif", 32).into_font().color(&SOFT))
        .draw()?;
    for (i, name) in names.iter().enumerate() {
        let y = chart.backend_coord(&(bounds.start, middle(i, names.len()))).1;
        area.draw(&Text::new(short(name), (0, y), font(34, &INK, HPos::Left)))?;
    }
    paint(&area, &mut chart)?;
    area.present()?;
    Ok(())
}

fn font(size: i32, colour: &'static RGBColor, side: HPos) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(colour).pos(Pos::new(side, VPos::Center))
}

/// The vertical position of row i.
fn middle(i: usize, rows: usize) -> f64 {
    (rows - i) as f64 - 0.5
}

fn short(name: &str) -> String {
    match name.chars().count() {
        0..=LETTERS => name.to_owned(),
        _ => name.chars().take(LETTERS - 1).chain(['…']).collect(),
    }
}

/// The range of the values with a margin on both sides; a small range around equal values.
fn range(values: impl Iterator<Item = f64>, share: f64) -> Range<f64> {
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
    match high - low {
        spread if spread.is_finite() && spread > 1e-9 => low - share * spread..high + share * spread,
        _ if low.is_finite() => low - 0.5..low + 0.5,
        _ => 0.0..1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped() {
        let interval = Interval { mean: 1.0, low: 0.9, high: 1.2 };
        let svg = intervals(&[
            ("</svg><script>alert(1)</script>", interval),
            ("A name that is much too long for its place", interval),
        ]);
        assert!(!svg.contains("<script") && svg.contains("&lt;/svg&gt;&lt;script"), "{svg}");
        assert!(svg.contains("A name that is much too…"));
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    /// Dots are at their values on the axis.
    #[test]
    fn dots_stand_in_order() {
        let rows = [0.2, 0.4, 0.3].map(|mean| ("x", Interval { mean, low: mean - 0.1, high: mean + 0.1 }));
        let svg = intervals(&rows);
        let at: Vec<f64> =
            svg.split("cx=\"").skip(1).map(|rest| rest.split('"').next().unwrap().parse().unwrap()).collect();
        assert_eq!(at.len(), 3);
        assert!((at[2] - (at[0] + at[1]) / 2.0).abs() <= 1.0, "{at:?}");
        assert!(at[0] < at[2] && at[2] < at[1]);
    }

    #[test]
    fn shares_of_what_is_better_and_odd_values() {
        let rows = [("a", vec![1.0, 2.0, -1.0, 0.0]), ("b", vec![0.0; 4])];
        assert!(spreads(&rows, true).contains("50 %") && spreads(&rows, false).contains("25 %"));
        assert!(spreads(&[("equal", vec![0.0; 3])], true).contains("0 %"));
        assert_eq!(spreads(&[], true), "");
        assert_eq!(range([f64::NAN].into_iter(), 0.1), 0.0..1.0);
    }
}
