//! The prompts of a method for each picture (paper Tables 4 and 6).

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use rand::RngExt;
use spire_data::prompt::{self, Fragment, REMOVE_ALL};
use spire_data::rng::rng;
use spire_data::source::caption_of;
use spire_data::testset::Entry;

use super::alike::{Alike, mistaken};
use super::method::{Captions, MethodConfig, MethodKind, RestorationPrompt};

impl RestorationPrompt {
    /// The restoration prompt for a picture. For a test set without known steps it is the test set's own prompt, or the
    /// blind prompt for [`None`](Self::None).
    pub fn of(self, entry: &Entry) -> String {
        match self {
            Self::None => REMOVE_ALL.to_owned(),
            Self::Parameters => entry.restoration.clone(),
            Self::Type => {
                let fragments = prompt::parse(&entry.restoration).unwrap_or_default();
                let bare = |fragment: &Fragment| match *fragment {
                    Fragment::Numbered(step) => Fragment::Bare(step.kind()),
                    bare => bare,
                };
                prompt::write(&fragments.iter().map(bare).collect::<Vec<_>>())
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Type => "type",
            Self::Parameters => "parameters",
        }
    }
}

/// The two prompts of one picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptPair {
    /// The semantic prompt: what the picture shows; may be empty.
    pub semantic: String,
    /// The restoration prompt: what to undo.
    pub restoration: String,
}

/// The method used it.
const YES: &str = "✓";
/// The method did not use it.
const NO: &str = "✗";

impl MethodConfig {
    /// The prompts for each entry of a test set, in order. `seed` determines how captions are permuted, `alike` which
    /// words are replaced.
    ///
    /// # Errors
    /// A caption of [`captions_from`](Self::captions_from) is missing; captions are to be permuted, but fewer than two
    /// entries have one; or words are to be replaced, but a caption has no word of a pair.
    pub fn prompts(&self, entries: &[Entry], alike: &[Alike], seed: u64) -> Result<Vec<PromptPair>> {
        let mut captions: Vec<String> = match (self.semantic, &self.captions_from) {
            (false, _) => vec![String::new(); entries.len()],
            (true, None) => entries.iter().map(|entry| entry.semantic.clone()).collect(),
            (true, Some(folder)) => {
                let of = |entry: &Entry| caption_of(&folder.join(format!("{}.png", entry.id)));
                entries.iter().map(of).collect::<Result<_, _>>().context("captions_from")?
            }
        };
        if self.semantic && self.captions == Captions::Unmatched {
            exchange(&mut captions, seed)?;
        }
        if self.semantic && self.captions == Captions::Mistaken {
            for caption in &mut captions {
                let mistaken = mistaken(caption, alike);
                *caption = mistaken.with_context(|| format!("\"{caption}\" has no word of the pairs in alike"))?;
            }
        }
        if let Some(words) = self.caption_words {
            for caption in &mut captions {
                *caption = caption.split_whitespace().take(words).collect::<Vec<_>>().join(" ");
            }
        }
        let restoration = |entry: &Entry| self.prompt.clone().unwrap_or_else(|| self.restoration.of(entry));
        let prompts = entries.iter().zip(captions);
        Ok(prompts.map(|(entry, semantic)| PromptPair { semantic, restoration: restoration(entry) }).collect())
    }

    /// The restoration prompts, for the protocol: the fixed prompt, or "none", "type" or "parameters".
    pub fn restoration_told(&self) -> String {
        self.prompt.clone().unwrap_or_else(|| self.restoration.name().to_owned())
    }

    /// How captions were changed, for the protocol. `None` if pictures have their own complete captions, or none.
    pub fn captions_told(&self) -> Option<String> {
        let exchanged = match self.captions {
            Captions::Own => None,
            Captions::Unmatched => Some("unmatched".to_owned()),
            Captions::Mistaken => Some("mistaken".to_owned()),
        };
        let source = self.captions_from.as_ref().map(|folder| format!("from {}", folder.display()));
        let short = self.caption_words.map(|words| format!("first {words} words"));
        let changes: Vec<String> = [source, exchanged, short].into_iter().flatten().collect();
        (self.semantic && !changes.is_empty()).then(|| changes.join(", "))
    }

