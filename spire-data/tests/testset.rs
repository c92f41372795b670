//! Test sets: made from recipes, reproducible and verified.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use spire_data::Picture;
use spire_data::degrade::{Filter, Operation, Step};
use spire_data::loader::Crop;
use spire_data::prompt::{self, Fragment, REMOVE_ALL};
use spire_data::source::{SourceConfig, SourceKind};
use spire_data::testset::{
    Entry, Made, Problem, Recipe, RecipeDegradation, RecipeKind, TestSet, TestSetError, check, make,
};
use spire_data::world::{World, WorldConfig};

fn world(kind: RecipeKind) -> Recipe {
    Recipe {
        count: Some(12),
        size: Some(32),
        source: SourceConfig { seed: 5, count: 40, ..Default::default() },
        degradation: RecipeDegradation { kind, ..Default::default() },
        ..Default::default()
    }
}

/// A folder of `count` pictures of 50 by 38, every third of which is broken.
fn photographs(dir: &Path, count: usize) -> SourceConfig {
    let dir = &dir.join("photographs");
    fs::create_dir(dir).unwrap();
    let world = World::new(WorldConfig { size: 64, ..Default::default() });
    for i in 0..count {
        let path = dir.join(format!("{i:02}.png"));
        if i % 3 == 2 {
            fs::write(path, b"broken").unwrap();
        } else {
            world.scene(i as u64).draw(64).crop(3, 5, 50, 38).save_png(path).unwrap();
        }
    }
    SourceConfig { kind: SourceKind::Folder, path: Some(dir.to_owned()), uncaptioned: true, ..Default::default() }
}

fn made(recipe: &Recipe, folder: &Path, threads: usize) -> Made {
    make(recipe, folder, threads, &|_, _| ()).unwrap()
}

fn open(made: &Made, below: &str, entry: &Entry) -> Picture {
    Picture::open(made.folder.join(below).join(format!("{}.png", entry.id))).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = ["", "clean", "degraded", "small"]
        .iter()
        .filter_map(|below| fs::read_dir(folder.join(below)).ok())
        .flatten()
        .map(|file| file.unwrap().path())
        .filter(|file| file.is_file())
        .map(|file| file.strip_prefix(folder).unwrap().to_owned())
        .collect();
    files.sort();
    files
}

#[test]
fn the_result_depends_on_the_seed_but_not_on_threads() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = world(RecipeKind::Parameterized);
    let one = made(&recipe, &dir.path().join("one"), 1);
    let three = made(&recipe, &dir.path().join("three"), 3);
    assert_eq!(one.entries, three.entries);
    assert_eq!(files(&one.folder).len(), 12 * 2 + 3);
    for file in files(&one.folder) {
        assert_eq!(fs::read(one.folder.join(&file)).unwrap(), fs::read(three.folder.join(&file)).unwrap(), "{file:?}");
    }
    // The location of the pictures on disk does not change the checksum.
    let [here, there] = ["here", "there"].map(|name| {
        let folder = dir.path().join(name);
        fs::create_dir(&folder).unwrap();
        let recipe = Recipe { source: photographs(&folder, 24), ..recipe.clone() };
        made(&recipe, &folder.join("made"), 2)
    });
    assert_eq!(check(&here.folder, 1).unwrap().1, check(&there.folder, 1).unwrap().1);
    let other = made(&Recipe { seed: 2, ..recipe }, &dir.path().join("other"), 2);
    assert_ne!(one.entries, other.entries);
}

#[test]
fn numbers_in_prompts_are_the_numbers_used() {
    let dir = tempfile::tempdir().unwrap();
    let recipe = Recipe { count: Some(40), ..world(RecipeKind::Parameterized) };
    let made = made(&recipe, &dir.path().join("b"), 2);
    let lines = fs::read_to_string(made.folder.join("prompts.jsonl")).unwrap();
    let written: Vec<Entry> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(written, made.entries);
    let opened = TestSet::open(&made.folder, 2).unwrap();
    assert_eq!((&opened.entries, opened.has_clean), (&written, true));
    assert!(opened.degraded(&written[0]).is_file() && opened.clean(&written[0]).is_file());
    assert!(written.is_sorted_by_key(|entry| entry.id.clone()));
    for Entry { restoration, steps, operations, semantic, .. } in &written {
        let fragments: Vec<Fragment> = steps.iter().copied().map(Fragment::Numbered).collect();
        if steps.is_empty() {
            assert_eq!(restoration, REMOVE_ALL);
        } else {
            assert_eq!(prompt::parse(restoration).unwrap(), fragments);
        }
        for step in steps {
            assert!(operations.iter().any(|operation| match (*step, *operation) {
                (Step::Blur { sigma }, Operation::GaussianBlur { sigma: used }) => sigma == used,
                (Step::Downsample { factor }, Operation::Resize { width, .. }) => {
                    width == (32.0 / factor).round() as usize
                }
                (Step::Noise { sigma }, Operation::GaussianNoise { sigma: used, gray: false }) => sigma == used,
                (Step::Jpeg { quality }, Operation::Jpeg { quality: used }) => quality == used,
                _ => false,
            }));
        }
        assert!(!semantic.is_empty());
    }
}

