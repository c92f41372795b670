//! `spire data caption` with the real program, against a server that speaks the chat protocol, badly at times.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::{command, error, ok, spire};
use serde_json::{Value, json};
use spire_core::Picture;
use tempfile::TempDir;

/// What the server answers to one request.
#[derive(Clone)]
enum Answer {
    /// This text, as the model's.
    Says(&'static str),
    /// A status and a body.
    Raw(u16, &'static str),
    /// Nothing for two seconds.
    Late,
    /// The connection ends in the middle.
    Breaks,
}

/// The key and body of a request.
type Asked = (Option<String>, Value);

/// A server that gives `answers` in turn, and then "A cup." for ever.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answers, seen) = (answers.to_vec(), Arc::clone(&asked));
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (answers, seen) = (answers.clone(), Arc::clone(&seen));
                std::thread::spawn(move || serve(connection.unwrap(), &answers, &seen));
            }
        });
        Self { url, asked }
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// Answers the requests of one connection.
fn serve(mut connection: TcpStream, answers: &[Answer], asked: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    while let Some((path, key, body)) = request(&mut reader) {
        assert_eq!(path, "/v1/chat/completions");
        let number = {
            let mut asked = asked.lock().unwrap();
            asked.push((key, serde_json::from_slice(&body).unwrap()));
            asked.len() - 1
        };
        let (status, body) = match answers.get(number).cloned().unwrap_or(Answer::Says("A cup.")) {
            Answer::Says(text) => (200, json!({"choices": [{"message": {"content": text}}]}).to_string()),
            Answer::Raw(status, body) => (status, body.to_owned()),
            Answer::Late => {
                std::thread::sleep(Duration::from_secs(2));
                return;
            }
            Answer::Breaks => {
                connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{\"choices\"").unwrap();
                return;
            }
        };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nRetry-After: 0\r\n\r\n", body.len());
        if connection.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// The path, key and body of the next request.
fn request(reader: &mut impl BufRead) -> Option<(String, Option<String>, Vec<u8>)> {
    let (mut line, mut length, mut key) = (String::new(), 0, None);
    reader.read_line(&mut line).ok().filter(|&read| read > 0)?;
    let path = line.split(' ').nth(1)?.to_owned();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|&read| read > 0)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap(),
            "authorization" => key = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((path, key, body))
}

/// A folder with the pictures `names`.
fn pictures(folder: &Path, names: &[&str]) {
    for name in names {
        fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
        fs::copy("../tests/pictures/scene.png", folder.join(name)).unwrap();
    }
}

/// `spire data caption` of `folder` at `server`, one request at a time.
fn caption(folder: &Path, server: &Server, more: &[&str]) -> std::process::Output {
    let folder = folder.to_str().unwrap();
    let arguments =
        ["data", "caption", folder, "--endpoint", &server.url, "--model", "llava", "--requests", "1", "--timeout", "1"];
    command(&[&arguments[..], more].concat()).env("OPENAI_API_KEY", "a key").output().unwrap()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn busy_slow_broken_and_refusing_servers_are_asked_again_or_named() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("pictures");
    pictures(&folder, &["a.png", "b.png", "c.png", "d.png", "sub/e.png"]);
    fs::write(folder.join("e.png"), b"no picture").unwrap();
    let answers = [
        Answer::Raw(503, "busy"),
        Answer::Says("A panda\nby the bamboo."),
        Answer::Raw(200, "<html>a proxy</html>"),
        Answer::Breaks,
        Answer::Says("A lion."),
        Answer::Says("I'm sorry, but I can't describe this."),
        Answer::Late,
        Answer::Says("A tiger."),
    ];
    let server = Server::start(&answers);
    let first = caption(&folder, &server, &[]);
    assert_eq!(first.status.code(), Some(1));
    let printed = String::from_utf8(first.stdout).unwrap();
    assert!(printed.starts_with("4 captions written, 0 existed already, 2 failed"), "{printed}");
    assert!(printed.contains("c.png: the model refuses: I'm sorry") && printed.contains("e.png: "), "{printed}");
    assert_eq!(read(&folder.join("a.txt")), "A panda by the bamboo.\n");
    assert_eq!(read(&folder.join("b.txt")), "A lion.\n");
    assert_eq!(
        (read(&folder.join("d.txt")), read(&folder.join("sub/e.txt"))),
        ("A tiger.\n".into(), "A cup.\n".into())
    );
    assert!(!folder.join("c.txt").exists());

    // What was asked: the model, the question and the picture.
    {
        let asked = server.asked.lock().unwrap();
        let (key, body) = &asked[0];
        assert_eq!((key.as_deref(), &body["model"]), (Some("Bearer a key"), &json!("llava")));
        let content = &body["messages"][0]["content"];
        assert!(content[0]["text"].as_str().unwrap().contains("about 60 words"));
        let picture = content[1]["image_url"]["url"].as_str().unwrap().strip_prefix("data:image/jpeg;base64,").unwrap();
        let (sent, _) = Picture::decode_with_alpha(&STANDARD.decode(picture).unwrap(), Path::new("sent")).unwrap();
        let own = Picture::open("../tests/pictures/scene.png").unwrap();
        assert_eq!((sent.width, sent.height), (own.width, own.height));
        let record: Value = serde_json::from_str(&read(&folder.join("captions.json"))).unwrap();
        assert_eq!((&record["model"], &record["prompt"]), (&body["model"], &content[0]["text"]));
    }

    // The next call asks only for what is missing.
    let before = server.requests();
    let printed = String::from_utf8(caption(&folder, &server, &[]).stdout).unwrap();
    assert!(printed.starts_with("1 captions written, 4 existed already, 1 failed"), "{printed}");
    assert_eq!((server.requests() - before, read(&folder.join("c.txt"))), (1, "A cup.\n".into()));

    // Captions of two questions don't mix.
    let mixed = error(caption(&folder, &server, &["--form", "short"]));
    assert!(mixed.contains("come from llava with the prompt") && mixed.contains("--output"), "{mixed}");
    let short = scratch.path().join("short");
    caption(&folder, &server, &["--form", "short", "--output", short.to_str().unwrap()]);
    assert_eq!(read(&short.join("sub/e.txt")), "A cup.\n");
}

#[test]
fn a_server_that_can_not_be_used_ends_the_run_at_once() {
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("pictures");
    pictures(&folder, &["a.png", "b.png"]);
    let server = Server::start(&[Answer::Raw(404, "no model \"llava\""), Answer::Raw(401, "a wrong key")]);
    for message in ["answers with 404: no model", "answers with 401: a wrong key"] {
        let failed = error(caption(&folder, &server, &[]));
        assert!(failed.contains(message), "{failed}");
    }
    // Nothing stands in the way of a corrected command.
    ok(caption(&folder, &server, &["--prompt", "What is it?"]));
    assert_eq!(server.requests(), 4);
    let none = scratch.path().join("none");
    let arguments = ["data", "caption", none.to_str().unwrap(), "--endpoint", &server.url, "--model", "llava"];
    assert!(error(spire(&arguments)).contains("none"));
}

#[test]
fn a_picture_is_restored_with_the_caption_of_a_model() {
    let scratch = TempDir::new().unwrap();
    let restored = |name: &str, more: &[&str]| {
        let output = scratch.path().join(name);
        let arguments = ["restore", "tests/pictures/scene.png", "-o", output.to_str().unwrap(), "--steps", "2"];
        ok(command(&[&arguments[..], more].concat()).output().unwrap());
        Picture::open(output).unwrap()
    };
    let server = Server::start(&[Answer::Raw(503, "busy"), Answer::Says("A lion\non a meadow.")]);
    let captioned = restored("captioned.png", &["--caption-endpoint", &server.url, "--caption-model", "llava"]);
    assert_eq!(captioned, restored("written.png", &["--semantic", "A lion on a meadow."]));
    let alone = spire(&["restore", "a.png", "-o", "b.png", "--caption-endpoint", &server.url]);
    assert!(error(alone).contains("--caption-model"));
}
