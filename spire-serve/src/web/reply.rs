//! Answers.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

/// An answer; its body is at hand or made as it is sent.
pub type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An answer without a body.
pub fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Empty::new().boxed_unsync());
    *reply.status_mut() = status;
    reply
}

/// An answer of this media type.
pub fn content(kind: &'static str, bytes: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(bytes.into()).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}

/// A value as JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    // Only maps with keys that are no text can't be written; there are none here.
    let mut reply = content("application/json", serde_json::to_vec(value).unwrap_or_default());
    *reply.status_mut() = status;
    reply
}

/// Server-sent events, as their text comes.
pub fn events(texts: impl Stream<Item = String> + Send + 'static) -> Reply {
    use futures_util::StreamExt;

    let frames = texts.map(|text| Ok(Frame::data(Bytes::from(text))));
    let mut reply = Response::new(StreamBody::new(frames).boxed_unsync());
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    reply
}
