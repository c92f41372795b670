//! Who may use the server, and the headers that tell a browser what the page may do.
//!
//! On the loopback there is no token; then the `Host` header must name the loopback, so that a web page elsewhere can't reach
//! the server through a name that it resolves to 127.0.0.1. A page of another origin may not change anything in any case.

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Method, StatusCode};
use spire_core::checksum::sha256;

use super::problem::Problem;
use super::reply::{Reply, empty};

/// The cookie that holds the token for the page.
const COOKIE: &str = "spire-token";

/// The page may load its own files and pictures, and nothing else; no text becomes markup or a script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
                      trusted-types 'none'";

/// What a request has to show.
#[derive(Clone, Debug)]
pub struct Access {
    /// Required from everybody, if there is one.
    pub token: Option<String>,
    /// Whether the server listens on the loopback alone.
    pub loopback: bool,
}

/// Adds the headers that every answer has.
pub fn protect(reply: &mut Reply) {
    let headers = reply.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// How a request may go on.
#[derive(Debug)]
pub enum Admission {
    Enter,
    /// The page was opened with the token in its address: keep it as a cookie and clean the address.
    SetCookie(String),
}

impl Access {
    /// Decides over a request by its head.
    ///
    /// # Errors
    /// The request names another host than this one, comes from the page of another origin, or does not show the token.
    pub fn admit(&self, request: &Parts) -> Result<Admission, Problem> {
        let headers = &request.headers;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
        let host = host.ok_or_else(|| Problem::new(StatusCode::BAD_REQUEST, "the request names no host"))?;
        if self.loopback && !is_loopback(host.host()) {
            let message = format!("this server answers to localhost only, not to {}", host.host());
            return Err(Problem::new(StatusCode::FORBIDDEN, message));
        }
        if !matches!(request.method, Method::GET | Method::HEAD) && !same_origin(headers, &host) {
            return Err(Problem::new(StatusCode::FORBIDDEN, "pages of other origins may not use this server"));
        }
        let Some(token) = &self.token else { return Ok(Admission::Enter) };
        if shown(headers).is_some_and(|shown| equal(&shown, token)) {
            return Ok(Admission::Enter);
        }
        let query = request.uri.query().unwrap_or_default();
        let in_address = query.split('&').find_map(|pair| pair.strip_prefix("token="));
        if request.uri.path() == "/" && in_address.is_some_and(|shown| equal(shown, token)) {
            return Ok(Admission::SetCookie(token.clone()));
        }
        let message = "this server needs its token: open the address that spire serve printed, or send \
                       \"Authorization: Bearer TOKEN\"";
        Err(Problem::new(StatusCode::UNAUTHORIZED, message))
    }
}

/// The token in the headers: as a bearer token, or in the cookie.
fn shown(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if let Some(token) = text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer ")) {
        return Some(token.to_owned());
    }
    let cookies = text(header::COOKIE)?;
    let pairs = cookies.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == COOKIE).map(|(_, token)| token.to_owned())
}

/// Compares checksums, so that the time does not depend on how many characters agree.
fn equal(shown: &str, token: &str) -> bool {
    sha256(shown.as_bytes()) == sha256(token.as_bytes())
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether the request comes from the server's own page, or from no page at all.
fn same_origin(headers: &HeaderMap, host: &Authority) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return true };
    let origin = origin.to_str().unwrap_or_default();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority == Some(host.as_str())
}

/// Sends the browser to the page without the token in its address, with the cookie instead.
pub fn enter_with_cookie(token: &str) -> Reply {
    let mut reply = empty(StatusCode::SEE_OTHER);
    reply.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/"));
    let cookie = format!("{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/");
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        reply.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    reply
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(access: &Access, request: &Parts) -> Result<(), StatusCode> {
        access.admit(request).map(|_| ()).map_err(|problem| problem.status)
    }

    #[test]
    fn the_loopback_is_for_this_machines_own_names() {
        let access = Access { token: None, loopback: true };
        for host in ["localhost:7860", "127.0.0.1:7860", "[::1]:7860", "localhost"] {
            assert_eq!(status(&access, &request(Method::GET, "/", &[("host", host)])), Ok(()), "{host}");
        }
        for host in ["evil.example:7860", "127.0.0.1.evil.example", "0x7f000001"] {
            let denied = status(&access, &request(Method::GET, "/", &[("host", host)]));
            assert_eq!(denied, Err(StatusCode::FORBIDDEN), "{host}");
        }
        assert_eq!(status(&access, &request(Method::GET, "/", &[])), Err(StatusCode::BAD_REQUEST));
    }

    #[test]
    fn pages_of_other_origins_change_nothing() {
        let access = Access { token: None, loopback: true };
        let post = |origin| request(Method::POST, "/api/restore", &[("host", "localhost:7860"), ("origin", origin)]);
        assert_eq!(status(&access, &post("http://localhost:7860")), Ok(()));
        for origin in ["http://evil.example", "http://localhost:1", "null", "file://"] {
            assert_eq!(status(&access, &post(origin)), Err(StatusCode::FORBIDDEN), "{origin}");
        }
    }

    #[test]
    fn the_token_is_needed_everywhere_once_there_is_one() {
        let access = Access { token: Some("secret".into()), loopback: false };
        let get = |path, headers: &[(&str, &str)]| {
            status(&access, &request(Method::GET, path, &[&[("host", "gpu:7860")], headers].concat()))
        };
        for denied in [
            get("/", &[]),
            get("/?token=wrong", &[]),
            get("/api/models?token=secret", &[]),
            get("/api/models", &[("authorization", "Bearer wrong")]),
            get("/api/models", &[("cookie", "spire-token=; other=secret")]),
        ] {
            assert_eq!(denied, Err(StatusCode::UNAUTHORIZED));
        }
        assert_eq!(get("/api/models", &[("authorization", "Bearer secret")]), Ok(()));
        assert_eq!(get("/api/models", &[("cookie", "a=b; spire-token=secret")]), Ok(()));
        let opened = access.admit(&request(Method::GET, "/?token=secret", &[("host", "gpu:7860")])).unwrap();
        assert!(matches!(opened, Admission::SetCookie(token) if token == "secret"));
    }
}
