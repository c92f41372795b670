//! `report.html`: tables, figures, pictures and scores in one file without network access.
//!
//! Names and captions are untrusted. The template escapes them, the script's data is JSON that cannot close its
//! element, and the content security policy forbids other scripts and all requests.

mod figures;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde_json::json;
use spire_core::message::with_causes;
use spire_data::checksum::sha256;
use spire_data::degrade::jpeg::encode_jpeg;
use spire_data::testset::TestSet;
use spire_data::{Picture, picture};

use super::Interval;
use super::metric::Metric;
use super::prompts::PromptPair;
use super::published::PublishedTable;
use super::results::{BenchmarkResults, Results};
use super::table::{Align, Table};
use super::tables::{differences, measured};

const TEMPLATE: &str = include_str!("report/report.html.jinja");
const STYLE: &str = include_str!("report/report.css");
const SCRIPT: &str = include_str!("report/report.js");

/// Larger files are embedded as JPEG.
const LARGEST_FILE: usize = 128 << 10;
const JPEG_QUALITY: u8 = 92;

/// Number of best and of worst pictures that the script shows per method.
const CASES: usize = 4;

/// The pictures of a test set.
#[derive(Clone, Debug)]
pub struct Shown<'a> {
    /// The test set with degraded and clean pictures.
    pub benchmark: &'a TestSet,
    /// The restored pictures.
    pub methods: Vec<ShownMethod>,
}

/// A method's pictures of a test set.
#[derive(Clone, Debug)]
pub struct ShownMethod {
    /// The row's name.
    pub name: String,
    /// The picture file of each entry, in the order of the test set.
    pub files: Vec<PathBuf>,
    /// The prompts of each entry; empty if unknown.
    pub prompts: Vec<PromptPair>,
}

/// One picture of an entry: label, file, method and prompts.
struct Source<'a> {
    label: String,
    file: PathBuf,
    method: Option<&'a str>,
    prompts: Option<&'a PromptPair>,
}

/// Writes the report. `shown` has the pictures of each test set of `results`, in order; at most `most` of each are
/// embedded. Each picture is in memory only while it is written.
///
/// # Errors
/// A picture can't be read, or the report can't be written.
pub fn write_report(results: &Results, shown: &[Shown], most: usize, out: &mut dyn Write) -> Result<()> {
    let chosen: Vec<Vec<usize>> = results.benchmarks.iter().map(|results| choose(results, most)).collect();
    let benchmarks = results.benchmarks.iter().zip(shown).zip(&chosen);
    let data: Vec<_> =
        benchmarks.clone().map(|((results, shown), chosen)| script_data(results, shown, chosen)).collect();
    // A "<" in it could end the script element.
    let data = serde_json::to_string(&json!({ "benchmarks": data }))?.replace('<', "\\u003c");
    let layout = results.paper_table.and_then(PublishedTable::of).map(|layout| results.as_in_paper(&layout));
    let mut metrics: Vec<&str> = vec![];
    for metric in results.benchmarks.iter().flat_map(measured) {
        if !metrics.contains(&metric.name()) {
            metrics.push(metric.name());
        }
    }
    let missing = results.missing.iter();
    let page = context! {
        name => &results.name,
        program => &results.program,
        number => results.paper_table,
        methods => results.methods.len(),
        metrics => metrics,
        layout => layout.as_ref().map(table),
        cautions => &results.cautions,
        missing => missing.map(|(metric, needed)| context! { name => metric.name(), needed }).collect::<Vec<_>>(),
        benchmarks => benchmarks
            .map(|((of, shown), chosen)| benchmark(results, of, shown, chosen))
            .collect::<Vec<_>>(),
        protocols => results.benchmarks.iter().map(|of| protocols(results, of)).collect::<Result<Vec<_>>>()?,
        data,
        style => STYLE,
        script => SCRIPT,
        script_sha256 => BASE64.encode(bytes_of(&sha256(SCRIPT.as_bytes()))),
    };
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_function("embed", |file: String| {
        let embedded = embed(Path::new(&file))
            .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, with_causes(error.as_ref())))?;
        Ok::<_, minijinja::Error>(Value::from_safe_string(embedded))
    });
    let template = environment.template_from_named_str("report.html", TEMPLATE).context("the report's template")?;
    template.render_captured_to(page, out).context("can't write the report")?;
    Ok(())
}

