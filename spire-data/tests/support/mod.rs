//! A web server on the loopback that answers as badly as it is told to.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How the server answers.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Every answer comes so much later.
    pub delay: Duration,
    /// Of so many requests, one is answered with 503.
    pub busy_every: Option<usize>,
    /// Of so many answers with a body, one breaks off in its middle.
    pub cut_every: Option<usize>,
    /// The second half of a body waits until this is off.
    pub hold: bool,
    /// Whether parts of a file are given.
    pub ranges: bool,
    /// Whether files have an `ETag`.
    pub tags: bool,
}

impl Default for Manners {
    fn default() -> Self {
        Self { delay: Duration::ZERO, busy_every: None, cut_every: None, hold: false, ranges: true, tags: true }
    }
}

/// A request for a file's content: its path, and the bytes that were sent.
#[derive(Clone, Debug)]
pub struct Request {
    pub path: String,
    pub bytes: usize,
}

/// The server. It lives as long as the process.
pub struct Server {
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    files: Mutex<BTreeMap<String, Arc<Vec<u8>>>>,
    manners: Mutex<Manners>,
    asked: Mutex<usize>,
    /// How many bodies of each file were sent.
    sent: Mutex<HashMap<String, usize>>,
    log: Mutex<Vec<Request>>,
}

impl Server {
    /// Serves `files` by their paths, as in `/a.tar`.
    pub fn start(files: impl IntoIterator<Item = (String, Vec<u8>)>, manners: Manners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let files = files.into_iter().map(|(path, bytes)| (path, Arc::new(bytes))).collect();
        let shared = Arc::new(Shared {
            files: Mutex::new(files),
            manners: Mutex::new(manners),
            asked: Mutex::default(),
            sent: Mutex::default(),
            log: Mutex::default(),
        });
        let server = Self { address, shared: Arc::clone(&shared) };
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                // A client may hang up at any time.
                thread::spawn(move || drop(shared.serve(&connection)));
            }
        });
        server
    }

    pub fn set_manners(&self, manners: Manners) {
        *self.shared.manners.lock().unwrap() = manners;
    }

    /// Replaces a file, or removes it.
    pub fn set(&self, path: &str, bytes: Option<Vec<u8>>) {
        let mut files = self.shared.files.lock().unwrap();
        match bytes {
            Some(bytes) => drop(files.insert(path.to_owned(), Arc::new(bytes))),
            None => drop(files.remove(path)),
        }
    }

    /// Waits until so many requests have come since the last [`take_log`](Self::take_log).
    pub fn wait_for(&self, requests: usize) {
        let started = Instant::now();
        while self.shared.log.lock().unwrap().len() < requests && started.elapsed() < Duration::from_secs(20) {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The requests since the last call.
    pub fn take_log(&self) -> Vec<Request> {
        std::mem::take(&mut *self.shared.log.lock().unwrap())
    }
}

impl Shared {
    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(connection).lines();
        while let Some(first) = lines.next().transpose()? {
            let mut words = first.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default().to_owned());
            let mut range = None;
            for line in lines.by_ref() {
                let line = line?.to_ascii_lowercase();
                if line.is_empty() {
                    break;
                }
                range = range.or(line.strip_prefix("range: bytes=").map(str::to_owned));
            }
            if !self.answer(connection, method, path, range)? {
                return connection.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    /// Whether the connection stays open.
    fn answer(
        &self,
        mut connection: &TcpStream,
        method: &str,
        path: String,
        range: Option<String>,
    ) -> std::io::Result<bool> {
        let manners = *self.manners.lock().unwrap();
        let number = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        thread::sleep(manners.delay);
        let short = |status: &str| format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
        if manners.busy_every.is_some_and(|every| number.is_multiple_of(every)) {
            connection.write_all(short("503 Slow Down").as_bytes())?;
            return Ok(true);
        }
        let Some(file) = self.files.lock().unwrap().get(&path).cloned() else {
            connection.write_all(short("404 Not Found").as_bytes())?;
            return Ok(true);
        };
        let part = range.filter(|_| manners.ranges).map(|range| {
            let (start, end) = range.split_once('-').unwrap();
            let start: usize = start.parse().unwrap();
            start..end.parse().map_or(file.len(), |end: usize| file.len().min(end + 1))
        });
        let tag = if manners.tags { format!("ETag: \"{}-{}\"\r\n", file.len(), sum(&file)) } else { String::new() };
        let (status, place) = match &part {
            Some(part) => {
                let place = format!("Content-Range: bytes {}-{}/{}\r\n", part.start, part.end - 1, file.len());
                ("206 Partial Content", place)
            }
            None => ("200 OK", String::new()),
        };
        let body = &file[part.unwrap_or(0..file.len())];
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{tag}{place}\r\n", body.len());
        connection.write_all(head.as_bytes())?;
        if method == "HEAD" {
            return Ok(true);
        }
        let sent = {
            let mut sent = self.sent.lock().unwrap();
            let sent = sent.entry(path.clone()).or_default();
            *sent += 1;
            *sent
        };
        // By file, so that the same file is not cut for ever.
        let cut = manners.cut_every.is_some_and(|every| (sent + path.len()).is_multiple_of(every));
        let (half, rest) = body.split_at(body.len() / 2);
        let bytes = if cut { half.len() } else { body.len() };
        self.log.lock().unwrap().push(Request { path, bytes });
        connection.write_all(half)?;
        while self.manners.lock().unwrap().hold {
            thread::sleep(Duration::from_millis(2));
        }
        if !cut {
            connection.write_all(rest)?;
        }
        Ok(!cut)
    }
}

fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(7, |sum: u64, &byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)))
}
