//! The files of the page, carried by the program.

use hyper::header::{self, HeaderValue};

use super::reply::{Reply, content};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";

/// The description of the interface for programs.
pub(super) const OPENAPI: &str = include_str!("../../page/openapi.json");

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 13] = [
    ("/", HTML, include_str!("../../page/index.html")),
    ("/style.css", CSS, include_str!("../../page/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../../page/icon.svg")),
    ("/app.js", SCRIPT, include_str!("../../page/app.js")),
    ("/api.js", SCRIPT, include_str!("../../page/api.js")),
    ("/compare.js", SCRIPT, include_str!("../../page/compare.js")),
    ("/degrade.js", SCRIPT, include_str!("../../page/degrade.js")),
    ("/history.js", SCRIPT, include_str!("../../page/history.js")),
    ("/picture.js", SCRIPT, include_str!("../../page/picture.js")),
    ("/prompt.js", SCRIPT, include_str!("../../page/prompt.js")),
    ("/settings.js", SCRIPT, include_str!("../../page/settings.js")),
    ("/walk.js", SCRIPT, include_str!("../../page/walk.js")),
    ("/api/openapi.json", JSON, OPENAPI),
];

/// The file at this path.
pub fn file(path: &str) -> Option<Reply> {
    let (_, kind, text) = FILES.iter().find(|(name, ..)| *name == path)?;
    let mut reply = content(kind, *text);
    // After an update of the program, a browser must not use old files.
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_has_nothing_inline() {
        let bytes: usize =
            FILES.iter().filter(|(path, ..)| !path.starts_with("/api/")).map(|(.., text)| text.len()).sum();
        assert!(bytes < 200_000, "{bytes} bytes");
        let html = FILES[0].2;
        for inline in ["<script>", "<style", " style=", " onclick="] {
            assert!(!html.contains(inline), "the content security policy forbids {inline}");
        }
        for (path, _, script) in FILES.iter().filter(|(path, ..)| path.ends_with(".js")) {
            for sink in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
                assert!(!script.contains(sink), "{path} must not make markup from text: {sink}");
            }
        }
    }
}