    /// The values of the paper's descriptive columns, by heading. For another program only [`marks`](Self::marks) is
    /// known.
    pub fn table_marks(&self) -> BTreeMap<String, String> {
        let yes_if = |yes: bool| if yes { YES } else { NO }.to_owned();
        let known = match self.kind {
            MethodKind::Folder => vec![],
            kind if kind != MethodKind::Model => {
                let semantic = self.captions_told().unwrap_or_else(|| yes_if(kind.reads_prompts() && self.semantic));
                let none = ["Res", "Res type", "Res param"].map(|heading| (heading, NO.to_owned()));
                [&[("Sem", semantic)][..], &none].concat()
            }
            _ => {
                let semantic = self.captions_told().unwrap_or_else(|| yes_if(self.semantic));
                let restoration = match (&self.prompt, self.restoration) {
                    (Some(prompt), _) => return self.with_marks([("Sem", semantic), ("Res", prompt.clone())]),
                    (None, RestorationPrompt::Type) => "wo param".to_owned(),
                    (None, told) => yes_if(told == RestorationPrompt::Parameters),
                };
                vec![
                    ("Sem", semantic),
                    ("Res", restoration),
                    ("Res type", yes_if(self.restoration != RestorationPrompt::None)),
                    ("Res param", yes_if(self.restoration == RestorationPrompt::Parameters)),
                ]
            }
        };
        self.with_marks(known)
    }

