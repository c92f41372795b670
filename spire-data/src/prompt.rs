//! Restoration prompts: the text that names the degradations to undo (paper Table 2); writing and parsing.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The prompt of blind restoration.
pub const REMOVE_ALL: &str = "Remove all degradation";

/// One degradation with its strength.
///
/// Numbers are rounded to the decimals of a prompt; see [`Step::rounded`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Isotropic Gaussian blur.
    Blur {
        /// Standard deviation in pixels, above 0; one decimal.
        sigma: f32,
    },
    /// Downsampling, then resizing back.
    Downsample {
        /// The factor, at least 1; one decimal.
        factor: f32,
    },
    /// Gaussian noise.
    Noise {
        /// Standard deviation on a \[0, 1\] picture, above 0; two decimals.
        sigma: f32,
    },
    /// JPEG compression.
    Jpeg {
        /// libjpeg's quality, 1 to 100.
        quality: u8,
    },
}

/// The kind of a [`Step`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// [`Step::Blur`]
    Blur,
    /// [`Step::Downsample`]
    Downsample,
    /// [`Step::Noise`]
    Noise,
    /// [`Step::Jpeg`]
    Jpeg,
}

/// One part of a restoration prompt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fragment {
    /// "Deblur with sigma 3.0"
    Numbered(Step),
    /// "Deblur"
    Bare(StepKind),
}

/// A text is not a restoration prompt.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PromptError {
    /// There is no fragment in it.
    #[error("the restoration prompt is empty: write {FORMS}")]
    Empty,
    /// A fragment does not start with a known verb.
    #[error("restoration prompt: \"{fragment}\" is not understood: write {FORMS}")]
    Unknown {
        /// The fragment, as written.
        fragment: String,
    },
    /// A known verb is not followed by its number.
    #[error("restoration prompt: \"{fragment}\" is not understood: {accepted}")]
    Number {
        /// The fragment, as written.
        fragment: String,
        /// The accepted forms.
        accepted: &'static str,
    },
    /// A fragment has no number, and degrading needs one.
    #[error("\"{fragment}\" does not say how much: degrading needs numbers, as in \"Deblur with sigma 3.0\"")]
    WithoutNumber {
        /// The fragment.
        fragment: String,
    },
    /// "Remove all degradation" names no degradation.
    #[error("\"{REMOVE_ALL}\" names no degradation that could be applied")]
    NothingNamed,
}

/// The highest sigma and factor. Nothing is left of a picture long before.
const STRONGEST: f32 = 1000.0;

const FORMS: &str = "one or more of \"Deblur with sigma 3.0\", \"Upsample to 6.0x\", \"Denoise with sigma 0.06\" and \
    \"Dejpeg with quality 80\", with or without the number, with \";\" between them, or \"Remove all degradation\" alone";

impl StepKind {
    /// All kinds, in the order in which the degradations are applied and named.
    pub const ALL: [Self; 4] = [Self::Blur, Self::Downsample, Self::Noise, Self::Jpeg];

    fn verb(self) -> &'static str {
        match self {
            Self::Blur => "Deblur",
            Self::Downsample => "Upsample",
            Self::Noise => "Denoise",
            Self::Jpeg => "Dejpeg",
        }
    }

    /// The words between the verb and the number.
    fn link(self) -> &'static str {
        match self {
            Self::Blur | Self::Noise => "with sigma",
            Self::Downsample => "to",
            Self::Jpeg => "with quality",
        }
    }

    fn accepted(self) -> &'static str {
        match self {
            Self::Blur => "write \"Deblur\" or \"Deblur with sigma 3.0\", sigma in pixels, from 0.1 to 1000",
            Self::Downsample => "write \"Upsample\" or \"Upsample to 6.0x\", from 1.0x to 1000x",
            Self::Noise => "write \"Denoise\" or \"Denoise with sigma 0.06\", sigma from 0.01 to 1000, 1 being white",
            Self::Jpeg => "write \"Dejpeg\" or \"Dejpeg with quality 80\", a whole number from 1 to 100",
        }
    }

    /// The step of this kind with that number, rounded. `None` if the number is out of range.
    pub fn step(self, number: f32) -> Option<Step> {
        let step = match self {
            Self::Blur => Step::Blur { sigma: number },
            Self::Downsample => Step::Downsample { factor: number },
            Self::Noise => Step::Noise { sigma: number },
            Self::Jpeg if number.fract() == 0.0 => Step::Jpeg { quality: number.clamp(0.0, 255.0) as u8 },
            Self::Jpeg => return None,
        };
        let step = step.rounded();
        let sensible = match step {
            Step::Blur { sigma } | Step::Noise { sigma } => sigma > 0.0 && sigma <= STRONGEST,
            Step::Downsample { factor } => (1.0..=STRONGEST).contains(&factor),
            Step::Jpeg { quality } => (1..=100).contains(&quality),
        };
        sensible.then_some(step)
    }
}

