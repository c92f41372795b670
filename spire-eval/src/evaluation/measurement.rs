//! A cache of per-picture measurements on disk, so that an interrupted evaluation continues where it stopped.

use std::collections::{BTreeMap, HashMap};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::metric::Metric;

/// A feature space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureSpace {
    /// CLIP's image encoder: one row per picture.
    Clip,
    /// Inception: one row per picture.
    Inception,
    /// Inception: one row per patch.
    InceptionPatches,
    /// The judge's logits: one row a picture.
    Judge,
}

/// The measurements of one picture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Scores.
    #[serde(with = "exact")]
    pub values: BTreeMap<Metric, f64>,
    /// Rows of features, concatenated.
    pub features: BTreeMap<FeatureSpace, Features>,
}

/// Numbers are stored as text: serde_json's floats may lose the last bit.
mod exact {
    use super::*;

    pub fn serialize<S: Serializer>(values: &BTreeMap<Metric, f64>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(values.iter().map(|(metric, value)| (metric, value.to_string())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<Metric, f64>, D::Error> {
        let texts = BTreeMap::<Metric, String>::deserialize(deserializer)?;
        let number = |(metric, text): (Metric, String)| Ok((metric, text.parse().map_err(serde::de::Error::custom)?));
        texts.into_iter().map(number).collect()
    }
}

/// Numbers stored as base64 of their little-endian bytes: exact, and half as long as decimal digits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features(pub Vec<f32>);

impl Serialize for Features {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|value| value.to_le_bytes()).collect();
        serializer.serialize_str(&STANDARD.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Features {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(serde::de::Error::custom)?;
        let (values, []) = bytes.as_chunks::<4>() else {
            return Err(serde::de::Error::custom("features are cut off"));
        };
        Ok(Self(values.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }
}

/// A file with one line per picture. The key identifies everything that the measurements depend on.
#[derive(Debug)]
pub struct MeasurementCache {
    path: PathBuf,
    known: HashMap<String, Measurement>,
    file: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    key: String,
    #[serde(flatten)]
    measured: T,
}

impl MeasurementCache {
    /// Reads the file. Incomplete lines, as an interrupted program leaves them, are ignored.
    ///
    /// # Errors
    /// The file can't be read.
    pub fn open(path: &Path) -> Result<Self> {
        let text = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => vec![],
            Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
        };
        let lines = text.split(|&byte| byte == b'\n');
        let known = lines.filter_map(|line| serde_json::from_slice::<Line<Measurement>>(line).ok());
        let known = known.map(|line| (line.key, line.measured)).collect();
        Ok(Self { path: path.to_owned(), known, file: Mutex::new(()) })
    }

    /// The measurements under a key.
    pub fn get(&self, key: &str) -> Option<&Measurement> {
        self.known.get(key)
    }

    /// Appends lines to the file.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn add<'a>(&self, measured: impl IntoIterator<Item = (&'a str, &'a Measurement)>) -> Result<()> {
        let mut lines = vec![];
        for (key, measured) in measured {
            // The leading newline ends an incomplete line.
            lines.push(b'\n');
            serde_json::to_writer(&mut lines, &Line { key: key.to_owned(), measured })?;
        }
        lines.push(b'\n');
        let _alone = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let write = || -> std::io::Result<()> {
            if let Some(folder) = self.path.parent() {
                std::fs::create_dir_all(folder)?;
            }
            OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&lines)
        };
        write().with_context(|| format!("can't write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_to_the_last_bit() {
        let mut rng = spire_data::rng::rng(0, "test", 0);
        for _ in 0..1000 {
            let values = BTreeMap::from([(Metric::Psnr, rand::RngExt::random::<f64>(&mut rng) * 40.0)]);
            let measured = Measurement { values, ..Measurement::default() };
            let text = serde_json::to_string(&measured).unwrap();
            assert_eq!(serde_json::from_str::<Measurement>(&text).unwrap(), measured);
        }
    }

    #[test]
    fn measurements_are_read_back_exactly_and_an_incomplete_line_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b.jsonl");
        let one = Measurement {
            values: BTreeMap::from([(Metric::Psnr, 1.0 / 3.0)]),
            features: BTreeMap::from([(FeatureSpace::Clip, Features(vec![0.1, f32::MIN_POSITIVE, -3.0]))]),
        };
        let two = Measurement { values: BTreeMap::from([(Metric::Fid, 2.0)]), ..Measurement::default() };
        let kept = MeasurementCache::open(&path).unwrap();
        assert_eq!(kept.get("one"), None);
        kept.add([("one", &one)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        kept.add([("two", &two)]).unwrap();
        let both = std::fs::read(&path).unwrap();
        for length in whole.len()..both.len() {
            std::fs::write(&path, &both[..length]).unwrap();
            let kept = MeasurementCache::open(&path).unwrap();
            assert_eq!(kept.get("one"), Some(&one));
            assert!(kept.get("two").is_none_or(|found| *found == two));
        }
        std::fs::write(&path, &both[..both.len() - 5]).unwrap();
        MeasurementCache::open(&path).unwrap().add([("two", &two)]).unwrap();
        assert_eq!(MeasurementCache::open(&path).unwrap().get("two"), Some(&two));
    }
}
