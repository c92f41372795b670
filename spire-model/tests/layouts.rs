//! Every published layout of Stable Diffusion opens as the same model.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device};
use serde::Deserialize;
use serde_json::{Value, json};
use spire_model::clip::{ClipText, ClipTextConfig};
use spire_model::nn::PerBlock;
use spire_model::scheduler::PredictionType;
use spire_model::unet::{UNet, UNetConfig};
use spire_model::vae::{self, Vae, VaeConfig};
use spire_model::weights::single_file::SingleFile;
use spire_model::weights::{Misfits, Precision, Tensors, fill, to_bytes, weights_file};

fn layouts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/layouts")
}

/// The shape of every tensor of a single file, and the source of every tensor of its parts.
#[derive(Deserialize)]
struct Listing {
    ldm: BTreeMap<String, Vec<usize>>,
    parts: BTreeMap<String, BTreeMap<String, Source>>,
    reshaped: BTreeMap<String, BTreeMap<String, Vec<usize>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Source {
    Whole(String),
    Rows(String, usize, usize),
}

fn listing(name: &str) -> Listing {
    serde_json::from_slice(&fs::read(layouts().join(name)).unwrap()).unwrap()
}

/// A single file of these names and shapes with values by formula.
fn single_file(listing: &Listing) -> (SingleFile, Tensors) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.formula.json");
    let formula = json!({ "formula": "splitmix64", "seed": 1, "tensors": listing.ldm });
    fs::write(&path, formula.to_string()).unwrap();
    let tensors = Tensors::open(&path).unwrap();
    (SingleFile::new(tensors.clone()).unwrap(), tensors)
}

/// Larger tensors are compared by shape only, to save time.
const COMPARED: usize = 1 << 20;

fn assert_renamed(part: &str, converted: &Tensors, original: &Tensors, listing: &Listing) {
    for (name, source) in &listing.parts[part] {
        let tensor = converted.get(name).unwrap_or_else(|| panic!("{part}: {name} is missing"));
        let (from, rows) = match source {
            Source::Whole(from) => (from, None),
            Source::Rows(from, start, length) => (from, Some((*start, *length))),
        };
        let source = original.get(from).unwrap();
        let mut shape = source.shape.to_vec();
        if let Some((_, length)) = rows {
            shape[0] = length;
        }
        let shape = listing.reshaped[part].get(name).cloned().unwrap_or(shape);
        assert_eq!(tensor.shape.to_vec(), shape, "{part}: {name}");
        if source.byte_len() <= 4 * COMPARED {
            let bytes = source.to_bytes().unwrap();
            let row = bytes.len() / source.shape[0];
            let (start, length) = rows.unwrap_or((0, source.shape[0]));
            assert!(tensor.to_bytes().unwrap()[..] == bytes[start * row..(start + length) * row], "{part}: {name}");
        }
    }
    for tensor in converted.iter().filter(|tensor| !tensor.name.ends_with("position_ids")) {
        assert!(listing.parts[part].contains_key(&tensor.name), "{part}: {} is one too many", tensor.name);
    }
}

#[test]
fn single_files_of_both_versions_are_renamed_as_diffusers_does() {
    let device = Device::flex();
    for (name, version_2) in [("sd15.json", false), ("sd21.json", true), ("tiny2.json", true)] {
        let listing = listing(name);
        let (file, original) = single_file(&listing);
        assert_eq!(file.is_version_2(), version_2);
        let (unet_config, unet) = file.unet().unwrap();
        let (vae_config, vae) = file.vae().unwrap();
        let (text_config, text) = file.text_encoder().unwrap();
        assert_renamed("unet", &unet, &original, &listing);
        assert_renamed("vae", &vae, &original, &listing);
        assert_renamed("text_encoder", &text, &original, &listing);
        // The configurations read off the shapes describe networks that the tensors fit.
        assert!(Misfits::between(&UNet::new(&unet_config, &device).unwrap(), &unet).is_empty());
        assert!(Misfits::between(&Vae::new(&vae_config, &device).unwrap(), &vae).is_empty());
        assert!(Misfits::between(&ClipText::new(&text_config, &device).unwrap(), &text).is_empty());
    }
}

