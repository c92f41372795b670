//! A restored picture file that is made once: one that exists with the same provenance is kept.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use spire_core::atomic_write::check_output;
use spire_core::checksum::sha256;
use spire_core::picture::Decoded;
use spire_core::picture_file::{self, PictureFormat, read_note};
use spire_core::{Picture, picture};
use spire_data::degrade::Filter;
use spire_data::degrade::resize::resize_plane;

use crate::files::RestoredFile;
use crate::provenance::KEYWORD;
use crate::restorer::create_folder_of;

/// Restores `input` to `output`, a picture in the format of its name, by `restore`. `provenance` describes everything that the
/// result depends on, given the SHA-256 of the input; a result that has the same is kept, unless `overwrite` is set. The
/// picture's transparency is resized to the result.
///
/// # Errors
/// The picture can't be read or restored, or the file can't be written.
pub fn restore_once<P: Serialize>(
    input: &Path,
    output: &Path,
    overwrite: bool,
    provenance: impl FnOnce(String) -> P,
    restore: impl FnOnce(&Picture) -> Result<Picture>,
) -> Result<RestoredFile> {
    let format = PictureFormat::of(output, None)?;
    check_output(output, input)?;
    let bytes = picture::read(input)?;
    let provenance = serde_json::to_string(&provenance(sha256(&bytes)))?;
    let files = vec![output.to_owned()];
    if !overwrite && read_note(output, KEYWORD).as_ref() == Some(&provenance) {
        return Ok(RestoredFile { files, kept: true });
    }
    let Decoded { picture: degraded, alpha, depth } = Picture::decode(&bytes, input)?;
    let restored = restore(&degraded)?;
    let from = (degraded.width, degraded.height);
    let alpha = alpha.map(|alpha| resize_plane(&alpha, from, restored.width, restored.height, Filter::Bicubic));
    create_folder_of(output)?;
    picture_file::save(output, format.in_depth(depth), &restored, alpha.as_deref(), Some((KEYWORD, &provenance)))?;
    Ok(RestoredFile { files, kept: false })
}
