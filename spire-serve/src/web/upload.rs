//! Uploads: bounded in time, bytes and pixels before a pixel is decoded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Request, StatusCode, header};
use multer::Multipart;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use spire_core::Picture;
use spire_core::picture::declared_size;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::problem::Problem;
use crate::jobs::Uploads;

/// The most bytes of one request.
pub const MOST_BYTES: usize = 24 << 20;

/// The most pixels of a picture, also after it was enlarged.
pub const MOST_PIXELS: u64 = 1 << 22;

/// The most KiB of all requests that are being received.
const MOST_RECEIVING: usize = 128 << 10;

/// A request must have arrived within this time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Pictures that are decoded at once to check them.
const DECODERS: usize = 2;

/// What all uploads share.
#[derive(Clone, Debug)]
pub struct Gate {
    receiving: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
}

/// The fields of a form and its pictures.
#[derive(Debug)]
pub struct Form<T> {
    pub fields: T,
    pub uploads: Uploads,
}

impl Gate {
    pub fn new() -> Self {
        Self { receiving: Arc::new(Semaphore::new(MOST_RECEIVING)), decoding: Arc::new(Semaphore::new(DECODERS)) }
    }

    /// Reads a form, as multipart or as JSON with pictures in base64. `picture` may be missing; see [`Self::check`].
    pub async fn form<T: DeserializeOwned>(&self, request: Request<Incoming>) -> Result<Form<T>, Problem> {
        let kind = request.headers().get(header::CONTENT_TYPE).cloned();
        let kind = kind.as_ref().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let (bytes, _held) = self.receive(request.into_body()).await?;
        let (fields, picture, truth) = if let Ok(boundary) = multer::parse_boundary(kind) {
            multipart(bytes, boundary).await?
        } else if kind.starts_with("application/json") {
            json(&bytes)?
        } else {
            let message =
                "send multipart/form-data with the file \"picture\", or application/json with \"picture\" in base64";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        };
        Ok(Form { fields: parse(fields)?, uploads: Uploads { picture: picture.unwrap_or_default(), truth } })
    }

    /// Reads a body. The permit counts its bytes for as long as it is held.
    async fn receive(&self, mut body: Incoming) -> Result<(Bytes, OwnedSemaphorePermit), Problem> {
        let receive = async {
            let mut bytes = vec![];
            let mut held = self.permits(0)?;
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the upload broke off"))?;
                let Ok(data) = frame.into_data() else { continue };
                bytes.extend_from_slice(&data);
                if bytes.len() > MOST_BYTES {
                    drop((bytes, held));
                    discard(body).await;
                    let message = format!("an upload may have at most {} MiB", MOST_BYTES >> 20);
                    return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message));
                }
                match self.permits(bytes.len().div_ceil(1024) - held.num_permits()) {
                    Ok(more) => held.merge(more),
                    Err(problem) => {
                        drop((bytes, held));
                        discard(body).await;
                        return Err(problem);
                    }
                }
            }
            Ok((Bytes::from(bytes), held))
        };
        timeout(PATIENCE, receive).await.unwrap_or_else(|_| {
            let message = format!("the upload took longer than {} s", PATIENCE.as_secs());
            Err(Problem::new(StatusCode::REQUEST_TIMEOUT, message))
        })
    }

    fn permits(&self, kib: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let permits = self.receiving.clone().try_acquire_many_owned(kib as u32);
        permits.map_err(|_| Problem::busy("too many uploads at once; try again in a few seconds"))
    }

    /// Checks that the bytes are a picture of a size that is served, after it was enlarged by `upscale`, and decodes it once,
    /// so that a broken file is found now. `what` names it in errors.
    pub async fn check(&self, bytes: &Bytes, what: &'static str, upscale: f64) -> Result<Picture, Problem> {
        if bytes.is_empty() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, format!("{what} is missing")));
        }
        let bytes = bytes.clone();
        self.compute(move || decode(&bytes, what, upscale)).await?
    }

    /// Runs `compute` on a thread of its own; a few at once.
    pub async fn compute<T: Send + 'static>(&self, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let broken = || Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the picture could not be handled");
        let _permit = self.decoding.acquire().await.map_err(|_| broken())?;
        tokio::task::spawn_blocking(compute).await.map_err(|_| broken())
    }
}

/// Reads the rest of a body, so that the client reads why it is turned away instead of finding the connection reset.
async fn discard(mut body: Incoming) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > 4 * MOST_BYTES {
            break;
        }
    }
}

fn decode(bytes: &[u8], what: &str, upscale: f64) -> Result<Picture, Problem> {
    let (width, height) = declared_size(bytes, Path::new(what)).map_err(Problem::bad)?;
    let pixels = f64::from(width) * f64::from(height) * upscale * upscale;
    if pixels > MOST_PIXELS as f64 || pixels == 0.0 {
        let enlarged = if upscale > 1.0 { format!(" times {upscale} on each side") } else { String::new() };
        let message = format!("{what} has {width}×{height} pixels{enlarged}; at most {MOST_PIXELS} are served");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, message));
    }
    Picture::decode_with_alpha(bytes, Path::new(what)).map(|(picture, _)| picture).map_err(Problem::bad)
}

type Parts = (Map<String, Value>, Option<Bytes>, Option<Bytes>);

/// The fields of a query.
pub fn query<T: DeserializeOwned>(query: &str) -> Result<T, Problem> {
    let pairs = form_urlencoded::parse(query.as_bytes());
    parse(pairs.map(|(name, text)| (name.to_string(), value(&name, text.into_owned()))).collect())
}

/// Reads fields; an error names the field.
fn parse<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, Problem> {
    serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
        let path = error.path().to_string();
        let place = if path == "." { String::new() } else { format!("{path}: ") };
        Problem::new(StatusCode::BAD_REQUEST, format!("{place}{}", error.into_inner()))
    })
}

async fn multipart(bytes: Bytes, boundary: String) -> Result<Parts, Problem> {
    let mut form = Multipart::new(stream::iter([Ok::<_, std::convert::Infallible>(bytes)]), boundary);
    let (mut fields, mut picture, mut truth) = (Map::new(), None, None);
    while let Some(field) = form.next_field().await.map_err(Problem::bad)? {
        let name = field.name().unwrap_or_default().to_owned();
        let bytes = field.bytes().await.map_err(Problem::bad)?;
        match name.as_str() {
            "picture" => picture = Some(bytes),
            "truth" => truth = Some(bytes),
            _ => {
                let text = String::from_utf8(bytes.into()).map_err(Problem::bad)?;
                let value = value(&name, text);
                fields.insert(name, value);
            }
        }
    }
    Ok((fields, picture, truth))
}

/// Fields that are text, whatever they hold: a prompt may be a number.
const TEXTS: [&str; 8] = ["semantic", "restoration", "negative", "sampler", "start", "colour_fix", "prompt", "model"];

/// The value of a text field: a string, or a number or list where it is written as such.
fn value(name: &str, text: String) -> Value {
    if TEXTS.contains(&name) {
        return Value::String(text);
    }
    serde_json::from_str(&text).unwrap_or(Value::String(text))
}

fn json(bytes: &[u8]) -> Result<Parts, Problem> {
    let mut fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(Problem::bad)?;
    let mut take = |name: &str| match fields.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => match BASE64_STANDARD.decode(&text) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(_) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("{name} is not base64"))),
        },
        Some(_) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("{name} must be a file in base64"))),
    };
    let (picture, truth) = (take("picture")?, take("truth")?);
    Ok((fields, picture, truth))
}