#[test]
fn the_published_sizes_are_read_off_the_shapes() {
    let (one, two) = (listing("sd15.json"), listing("sd21.json"));
    let (file, _) = single_file(&one);
    let (unet, _) = file.unet().unwrap();
    let published = UNetConfig { cross_attention_dim: PerBlock::All(768), ..UNetConfig::default() };
    assert_eq!(unet, published);
    assert_eq!(file.vae().unwrap().0, VaeConfig::default());
    let large = ClipTextConfig {
        hidden_size: 768,
        intermediate_size: 3072,
        num_attention_heads: 12,
        ..ClipTextConfig::default()
    };
    assert_eq!(file.text_encoder().unwrap().0, large);
    assert_eq!(file.scheduler().prediction_type, PredictionType::Epsilon);

    let (file, _) = single_file(&two);
    let (unet, _) = file.unet().unwrap();
    let published = UNetConfig {
        cross_attention_dim: PerBlock::All(1024),
        attention_head_dim: PerBlock::Each(vec![5, 10, 20, 20]),
        use_linear_projection: true,
        upcast_attention: true,
        ..UNetConfig::default()
    };
    assert_eq!(unet, published);
    let (text, _) = file.text_encoder().unwrap();
    assert_eq!((text.num_hidden_layers, text.num_attention_heads, text.hidden_size), (23, 16, 1024));
    assert_eq!(file.scheduler().prediction_type, PredictionType::VPrediction);
}

/// Shards, a half-precision variant and a pickle in the folder; a pickle in the original layout beside it.
#[test]
fn a_folder_and_a_checkpoint_hold_the_same_model() {
    let device = Device::flex();
    let folder = layouts().join("tiny1");
    let file = SingleFile::new(Tensors::open(&layouts().join("tiny1.ckpt")).unwrap()).unwrap();

    let config = UNetConfig::read(&folder.join("unet")).unwrap();
    let (inferred, tensors) = file.unet().unwrap();
    let built = |config: &UNetConfig, tensors| {
        to_bytes(&fill(UNet::new(config, &device).unwrap(), tensors, Precision::F32).unwrap(), DType::F32).unwrap()
    };
    assert!(weights_file(&folder.join("unet")).unwrap().ends_with("diffusion_pytorch_model.safetensors.index.json"));
    assert!(built(&config, Tensors::in_folder(&folder.join("unet")).unwrap()) == built(&inferred, tensors));
    assert_eq!(inferred.skip_channels(), config.skip_channels());
    assert_eq!(inferred.heads(1), config.heads(1));

    let config = VaeConfig::read(&folder.join("vae")).unwrap();
    let (inferred, tensors) = file.vae().unwrap();
    let built = |config: &VaeConfig, tensors| {
        to_bytes(&fill(Vae::new(config, &device).unwrap(), tensors, Precision::F32).unwrap(), DType::F32).unwrap()
    };
    assert!(weights_file(&folder.join("vae")).unwrap().ends_with("diffusion_pytorch_model.fp16.safetensors"));
    assert!(built(&config, vae::tensors_in_folder(&folder.join("vae")).unwrap()) == built(&inferred, tensors));

    let config = ClipTextConfig::read(&folder.join("text_encoder")).unwrap();
    let (inferred, tensors) = file.text_encoder().unwrap();
    let built = |config: &ClipTextConfig, tensors| {
        to_bytes(&fill(ClipText::new(config, &device).unwrap(), tensors, Precision::F32).unwrap(), DType::F32).unwrap()
    };
    assert!(weights_file(&folder.join("text_encoder")).unwrap().ends_with("pytorch_model.bin"));
    assert!(built(&config, Tensors::in_folder(&folder.join("text_encoder")).unwrap()) == built(&inferred, tensors));
}

