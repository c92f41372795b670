//! `POST /api/prompt`: restoration prompts, written and read by the code that training uses.

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use spire_data::prompt::{self, Fragment, StepKind};

use super::Site;
use super::problem::Problem;
use super::reply::{Reply, json};

/// Either the text, or its parts. The answer has both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ask {
    prompt: Option<String>,
    fragments: Option<Vec<Part>>,
    /// The model whose trained ranges matter; the first by default.
    model: Option<String>,
}

/// A part of a prompt: "Deblur with sigma 3.0", or without a number "Deblur".
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    kind: StepKind,
    number: Option<f32>,
}

/// A prompt and what it means.
#[derive(Clone, Debug, Serialize)]
pub struct Prompt {
    prompt: String,
    /// Empty for "Remove all degradation".
    fragments: Vec<Part>,
    /// Parts on which the model was not trained, a sentence each.
    untrained: Vec<String>,
}

pub async fn answer(site: &Site, request: Request<Incoming>) -> Result<Reply, Problem> {
    let ask: Ask = site.gate.form(request).await?.fields;
    let model = site.model(ask.model.as_deref())?;
    let fragments = match (ask.prompt, ask.fragments) {
        (Some(text), None) => prompt::parse(&text).map_err(Problem::bad)?,
        (None, Some(parts)) => parts.into_iter().map(fragment).collect::<Result<_, _>>()?,
        _ => return Err(Problem::new(StatusCode::BAD_REQUEST, "send either \"prompt\" or \"fragments\"")),
    };
    let text = prompt::write(&fragments);
    let untrained = model.restorer.trained.untrained(&text);
    let prompt = Prompt { prompt: text, fragments: fragments.iter().map(part).collect(), untrained };
    Ok(json(StatusCode::OK, &prompt))
}

fn fragment(part: Part) -> Result<Fragment, Problem> {
    let Part { kind, number } = part;
    let Some(number) = number else { return Ok(Fragment::Bare(kind)) };
    let out_of_range =
        || Problem::new(StatusCode::BAD_REQUEST, format!("{} {number}: out of range", Fragment::Bare(kind)));
    kind.step(number).map(Fragment::Numbered).ok_or_else(out_of_range)
}

fn part(fragment: &Fragment) -> Part {
    match *fragment {
        Fragment::Bare(kind) => Part { kind, number: None },
        Fragment::Numbered(step) => Part { kind: step.kind(), number: Some(step.number()) },
    }
}
