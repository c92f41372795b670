//! Safetensors files. The header is read at once, each tensor on demand. Files are not memory-mapped, so that the pages
//! of a large file do not count towards the program's memory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use burn::tensor::DType;
use burn_store::burn_pack::Tensor;
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::tensors::deferred;

/// Size of the prefix that holds the header's length, in bytes.
const PREFIX: u64 = 8;

/// The format's own limit on the header.
const LONGEST_HEADER: u64 = 100_000_000;

pub fn open(path: &Path) -> Result<Vec<Tensor>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    read(file, length)
}

pub fn parse(bytes: Vec<u8>) -> Result<Vec<Tensor>> {
    let length = bytes.len() as u64;
    read(std::io::Cursor::new(bytes), length)
}

fn read(mut source: impl Read + Seek + Send + 'static, length: u64) -> Result<Vec<Tensor>> {
    let mut prefix = [0; PREFIX as usize];
    ensure!(length >= PREFIX, "a file of {length} bytes is too short for safetensors");
    source.read_exact(&mut prefix)?;
    let header_length = u64::from_le_bytes(prefix);
    ensure!(
        header_length <= LONGEST_HEADER && header_length <= length - PREFIX,
        "not safetensors, or cut off: a header of {header_length} bytes is announced, in a file of {length}"
    );
    let mut header = vec![0; header_length as usize];
    source.read_exact(&mut header)?;
    let metadata: Metadata = serde_json::from_slice(&header).context("the header is not that of safetensors")?;
    let start = PREFIX + header_length;
    let expected = start + metadata.data_len() as u64;
    ensure!(
        expected == length,
        "{length} bytes, where the header announces {expected}: the file is cut off or damaged"
    );

    let source = Arc::new(Mutex::new(source));
    let tensor = |(name, info): (String, &safetensors::tensor::TensorInfo)| {
        let dtype = dtype(info.dtype).with_context(|| name.clone())?;
        let (source, (from, to)) = (source.clone(), info.data_offsets);
        deferred(&name, dtype, &info.shape, move || {
            let mut bytes = vec![0; to - from];
            let mut source = source.lock().unwrap_or_else(PoisonError::into_inner);
            source.seek(SeekFrom::Start(start + from as u64))?;
            source.read_exact(&mut bytes)?;
            Ok(bytes)
        })
    };
    metadata.tensors().into_iter().map(tensor).collect()
}

fn dtype(dtype: Dtype) -> Result<DType> {
    Ok(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool(burn::tensor::BoolStore::Native),
        other => bail!("numbers of type {other} are not supported"),
    })
}
