//! One file of encoded pictures: written at once, read picture by picture.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo, TensorView};
use serde::{Deserialize, Serialize};
use spire_core::atomic_write::write_atomic;
use spire_core::rng::fnv1a;

use super::{EncodedError, Manifest};
use crate::source::Skipped;

/// Numbers as bytes, in the order of their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Array {
    /// The type of the numbers.
    pub dtype: Dtype,
    /// The shape.
    pub shape: Vec<usize>,
    /// The numbers, little-endian.
    pub bytes: Vec<u8>,
}

/// What is written into a file.
#[derive(Clone, Debug, Default)]
pub struct EncodedPictures {
    /// The positions of the pictures in the source, ascending.
    pub pictures: Vec<u64>,
    /// The latents of each picture's variants, all of one shape, in float32.
    pub latents: Vec<Array>,
    /// The fingerprint of each variant's clean picture.
    pub fingerprints: Vec<u64>,
    /// The chosen caption of each picture, counted from 0; empty if captions are not ranked.
    pub captions: Vec<u64>,
    /// Prompts and their states, `[tokens, width]`.
    pub texts: Vec<(String, Array)>,
    /// Pictures that could not be encoded.
    pub skipped: Vec<Skipped>,
}

/// What the header of a file says beside its tensors. safetensors' own metadata has no order, so that this is its one entry.
#[derive(Default, Deserialize, Serialize)]
struct Header {
    file: usize,
    prompts: Vec<String>,
    /// Names and reasons.
    skipped: Vec<(String, String)>,
}

/// The entry of safetensors' metadata.
const HEADER: &str = "spire";

/// Size of the prefix that holds the header's length, in bytes.
const PREFIX: u64 = 8;

/// safetensors' own limit on the header, in bytes.
const LONGEST_HEADER: u64 = 100_000_000;

/// The path of a file.
pub fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("encoded-{number:05}.safetensors"))
}

impl EncodedPictures {
    /// Writes file `number` of `folder`. It is there completely or not at all.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(self, folder: &Path, number: usize) -> Result<(), EncodedError> {
        let path = path(folder, number);
        let numbers = |values: &[u64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        let count = self.pictures.len();
        let mut tensors = vec![("pictures".to_owned(), Array::of_numbers(numbers(&self.pictures), vec![count]))];
        let variants = self.fingerprints.len().checked_div(count).unwrap_or(0);
        let fingerprints = Array::of_numbers(numbers(&self.fingerprints), vec![count, variants]);
        tensors.push(("fingerprints".to_owned(), fingerprints));
        if !self.captions.is_empty() {
            tensors.push(("captions".to_owned(), Array::of_numbers(numbers(&self.captions), vec![count])));
        }
        if let Some(first) = self.latents.first() {
            let shape = [&[count, variants], first.shape.as_slice()].concat();
            let bytes = self.latents.iter().flat_map(|latent| latent.bytes.iter().copied()).collect();
            tensors.push(("latents".to_owned(), Array { dtype: first.dtype, shape, bytes }));
        }
        let (prompts, states): (Vec<String>, Vec<Array>) = self.texts.into_iter().unzip();
        tensors.extend(states.into_iter().enumerate().map(|(i, states)| (format!("text.{i}"), states)));
        let skipped = self.skipped.into_iter().map(|Skipped { name, reason }| (name, reason)).collect();
        let io = |source| EncodedError::Io { path: path.clone(), source };
        let header = serde_json::to_string(&Header { file: number, prompts, skipped }).map_err(|e| io(e.into()))?;
        let views = tensors.iter().map(|(name, array)| Ok((name, array.view()?)));
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let metadata = Some(HashMap::from([(HEADER.to_owned(), header)]));
        let bytes = views.and_then(|views| safetensors::serialize(views, metadata));
        let bytes = bytes.map_err(|error| io(std::io::Error::other(error)))?;
        write_atomic(&path, &bytes).map_err(|error| io(error.source))
    }

    /// Whether file `number` of `folder` is written already.
    pub fn is_written(folder: &Path, number: usize) -> bool {
        path(folder, number).is_file()
    }
}

impl Array {
    fn of_numbers(bytes: Vec<u8>, shape: Vec<usize>) -> Self {
        Self { dtype: Dtype::U64, shape, bytes }
    }

    fn view(&self) -> Result<TensorView<'_>, safetensors::SafeTensorError> {
        TensorView::new(self.dtype, self.shape.clone(), &self.bytes)
    }
}

/// Where an array lies in a file.
#[derive(Clone, Debug)]
struct Place {
    dtype: Dtype,
    shape: Vec<usize>,
    start: u64,
    bytes: usize,
}

impl Place {
    /// Where a tensor lies in a file whose data begins at `start`; `None` if its header contradicts itself.
    fn of(info: &TensorInfo, start: u64) -> Option<Self> {
        let (from, to) = info.data_offsets;
        let bytes = to.checked_sub(from)?;
        let numbers = info.shape.iter().try_fold(1_usize, |product, &side| product.checked_mul(side))?;
        let fits = numbers.checked_mul(info.dtype.bitsize())? == bytes.checked_mul(8)?;
        let start = start.checked_add(from as u64)?;
        fits.then(|| Self { dtype: info.dtype, shape: info.shape.clone(), start, bytes })
    }
}

