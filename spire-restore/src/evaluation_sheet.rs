//! A sheet with the results of several methods on the first pictures of a test set.

use std::path::Path;

use anyhow::Result;
use image::RgbImage;
use spire_core::Picture;
use spire_core::sheet::{Note, Row, Sheet};
use spire_data::degrade::resize::at_most;
use spire_data::testset::TestSet;
use spire_eval::evaluation::{SheetConfig, ShownMethod};

/// The most pixels of the longer side of a picture on the sheet.
const LONGEST: usize = 512;

/// The sheet; `None` if the configuration wants none.
///
/// # Errors
/// A picture can't be read.
pub fn draw(config: &SheetConfig, benchmark: &TestSet, methods: &[ShownMethod]) -> Result<Option<RgbImage>> {
    let is_shown = |method: &&ShownMethod| match config.methods.is_empty() {
        // Degraded and clean pictures have their own columns.
        true => benchmark.entries.first().is_some_and(|entry| {
            let file = method.files.first();
            file != Some(&benchmark.degraded(entry)) && file != Some(&benchmark.clean(entry))
        }),
        false => config.methods.contains(&method.name),
    };
    let methods: Vec<&ShownMethod> = methods.iter().filter(is_shown).collect();
    if config.rows == 0 || methods.is_empty() {
        return Ok(None);
    }
    let names = methods.iter().map(|method| method.name.as_str());
    let clean = benchmark.has_clean.then_some("clean");
    let mut sheet = Sheet::new(["degraded"].into_iter().chain(names).chain(clean));
    for (i, entry) in benchmark.entries.iter().enumerate().take(config.rows) {
        let clean = benchmark.has_clean.then(|| benchmark.clean(entry));
        let restored = methods.iter().map(|method| method.files[i].clone());
        let files = [benchmark.degraded(entry)].into_iter().chain(restored).chain(clean);
        let pictures = files.map(|file| open(&file)).collect::<Result<_>>()?;
        let notes = vec![Note::new("caption", &entry.semantic), Note::new("restoration prompt", &entry.restoration)];
        sheet.rows.push(Row { pictures, notes });
    }
    Ok(Some(sheet.draw()))
}

/// Opens a picture and scales it down if it is too large for a sheet.
fn open(path: &Path) -> Result<Picture> {
    Ok(at_most(&Picture::open(path)?, LONGEST))
}
