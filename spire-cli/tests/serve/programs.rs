//! The interface for programs, and behaviour under load.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use spire_data::{Picture, png_text};
use spire_restore::provenance::{KEYWORD, Provenance};
use tempfile::TempDir;

use crate::common::{command, error, ok, spire};
use crate::server::{Answer, Server, form, receive};

const ONLY_PNG: (&str, &str) = ("Accept", "image/png");

fn picture() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/pictures/scene.png")).unwrap()
}

/// A PNG of one colour.
fn flat(width: usize, height: usize) -> Vec<u8> {
    png_text::encode(&Picture::filled(width, height, [0.2, 0.5, 0.8]), None, &[]).unwrap()
}

/// Orders a restoration and returns its job.
fn order(server: &Server, fields: &[(&str, &str)]) -> Value {
    let answer = server.post_form("/api/restore", &[], &[("picture", &picture())], fields);
    assert_eq!(answer.status, 202, "{}", String::from_utf8_lossy(&answer.body));
    answer.json()
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

#[test]
fn a_program_gets_the_picture_that_the_command_makes() {
    let server = Server::start(&[]);
    let scratch = TempDir::new().unwrap();
    let [served, made] = ["served.png", "made.png"].map(|name| scratch.path().join(name));
    let fields = [
        ("semantic", "a cup — 茶"),
        ("restoration", "Denoise with sigma 0.06"),
        ("steps", "3"),
        ("start", "picture"),
        ("control_scale", "0.8"),
        ("control_start", "0.1"),
        ("control_end", "0.9"),
        ("seed", "7"),
    ];
    let answer = server.post_form("/api/restore", &[ONLY_PNG], &[("picture", &picture())], &fields);
    assert_eq!((answer.status, answer.head.contains("image/png")), (200, true), "{}", answer.head);
    fs::write(&served, &answer.body).unwrap();

    let options = fields.map(|(name, value)| format!("--{}={value}", name.replace('_', "-")));
    let restore = ["restore", "tests/pictures/scene.png", "-o", made.to_str().unwrap()];
    ok(command(&restore).args(options).output().unwrap());
    assert_eq!(Picture::open(&served).unwrap(), Picture::open(&made).unwrap());
    let [of_served, of_made] = [&served, &made].map(|path| Provenance::read(path).unwrap());
    assert_eq!(of_served, Provenance { run: "built-in".into(), ..of_made });

    // The same as JSON, followed to its end by its events, with the clean picture known.
    let file = base64(&picture());
    let body = json!({"picture": file, "truth": file, "semantic": "a cup — 茶", "restoration": "Denoise with sigma 0.06",
                      "steps": 3, "start": "picture", "control_scale": 0.8, "control_start": 0.1, "control_end": 0.9,
                      "seed": 7});
    let job = server.post_json("/api/restore", &body).json();
    let events = server.send("GET", &format!("/api/jobs/{}/events", id(&job)), &[], &[]);
    let states: Vec<Value> = BufReader::new(events)
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .collect();
    let last = states.last().unwrap();
    assert_eq!(last["state"], "done", "{last}");
    assert!(last["cells"][0]["psnr"].as_f64().unwrap() > 5.0 && last["cells"][0]["ssim"].as_f64().unwrap() > 0.0);
    let result = server.get(&format!("/api/jobs/{}/pictures/0", id(&job)));
    assert_eq!(result.body, fs::read(&served).unwrap());
}

/// Base64, as a client would send a file in JSON.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let block = |bytes: &[u8]| {
        let word = (0..3).fold(0, |word, i| word << 8 | u32::from(bytes.get(i).copied().unwrap_or(0)));
        let digit =
            |i: usize| if i <= bytes.len() { DIGITS[(word >> (18 - 6 * i) & 63) as usize] as char } else { '=' };
        [0, 1, 2, 3].map(digit)
    };
    bytes.chunks(3).flat_map(block).collect()
}

