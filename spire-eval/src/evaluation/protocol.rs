//! How a figure came about. Figures can be compared where their protocols are the same.

use serde::{Deserialize, Serialize};
use spire_data::checksum::sha256;
use spire_model::restore::SamplingConfig;

/// All that a figure depends on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Protocol {
    /// The metric.
    pub metric: String,
    /// Which of its kinds: colours, windows, norms.
    pub variant: String,
    /// SHA-256 of its network's weights; `None` where it has none.
    pub weights: Option<String>,
    /// What is done to pictures before they are measured.
    pub preprocessing: String,
    /// How many pictures.
    pub images: usize,
    /// SHA-256 of the benchmark's checksums.
    pub benchmark: String,
    /// How the pictures were made.
    pub method: MethodProtocol,
}

/// How a method's pictures were made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum MethodProtocol {
    /// The degraded pictures as they are.
    Input,
    /// By another program; nothing more is known than the checksum of its files.
    Folder {
        /// SHA-256 of the checksums of all files, in the order of the benchmark.
        files: String,
    },
    /// By this program.
    Model {
        /// The run, or base and branch.
        model: String,
        /// SHA-256 of the control branch's weights.
        control: String,
        /// Whether it was told what the picture shows.
        semantic: bool,
        /// What it was told of the degradation: none, type or parameters, or one prompt for all pictures.
        restoration: String,
        /// The first picture's seed.
        seed: u64,
        /// Sampler, steps, guidance and the rest.
        sampling: SamplingConfig,
        /// How captions were changed: unmatched, cut after some words.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        captions: Option<String>,
    },
}

impl Protocol {
    /// Eight hexadecimal digits that differ where anything in the protocol does.
    pub fn fingerprint(&self) -> String {
        fingerprint(self)
    }

    /// The fingerprint of how it was measured, whatever was measured: the same down a column.
    pub fn measure(&self) -> String {
        fingerprint(&Self { method: MethodProtocol::Input, ..self.clone() })
    }

    /// In what it was measured differently from another, in words; nothing where [`measure`](Self::measure) is the same.
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
    /// The fingerprint of how the pictures were made: the same along a row.
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
