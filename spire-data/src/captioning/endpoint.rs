//! A server that speaks OpenAI's chat protocol with pictures, as vLLM, llama.cpp and Ollama do.

use std::io::Cursor;
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::{FilterType, resize};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;

use crate::picture::{PictureError, open_rgb8};
use crate::source::tidy;

/// The longest side of a picture that is sent: larger ones are reduced, as these models do anyway.
const LONGEST_SIDE: u32 = 1024;
/// The quality of the JPEG that is sent.
const QUALITY: u8 = 95;
/// The most tokens of an answer.
const MOST_TOKENS: u32 = 512;
/// The most bytes of an answer.
const MOST_BYTES: u64 = 1 << 20;
/// How often a picture is asked for before it counts as failed.
const TRIES: u32 = 5;
/// The pause after the first try; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The kind of caption that is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// About 60 words, as the paper's full captions.
    #[default]
    Long,
    /// Fewer than 20 words, as the paper's short captions.
    Short,
}

impl Form {
    /// What the model is asked. The paper does not give its own words.
    pub fn prompt(self) -> &'static str {
        match self {
            Self::Long => {
                "Describe what this picture shows in about 60 words: the objects, their colours and materials, and the \
                 place. Do not mention blur, noise or the quality of the picture."
            }
            Self::Short => {
                "Describe what this picture shows in one sentence of fewer than 20 words. Do not mention blur, noise or \
                 the quality of the picture."
            }
        }
    }
}

/// Which server, which model, and what it is asked.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// Its address, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// What it is asked, beside the picture.
    pub prompt: String,
    /// The key that the server wants, if any.
    pub key: Option<String>,
    /// How long one answer may take.
    pub timeout: Duration,
}

/// Why there is no caption.
#[derive(Debug, Error)]
pub enum CaptionError {
    /// The picture can't be read.
    #[error(transparent)]
    Picture(#[from] PictureError),
    /// The server can't be reached, or the connection broke.
    #[error("no answer from {url}: {reason}")]
    Unreachable {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server answered with an error.
    #[error("{url} answers with {status}: {message}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        message: String,
        /// The pause that the server asks for.
        retry_after: Option<Duration>,
    },
    /// The answer is not one of the chat protocol, or has no text.
    #[error("{url} answers with something else than a caption: {answer}")]
    Malformed {
        /// The address.
        url: String,
        /// The beginning of the answer.
        answer: String,
    },
    /// The model refuses to describe the picture.
    #[error("the model refuses: {0}")]
    Refused(String),
}

impl CaptionError {
    /// Whether another try may succeed.
    fn is_temporary(&self) -> bool {
        match self {
            Self::Picture(_) | Self::Refused(_) => false,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Unreachable { .. } | Self::Malformed { .. } => true,
        }
    }

    /// Whether it concerns the server rather than one picture, so that asking for further pictures is pointless.
    pub fn concerns_all(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Status { status, .. } => matches!(status, 401 | 403 | 404),
            _ => false,
        }
    }
}

/// A model that describes pictures. Connections are kept and shared between threads.
#[derive(Debug)]
pub struct Endpoint {
    settings: EndpointSettings,
    /// The address of the chat call.
    url: String,
    agent: ureq::Agent,
}

impl Endpoint {
    /// An endpoint; nothing is sent yet.
    pub fn new(settings: EndpointSettings) -> Self {
        let base = settings.url.trim_end_matches('/');
        let url = match base.ends_with("/chat/completions") {
            true => base.to_owned(),
            false => format!("{base}/chat/completions"),
        };
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(settings.timeout));
        Self { settings, url, agent: config.build().into() }
    }

    /// Which server, which model, and what it is asked.
    pub fn settings(&self) -> &EndpointSettings {
        &self.settings
    }

    /// The caption of the picture at `path`, on one line. Waits and asks again if the server is busy, out of reach or
    /// answers with something else than a caption.
    ///
    /// # Errors
    /// The picture can't be read; the model refuses; or five tries failed.
    pub fn caption(&self, path: &Path) -> Result<String, CaptionError> {
        let request = self.request(path)?;
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.ask(&request) {
                Err(error) if error.is_temporary() => {
                    let wanted = match &error {
                        CaptionError::Status { retry_after, .. } => retry_after.unwrap_or(pause),
                        _ => pause,
                    };
                    sleep(wanted.min(LONGEST_PAUSE));
                    pause *= 2;
                }
                answer => return answer,
            }
        }
        self.ask(&request)
    }

    /// The body of the call for the picture at `path`.
    fn request(&self, path: &Path) -> Result<Vec<u8>, CaptionError> {
        let mut picture = open_rgb8(path)?;
        let (width, height) = picture.dimensions();
        let side = width.max(height);
        if side > LONGEST_SIDE {
            let reduced = |length: u32| (length * LONGEST_SIDE / side).max(1);
            picture = resize(&picture, reduced(width), reduced(height), FilterType::Triangle);
        }
        let mut jpeg = Cursor::new(Vec::new());
        let encoded = JpegEncoder::new_with_quality(&mut jpeg, QUALITY).encode_image(&picture);
        encoded.map_err(|error| PictureError::Encode { path: path.to_owned(), source: error.into() })?;
        let picture = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg.into_inner()));
        let content = json!([
            {"type": "text", "text": self.settings.prompt},
            {"type": "image_url", "image_url": {"url": picture}},
        ]);
        let body = json!({
            "model": self.settings.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": MOST_TOKENS,
            // The most probable words: the same caption each time.
            "temperature": 0,
        });
        Ok(body.to_string().into_bytes())
    }

    fn ask(&self, request: &[u8]) -> Result<String, CaptionError> {
        let unreachable =
            |error: ureq::Error| CaptionError::Unreachable { url: self.url.clone(), reason: error.to_string() };
        let mut call = self.agent.post(&self.url).content_type("application/json");
        if let Some(key) = &self.settings.key {
            call = call.header("Authorization", format!("Bearer {key}"));
        }
        let mut answer = call.send(request).map_err(unreachable)?;
        let status = answer.status();
        let seconds = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer.body_mut().with_config().limit(MOST_BYTES).lossy_utf8(true).read_to_string();
        let text = text.map_err(unreachable)?;
        if !status.is_success() {
            return Err(CaptionError::Status {
                url: self.url.clone(),
                status: status.as_u16(),
                message: beginning(&text),
                retry_after: seconds.map(Duration::from_secs),
            });
        }
        caption_in(&text, &self.url)
    }
}

