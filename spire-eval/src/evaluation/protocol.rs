//! The protocol of a score: everything it depends on. Scores are comparable if their protocols are equal.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use spire_data::checksum::sha256;
use spire_model::feedforward::NetworkKind;
use spire_model::generative::{GenerativeKind, GenerativeSettings};
use spire_model::restore::SamplingConfig;

/// Everything that a score depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// The metric.
    pub metric: String,
    /// Its variant: colours, windows, norms.
    pub variant: String,
    /// SHA-256 of its network's weights; `None` without a network.
    pub weights: Option<String>,
    /// The preprocessing of pictures.
    pub preprocessing: String,
    /// Number of pictures.
    pub images: usize,
    /// SHA-256 of the test set's checksums.
    pub benchmark: String,
    /// How the pictures were produced.
    pub method: MethodProtocol,
}

/// How a method's pictures were produced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MethodProtocol {
    /// The degraded pictures themselves.
    Input,
    /// By another program; only the checksum of its files is known.
    Folder {
        /// SHA-256 of the checksums of all files, in the order of the test set.
        files: String,
    },
    /// By this program, with another author's network without prompts.
    Network {
        /// The architecture.
        network: NetworkKind,
        /// SHA-256 of the checkpoint.
        weights: String,
        /// Side of the tiles in pixels; 0 for none.
        tile: usize,
        /// Overlap of the tiles in pixels.
        tile_overlap: usize,
    },
    /// By this program, with another author's model that generates.
    Generative {
        /// The model.
        model: GenerativeKind,
        /// SHA-256 of each checkpoint, by the file's published name.
        checkpoints: BTreeMap<String, String>,
        /// Its settings.
        settings: Box<GenerativeSettings>,
        /// The seed of the first picture.
        seed: u64,
        /// Whether it got a semantic prompt.
        semantic: bool,
        /// How captions were changed: unmatched, or truncated.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        captions: Option<String>,
    },
    /// By this program.
    Model {
        /// The run, or base and branch.
        model: String,
        /// SHA-256 over the files of the text-to-image model.
        #[serde(default)]
        base: String,
        /// SHA-256 over the files of the control branch.
        control: String,
        /// Float types of the text-to-image model and of the branch.
        #[serde(default)]
        precision: String,
        /// Whether it got a semantic prompt.
        semantic: bool,
        /// The kind of restoration prompt: none, type or parameters, or one prompt for all pictures.
        restoration: String,
        /// The seed of the first picture.
        seed: u64,
        /// Sampling settings.
        sampling: Box<SamplingConfig>,
        /// How captions were changed: unmatched, or truncated.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        captions: Option<String>,
        /// The factor by which the small pictures were enlarged first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upscale: Option<f64>,
    },
}

impl Protocol {
    /// Fingerprint of the protocol: eight hexadecimal digits.
    pub fn fingerprint(&self) -> String {
        fingerprint(self)
    }

    /// Fingerprint of the measurement without the method: equal within a column.
    pub fn measure(&self) -> String {
        fingerprint(&Self { method: MethodProtocol::Input, ..self.clone() })
    }

    /// The differences in measurement to another protocol, in words; empty if [`measure`](Self::measure) is equal.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let digits = |sum: &str| sum.chars().take(8).collect::<String>();
        let weights = |protocol: &Self| protocol.weights.as_deref().map_or("none".to_owned(), digits);
        let what = [
            ("metric", self.metric.clone(), other.metric.clone()),
            ("variant", self.variant.clone(), other.variant.clone()),
            ("weights", weights(self), weights(other)),
            ("preprocessing", self.preprocessing.clone(), other.preprocessing.clone()),
            ("pictures", self.images.to_string(), other.images.to_string()),
            ("benchmark", digits(&self.benchmark), digits(&other.benchmark)),
        ];
        let differs = what.into_iter().filter(|(_, here, there)| here != there);
        differs.map(|(what, here, there)| format!("{what} {here}, not {there}")).collect()
    }
}

impl MethodProtocol {
    /// Fingerprint of the method: equal along a row.
    pub fn fingerprint(&self) -> String {
        fingerprint(self)
    }
}

fn fingerprint(what: &impl Serialize) -> String {
    let json = serde_json::to_vec(what).unwrap_or_default();
    sha256(&json)[..8].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_changes_shows() {
        let protocol = Protocol {
            metric: "PSNR".into(),
            variant: "RGB".into(),
            weights: None,
            preprocessing: "8-bit levels".into(),
            images: 256,
            benchmark: "ab".into(),
            method: MethodProtocol::Input,
        };
        let method = MethodProtocol::Folder { files: "cd".into() };
        let changed = [
            Protocol { variant: "Y".into(), ..protocol.clone() },
            Protocol { images: 255, ..protocol.clone() },
            Protocol { benchmark: "ac".into(), ..protocol.clone() },
            Protocol { method: method.clone(), ..protocol.clone() },
        ];
        for other in &changed {
            assert_ne!(other.fingerprint(), protocol.fingerprint());
        }
        assert_eq!(changed[3].measure(), protocol.measure());
        assert_ne!(changed[0].measure(), protocol.measure());
        assert_ne!(method.fingerprint(), MethodProtocol::Input.fingerprint());

        assert_eq!(changed[1].differences(&protocol), ["pictures 255, not 256"]);
        assert_eq!(changed[3].differences(&protocol), [""; 0], "other pictures are measured in the same way");
    }
}