/// An opened file: everything but latents and states is in memory.
#[derive(Debug)]
pub struct EncodedFile {
    path: PathBuf,
    /// The positions of the pictures in the source, ascending.
    pictures: Vec<u64>,
    variants: usize,
    fingerprints: Vec<u64>,
    captions: Vec<u64>,
    latents: Option<Place>,
    /// By a hash of the prompt, because the prompts themselves take much more memory.
    texts: HashMap<u64, Place>,
}

impl EncodedFile {
    /// Opens file `number` and checks that it is complete.
    ///
    /// # Errors
    /// The file can't be read, or is not as it was written.
    pub fn open(path: &Path, number: usize, manifest: &Manifest) -> Result<Self, EncodedError> {
        let damaged = |reason: String| EncodedError::Damaged { path: path.to_owned(), reason };
        let io = |source| EncodedError::Io { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).map_err(io)?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > LONGEST_HEADER.min(length - PREFIX) {
            return Err(damaged("not safetensors, or cut off".to_owned()));
        }
        let mut header = vec![0; header_length as usize];
        file.read_exact(&mut header).map_err(io)?;
        let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| damaged(error.to_string()))?;
        let start = PREFIX + header_length;
        if start.checked_add(metadata.data_len() as u64) != Some(length) {
            return Err(damaged("it is cut off".to_owned()));
        }
        let header = metadata.metadata().as_ref().and_then(|entries| entries.get(HEADER));
        let header: Header = match header.map(|text| serde_json::from_str(text)) {
            Some(Ok(header)) => header,
            _ => return Err(damaged("its header is not that of encoded pictures".to_owned())),
        };
        if header.file != number {
            return Err(damaged(format!("it is file {}", header.file)));
        }
        let place = |name: &str, info: &TensorInfo| {
            let place = Place::of(info, start).filter(|place| place.start + place.bytes as u64 <= length);
            place.ok_or_else(|| damaged(format!("{name} lies outside of it")))
        };
        let mut numbers = |name: &str| -> Result<Vec<u64>, EncodedError> {
            let Some(info) = metadata.info(name) else { return Ok(vec![]) };
            let bytes = read(&mut file, &place(name, info)?).map_err(io)?;
            Ok(bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default())).collect())
        };
        let (pictures, fingerprints, captions) = (numbers("pictures")?, numbers("fingerprints")?, numbers("captions")?);
        let latents = metadata.info("latents").map(|info| place("latents", info)).transpose()?;
        let mut texts = HashMap::new();
        for (i, prompt) in header.prompts.iter().enumerate() {
            let name = format!("text.{i}");
            let info = metadata.info(&name).ok_or_else(|| damaged(format!("{name} is missing")))?;
            texts.insert(fnv1a(prompt), place(&name, info)?);
        }
        let variants = manifest.variants();
        let expected = pictures.len() * variants;
        let of_latents = match &latents {
            Some(Place { dtype: Dtype::F32, shape, .. }) if shape.len() == 5 => shape[0] * shape[1],
            Some(_) => return Err(damaged("its latents are not float32 with five dimensions".to_owned())),
            None => 0,
        };
        let range = manifest.pictures_of(number);
        let inside = pictures.iter().all(|&picture| range.contains(&(picture as usize)));
        let ranked = manifest.model.captions_by.is_none() || captions.len() == pictures.len();
        if fingerprints.len() != expected || of_latents != expected || !inside || !pictures.is_sorted() || !ranked {
            return Err(damaged(format!("it does not have {variants} latents of each of its pictures")));
        }
        Ok(Self { path: path.to_owned(), pictures, variants, fingerprints, captions, latents, texts })
    }

    fn row(&self, index: usize) -> Option<usize> {
        self.pictures.binary_search(&(index as u64)).ok()
    }

    /// Whether the picture was encoded.
    pub fn has(&self, index: usize) -> bool {
        self.row(index).is_some()
    }

    /// The chosen caption of a picture.
    pub fn caption(&self, index: usize) -> Option<usize> {
        self.captions.get(self.row(index)?).map(|&caption| caption as usize)
    }

    /// The fingerprint of a picture's variant.
    pub fn fingerprint(&self, index: usize, variant: usize) -> Option<u64> {
        self.fingerprints.get(self.row(index)? * self.variants + variant).copied()
    }

    /// The latent of a picture's variant, `[channels, height, width]`.
    pub fn latent(&self, index: usize, variant: usize) -> Result<Array, EncodedError> {
        let (Some(row), Some(all)) = (self.row(index), &self.latents) else {
            let reason = format!("picture {index} is not in it");
            return Err(EncodedError::Damaged { path: self.path.clone(), reason });
        };
        let bytes = all.bytes / (self.pictures.len() * self.variants);
        let start = all.start + (bytes * (row * self.variants + variant)) as u64;
        self.array(&Place { dtype: all.dtype, shape: all.shape[2..].to_vec(), start, bytes })
    }

    /// The states of a prompt, `[tokens, width]`, if it was encoded.
    pub fn text(&self, prompt: &str) -> Result<Option<Array>, EncodedError> {
        self.texts.get(&fnv1a(prompt)).map(|place| self.array(place)).transpose()
    }

    fn array(&self, place: &Place) -> Result<Array, EncodedError> {
        let bytes = File::open(&self.path).and_then(|mut file| read(&mut file, place));
        let bytes = bytes.map_err(|source| EncodedError::Io { path: self.path.clone(), source })?;
        Ok(Array { dtype: place.dtype, shape: place.shape.clone(), bytes })
    }
}