/// The caption in an answer of the chat protocol.
fn caption_in(text: &str, url: &str) -> Result<String, CaptionError> {
    let malformed = || CaptionError::Malformed { url: url.to_owned(), answer: beginning(text) };
    let answer: Value = serde_json::from_str(text).map_err(|_| malformed())?;
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    if let Some(refusal) = message["refusal"].as_str().filter(|refusal| !refusal.is_empty()) {
        return Err(CaptionError::Refused(beginning(refusal)));
    }
    if choice["finish_reason"] == "content_filter" {
        return Err(CaptionError::Refused("its content filter stopped the answer".to_owned()));
    }
    let said = match &message["content"] {
        Value::String(said) => said.clone(),
        // Some servers answer in parts.
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        _ => return Err(malformed()),
    };
    let said: String = said.chars().filter(|c| !c.is_control() || c.is_whitespace()).collect();
    let caption = tidy(said.trim().trim_matches('"')).ok_or_else(malformed)?;
    if REFUSALS.iter().any(|start| caption.starts_with(start)) {
        return Err(CaptionError::Refused(beginning(&caption)));
    }
    if choice["finish_reason"] == "length" {
        tracing::warn!("the model's caption was cut after {MOST_TOKENS} tokens: {}", beginning(&caption));
    }
    Ok(caption)
}

/// How models begin that say in words that they don't describe a picture.
const REFUSALS: [&str; 5] = ["I'm sorry", "I’m sorry", "I cannot", "I can't", "I can’t"];

/// At most 200 characters of what a server said, on one line.
fn beginning(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(content: Value) -> Result<String, CaptionError> {
        caption_in(&json!({"choices": [{"message": {"content": content}}]}).to_string(), "http://server")
    }

    #[test]
    fn the_caption_is_the_text_of_the_answer_on_one_line() {
        assert_eq!(answered(json!(" \"A panda\n by the\u{1b} bamboo.\" ")).unwrap(), "A panda by the bamboo.");
        let parts = json!([{"type": "text", "text": "A panda"}, {"type": "text", "text": " eats."}]);
        assert_eq!(answered(parts).unwrap(), "A panda eats.");
    }

    #[test]
    fn refusals_and_other_answers_are_told_apart() {
        let refused = caption_in(r#"{"choices": [{"message": {"content": null, "refusal": "no faces"}}]}"#, "");
        assert_eq!(refused.unwrap_err().to_string(), "the model refuses: no faces");
        let filtered = caption_in(r#"{"choices": [{"finish_reason": "content_filter", "message": {}}]}"#, "");
        assert!(matches!(filtered, Err(CaptionError::Refused(_))));
        assert!(matches!(answered(json!("I'm sorry, but I can't.")), Err(CaptionError::Refused(_))));
        for text in ["", "<html>", "{}", "[]", r#"{"choices": []}"#, r#"{"choices": [{"message": {"content": "  "}}]}"#]
        {
            let error = caption_in(text, "http://server").unwrap_err();
            assert!(matches!(&error, CaptionError::Malformed { .. }) && error.is_temporary(), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_may_name_the_call() {
        let url = |url: &str| {
            let settings = EndpointSettings {
                url: url.into(),
                model: "llava".into(),
                prompt: Form::Long.prompt().into(),
                key: None,
                timeout: Duration::from_secs(1),
            };
            Endpoint::new(settings).url
        };
        for given in ["http://host/v1", "http://host/v1/", "http://host/v1/chat/completions"] {
            assert_eq!(url(given), "http://host/v1/chat/completions");
        }
    }
}
