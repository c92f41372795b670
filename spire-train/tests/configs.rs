//! The configurations in `configs/` are valid and describe what the program does.

use std::path::{Path, PathBuf};

use spire_core::settings;
use spire_data::degrade::ParameterizedConfig;
use spire_data::testset::Recipe;
use spire_eval::evaluation::{EvalConfig, PublishedTable};
use spire_model::model_file::ModelFile;
use spire_train::config::RunConfig;
use spire_train::pretrain::PretrainConfig;
use spire_train::sweep::Sweep;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

/// The name of a section and its lines, comments included, in the order of the file.
fn sections(text: &str) -> Vec<(String, Vec<&str>)> {
    let mut sections: Vec<(String, Vec<&str>)> = vec![];
    for line in text.lines() {
        match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, _)) => sections.push((name.to_owned(), vec![])),
            None => sections.last_mut().into_iter().for_each(|(_, lines)| lines.push(line)),
        }
    }
    sections
}

/// All keys of a section, optional ones too, from the error that an unknown key gives.
fn keys_of(section: &str) -> Vec<String> {
    let text = format!("[{section}]\nqqqqqqqqqqqqqqqq = 0\n");
    let error = settings::parse::<RunConfig>(&text, Path::new("x.toml"), &[]).unwrap_err().to_string();
    let (_, keys) = error.split_once("nearest first: ").expect("the error lists the valid keys");
    keys.split(", ").map(str::to_owned).collect()
}

/// The names of all sections with default values.
fn default_sections(table: &toml::Table, name: &str, found: &mut Vec<String>) {
    for (key, value) in table {
        if let toml::Value::Table(inner) = value {
            let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
            default_sections(inner, &name, found);
            found.push(name);
        }
    }
}

#[test]
fn the_reference_has_every_key_in_its_section_with_its_default() {
    let read: RunConfig = settings::load(&file("reference.toml"), &[]).unwrap();
    let defaults = settings::resolved(&RunConfig::default()).unwrap();
    assert_eq!(settings::resolved(&read).unwrap(), defaults);

    // A key that the file lacks is read as its default too, so look for each in the text of its section.
    let text = std::fs::read_to_string(file("reference.toml")).unwrap();
    let sections = sections(&text);
    let names: Vec<&String> = sections.iter().map(|(name, _)| name).collect();
    let mut expected = vec![];
    default_sections(&defaults.parse().unwrap(), "", &mut expected);
    assert!(expected.iter().all(|name| names.contains(&name)), "{expected:?} in {names:?}");
    for (section, lines) in &sections {
        for key in keys_of(section) {
            let inner = format!("{section}.{key}");
            let explained = lines.iter().any(|line| {
                let line = line.trim_start_matches("# ");
                line.starts_with(&format!("{key} = ")) || line.starts_with(&format!("[{inner}]"))
            });
            assert!(explained || names.contains(&&inner), "{inner} is not explained");
        }
    }
}

#[test]
fn every_recipe_and_evaluation_is_valid_and_named_as_its_file() {
    let mut recipes = 0;
    for entry in std::fs::read_dir(file("benchmarks")).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        if text.contains("[[methods]]") {
            let evaluation: EvalConfig = settings::load(&path, &[]).unwrap();
            evaluation.validate().unwrap();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(evaluation.name.as_str()));
            continue;
        }
        let recipe: Recipe = settings::load(&path, &[]).unwrap();
        recipe.validate().unwrap();
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(recipe.name.starts_with(stem) || text.contains("--set name="), "{stem} makes {}", recipe.name);
        recipes += 1;
    }
    assert!(recipes >= 11, "{recipes}");
}

/// Both test sets of Table 1 have the same pictures.
#[test]
fn both_test_sets_of_table_1_have_the_same_pictures() {
    for set in ["coco", "tiny"] {
        let [left, right] = ["parameterized", "real-esrgan"].map(|half| {
            let recipe: Recipe = settings::load(&file(&format!("benchmarks/{set}-{half}.toml")), &[]).unwrap();
            (recipe.seed, recipe.count, recipe.size, recipe.crop, recipe.multiple, recipe.source)
        });
        assert_eq!(left, right);
    }
}

/// The paper's figures are shown only for the paper's test sets.
#[test]
fn the_tables_of_the_paper_use_its_test_sets() {
    for table in PublishedTable::all() {
        let path = file(&format!("benchmarks/table{}.toml", table.number));
        let evaluation: EvalConfig = settings::load(&path, &[]).unwrap();
        assert_eq!(evaluation.paper_table, Some(table.number));
        assert_eq!(evaluation.benchmarks.len(), table.groups.len(), "table {}", table.number);
        for (benchmark, group) in evaluation.benchmarks.iter().zip(&table.groups) {
            let recipe = file("..").join(benchmark.recipe.as_ref().unwrap());
            let recipe: Recipe = settings::load(&recipe, &[]).unwrap();
            assert!(
                benchmark.folder.ends_with(&recipe.name),
                "{} is made as {}",
                benchmark.folder.display(),
                recipe.name
            );
            assert!(group.benchmarks.contains(&recipe.name), "{} in table {}", recipe.name, table.number);
        }
    }
}

#[test]
fn the_configurations_of_the_small_model_are_valid() {
    let tiny: RunConfig = settings::load(&file("tiny.toml"), &[]).unwrap();
    tiny.validate().unwrap();
    settings::load::<PretrainConfig>(&file("tiny-prior.toml"), &[]).unwrap();
}

/// Paths in sweeps are relative to the root of the repository.
#[test]
fn every_sweep_is_valid_and_named_as_its_file() {
    std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let mut cells = std::collections::BTreeMap::new();
    let mut configurations = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("configs/sweeps").unwrap() {
        let path = entry.unwrap().path();
        let sweep = Sweep::open(&path, &[]).unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(sweep.config.name.as_str()));
        cells.insert(sweep.config.name.clone(), sweep.cells.len());
        for cell in sweep.cells {
            // Sweeps that share a run must agree on its configuration.
            let text = settings::resolved(&cell.config).unwrap();
            let first = configurations.entry(cell.config.run.dir).or_insert_with(|| text.clone());
            assert_eq!(*first, text, "{}", path.display());
        }
    }
    assert_eq!(cells["smallest"], 4);
    assert_eq!(cells["table5"], 9);
    assert_eq!(cells["table7"], 9);
}

/// `assets/tiny/model.toml` is written by hand.
#[test]
fn the_built_in_model_restores_as_its_configuration_and_knows_what_it_trained() {
    let config: RunConfig = settings::load(&file("tiny-control.toml"), &[]).unwrap();
    let model = ModelFile::of(&file("../assets/tiny/control")).unwrap().unwrap();
    assert_eq!(model.sampling, config.evaluate.sampling);
    let trained: ParameterizedConfig = model.trained.try_into().unwrap();
    assert_eq!(trained, config.degradation.parameterized);
}