fn read(file: &mut File, place: &Place) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; place.bytes];
    file.seek(SeekFrom::Start(place.start))?;
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crop::Crop;
    use crate::encoded::{EncodedData, EncodedModel};

    fn manifest() -> Manifest {
        let model = EncodedModel {
            vae: "a".into(),
            text: Some("b".into()),
            precision: "f32".into(),
            long_prompts: None,
            captions_by: Some("c".into()),
        };
        let data = EncodedData {
            pictures: 9,
            size: 16,
            crop: Crop::Center,
            crops: 1,
            horizontal_flip: true,
            min_side: 0,
            max_aspect: None,
            max_samples: None,
            seed: 1,
        };
        Manifest::new(model, data, 4)
    }

    fn numbers(shape: &[usize], first: f32) -> Array {
        let count: usize = shape.iter().product();
        let bytes = (0..count).flat_map(|i| (first + i as f32).to_le_bytes()).collect();
        Array { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    /// Pictures 4 and 6 of the file from 4 to 7, each plain and mirrored.
    fn pictures() -> EncodedPictures {
        EncodedPictures {
            pictures: vec![4, 6],
            latents: (0..4).map(|i| numbers(&[4, 2, 2], 100.0 * i as f32)).collect(),
            fingerprints: vec![40, 41, 60, 61],
            captions: vec![0, 2],
            texts: vec![(String::new(), numbers(&[3, 2], 1.0)), ("a red house".into(), numbers(&[6, 2], 7.0))],
            skipped: vec![Skipped { name: "five".into(), reason: "broken".into() }],
        }
    }

    #[test]
    fn a_file_gives_back_what_was_written() {
        let dir = tempfile::tempdir().unwrap();
        pictures().write(dir.path(), 1).unwrap();
        assert!(EncodedPictures::is_written(dir.path(), 1) && !EncodedPictures::is_written(dir.path(), 0));
        let file = EncodedFile::open(&path(dir.path(), 1), 1, &manifest()).unwrap();
        assert_eq!([4, 5, 6, 7].map(|index| file.has(index)), [true, false, true, false]);
        assert_eq!((file.caption(6), file.caption(5)), (Some(2), None));
        assert_eq!([(4, 1), (6, 0)].map(|(i, variant)| file.fingerprint(i, variant)), [Some(41), Some(60)]);
        assert_eq!(file.latent(6, 1).unwrap(), numbers(&[4, 2, 2], 300.0));
        assert!(file.latent(5, 0).is_err());
        assert_eq!(file.text("a red house").unwrap(), Some(numbers(&[6, 2], 7.0)));
        assert_eq!(file.text("a blue house").unwrap(), None);
        let other = EncodedFile::open(&path(dir.path(), 1), 0, &manifest()).unwrap_err().to_string();
        assert!(other.contains("it is file 1"), "{other}");
        // Two writers of the same content write the same bytes.
        let first = std::fs::read(path(dir.path(), 1)).unwrap();
        pictures().write(dir.path(), 1).unwrap();
        assert_eq!(std::fs::read(path(dir.path(), 1)).unwrap(), first);
    }

    #[test]
    fn a_file_without_a_single_good_picture_is_written_and_read() {
        let dir = tempfile::tempdir().unwrap();
        EncodedPictures::default().write(dir.path(), 2).unwrap();
        let file = EncodedFile::open(&path(dir.path(), 2), 2, &manifest()).unwrap();
        assert!(!file.has(8) && file.latent(8, 0).is_err());
    }

    proptest! {
        #[test]
        fn a_file_cut_or_changed_anywhere_is_an_error_or_read(cut in 0.0..1.0_f64, at in 0.0..1.0_f64, byte in any::<u8>()) {
            let dir = tempfile::tempdir().unwrap();
            pictures().write(dir.path(), 1).unwrap();
            let (path, manifest) = (path(dir.path(), 1), manifest());
            let bytes = std::fs::read(&path).unwrap();
            let place = |share: f64| (share * bytes.len() as f64) as usize;
            std::fs::write(&path, &bytes[..place(cut)]).unwrap();
            prop_assert!(EncodedFile::open(&path, 1, &manifest).is_err());
            let mut changed = bytes.clone();
            changed[place(at)] = byte;
            std::fs::write(&path, changed).unwrap();
            if let Ok(file) = EncodedFile::open(&path, 1, &manifest) {
                for index in 0..9 {
                    let _ = (file.caption(index), file.fingerprint(index, 1), file.latent(index, 1));
                }
                let _ = (file.text(""), file.text("a red house"));
            }
        }
    }
}