    fn with_marks(&self, known: impl IntoIterator<Item = (&'static str, String)>) -> BTreeMap<String, String> {
        let mut marks: BTreeMap<String, String> =
            known.into_iter().map(|(heading, mark)| (heading.to_owned(), mark)).collect();
        marks.extend(self.marks.clone());
        marks
    }
}

/// Permutes the captions of all entries that have one by a random cycle (Sattolo 1986), so that none stays in place.
fn exchange(captions: &mut [String], seed: u64) -> Result<()> {
    let captioned: Vec<usize> = (0..captions.len()).filter(|&i| !captions[i].is_empty()).collect();
    ensure!(captioned.len() > 1, "captions = \"unmatched\" needs at least two pictures with captions");
    let mut rng = rng(seed, "unmatched captions", captions.len() as u64);
    for last in (1..captioned.len()).rev() {
        captions.swap(captioned[last], captioned[rng.random_range(0..last)]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(captions: &[&str]) -> Vec<Entry> {
        let entry = |(i, caption): (usize, &&str)| Entry {
            id: format!("{i}"),
            picture: String::new(),
            width: 1,
            height: 1,
            semantic: (*caption).to_owned(),
            restoration: "Deblur with sigma 3.0; Dejpeg with quality 40".to_owned(),
            steps: vec![],
            operations: vec![],
        };
        captions.iter().enumerate().map(entry).collect()
    }

    fn semantic(method: &MethodConfig, entries: &[Entry], seed: u64) -> Vec<String> {
        method.prompts(entries, &[], seed).unwrap().into_iter().map(|prompts| prompts.semantic).collect()
    }

    #[test]
    fn a_fixed_prompt_replaces_the_test_set_s() {
        let entries = entries(&["a b c"]);
        let told = |method: &MethodConfig| method.prompts(&entries, &[], 0).unwrap()[0].restoration.clone();
        let method = MethodConfig::default();
        assert_eq!(told(&method), "Deblur with sigma 3.0; Dejpeg with quality 40");
        assert_eq!(told(&MethodConfig { restoration: RestorationPrompt::Type, ..method.clone() }), "Deblur; Dejpeg");
        assert_eq!(told(&MethodConfig { restoration: RestorationPrompt::None, ..method.clone() }), REMOVE_ALL);
        let fixed = MethodConfig { prompt: Some("Deblur with sigma 0.6".into()), ..method };
        assert_eq!(told(&fixed), "Deblur with sigma 0.6");
        assert_eq!(fixed.restoration_told(), "Deblur with sigma 0.6");
    }

    #[test]
    fn unmatched_captions_are_a_permutation_without_fixed_points() {
        let method = MethodConfig { captions: Captions::Unmatched, ..MethodConfig::default() };
        for count in [2, 3, 10, 101] {
            let names: Vec<String> = (0..count).map(|i| format!("caption {i}")).collect();
            let entries = entries(&names.iter().map(String::as_str).collect::<Vec<_>>());
            for seed in 0..20 {
                let drawn = semantic(&method, &entries, seed);
                assert!(drawn.iter().zip(&names).all(|(drawn, own)| drawn != own), "{drawn:?}");
                let mut sorted = [drawn.clone(), names.clone()];
                sorted.iter_mut().for_each(|names| names.sort());
                assert_eq!(sorted[0], sorted[1]);
                assert_eq!(drawn, semantic(&method, &entries, seed));
            }
        }
        // Entries without a caption are not part of the permutation.
        let entries = entries(&["one", "", "two"]);
        assert_eq!(semantic(&method, &entries, 0), ["two", "", "one"]);
        let error = method.prompts(&entries[..2], &[], 0).unwrap_err().to_string();
        assert!(error.contains("unmatched"), "{error}");
    }

    #[test]
    fn mistaken_captions_name_what_looks_alike() {
        let method = MethodConfig { captions: Captions::Mistaken, ..MethodConfig::default() };
        let alike = [["star".to_owned(), "cross".to_owned()]];
        let told = method.prompts(&entries(&["a red star", "a cross"]), &alike, 0).unwrap();
        assert_eq!(told.into_iter().map(|told| told.semantic).collect::<Vec<_>>(), ["a red cross", "a star"]);
        let error = method.prompts(&entries(&["a red disc"]), &alike, 0).unwrap_err().to_string();
        assert!(error.contains("a red disc"), "{error}");
        assert_eq!(method.captions_told().as_deref(), Some("mistaken"));
    }

    #[test]
    fn other_captions_come_from_their_folder() {
        let folder = tempfile::tempdir().unwrap();
        let entries = entries(&["a star", "a cross"]);
        let captions_from = Some(folder.path().to_owned());
        let method = MethodConfig { captions_from, caption_words: Some(2), ..MethodConfig::default() };
        std::fs::write(folder.path().join(format!("{}.txt", entries[0].id)), "A yellow star.\n").unwrap();
        let error = format!("{:#}", method.prompts(&entries, &[], 0).unwrap_err());
        assert!(error.contains("captions_from") && error.contains(&entries[1].id), "{error}");
        std::fs::write(folder.path().join(format!("{}.txt", entries[1].id)), "A cross").unwrap();
        assert_eq!(semantic(&method, &entries, 0), ["A yellow", "A cross"]);
        assert_eq!(method.captions_told().unwrap(), format!("from {}, first 2 words", folder.path().display()));
    }

    #[test]
    fn short_captions_are_the_first_words() {
        let method = MethodConfig { caption_words: Some(2), ..MethodConfig::default() };
        assert_eq!(semantic(&method, &entries(&["a red star", "one", ""]), 0), ["a red", "one", ""]);
        assert_eq!(method.captions_told().as_deref(), Some("first 2 words"));
        assert_eq!(MethodConfig { semantic: false, ..method }.captions_told(), None);
    }

    #[test]
    fn marks_say_what_was_told() {
        let mark = |method: &MethodConfig, heading: &str| method.table_marks().get(heading).cloned();
        let full = MethodConfig::default();
        for heading in ["Sem", "Res", "Res type", "Res param"] {
            assert_eq!(mark(&full, heading).as_deref(), Some(YES), "{heading}");
        }
        let blind = MethodConfig { semantic: false, restoration: RestorationPrompt::None, ..full.clone() };
        assert_eq!((mark(&blind, "Sem").as_deref(), mark(&blind, "Res").as_deref()), (Some(NO), Some(NO)));
        let bare = MethodConfig { restoration: RestorationPrompt::Type, ..full.clone() };
        assert_eq!((mark(&bare, "Res").as_deref(), mark(&bare, "Res type").as_deref()), (Some("wo param"), Some(YES)));
        let other = MethodConfig { captions: Captions::Unmatched, prompt: Some("Deblur".into()), ..full.clone() };
        assert_eq!(
            (mark(&other, "Sem").as_deref(), mark(&other, "Res").as_deref()),
            (Some("unmatched"), Some("Deblur"))
        );
        let folder = MethodConfig { kind: MethodKind::Folder, ..full };
        assert_eq!(mark(&folder, "Sem"), None, "what another program was told is not known");
        let told = MethodConfig { marks: BTreeMap::from([("Sem".to_owned(), YES.to_owned())]), ..folder };
        assert_eq!(mark(&told, "Sem").as_deref(), Some(YES));
    }
}
