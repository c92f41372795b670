//! The configurations that come with the project are read by the program and say what it does.

use std::path::{Path, PathBuf};

use spire_data::benchmark::Recipe;
use spire_eval::evaluation::{EvalConfig, PublishedTable};
use spire_train::config::RunConfig;
use spire_train::pretrain::PretrainConfig;
use spire_train::settings;
use spire_train::sweep::Sweep;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs").join(name)
}

#[test]
fn the_reference_gives_every_key_its_default() {
    let read: RunConfig = settings::load(&file("reference.toml"), &[]).unwrap();
    let defaults = settings::resolved(&RunConfig::default()).unwrap();
    assert_eq!(settings::resolved(&read).unwrap(), defaults);
    // What the file does not mention is read as the default too, so its keys are counted as well.
    let text = std::fs::read_to_string(file("reference.toml")).unwrap();
    for line in defaults.lines().filter(|line| line.contains(" = ")) {
        let key = line.split(" = ").next().unwrap();
        assert!(text.contains(&format!("{key} = ")), "{key} is not explained");
    }
}

#[test]
fn every_recipe_and_evaluation_is_read_and_named_as_its_file() {
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

/// Table 1 compares its halves on the same pictures.
#[test]
fn both_halves_of_table_1_draw_the_same_pictures() {
    for set in ["coco", "tiny"] {
        let [left, right] = ["parameterized", "real-esrgan"].map(|half| {
            let recipe: Recipe = settings::load(&file(&format!("benchmarks/{set}-{half}.toml")), &[]).unwrap();
            (recipe.seed, recipe.count, recipe.size, recipe.crop, recipe.multiple, recipe.source)
        });
        assert_eq!(left, right);
    }
}

/// The paper's figures are shown beside those of its own test sets alone.
#[test]
fn the_paper_s_tables_are_measured_on_its_test_sets() {
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
fn the_shipped_runs_are_read() {
    let tiny: RunConfig = settings::load(&file("tiny.toml"), &[]).unwrap();
    tiny.validate().unwrap();
    settings::load::<PretrainConfig>(&file("tiny-prior.toml"), &[]).unwrap();
}

/// Sweeps name other files from the repository's root, where they are run.
#[test]
fn every_sweep_is_read_expanded_and_named_as_its_file() {
    std::env::set_current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).unwrap();
    let mut cells = std::collections::BTreeMap::new();
    let mut configurations = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir("configs/sweeps").unwrap() {
        let path = entry.unwrap().path();
        let sweep = Sweep::open(&path, &[]).unwrap();
        assert_eq!(path.file_stem().unwrap().to_str(), Some(sweep.config.name.as_str()));
        cells.insert(sweep.config.name.clone(), sweep.cells.len());
        for cell in sweep.cells {
            // Sweeps that share their runs must mean the same by each.
            let text = settings::resolved(&cell.config).unwrap();
            let first = configurations.entry(cell.config.run.dir).or_insert_with(|| text.clone());
            assert_eq!(*first, text, "{}", path.display());
        }
    }
    assert_eq!(cells["smallest"], 4);
    assert_eq!(cells["table5"], 6);
    assert_eq!(cells["table7"], 9);
}