#[test]
fn both_pipelines_degrade_the_same_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let left = made(&world(RecipeKind::Parameterized), &dir.path().join("left"), 2);
    let right = made(&world(RecipeKind::RealEsrgan), &dir.path().join("right"), 2);
    let pairs = |made: &Made| -> Vec<_> {
        made.entries.iter().map(|entry| (entry.picture.clone(), entry.semantic.clone())).collect()
    };
    assert_eq!(pairs(&left), pairs(&right));
    for entry in &right.entries {
        assert_eq!(open(&left, "clean", entry), open(&right, "clean", entry));
        assert_ne!(open(&right, "clean", entry), open(&right, "degraded", entry));
        assert!(entry.restoration == REMOVE_ALL && entry.steps.is_empty() && entry.operations.len() >= 9);
    }
}

#[test]
fn broken_pictures_are_replaced_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let source = photographs(dir.path(), 12);
    let recipe = Recipe { count: Some(8), source, ..world(RecipeKind::RealEsrgan) };
    let made = made(&recipe, &dir.path().join("b"), 2);
    assert_eq!(made.entries.iter().map(|entry| &entry.picture).collect::<BTreeSet<_>>().len(), 8);
    assert!(made.skipped.iter().all(|skipped| skipped.reason.contains(&skipped.name)), "{:?}", made.skipped);

    let folder = dir.path().join("c");
    let error = make(&Recipe { count: Some(9), ..recipe.clone() }, &folder, 2, &|_, _| ()).unwrap_err();
    assert!(matches!(error, TestSetError::TooFew { good: 8, wanted: 9, .. }), "{error}");
    assert!(error.to_string().contains(".png"), "{error}");
    assert!(!folder.exists());
    let more = Recipe { count: Some(20), crop: Crop::Random, ..recipe };
    let cuts = make(&more, &folder, 2, &|_, _| ()).unwrap();
    assert_eq!(cuts.entries.len(), 20);
    assert!(cuts.entries.iter().any(|entry| entry.id.ends_with("-2")));
}

#[test]
fn uncropped_pictures_are_trimmed_to_a_multiple() {
    let dir = tempfile::tempdir().unwrap();
    let operations = vec![Operation::Rescale { factor: 0.25, filter: Filter::BicubicAntialiased }];
    let recipe = Recipe {
        multiple: 4,
        source: photographs(dir.path(), 3),
        degradation: RecipeDegradation {
            kind: RecipeKind::Operations,
            operations,
            prompt: "Upsample to 4.0x".to_owned(),
            ..Default::default()
        },
        ..Default::default()
    };
    let made = made(&recipe, &dir.path().join("b"), 2);
    assert_eq!((made.entries.len(), made.skipped.len()), (2, 1));
    for entry in &made.entries {
        let sizes = ["clean", "degraded", "small"].map(|below| {
            let picture = open(&made, below, entry);
            (picture.width, picture.height)
        });
        assert_eq!(sizes, [(48, 36), (48, 36), (12, 9)]);
        assert_eq!((entry.width, entry.height, entry.restoration.as_str()), (48, 36, "Upsample to 4.0x"));
    }
    assert!(check(&made.folder, 1).unwrap().2.is_empty());
}

#[test]
fn real_photographs_have_no_clean_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let degradation = RecipeDegradation { kind: RecipeKind::None, ..Default::default() };
    let recipe = Recipe { source: photographs(dir.path(), 2), degradation, ..Default::default() };
    let made = made(&recipe, &dir.path().join("b"), 1);
    assert!(!made.folder.join("clean").exists() && !made.folder.join("small").exists());
    let entry = &made.entries[1];
    assert_eq!(open(&made, "degraded", entry), Picture::open(dir.path().join("photographs/01.png")).unwrap());
    assert_eq!(entry.semantic, "");
}

