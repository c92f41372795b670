//! `spire eval` with the built-in model.

mod common;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use common::{command, error, ok, spire};
use serde_json::Value;
use tempfile::TempDir;

/// An evaluation of six pictures: degraded, restored by the model with two sets of prompts, and a folder of pictures.
fn configuration(scratch: &Path) -> String {
    let recipe = scratch.join("recipe.toml");
    let tiny = fs::read_to_string("../configs/benchmarks/tiny-parameterized.toml").unwrap();
    fs::write(&recipe, tiny.replace("count = 256", "count = 6")).unwrap();
    let config = scratch.join("eval.toml");
    let method = |name: &str, keys: &str| {
        format!("[[methods]]\nname = \"{name}\"\nbase = \"assets/tiny\"\ncontrol = \"assets/tiny/control\"\n{keys}\n")
    };
    let text = format!(
        "name = \"six\"\nagainst = \"Blind\"\noutput = \"{output}\"\nthreads = 2\nbatch_size = 4\nclip = \"assets/tiny\"\nweights = \"{weights}\"\n[sampling]\nsteps = 2\n\
         [[benchmarks]]\ntitle = \"Six | pictures\"\nfolder = \"{folder}\"\nrecipe = \"{recipe}\"\n\
         [[methods]]\nname = \"Degraded\"\nkind = \"input\"\n{blind}{told}\
         [[methods]]\nname = \"Perfect\"\nkind = \"folder\"\nfolder = \"{scratch}/{{benchmark}}/clean\"\n",
        output = scratch.join("out").display(),
        weights = scratch.join("weights").display(),
        folder = scratch.join("tiny-six").display(),
        recipe = recipe.display(),
        scratch = scratch.display(),
        blind = method("Blind", "semantic = false\nrestoration = \"none\""),
        told = method("Told", "restoration = \"type\""),
    );
    fs::write(&config, text).unwrap();
    config.display().to_string()
}

fn results(scratch: &Path) -> Value {
    serde_json::from_slice(&fs::read(scratch.join("out/results.json")).unwrap()).unwrap()
}

#[test]
fn methods_are_measured_and_restored_pictures_are_kept() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch);
    let printed = ok(spire(&["eval", &config]));
    assert!(printed.contains("### Six | pictures") && printed.contains("| Perfect | **0.000** |"), "{printed}");
    assert!(printed.contains("LPIPS is missing"), "{printed}");
    assert!(printed.contains("6 pictures for 64 features") && !printed.contains("PSNR: "), "{printed}");

    let first = results(scratch);
    let methods = first["benchmarks"][0]["methods"].as_array().unwrap();
    let figure = |method: usize, metric: &str| methods[method]["figures"][metric]["value"].as_f64().unwrap();
    for (method, name) in ["Degraded", "Blind", "Told", "Perfect"].iter().enumerate() {
        assert_eq!(methods[method]["name"], *name);
        for metric in ["psnr", "ssim", "clip_i", "clip_t", "clip_frechet"] {
            assert!(figure(method, metric).is_finite());
            let protocol = methods[method]["figures"][metric]["protocol"].as_str().unwrap();
            assert_eq!(first["protocols"][protocol]["images"], 6);
        }
    }
    let made = &first["protocols"][methods[1]["figures"]["psnr"]["protocol"].as_str().unwrap()]["method"];
    assert_eq!((made["base"].as_str().unwrap().len(), made["control"].as_str().unwrap().len()), (64, 64));
    assert_eq!(made["precision"], "f32, branch f32");
    assert!(printed.contains("| Degraded (reference) |") && printed.contains("Hash of the method"), "{printed}");
    assert_eq!((figure(3, "psnr"), figure(3, "ssim")), (60.0, 1.0));
    assert!((figure(3, "clip_i") - 1.0).abs() < 1e-6 && figure(3, "clip_frechet").abs() < 1e-4);
    assert_ne!(methods[1]["per_image"]["psnr"], methods[2]["per_image"]["psnr"]);
    // The mean of the differences equals the difference of the means. A method is not compared with itself.
    let difference = methods[2]["differences"]["psnr"]["mean"].as_f64().unwrap();
    assert!((difference - (figure(2, "psnr") - figure(1, "psnr"))).abs() < 1e-9);
    assert!(methods[1]["differences"].as_object().unwrap().is_empty());
    for file in ["tables.md", "tables.tex", "six-pictures.csv", "six-pictures-differences-to-blind.csv"] {
        assert!(fs::metadata(scratch.join("out").join(file)).unwrap().len() > 100, "{file}");
    }

    let restored = |method: &str| -> Vec<(String, SystemTime)> {
        let folder = scratch.join("out/restored/tiny-six").join(method);
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(Result::unwrap)
            .map(|file| (file.file_name().into_string().unwrap(), file.metadata().unwrap().modified().unwrap()))
            .collect();
        files.sort();
        files
    };
    let (blind, told) = (restored("blind"), restored("told"));
    assert_eq!((blind.len(), told.len()), (6, 6));
    let lost = scratch.join("out/restored/tiny-six/blind").join(&blind[2].0);
    fs::remove_file(&lost).unwrap();
    ok(spire(&["eval", &config]));
    assert!(results(scratch) == first, "the same pictures give the same figures");
    let again = restored("blind");
    assert_eq!(again.iter().zip(&blind).filter(|(new, old)| new != old).count(), 1, "one picture was made again");
    assert_eq!(restored("told"), told);

    // With other steps all pictures are restored again, and the figures have another protocol.
    ok(spire(&["eval", &config, "--set", "sampling.steps=1"]));
    let other = results(scratch);
    let protocol = |results: &Value, method: usize| results["benchmarks"][0]["methods"][method]["made"].clone();
    assert_ne!(protocol(&other, 1), protocol(&first, 1));
    assert_eq!(protocol(&other, 0), protocol(&first, 0));
}