fn benchmark(results: &Results, of: &BenchmarkResults, shown: &Shown, chosen: &[usize]) -> Value {
    let picture = |&i: &usize| {
        let entry = &shown.benchmark.entries[i];
        let source = |source: Source| {
            context! { label => source.label, file => source.file.to_string_lossy().into_owned() }
        };
        context! {
            index => i,
            id => &entry.id,
            semantic => &entry.semantic,
            restoration => &entry.restoration,
            width => entry.width,
            height => entry.height,
            sources => sources(shown, i).into_iter().map(source).collect::<Vec<_>>(),
        }
    };
    let files = || chosen.iter().flat_map(|&i| sources(shown, i)).map(|source| source.file);
    let large = |file: PathBuf| std::fs::metadata(file).is_ok_and(|data| data.len() > LARGEST_FILE as u64);
    let tables = [Some(results.figures(of)), differences(of)];
    context! {
        title => &of.title,
        total => of.ids.len(),
        against => of.against.as_deref(),
        tables => tables.iter().flatten().map(table).collect::<Vec<_>>(),
        intervals => plots(of, |metric| {
            let rows = of.methods.iter().filter_map(|method| {
                Some((method.name.as_str(), method.figures.get(&metric)?.interval?))
            });
            figures::intervals(&rows.collect::<Vec<(&str, Interval)>>())
        }),
        spreads => plots(of, |metric| figures::spreads(&paired(of, metric), metric.rises())),
        pictures => chosen.iter().map(picture).collect::<Vec<_>>(),
        reencoded => files().any(large).then_some(LARGEST_FILE >> 10),
    }
}

/// One figure per metric.
fn plots(of: &BenchmarkResults, svg: impl Fn(Metric) -> String) -> Vec<Value> {
    let plot = |metric: Metric| context! { title => super::tables::heading(metric), svg => svg(metric) };
    measured(of).into_iter().filter(|&metric| per_image(of, metric) && !svg(metric).is_empty()).map(plot).collect()
}

fn per_image(of: &BenchmarkResults, metric: Metric) -> bool {
    of.methods.iter().any(|method| method.per_image.contains_key(&metric))
}

/// Each method's differences to the baseline.
fn paired(of: &BenchmarkResults, metric: Metric) -> Vec<(&str, Vec<f64>)> {
    let Some(base) = of.against.as_deref().and_then(|name| of.method(name)?.per_image.get(&metric)) else {
        return vec![];
    };
    let others = of.methods.iter().filter(|method| method.differences.contains_key(&metric));
    let difference = |values: &Vec<f64>| values.iter().zip(base).map(|(value, base)| value - base).collect();
    others.filter_map(|method| Some((method.name.as_str(), difference(method.per_image.get(&metric)?)))).collect()
}

fn table(table: &Table) -> Value {
    let right = |align: Align| align == Align::Right;
    context! {
        title => &table.title,
        compact => table.compact,
        notes => &table.notes,
        groups => table.groups().into_iter().map(|(text, columns)| context! { text, columns }).collect::<Vec<_>>(),
        columns => table
            .columns
            .iter()
            .map(|column| context! { heading => &column.heading, right => right(column.align) })
            .collect::<Vec<_>>(),
        rows => table
            .rows
            .iter()
            .map(|row| {
                let cells = row.cells.iter().map(|cell| {
                    context! { text => &cell.text, range => &cell.range, mark => &cell.mark, bold => cell.bold }
                });
                context! { quoted => row.quoted, cells => cells.collect::<Vec<_>>() }
            })
            .collect::<Vec<_>>(),
    }
}

fn protocols(results: &Results, of: &BenchmarkResults) -> Result<Value> {
    let mut protocols = vec![];
    for method in &of.methods {
        for figure in method.figures.values() {
            let Some(protocol) = results.protocols.get(&figure.protocol) else { continue };
            protocols.push(context! {
                fingerprint => &figure.protocol,
                method => &method.name,
                metric => &protocol.metric,
                json => serde_json::to_string_pretty(protocol)?,
            });
        }
    }
    Ok(context! { title => &of.title, protocols })
}