#[test]
fn half_precision_is_kept_and_comes_out_as_32_bits() {
    let device = Device::flex();
    let folder = layouts().join("tiny1/unet");
    let config = UNetConfig::read(&folder).unwrap();
    let unet = |precision| {
        let unet = UNet::new(&config, &device).unwrap();
        fill(unet, Tensors::in_folder(&folder).unwrap(), precision).unwrap()
    };
    let predict = |unet: &UNet| {
        let input = |sides: [usize; 4]| {
            let count = sides.iter().product::<usize>();
            let values: Vec<f32> = (0..count).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            burn::tensor::Tensor::<4>::from_data(burn::tensor::TensorData::new(values, sides), &device)
        };
        let context = input([1, 1, 7, config.cross_attention_dim.get(0).unwrap()]).squeeze_dim::<3>(1);
        let output = unet.forward(input([1, 4, 8, 8]), burn::tensor::Tensor::from_floats([500.0], &device), context);
        assert_eq!(output.dtype(), DType::F32);
        output
    };
    let exact = predict(&unet(Precision::F32));
    for (precision, tolerance) in [(Precision::F16, 0.02), (Precision::Bf16, 0.1)] {
        let half = unet(precision);
        assert_eq!(half.dtype(), precision.dtype());
        let scale = exact.clone().abs().max().into_scalar::<f32>();
        let worst = (predict(&half) - exact.clone()).abs().max().into_scalar::<f32>() / scale;
        assert!(worst > 0.0 && worst < tolerance, "{precision:?}: {worst}");
    }
}