#[test]
fn a_missing_method_does_not_affect_the_others_and_unknown_weights_give_a_caution() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch);
    let text = fs::read_to_string(&config).unwrap();
    let header = &text[..text.find("[[methods]]").unwrap()];
    let methods = "metrics = [\"fid\", \"patch_fid\", \"lpips\"]\nagainst = \"Degraded\"\n[fid]\npatch = 32\n";
    let header = header.replace("against = \"Blind\"\n", "").replacen("[sampling]", &format!("{methods}[sampling]"), 1);
    let folder =
        |name: &str, path: &str| format!("[[methods]]\nname = \"{name}\"\nkind = \"folder\"\nfolder = \"{path}\"\n");
    let clean = scratch.join("{benchmark}/clean").display().to_string();
    let text = format!(
        "{header}[[methods]]\nname = \"Degraded\"\nkind = \"input\"\n{}{}",
        folder("Elsewhere", "nowhere/{benchmark}"),
        folder("Perfect", &clean)
    );
    fs::write(&config, text).unwrap();
    let weights = scratch.join("weights");
    fs::create_dir(&weights).unwrap();
    // Generated weights under the file name of the published ones.
    let name = "pt_inception-2015-12-05-6726825d.formula.json";
    fs::copy("../tests/reference/inception/model.formula.json", weights.join(name)).unwrap();

    let output = spire(&["eval", &config]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let complained = error(output);
    assert!(complained.contains("Elsewhere") && complained.contains("nowhere/tiny-six"), "{complained}");
    let results = results(scratch);
    let benchmark = &results["benchmarks"][0];
    assert!(benchmark["unmeasured"]["Elsewhere"].as_str().unwrap().contains("nowhere/tiny-six"));
    let figure =
        |method: usize, metric: &str| benchmark["methods"][method]["figures"][metric]["value"].as_f64().unwrap();
    for metric in ["fid", "patch_fid"] {
        assert!(figure(0, metric) > 0.01 && figure(1, metric) < 1e-3, "{metric}: {printed}");
    }
    assert!(printed.contains("is not the published file"), "{printed}");
    assert!(
        printed.contains("6 pictures for 2048 features") && printed.contains("30 patches for 2048 features"),
        "{printed}"
    );
    assert!(printed.contains("LPIPS is missing") && printed.contains("alexnet-owt-7be5be79.pth"), "{printed}");
}

#[test]
fn networks_without_prompts_are_measured_beside_the_model() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let config = configuration(scratch);
    let text = fs::read_to_string(&config).unwrap();
    let header = &text[..text.find("[[methods]]").unwrap()].replace("against = \"Blind\"\n", "");
    let method = |name: &str, kind: &str, weights: &str| {
        format!("[[methods]]\nname = \"{name}\"\nkind = \"{kind}\"\nweights = \"{weights}\"\n")
    };
    let reference = "tests/reference/";
    let methods = [
        method("SwinIR", "swinir", &format!("{reference}swinir-real")),
        method("SCUNet", "scunet", &format!("{reference}scunet-colour")),
        method("BSRNet", "bsrnet", "weights/BSRNet.pth"),
    ];
    fs::write(&config, format!("metrics = [\"psnr\"]\n{header}{}", methods.concat())).unwrap();
    let complained = error(spire(&["eval", &config]));
    assert!(complained.contains("weights/BSRNet.pth") && complained.contains("cszn/KAIR"), "{complained}");
    let results = results(scratch);
    let measured = results["benchmarks"][0]["methods"].as_array().unwrap();
    assert_eq!(measured.len(), 2);
    for (method, network) in measured.iter().zip(["swinir", "scunet"]) {
        let figure = &method["figures"]["psnr"];
        assert!(figure["value"].as_f64().unwrap().is_finite());
        let made = &results["protocols"][figure["protocol"].as_str().unwrap()]["method"];
        assert_eq!((&made["kind"], &made["network"]), (&"network".into(), &network.into()));
    }
    // The enlarged pictures have the size of the clean ones again.
    let sizes = ["out/restored/tiny-six/swinir", "tiny-six/clean"].map(|folder| {
        let file = fs::read_dir(scratch.join(folder)).unwrap().next().unwrap().unwrap().path();
        let picture = spire_data::Picture::open(file).unwrap();
        (picture.width, picture.height)
    });
    assert_eq!(sizes[0], sizes[1]);

    let wrong = |set: &str| error(command(&["eval", &config, "--set", set]).output().unwrap());
    assert!(wrong("methods.0.kind=input").contains("methods.0.weights"), "{}", wrong("methods.0.kind=input"));
}