#[test]
fn predictions_come_before_the_result_and_walks_fill_cell_by_cell() {
    let server = Server::start(&[]);
    let job = order(&server, &[("deblur", "[0, 2]"), ("denoise", "[0, 0.1]"), ("steps", "3")]);
    assert_eq!((&job["columns"], job["cells"].as_array().unwrap().len()), (&json!(2), 4));
    let job = server.finished(id(&job));
    assert_eq!(job["state"], "done", "{job}");
    let cells = job["cells"].as_array().unwrap();
    assert_eq!(cells[0]["restoration"], Value::Null);
    assert_eq!(cells[3]["restoration"], "Deblur with sigma 2.0; Denoise with sigma 0.10");
    for (n, cell) in cells.iter().enumerate() {
        assert!(cell["done"].as_bool().unwrap() && cell["noise_level"].is_number() && cell["sharpness"].is_number());
        // A prediction at least, then the result; the degraded picture is there at once.
        assert!(cell["version"].as_u64().unwrap() > u64::from(n > 0), "{cell}");
        assert_eq!(server.get(&format!("/api/jobs/{}/pictures/{n}", id(&job))).status, 200);
    }
    let degraded = server.get(&format!("/api/jobs/{}/pictures/0", id(&job))).body;
    let scratch = TempDir::new().unwrap();
    let path = scratch.path().join("a.png");
    fs::write(&path, degraded).unwrap();
    assert_eq!(Picture::open(&path).unwrap(), Picture::open("../tests/pictures/scene.png").unwrap());

    let job = order(&server, &[("semantics", r#"["a lion", "a tiger"]"#), ("steps", "2")]);
    let titles: Vec<Value> =
        server.finished(id(&job))["cells"].as_array().unwrap().iter().map(|cell| cell["title"].clone()).collect();
    assert_eq!(titles, ["degraded", "“a lion”", "“a tiger”"]);
}

#[test]
fn degraded_pictures_are_those_of_the_command() {
    let server = Server::start(&[]);
    let scratch = TempDir::new().unwrap();
    let [made, served] = ["made.png", "served.png"].map(|name| scratch.path().join(name));
    let prompt = "Deblur with sigma 1.5; Denoise with sigma 0.10";
    ok(spire(&[
        "degrade",
        "tests/pictures/scene.png",
        "--prompt",
        prompt,
        "--seed",
        "3",
        "-o",
        made.to_str().unwrap(),
    ]));
    let fields = [("prompt", prompt), ("seed", "3")];
    let answer = server.post_form("/api/degrade", &[], &[("picture", &picture())], &fields);
    fs::write(&served, &answer.body).unwrap();
    assert_eq!(Picture::open(&made).unwrap(), Picture::open(&served).unwrap());
    assert!(answer.head.contains(&format!("x-steps: {}", prompt.to_ascii_lowercase())), "{}", answer.head);

    let real = server.get("/api/scenes/5/picture?pipeline=real_esrgan&seed=2");
    assert!(real.head.contains("x-restoration-prompt: remove all degradation"), "{}", real.head);
    assert_eq!(real.body, server.get("/api/scenes/5/picture?pipeline=real_esrgan&seed=2").body);
    assert_ne!(real.body, server.get("/api/scenes/5/picture").body);
    assert!(!server.get("/api/scenes/5").json()["caption"].as_str().unwrap().is_empty());
}

#[test]
fn prompts_are_written_and_read_in_one_place() {
    let server = Server::start(&[]);
    let ask = |question: Value| server.post_json("/api/prompt", &question);
    let fragments = json!([{"kind": "blur", "number": 3.04}, {"kind": "jpeg", "number": null}]);
    let written = ask(json!({ "fragments": fragments })).json();
    assert_eq!(written["prompt"], "Deblur with sigma 3.0; Dejpeg");
    let read = ask(json!({"prompt": "denoise with sigma 0.4"})).json();
    assert_eq!(read["prompt"], "Denoise with sigma 0.40");
    assert_eq!(read["fragments"][0]["kind"], "noise");
    assert!(read["untrained"][0].as_str().unwrap().contains("outside the trained range"), "{read}");
    for (question, expected) in [
        (json!({"prompt": "Sharpen"}), "Sharpen"),
        (json!({"fragments": [{"kind": "jpeg", "number": 300}]}), "out of range"),
        (json!({}), "either"),
        (json!({"prompt": "Deblur", "model": "none"}), "no such model"),
    ] {
        let answer = ask(question);
        assert!((400..500).contains(&answer.status) && answer.error().contains(expected), "{answer:?}");
    }
}

#[test]
fn the_interface_is_as_it_describes_itself() {
    let server = Server::start(&[]);
    let api = server.get("/api/openapi.json").json();
    let resolve = |path: &str| path.replace("{id}", "none").replace("{n}", "0");
    let mut calls = 0;
    for (path, operations) in api["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let answer = server.ask(&method.to_uppercase(), &resolve(path), &[], &[]);
            let documented =
                operation["responses"].as_object().unwrap().keys().any(|s| *s == answer.status.to_string());
            // Without a body, a call fails in a way that the description names; none is unknown to the server.
            assert!(documented && answer.status != 405, "{method} {path}: {answer:?}");
            calls += 1;
        }
    }
    assert_eq!(calls, 11);

    // Answers have the required properties of their schemas.
    let has = |schema: &str, value: &Value| {
        for key in api["components"]["schemas"][schema]["required"].as_array().unwrap() {
            assert!(value.get(key.as_str().unwrap()).is_some(), "{schema} without {key}: {value}");
        }
        let known = api["components"]["schemas"][schema]["properties"].as_object().unwrap();
        assert!(value.as_object().unwrap().keys().all(|key| known.contains_key(key)), "{schema}: {value}");
    };
    let site = server.get("/api/models").json();
    has("Site", &site);
    has("Model", &site["models"][0]);
    assert_eq!(site["models"][0]["side"], 128);
    has("Scene", &server.get("/api/scenes/1").json());
    has("Prompt", &server.post_json("/api/prompt", &json!({"prompt": "Deblur"})).json());
    let job = order(&server, &[("steps", "1")]);
    has("Job", &job);
    has("Cell", &server.finished(id(&job))["cells"][0]);
    has("Problem", &server.get("/api/jobs/none").json());
}

#[test]
fn wrong_and_hostile_uploads_are_turned_away_before_they_are_decoded() {
    let mut server = Server::start(&[]);
    let post = |picture: &[u8], fields: &[(&str, &str)]| {
        server.post_form("/api/restore", &[], &[("picture", picture)], fields)
    };
    let is = |answer: &Answer, status: u16, expected: &str| {
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&answer.body));
        assert!(answer.error().contains(expected), "{}", answer.error());
    };
    is(&post(b"", &[]), 400, "the picture is missing");
    is(&post(b"<script>alert(1)</script>", &[]), 400, "not a readable picture");
    is(&post(&picture()[..300], &[]), 400, "the picture");
    // 100 bytes that declare 2 billion pixels.
    let mut bomb = flat(8, 8);
    bomb[16..24].copy_from_slice(&[0, 0, 0xB0, 0, 0, 0, 0xB0, 0]);
    let answer = post(&bomb, &[]);
    assert!([400, 413].contains(&answer.status), "{answer:?}");
    is(&post(&flat(3000, 3000), &[]), 413, "3000×3000");
    is(&post(&picture(), &[("upscale", "1000")]), 413, "times 1000");
    is(&post(&picture(), &[("upscale", "-1")]), 400, "upscale");
    is(&post(&picture(), &[("steps", "many")]), 400, "steps");
    is(&post(&picture(), &[("step", "5")]), 400, "step");
    is(&post(&picture(), &[("sampler", "../../etc/passwd")]), 400, "sampler");
    is(&server.ask("POST", "/api/restore", &[("Content-Type", "text/plain")], b"x"), 415, "multipart");
    is(&server.ask("POST", "/api/restore", &[("Content-Type", "application/json")], b"{"), 400, "");
    is(&server.post_json("/api/restore", &json!({"picture": "%"})), 400, "base64");
    is(&post(&vec![0; 25 << 20], &[]), 413, "24 MiB");
    // Pictures of every kind that image libraries have had faults with, cut at every 97th byte.
    for name in ["alpha.png", "cmyk.jpg", "grey16.png", "palette.png", "rotated.jpg"] {
        let whole = fs::read(format!("../tests/pictures/{name}")).unwrap();
        for end in (0..whole.len()).step_by(97) {
            let status = post(&whole[..end], &[("steps", "1")]).status;
            assert!([202, 400, 413, 429].contains(&status), "{name} to byte {end}: {status}");
        }
    }
    // Paths and other methods.
    for path in ["/etc/passwd", "/../Cargo.toml", "/%2e%2e/Cargo.toml", "/api", "/api/jobs/../models", "/style.css/"] {
        is(&server.get(path), 404, "no such");
    }
    is(&server.ask("PUT", "/api/restore", &[], b""), 405, "PUT");
    assert!(server.child.try_wait().unwrap().is_none(), "the server runs on");
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn cancelling_and_going_away_free_the_device() {
    let server = Server::start(&[]);
    let long = [("steps", "250"), ("variants", "40")];
    let job = order(&server, &long);
    let waiting = order(&server, &long);
    assert_eq!(server.get(&format!("/api/jobs/{}", id(&waiting))).json()["state"], "waiting");
    for job in [&waiting, &job] {
        assert_eq!(server.ask("DELETE", &format!("/api/jobs/{}", id(job)), &[], &[]).status, 204);
        assert_eq!(server.get(&format!("/api/jobs/{}", id(job))).status, 404);
    }
    // A program that waits for its picture and goes away.
    let (kind, body) = form(&[("picture", &picture())], &[("steps", "250"), ("seed", "1")]);
    let gone = server.send("POST", "/api/restore", &[("Content-Type", &kind), ONLY_PNG], &body);
    let began = Instant::now();
    while server.get("/api/models").json()["waiting"] != 1 {
        assert!(began.elapsed() < Duration::from_secs(20), "the order arrives");
    }
    drop(gone);
    while server.get("/api/models").json()["waiting"] != 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "the job of a client that is gone ends");
        std::thread::sleep(Duration::from_millis(50));
    }
    // 250 steps take longer than this: only a free device answers in time.
    let began = Instant::now();
    let answer = server.post_form("/api/restore", &[ONLY_PNG], &[("picture", &picture())], &[("steps", "1")]);
    assert_eq!(answer.status, 200);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    // A page that nobody follows any more; it is cancelled after ten seconds.
    let abandoned = order(&server, &[&long[..], &[("while_followed", "true")]].concat());
    let job = server.finished(id(&abandoned));
    assert_eq!(job["state"], "cancelled");
}

