//! Models of other authors in their published layouts, small and by formula.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Writes the published files of DiffBIR's version 1 and of StableSR, small and by formula, into `folder/diffbir` and
/// `folder/stablesr`.
pub fn publish(folder: &Path) {
    let files = [
        ("diffbir-1/base", "diffbir/v2-1_512-ema-pruned"),
        ("diffbir-1/control", "diffbir/v1_general"),
        ("diffbir-1/first_stage", "diffbir/general_swinir_v1"),
        ("stablesr/base", "stablesr/stablesr_000117"),
        ("stablesr/decoder", "stablesr/vqgan_cfw_00011"),
    ];
    for (reference, published) in files {
        let text = fs::read_to_string(format!("../tests/reference/{reference}/model.formula.json")).unwrap();
        let mut formula: Value = serde_json::from_str(&text).unwrap();
        if reference.ends_with("base") {
            add_text_encoder(&mut formula["tensors"]);
        }
        let file = folder.join(format!("{published}.formula.json"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, formula.to_string()).unwrap();
    }
}

/// Adds OpenCLIP's text encoder, as wide as the UNet reads it.
fn add_text_encoder(tensors: &mut Value) {
    let tensors = tensors.as_object_mut().unwrap();
    tensors.remove("cond_stage_model.unused");
    let (_, shape) = tensors.iter().find(|(name, _)| name.ends_with("attn2.to_k.weight")).unwrap();
    let width = shape[1].as_u64().unwrap();
    let mut add = |name: &str, shape: &[u64]| tensors.insert(format!("cond_stage_model.model.{name}"), json!(shape));
    add("token_embedding.weight", &[49408, width]);
    add("positional_embedding", &[77, width]);
    for kind in ["weight", "bias"] {
        add(&format!("ln_final.{kind}"), &[width]);
    }
    for layer in 0..2 {
        for (name, outputs, inputs) in [
            ("attn.in_proj_", 3 * width, width),
            ("attn.out_proj.", width, width),
            ("mlp.c_fc.", 4 * width, width),
            ("mlp.c_proj.", width, 4 * width),
        ] {
            add(&format!("transformer.resblocks.{layer}.{name}weight"), &[outputs, inputs]);
            add(&format!("transformer.resblocks.{layer}.{name}bias"), &[outputs]);
        }
        for norm in ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"] {
            add(&format!("transformer.resblocks.{layer}.{norm}"), &[width]);
        }
    }
}
