//! Errors as clients get them: a status and one sentence in JSON.

use std::fmt::Display;

use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use serde_json::json;
use spire_core::message::with_causes;

use super::reply::{Reply, json};

/// Seconds after which a client that was turned away should try again.
const RETRY_AFTER: u32 = 5;

/// A request that can't be served.
#[derive(Debug)]
pub struct Problem {
    pub status: StatusCode,
    pub message: String,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Display) -> Self {
        Self { status, message: message.to_string() }
    }

    /// 400, with the reasons of an error.
    pub fn bad(error: impl Into<anyhow::Error>) -> Self {
        let error: anyhow::Error = error.into();
        Self::new(StatusCode::BAD_REQUEST, with_causes(error.as_ref()))
    }

    pub fn no_such(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no such {what}"))
    }

    /// 429: try again later.
    pub fn busy(message: impl Display) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message)
    }
}

impl From<Problem> for Reply {
    fn from(problem: Problem) -> Self {
        let mut reply = json(problem.status, &json!({ "error": problem.message }));
        if problem.status == StatusCode::TOO_MANY_REQUESTS {
            reply.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        reply
    }
}