impl Step {
    /// The kind of the step.
    pub fn kind(self) -> StepKind {
        match self {
            Self::Blur { .. } => StepKind::Blur,
            Self::Downsample { .. } => StepKind::Downsample,
            Self::Noise { .. } => StepKind::Noise,
            Self::Jpeg { .. } => StepKind::Jpeg,
        }
    }

    /// The strength: a sigma, a factor or a quality.
    pub fn number(self) -> f32 {
        match self {
            Self::Blur { sigma } | Self::Noise { sigma } => sigma,
            Self::Downsample { factor } => factor,
            Self::Jpeg { quality } => f32::from(quality),
        }
    }

    /// The step with its number rounded as a prompt prints it: one decimal for blur and downsampling, two for noise.
    /// The printed number is then the number used.
    pub fn rounded(self) -> Self {
        // The quotient of two integers is the float nearest to the decimal, as parsing gives it.
        let decimals = |value: f32, scale: f32| (value * scale).round() / scale;
        match self {
            Self::Blur { sigma } => Self::Blur { sigma: decimals(sigma, 10.0) },
            Self::Downsample { factor } => Self::Downsample { factor: decimals(factor, 10.0) },
            Self::Noise { sigma } => Self::Noise { sigma: decimals(sigma, 100.0) },
            Self::Jpeg { quality } => Self::Jpeg { quality },
        }
    }
}

impl fmt::Display for Fragment {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match *self {
            Self::Bare(kind) => f.write_str(kind.verb()),
            Self::Numbered(step) => {
                let kind = step.kind();
                write!(f, "{} {} ", kind.verb(), kind.link())?;
                match step {
                    Step::Blur { sigma } => write!(f, "{sigma:.1}"),
                    Step::Downsample { factor } => write!(f, "{factor:.1}x"),
                    Step::Noise { sigma } => write!(f, "{sigma:.2}"),
                    Step::Jpeg { quality } => write!(f, "{quality}"),
                }
            }
        }
    }
}

/// Writes the prompt for `fragments` in order; [`REMOVE_ALL`] if there are none.
pub fn write(fragments: &[Fragment]) -> String {
    if fragments.is_empty() {
        return REMOVE_ALL.to_owned();
    }
    fragments.iter().map(Fragment::to_string).collect::<Vec<_>>().join("; ")
}

/// Parses a prompt into its fragments in order; none for [`REMOVE_ALL`].
///
/// Ignores case, white space and empty fragments. Rounds numbers as [`Step::rounded`].
///
/// # Errors
/// The prompt is empty, or a fragment is not understood.
pub fn parse(prompt: &str) -> Result<Vec<Fragment>, PromptError> {
    let fragments: Vec<&str> = prompt.split(';').map(str::trim).filter(|fragment| !fragment.is_empty()).collect();
    match fragments.as_slice() {
        [] => Err(PromptError::Empty),
        [only] if normalised(only) == normalised(REMOVE_ALL) => Ok(Vec::new()),
        fragments => fragments.iter().map(|fragment| parse_fragment(fragment)).collect(),
    }
}

/// Parses a prompt into the degradations that it asks to undo, each with its number, in order.
///
/// # Errors
/// As [`parse`]; or a fragment has no number, or none is named.
pub fn parse_steps(prompt: &str) -> Result<Vec<Step>, PromptError> {
    let fragments = parse(prompt)?;
    if fragments.is_empty() {
        return Err(PromptError::NothingNamed);
    }
    let step = |fragment: Fragment| match fragment {
        Fragment::Numbered(step) => Ok(step),
        Fragment::Bare(_) => Err(PromptError::WithoutNumber { fragment: fragment.to_string() }),
    };
    fragments.into_iter().map(step).collect()
}

fn parse_fragment(fragment: &str) -> Result<Fragment, PromptError> {
    let text = normalised(fragment);
    let (verb, rest) = text.split_once(' ').unwrap_or((&text, ""));
    let kind = StepKind::ALL.into_iter().find(|kind| kind.verb().eq_ignore_ascii_case(verb));
    let kind = kind.ok_or_else(|| PromptError::Unknown { fragment: fragment.to_owned() })?;
    if rest.is_empty() {
        return Ok(Fragment::Bare(kind));
    }
    let number = rest.strip_prefix(kind.link()).map(|number| match kind {
        StepKind::Downsample => number.strip_suffix('x').unwrap_or(number),
        _ => number,
    });
    let step = number.and_then(|number| kind.step(number.trim().parse().ok()?));
    step.map(Fragment::Numbered)
        .ok_or_else(|| PromptError::Number { fragment: fragment.to_owned(), accepted: kind.accepted() })
}

