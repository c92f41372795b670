//! Pairs: the degraded picture that belongs to a clean one.

use super::{Pixels, SampleError};

/// A degraded picture that was made elsewhere, and the prompt that restores it.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The degraded picture.
    pub picture: Pixels,
    /// How many times smaller it is than the clean one, in both directions.
    pub factor: usize,
    /// Its restoration prompt; `None` if it has none of its own.
    pub restoration: Option<String>,
}

impl Pair {
    /// The pair of sample `name`, whose clean picture has `clean` pixels.
    ///
    /// # Errors
    /// The degraded picture has not the size of the clean one, divided by a whole number.
    pub(super) fn new(
        name: &str,
        clean: (usize, usize),
        picture: Pixels,
        restoration: Option<String>,
    ) -> Result<Self, SampleError> {
        let degraded = picture.size();
        let factor = clean.0.checked_div(degraded.0).unwrap_or(0);
        if factor == 0 || clean != (degraded.0 * factor, degraded.1 * factor) {
            return Err(SampleError::PairSizes { name: name.to_owned(), clean, degraded });
        }
        Ok(Self { picture, factor, restoration })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Picture;

    #[test]
    fn the_sizes_of_a_pair_differ_by_a_whole_factor() {
        let pair = |width, height| {
            let picture = Pixels::Values(Picture::filled(width, height, [0.0; 3]));
            Pair::new("a.png", (24, 16), picture, None).map(|pair| pair.factor).map_err(|error| error.to_string())
        };
        assert_eq!([(24, 16), (12, 8), (6, 4), (3, 2)].map(|(w, h)| pair(w, h).unwrap()), [1, 2, 4, 8]);
        for (width, height) in [(24, 8), (12, 16), (48, 32), (23, 16), (5, 3)] {
            let error = pair(width, height).unwrap_err();
            assert!(error.contains("a.png") && error.contains("24×16"), "{error}");
            assert!(error.contains(&format!("{width}×{height}")) && error.contains("whole factor"), "{error}");
        }
    }
}