/// The pictures of an entry: degraded, each method's, clean.
fn sources<'a>(shown: &'a Shown, i: usize) -> Vec<Source<'a>> {
    let entry = &shown.benchmark.entries[i];
    let degraded = shown.benchmark.degraded(entry);
    let untouched = |method: &&ShownMethod| method.files[i] == degraded;
    let mut sources = vec![Source {
        label: "Degraded".to_owned(),
        method: shown.methods.iter().find(untouched).map(|method| method.name.as_str()),
        file: degraded.clone(),
        prompts: None,
    }];
    sources.extend(shown.methods.iter().filter(|method| method.files[i] != degraded).map(|method| Source {
        label: method.name.clone(),
        file: method.files[i].clone(),
        method: Some(&method.name),
        prompts: method.prompts.get(i),
    }));
    if shown.benchmark.has_clean {
        sources.push(Source {
            label: "Clean".to_owned(),
            file: shown.benchmark.clean(entry),
            method: None,
            prompts: None,
        });
    }
    sources
}

/// The data that the script shows and sorts.
fn script_data(of: &BenchmarkResults, shown: &Shown, chosen: &[usize]) -> serde_json::Value {
    let metrics: Vec<Metric> = measured(of).into_iter().filter(|&metric| per_image(of, metric)).collect();
    let place = |name: &str| of.methods.iter().position(|method| method.name == name);
    let prompts = |&i: &usize| -> Vec<_> {
        let told =
            |source: Source| source.prompts.map(|prompts| [prompts.semantic.clone(), prompts.restoration.clone()]);
        sources(shown, i).into_iter().map(told).collect()
    };
    let first = chosen.first().map_or(vec![], |&i| sources(shown, i));
    let scores: BTreeMap<&str, Vec<Option<Vec<f64>>>> = metrics
        .iter()
        .map(|&metric| {
            let scale = 10_f64.powi(metric.decimals() as i32 + 1);
            let rounded = |values: &Vec<f64>| values.iter().map(|value| (value * scale).round() / scale).collect();
            (metric.name(), of.methods.iter().map(|method| method.per_image.get(&metric).map(rounded)).collect())
        })
        .collect();
    json!({
        "ids": of.ids,
        "methods": of.methods.iter().map(|method| &method.name).collect::<Vec<_>>(),
        "metrics": metrics.iter().map(|&metric| json!({
            "key": metric.name(),
            "heading": super::tables::heading(metric),
            "rises": metric.rises(),
            "digits": metric.decimals(),
        })).collect::<Vec<_>>(),
        "scores": scores,
        "sources": first.iter().map(|source| json!({
            "label": source.label,
            "method": source.method.and_then(place),
        })).collect::<Vec<_>>(),
        "favourite": metrics.iter().position(|&metric| Some(metric) == favourite(of)),
        "cases": CASES,
        "shown": chosen,
        "prompts": chosen.iter().map(prompts).collect::<Vec<_>>(),
    })
}

/// The metric used to select pictures.
fn favourite(of: &BenchmarkResults) -> Option<Metric> {
    let liked = [Metric::Lpips, Metric::Ssim, Metric::Psnr].into_iter().chain(Metric::ALL);
    liked.into_iter().find(|&metric| per_image(of, metric))
}

/// Selects the pictures to embed: all if there are at most `most`. Otherwise up to two thirds are the last method's
/// best and worst and one or more such pairs of each other method; the rest are pictures at regular intervals.
fn choose(of: &BenchmarkResults, most: usize) -> Vec<usize> {
    let count = of.ids.len();
    if count <= most {
        return (0..count).collect();
    }
    let orders: Vec<Vec<usize>> = of
        .methods
        .iter()
        .rev()
        .filter_map(|method| method.per_image.get(&favourite(of)?))
        .map(|values| {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
            order
        })
        .collect();
    let ends = |order: &[usize], rank: usize| [order[rank], order[count - 1 - rank]];
    let last = orders.iter().take(1).flat_map(|order| (0..CASES.min(count)).flat_map(move |rank| ends(order, rank)));
    let others = (0..count).flat_map(|rank| orders.iter().skip(1).flat_map(move |order| ends(order, rank)));

    let mut chosen = BTreeSet::new();
    for picture in last.chain(others) {
        if chosen.len() >= most * 2 / 3 {
            break;
        }
        chosen.insert(picture);
    }
    let rest: Vec<usize> = (0..count).filter(|picture| !chosen.contains(picture)).collect();
    let places = most - chosen.len();
    chosen.extend((0..places).map(|i| rest[(2 * i + 1) * rest.len() / (2 * places)]));
    chosen.into_iter().collect()
}