/// In lower case, with single spaces.
fn normalised(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL_FOUR: &str = "Deblur with sigma 3.0; Upsample to 6.0x; Denoise with sigma 0.06; Dejpeg with quality 80";

    fn all_four() -> [Fragment; 4] {
        [
            Step::Blur { sigma: 3.0 },
            Step::Downsample { factor: 6.0 },
            Step::Noise { sigma: 0.06 },
            Step::Jpeg { quality: 80 },
        ]
        .map(Fragment::Numbered)
    }

    #[test]
    fn prompts_are_written_as_in_the_paper() {
        assert_eq!(write(&all_four()), ALL_FOUR);
        assert_eq!(write(&StepKind::ALL.map(Fragment::Bare)), "Deblur; Upsample; Denoise; Dejpeg");
        assert_eq!(write(&[]), "Remove all degradation");
    }

    #[test]
    fn case_spaces_and_stray_semicolons_are_ignored() {
        let loose = " DEBLUR  with sigma 3 ;upsample to 6 X;; denoise With Sigma .06;Dejpeg with\tquality 80; ";
        assert_eq!(parse(loose).unwrap(), all_four());
        assert_eq!(parse(" remove ALL  degradation; ").unwrap(), []);
        assert_eq!(parse("denoise; deblur").unwrap(), [StepKind::Noise, StepKind::Blur].map(Fragment::Bare));
    }

    #[test]
    fn numbers_are_rounded_to_what_is_printed() {
        let fragments = parse("Deblur with sigma 3.14; Denoise with sigma 0.0649").unwrap();
        assert_eq!(write(&fragments), "Deblur with sigma 3.1; Denoise with sigma 0.06");
    }

    #[test]
    fn errors_name_the_fragment_and_what_is_accepted() {
        assert_eq!(
            parse("Deblur; Dejpeg with quality 101").unwrap_err().to_string(),
            "restoration prompt: \"Dejpeg with quality 101\" is not understood: write \"Dejpeg\" or \"Dejpeg with \
             quality 80\", a whole number from 1 to 100"
        );
        let unknown = parse("Deblur; Sharpen a lot").unwrap_err();
        assert_eq!(unknown, PromptError::Unknown { fragment: "Sharpen a lot".to_owned() });
        assert!(unknown.to_string().contains("Upsample to 6.0x"), "{unknown}");
        assert_eq!(parse(" ; "), Err(PromptError::Empty));
    }

    #[test]
    fn degrading_needs_numbers() {
        assert_eq!(parse_steps("Deblur with sigma 2.0").unwrap(), [Step::Blur { sigma: 2.0 }]);
        let bare = parse_steps("Deblur with sigma 2.0; denoise").unwrap_err();
        assert_eq!(bare, PromptError::WithoutNumber { fragment: "Denoise".to_owned() });
        assert_eq!(parse_steps(REMOVE_ALL), Err(PromptError::NothingNamed));
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        for prompt in [
            "Deblur with sigma 0",
            "Deblur with sigma 0.04",
            "Deblur with sigma -1",
            "Deblur with sigma inf",
            "Deblur with sigma NaN",
            "Deblur with sigma 3.0x",
            "Deblur by 3",
            "Deblur 3",
            "Upsample to 0.9x",
            "Upsample to x",
            "Upsample to 1e39x",
            "Upsample to 1001x",
            "Deblur with sigma 1e30",
            "Denoise with sigma 1000.1",
            "Denoise with sigma",
            "Dejpeg with quality 0",
            "Dejpeg with quality 79.5",
            "Dejpeg with quality 256",
            "Deblur, Denoise",
            "Remove all degradation; Deblur",
        ] {
            assert!(parse(prompt).is_err(), "{prompt}");
        }
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0.1_f32..50.0).prop_map(|sigma| Step::Blur { sigma }),
            (1.0_f32..64.0).prop_map(|factor| Step::Downsample { factor }),
            (0.01_f32..2.0).prop_map(|sigma| Step::Noise { sigma }),
            (1_u8..=100).prop_map(|quality| Step::Jpeg { quality }),
        ]
        .prop_map(Step::rounded)
    }

    proptest! {
        #[test]
        fn every_prompt_written_is_read_back_exactly(
            steps in prop::collection::vec((any_step(), any::<bool>()), 0..6)
        ) {
            let fragments: Vec<Fragment> = steps
                .into_iter()
                .map(|(step, numbered)| if numbered { Fragment::Numbered(step) } else { Fragment::Bare(step.kind()) })
                .collect();
            prop_assert_eq!(parse(&write(&fragments)), Ok(fragments));
        }

        #[test]
        fn what_is_read_is_written_the_same_again(number in "[0-9]{0,4}\\.?[0-9]{0,5}", verb in 0..4_usize) {
            let kind = StepKind::ALL[verb];
            if let Ok(fragments) = parse(&format!("{} {} {number}", kind.verb(), kind.link())) {
                prop_assert_eq!(parse(&write(&fragments)), Ok(fragments));
            }
        }

        #[test]
        fn the_parser_does_not_panic(text in "(?i)(deblur|upsample|denoise|dejpeg|with|to|sigma|[ ;x0-9.e-]|.)*") {
            let _ = parse(&text);
        }
    }
}