#[test]
fn a_changed_byte_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let made = made(&world(RecipeKind::Parameterized), &dir.path().join("b"), 2);
    let problems = || check(&made.folder, 2).unwrap().2;
    let (files, sum, none) = check(&made.folder, 2).unwrap();
    assert_eq!(made.checksum, sum);
    assert_eq!((files, none), (12 * 2 + 2, vec![]));

    let name = format!("degraded/{}.png", made.entries[3].id);
    let path = made.folder.join(&name);
    let whole = fs::read(&path).unwrap();
    for place in [0, whole.len() / 2, whole.len() - 1] {
        let mut changed = whole.clone();
        changed[place] ^= 1;
        fs::write(&path, changed).unwrap();
        assert_eq!(problems(), [Problem::Changed(name.clone())]);
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(problems(), [Problem::Missing(name.clone())]);
    assert!(TestSet::open(&made.folder, 1).unwrap_err().to_string().contains(&name));
    fs::write(&path, &whole).unwrap();
    fs::write(made.folder.join("clean/extra.png"), b"").unwrap();
    assert_eq!(problems(), [Problem::Unlisted("clean/extra.png".to_owned())]);
    fs::remove_file(made.folder.join("clean/extra.png")).unwrap();
    assert_eq!(check(&made.folder, 2).unwrap(), (files, sum, vec![]));

    let again = make(&world(RecipeKind::Parameterized), &made.folder, 1, &|_, _| ());
    assert!(matches!(again, Err(TestSetError::Exists { .. })));
    fs::write(made.folder.join("SHA256SUMS"), "0000\n").unwrap();
    assert!(check(&made.folder, 1).unwrap_err().to_string().contains("SHA256SUMS:1"));
}

#[test]
fn pictures_of_coco_are_named_by_their_number() {
    let dir = tempfile::tempdir().unwrap();
    let mut records = (vec![], vec![]);
    for id in [139, 285, 632] {
        let name = format!("{id:012}.jpg");
        Picture::filled(40, 30, [id as f32 / 700.0, 0.4, 0.2]).to_rgb8().save(dir.path().join(&name)).unwrap();
        records.0.push(serde_json::json!({"id": id, "file_name": name}));
        for k in 0..5 {
            records.1.push(serde_json::json!({"id": id * 10 + k, "image_id": id, "caption": format!("{k} of {id}")}));
        }
    }
    let annotations = dir.path().join("captions_val2017.json");
    fs::write(&annotations, serde_json::json!({"images": records.0, "annotations": records.1}).to_string()).unwrap();
    let source = SourceConfig {
        kind: SourceKind::Coco,
        images: Some(dir.path().to_owned()),
        annotations: Some(annotations),
        ..Default::default()
    };
    let recipe = Recipe { count: Some(3), source, ..world(RecipeKind::Parameterized) };
    let made = made(&recipe, &dir.path().join("b"), 2);
    let ids: Vec<&str> = made.entries.iter().map(|entry| entry.id.as_str()).collect();
    assert_eq!(ids, ["000000000139", "000000000285", "000000000632"]);
    assert!(made.entries.iter().all(|entry| entry.semantic.ends_with(entry.id.trim_start_matches('0'))));
}

#[test]
fn the_error_names_an_invalid_setting() {
    let refused = |recipe: Recipe| recipe.validate().unwrap_err().key;
    let operations = |operations: Vec<Operation>| Recipe {
        degradation: RecipeDegradation { kind: RecipeKind::Operations, operations, ..Default::default() },
        ..Default::default()
    };
    assert_eq!(refused(Recipe { name: "../up".to_owned(), ..Default::default() }), "name");
    assert_eq!(refused(Recipe { count: Some(0), ..Default::default() }), "count");
    assert_eq!(refused(Recipe { size: Some(0), ..Default::default() }), "size");
    assert_eq!(refused(Recipe { multiple: 0, ..Default::default() }), "multiple");
    assert_eq!(refused(operations(vec![])), "degradation.operations");
    let jpeg = operations(vec![Operation::Jpeg { quality: 40 }, Operation::Jpeg { quality: 0 }]);
    assert_eq!(refused(jpeg), "degradation.operations.1.quality");
    let mut recipe = world(RecipeKind::Operations);
    recipe.degradation.operations = vec![Operation::GaussianNoise { sigma: 0.1, gray: false }];
    recipe.degradation.prompt = "Make it nice".to_owned();
    assert_eq!(refused(recipe), "degradation.prompt");
}