/// Memory of a process in bytes that is not shared with others; `None` where `/proc` does not tell.
fn memory(id: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}

#[test]
fn a_hundred_requests_at_once_are_served_or_told_to_come_back() {
    let server = &Server::start(&[]);
    let round = || -> Vec<u16> {
        std::thread::scope(|scope| {
            let ask = |n: usize| {
                scope.spawn(move || {
                    let headers = [ONLY_PNG, ("X-Visit", ["a", "b", "c", "d"][n % 4])];
                    let fields = [("steps", "1"), ("seed", "3")];
                    let answer = server.post_form("/api/restore", &headers, &[("picture", &picture())], &fields);
                    if answer.status == 429 {
                        assert!(answer.head.contains("retry-after: 5"), "{}", answer.head);
                        assert!(answer.error().contains("waiting already"), "{}", answer.error());
                    }
                    answer.status
                })
            };
            let threads: Vec<_> = (0..100).map(ask).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    };
    let count = |statuses: &[u16], status: u16| statuses.iter().filter(|&&other| other == status).count();
    let first = round();
    assert_eq!(count(&first, 200) + count(&first, 429), 100, "{first:?}");
    // The queue holds 64; more are served while others arrive.
    assert!(count(&first, 200) >= 60, "{first:?}");
    let before = memory(server.child.id());

    // Half uploads and dropped connections in between.
    let (kind, body) = form(&[("picture", &picture())], &[("steps", "1")]);
    let half: Vec<TcpStream> = (0..100)
        .map(|_| {
            let length = body.len().to_string();
            let headers = [("Content-Type", kind.as_str()), ("Content-Length", length.as_str())];
            server.send("POST", "/api/restore", &headers, &body[..body.len() / 2])
        })
        .collect();
    for _ in 0..100 {
        drop(server.send("POST", "/api/restore", &[("Content-Type", &kind), ONLY_PNG], &body));
        let mut garbage = TcpStream::connect(server.address).unwrap();
        let _ = garbage.write_all(b"\x16\x03\x01 GET / HTTP/9\r\n\r\n");
    }
    for _ in 0..2 {
        let statuses = round();
        assert_eq!(count(&statuses, 200) + count(&statuses, 429), 100, "{statuses:?}");
    }
    drop(half);
    if let (Some(before), Some(after)) = (before, memory(server.child.id())) {
        // The first round warmed the allocator's pools up.
        assert!(after < before + (48 << 20), "memory grew from {} to {} MiB", before >> 20, after >> 20);
    }
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn other_machines_need_the_token() {
    let server = Server::start(&["--host", "0.0.0.0"]);
    let token = server.url.split("?token=").nth(1).unwrap();
    assert_eq!(token.len(), 32);
    for path in ["/", "/style.css", "/api/models", "/?token=wrong"] {
        let denied = server.get(path);
        assert_eq!(denied.status, 401, "{path}");
        assert!(denied.error().contains("token"));
    }
    let bearer = format!("Bearer {token}");
    assert_eq!(server.ask("GET", "/api/models", &[("Authorization", &bearer)], &[]).status, 200);
    // The page: the token in the address becomes a cookie.
    let entered = server.get(&format!("/?token={token}"));
    assert_eq!((entered.status, entered.head.contains("location: /")), (303, true));
    assert!(entered.head.contains("httponly; samesite=strict"), "{}", entered.head);
    let cookie = format!("spire-token={token}");
    assert_eq!(server.ask("GET", "/", &[("Cookie", &cookie)], &[]).status, 200);

    let chosen = Server::start(&["--token", "a-token-of-mine"]);
    assert!(chosen.url.ends_with("/?token=a-token-of-mine"), "{}", chosen.url);
    assert_eq!(chosen.get("/").status, 401);
    assert!(error(spire(&["serve", "--token", "short"])).contains("at least 8"));
}

/// A run's folder with the built-in branch, which restores in `steps` steps.
fn run_folder(folder: &Path, steps: usize) -> String {
    fs::create_dir_all(folder.join("control")).unwrap();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        fs::copy(format!("../assets/tiny/control/{name}"), folder.join("control").join(name)).unwrap();
    }
    fs::write(folder.join("model.toml"), format!("base = \"tiny\"\n[sampling]\nsteps = {steps}\n")).unwrap();
    folder.to_str().unwrap().to_owned()
}

#[test]
fn several_runs_are_compared_and_nothing_of_this_machine_leaves_it() {
    let scratch = TempDir::new().unwrap();
    let place = scratch.path().join("secret-place");
    let [one, other] = [("one", 1), ("other", 3)].map(|(name, steps)| run_folder(&place.join(name), steps));
    let server = Server::start(&["--run", &one, "--run", &other]);
    let models = server.get("/api/models");
    let text = String::from_utf8_lossy(&models.body).into_owned();
    assert!(!text.contains("secret-place"), "{text}");
    assert_eq!(models.json()["models"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&models.json()["models"][1]["name"], &models.json()["models"][1]["options"]),
        (&json!("other"), &json!("--run other"))
    );

    let job = order(&server, &[("models", r#"["one", "other"]"#)]);
    let job = server.finished(id(&job));
    assert_eq!((&job["state"], &job["columns"]), (&json!("done"), &json!(2)), "{job}");
    let pictures = [0, 1].map(|n| server.get(&format!("/api/jobs/{}/pictures/{n}", id(&job))).body);
    assert_ne!(pictures[0], pictures[1], "the models take different numbers of steps");
    for (picture, name) in pictures.iter().zip(["one", "other"]) {
        let whole = String::from_utf8_lossy(picture).into_owned();
        assert!(whole.contains(KEYWORD) && whole.contains(&format!(r#""run":"{name}""#)), "the provenance is there");
        assert!(!whole.contains("secret-place"));
    }

    // Every answer forbids what the page does not need.
    for path in ["/", "/api/models", "/nowhere"] {
        let answer = server.get(path);
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(answer.head.contains(header), "{path} without {header}: {}", answer.head);
        }
    }
    let other = receive(server.send("POST", "/api/prompt", &[("Origin", "http://evil.example")], b"{}"));
    assert_eq!(other.status, 403);
}

#[test]
#[cfg(unix)]
fn the_server_stops_cleanly() {
    let mut server = Server::start(&[]);
    order(&server, &[("steps", "250"), ("variants", "40")]);
    let id = server.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let began = Instant::now();
    while server.child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(20), "the server stops after the present step");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.child.wait().unwrap().success());
}