#[test]
fn a_column_that_a_caption_rules_out_is_named() {
    let scratch = TempDir::new().unwrap();
    let config = configuration(scratch.path());
    let text = fs::read_to_string(&config).unwrap().replace("against = \"Blind\"", "against = \"Degraded\"");
    let (degraded_alone, _) = text.split_once("[[methods]]\nname = \"Blind\"").unwrap();
    let metrics = "metrics = [\"psnr\", \"wrong_kind\"]\njudge = \"assets/tiny/judge\"\nalike = [[\"yak\", \"gnu\"]]\n";
    fs::write(&config, format!("{metrics}{degraded_alone}")).unwrap();
    let output = spire(&["eval", &config]);
    let log = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(log.contains("has no column \"wrong kind\": the caption of world_"), "{log}");
    assert!(!ok(output).contains("wrong kind"), "{log}");
}

#[test]
fn errors_name_the_key() {
    let scratch = TempDir::new().unwrap();
    let config = configuration(scratch.path());
    let wrong = |set: &str| error(command(&["eval", &config, "--set", set]).output().unwrap());
    assert!(wrong("methods.1.restoration=all").contains("methods"), "{}", wrong("methods.1.restoration=all"));
    assert!(wrong("against=Nobody").contains("Nobody"));
    assert!(wrong("methods.1.run=runs/x").contains("base would be ignored, because run"));
    assert!(wrong("methods.1.name=Degraded").contains("two methods"));
    assert!(wrong("benchmarks.0.recipe=none.toml").contains("none.toml"));
    assert!(wrong("methods.1.control=nowhere").contains("nowhere"), "{}", wrong("methods.1.control=nowhere"));
    assert!(wrong("methods.3.folder=nowhere/{benchmark}").contains("nowhere/tiny-six"));

    // A changed picture of the test set is an error before anything is measured.
    let picture = scratch.path().join("tiny-six/clean");
    let picture = fs::read_dir(picture).unwrap().next().unwrap().unwrap().path();
    fs::write(&picture, b"changed").unwrap();
    assert!(error(spire(&["eval", &config])).contains("does not match its checksums"));
}

#[test]
fn a_method_restores_the_small_pictures_enlarged() {
    let scratch = TempDir::new().unwrap();
    let scratch = scratch.path();
    let recipe = scratch.join("half.toml");
    let text = "name = \"half\"\nsize = 64\ncount = 2\n[source]\nkind = \"world\"\nseed = 900\ncount = 8\n[degradation]\n\
        kind = \"operations\"\nprompt = \"Upsample to 2.0x\"\n\
        operations = [{ operation = \"rescale\", factor = 0.5, filter = \"bicubic_antialiased\" }]\n";
    fs::write(&recipe, text).unwrap();
    let evaluate = |factor: &str| {
        let config = scratch.join(format!("eval-{factor}.toml"));
        let text = format!(
            "name = \"half\"\noutput = \"{out}\"\nmetrics = [\"psnr\"]\n[sampling]\nsteps = 1\n[[benchmarks]]\ntitle = \"Half\"\n\
             folder = \"{set}\"\nrecipe = \"{recipe}\"\n[[methods]]\nname = \"Model\"\nbase = \"assets/tiny\"\n\
             control = \"assets/tiny/control\"\nupscale = {factor}\n",
            out = scratch.join("out").display(),
            set = scratch.join("half").display(),
            recipe = recipe.display(),
        );
        fs::write(&config, text).unwrap();
        spire(&["eval", config.to_str().unwrap()])
    };
    ok(evaluate("2.0"));
    let restored = fs::read_dir(scratch.join("out/restored/half/model")).unwrap().next().unwrap().unwrap().path();
    let made = spire_restore::provenance::Provenance::read(&restored).unwrap();
    assert_eq!(made.upscale, 2.0);
    let id = restored.file_name().unwrap();
    let small = fs::read(scratch.join("half/small").join(id)).unwrap();
    assert_eq!(made.input_sha256, spire_core::checksum::sha256(&small));
    let protocols = &results(scratch)["protocols"];
    let upscale = protocols.as_object().unwrap().values().find_map(|protocol| protocol["method"]["upscale"].as_f64());
    assert_eq!(upscale, Some(2.0));

    let wrong = evaluate("3.0");
    let told = format!("{}{}", String::from_utf8_lossy(&wrong.stdout), String::from_utf8_lossy(&wrong.stderr));
    assert!(told.contains("upscale = 3 makes 32×32 pixels") && told.contains("96×96"), "{told}");
}