/// A safetensors file of one tensor of four values, with a header modified by `change`.
fn safetensors(change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut header = json!({ "a": { "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16] } });
    change(&mut header);
    let header = header.to_string();
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0; 16]].concat()
}

#[test]
fn hostile_files_are_errors_that_name_them() {
    let folder = tempfile::tempdir().unwrap();
    let error = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = format!("{:#}", Tensors::open(&path).unwrap_err());
        assert!(error.contains(name), "{error}");
        error
    };
    let whole = safetensors(|_| {});
    fs::write(folder.path().join("whole.safetensors"), &whole).unwrap();
    assert_eq!(Tensors::open(&folder.path().join("whole.safetensors")).unwrap().len(), 1);

    assert!(error("empty.safetensors", b"").contains("too short"));
    assert!(error("cut.safetensors", &whole[..whole.len() - 1]).contains("cut off"));
    assert!(error("long.safetensors", &[&whole[..], &[0]].concat()).contains("damaged"));
    assert!(error("huge.safetensors", &[&u64::MAX.to_le_bytes()[..], b"{}"].concat()).contains("header"));
    assert!(error("text.safetensors", b"this is not a safetensors file").contains("header"));
    error("overlap.safetensors", &safetensors(|header| header["a"]["data_offsets"] = json!([0, 8])));
    error("overflow.safetensors", &safetensors(|header| header["a"]["shape"] = json!([u64::MAX, u64::MAX])));
    error("negative.safetensors", &safetensors(|header| header["a"]["shape"] = json!([-1, 2])));
    assert!(
        error(
            "fp8.safetensors",
            &safetensors(|header| {
                header["a"] = json!({ "dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16] });
            })
        )
        .contains("F8_E4M3")
    );
    assert!(error("none.safetensors", &[&2_u64.to_le_bytes()[..], b"{}"].concat()).contains("no tensors"));
    assert!(error("model.txt", b"").contains(".safetensors"));
    assert!(error("formula.formula.json", br#"{"formula": "magic", "seed": 1, "tensors": {}}"#).contains("magic"));

    let index = |shard: &str| json!({ "weight_map": { "a": shard, "b": shard } }).to_string().into_bytes();
    for outside in ["../whole.safetensors", "/etc/passwd", "x.safetensors.index.json"] {
        assert!(error("x.safetensors.index.json", &index(outside)).contains("beside"));
    }
    assert!(error("y.safetensors.index.json", &index("absent.safetensors")).contains("absent.safetensors"));
    assert!(error("z.safetensors.index.json", &index("whole.safetensors")).contains("no tensor b"));
    error("q.safetensors.index.json", b"[]");
}

#[test]
fn code_in_a_pickle_is_not_executed() {
    let folder = tempfile::tempdir().unwrap();
    let (pickle, witness) = (folder.path().join("evil.bin"), folder.path().join("was-run"));
    fs::write(&pickle, format!("cposix\nsystem\n(S'touch {}'\ntR.", witness.display())).unwrap();
    let error = format!("{:#}", Tensors::open(&pickle).unwrap_err());
    assert!(error.contains("evil.bin"), "{error}");
    assert!(!witness.exists());
    for bytes in [&b""[..], b"PK\x03\x04 but no archive", b"\x80\x02}q\x00.", b"\x80\x02K\x01."] {
        fs::write(&pickle, bytes).unwrap();
        assert!(format!("{:#}", Tensors::open(&pickle).unwrap_err()).contains("evil.bin"));
    }
    // Truncated within the archive.
    let whole = fs::read(layouts().join("tiny1.ckpt")).unwrap();
    fs::write(&pickle, &whole[..whole.len() / 2]).unwrap();
    Tensors::open(&pickle).unwrap_err();
}

#[test]
fn one_error_lists_everything_that_does_not_fit() {
    let device = Device::flex();
    let folder = layouts().join("tiny2/vae");
    let config = VaeConfig::read(&folder).unwrap();
    let fresh = || Vae::new(&config, &device).unwrap();
    let tensors = Tensors::in_folder(&folder).unwrap();
    let changed = tensors.renamed(|name| match name {
        "decoder.conv_in.bias" => Some("decoder.conv_in.offset".into()),
        "encoder.conv_out.bias" => Some("encoder.conv_in.bias".into()),
        "encoder.conv_in.bias" => None,
        _ => Some(name.into()),
    });
    let error = fill(fresh(), changed, Precision::F32).unwrap_err().to_string();
    for part in [
        "1 wrong: encoder.conv_in.bias has the shape [8], expected [32]",
        "2 missing: decoder.conv_in.bias, encoder.conv_out.bias",
        "1 not part of the model: decoder.conv_in.offset",
        "formula.json",
    ] {
        assert!(error.contains(part), "{error}");
    }
    fill(fresh(), tensors, Precision::F32).unwrap();
}

#[test]
fn attention_of_old_vae_checkpoints_is_recognised() {
    let device = Device::flex();
    let (source, folder) = (layouts().join("tiny2/vae"), tempfile::tempdir().unwrap());
    let old = |name: &str| {
        [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
            .iter()
            .fold(name.to_owned(), |name, (new, old)| name.replace(new, old))
    };
    let mut formula: Value =
        serde_json::from_slice(&fs::read(source.join("diffusion_pytorch_model.formula.json")).unwrap()).unwrap();
    let tensors = formula["tensors"].as_object().unwrap().clone();
    formula["tensors"] = tensors.into_iter().map(|(name, shape)| (old(&name), shape)).collect();
    assert!(formula.to_string().contains("attentions.0.query.weight"));
    fs::write(folder.path().join("diffusion_pytorch_model.formula.json"), formula.to_string()).unwrap();
    fs::copy(source.join("config.json"), folder.path().join("config.json")).unwrap();
    let tensors = vae::tensors_in_folder(folder.path()).unwrap();
    assert!(Misfits::between(&Vae::new(&VaeConfig::read(&source).unwrap(), &device).unwrap(), &tensors).is_empty());
}

/// A configuration that would need terabytes is rejected, and one of another size by comparing shapes, before any allocation.
#[test]
fn a_configuration_of_impossible_size_is_an_error() {
    let folder = layouts().join("tiny2/text_encoder");
    let config = ClipTextConfig { vocab_size: 1 << 40, ..ClipTextConfig::read(&folder).unwrap() };
    let error = ClipText::new(&config, &Device::flex()).unwrap_err().to_string();
    assert!(error.contains("vocab_size"), "{error}");
    // A size that is possible, but not that of the weights.
    let config = ClipTextConfig { vocab_size: 1 << 20, ..config };
    let module = ClipText::new(&config, &Device::flex()).unwrap();
    let error = fill(module, Tensors::in_folder(&folder).unwrap(), Precision::F32).unwrap_err().to_string();
    assert!(error.contains("token_embedding"), "{error}");
}