/// A picture file as a data URL: unchanged if it is a small PNG, otherwise as JPEG.
fn embed(file: &Path) -> Result<String> {
    let bytes = picture::read(file)?;
    if bytes.len() <= LARGEST_FILE && bytes.starts_with(b"\x89PNG") {
        return Ok(format!("data:image/png;base64,{}", BASE64.encode(bytes)));
    }
    let (picture, _) = Picture::decode_with_alpha(&bytes, file)?;
    let jpeg = encode_jpeg(&picture.to_rgb8(), JPEG_QUALITY).with_context(|| file.display().to_string())?;
    Ok(format!("data:image/jpeg;base64,{}", BASE64.encode(jpeg)))
}

/// Decodes hexadecimal digits.
fn bytes_of(hexadecimal: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or_default() as u8;
    hexadecimal.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluation::MethodResults;

    fn results(values: Vec<Vec<f64>>) -> BenchmarkResults {
        BenchmarkResults {
            title: String::new(),
            folder: String::new(),
            checksum: String::new(),
            ids: (0..values[0].len()).map(|i| i.to_string()).collect(),
            methods: values
                .into_iter()
                .map(|values| MethodResults {
                    name: String::new(),
                    made: String::new(),
                    files: String::new(),
                    figures: BTreeMap::new(),
                    differences: BTreeMap::new(),
                    per_image: BTreeMap::from([(Metric::Ssim, values)]),
                })
                .collect(),
            unmeasured: BTreeMap::new(),
            against: None,
        }
    }

    #[test]
    fn the_best_and_worst_and_evenly_spaced_pictures_are_selected() {
        let rising: Vec<f64> = (0..100).map(f64::from).collect();
        let mut other = vec![50.0; 100];
        (other[33], other[66]) = (0.0, 99.0);
        let chosen = choose(&results(vec![other, rising.clone()]), 20);
        assert_eq!(chosen.len(), 20);
        for picture in [0, 1, 2, 3, 96, 97, 98, 99, 33, 66] {
            assert!(chosen.contains(&picture), "{picture} in {chosen:?}");
        }
        assert!(chosen.windows(2).all(|pair| (1..=15).contains(&(pair[1] - pair[0]))), "{chosen:?}");
        assert_eq!(choose(&results(vec![vec![1.0, 2.0]]), 1).len(), 1);
        assert_eq!(choose(&results(vec![rising.clone()]), 100), (0..100).collect::<Vec<_>>());
        assert_eq!(choose(&results(vec![rising]), 0), Vec::<usize>::new());
    }

    #[test]
    fn large_files_are_embedded_as_jpeg() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, side: usize| {
            let mut picture = Picture::filled(side, side, [0.5; 3]);
            let mut state = 1_u32;
            for value in &mut picture.data {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (state >> 8) as f32 / (1 << 24) as f32;
            }
            picture.save_png(folder.path().join(name)).unwrap();
            embed(&folder.path().join(name)).unwrap()
        };
        let small = file("small.png", 16);
        let bytes = BASE64.decode(small.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        assert_eq!(bytes, std::fs::read(folder.path().join("small.png")).unwrap());
        let large = file("large.png", 300);
        let bytes = BASE64.decode(large.strip_prefix("data:image/jpeg;base64,").unwrap()).unwrap();
        let (picture, _) = Picture::decode_with_alpha(&bytes, Path::new("large.jpg")).unwrap();
        assert_eq!((picture.width, picture.height), (300, 300));
        assert!(embed(Path::new("none.png")).unwrap_err().to_string().contains("none.png"));
    }

    #[test]
    fn a_checksum_s_bytes() {
        assert_eq!(bytes_of("00ff1a"), [0, 255, 26]);
    }
}
