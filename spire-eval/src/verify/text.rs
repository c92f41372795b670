//! Cases of the tokenizer.

use anyhow::{Result, ensure};
use serde::Deserialize;
use spire_model::tokenizer::Tokenizer;

use super::case::{Case, Worst};

/// An entry of `prompts.json`: a text and its ids with start and end tokens, truncated to the context, not padded.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    text: String,
    ids: Vec<u32>,
}

/// `prompts.json` through CLIP's byte-pair encoding. The measure is the number of prompts whose ids differ.
pub fn tokenizer(case: &Case) -> Result<Worst> {
    let prompts: Vec<Prompt> = case.json("prompts.json")?;
    ensure!(!prompts.is_empty(), "prompts.json is empty: nothing to compare");
    let tokenizer = Tokenizer::clip();
    let differing: Vec<&Prompt> =
        prompts.iter().filter(|prompt| tokenizer.encode(&prompt.text) != prompt.ids).collect();
    let name = differing.first().map_or("prompts.json".to_owned(), |prompt| format!("ids of {:?}", prompt.text));
    Ok(Worst { name, difference: differing.len() as f64 })
}
