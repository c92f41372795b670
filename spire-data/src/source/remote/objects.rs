//! Objects by their addresses: listing, ranges, and bodies that survive a broken connection.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path;
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt,
    RetryConfig,
};
use tokio::runtime::Runtime;
use url::{Position, Url};

use crate::source::SourceError;
use crate::source::shards::expand_braces;

/// The stores of a source, by scheme and host; each keeps its connections.
#[derive(Default)]
pub(super) struct Objects {
    stores: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
}

/// A transfer that gives nothing for so long counts as broken.
const MOST_SILENCE: Duration = Duration::from_secs(30);

/// A transfer that breaks off this often without a new byte has failed.
const MOST_BREAKS: u32 = 5;

/// The pause after the first break; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The most characters of a store's message in an error: some answer with a page of HTML.
const MOST_MESSAGE: usize = 300;

/// Where requests run. Its threads live as long as the process.
fn runtime() -> io::Result<&'static Runtime> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let start =
        || tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("objects").enable_all().build();
    RUNTIME.get_or_init(start).as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))
}

impl Objects {
    /// The addresses of a pattern, sorted where wildcards list them. Braces work everywhere, wildcards where a store lists its
    /// objects.
    pub fn expand(&self, pattern: &str) -> Result<Vec<String>, SourceError> {
        let wrong = |reason: String| SourceError::Pattern { pattern: pattern.to_owned(), reason };
        let is_web = pattern.starts_with("http");
        if is_web && pattern.contains('?') {
            let reason = "an address with a query can't be read: put the shards where they are read without a signature in the address";
            return Err(wrong(reason.to_owned()));
        }
        let mut addresses = vec![];
        for name in expand_braces(pattern)? {
            let parsed = Url::parse(&name).map_err(|error| wrong(error.to_string()))?;
            if parsed.password().is_some() || is_web && !parsed.username().is_empty() {
                return Err(wrong(
                    "an address must not hold a password: the environment holds those of a store".to_owned(),
                ));
            }
            let Some(wildcard) = name.find(['*', '?', '[']) else {
                addresses.push(name);
                continue;
            };
            if is_web {
                return Err(wrong(
                    "a web server does not list its files: name them with braces, as in {000..099}".to_owned(),
                ));
            }
            let found = self.list(&name, wildcard).map_err(wrong)?;
            if found.is_empty() {
                return Err(wrong(format!("no object is called {name}")));
            }
            addresses.extend(found);
        }
        Ok(addresses)
    }

    /// The objects that fit `name`, which has its first wildcard at byte `wildcard`.
    fn list(&self, name: &str, wildcard: usize) -> Result<Vec<String>, String> {
        let pattern = glob::Pattern::new(name).map_err(|error| error.to_string())?;
        let root = name[..wildcard].rfind('/').map_or(name, |slash| &name[..=slash]);
        let (store, path) = self.store(root)?;
        let authority = authority(root)?;
        let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
        let found = block_on(store.list(Some(&path)).try_collect::<Vec<ObjectMeta>>())?;
        let addresses = found.into_iter().map(|object| format!("{authority}/{}", object.location));
        let mut addresses: Vec<String> = addresses.filter(|address| pattern.matches_with(address, options)).collect();
        addresses.sort_unstable();
        Ok(addresses)
    }

    /// A small object; `None` if there is none, or the store does not say whether there is.
    pub fn small(&self, address: &str, most: u64) -> Result<Option<Bytes>, String> {
        let (store, path) = self.store(address)?;
        match runtime().map_err(|error| message(&error))?.block_on(store.head(&path)) {
            Ok(object) if object.size > most => Err(format!("{} bytes are too many; the most are {most}", object.size)),
            Ok(object) => wait_for(whole(&*store, &path, GetOptions::new(), object.size)).map(Some),
            // A store that does not let a reader list objects denies those that are not there.
            Err(object_store::Error::NotFound { .. } | object_store::Error::PermissionDenied { .. }) => Ok(None),
            Err(error) => Err(message(&error)),
        }
    }

    /// What identifies an object as it is now.
    pub fn identity(&self, address: &str) -> Result<Identity, String> {
        let (store, path) = self.store(address)?;
        block_on(store.head(&path)).map(Identity::of)
    }

    /// Ranges of an object, which must not have changed. They are fetched at the same time.
    pub fn ranges(&self, address: &str, ranges: &[Range<u64>], identity: &Identity) -> Result<Vec<Bytes>, String> {
        let (store, path) = self.store(address)?;
        let (store, path) = (&*store, &path);
        let one = |range: &Range<u64>| {
            let options = GetOptions::new().with_if_match(identity.e_tag.clone()).with_range(Some(range.clone()));
            let length = range.end.saturating_sub(range.start);
            async move { if length == 0 { Ok(Bytes::new()) } else { whole(store, path, options, length).await } }
        };
        wait_for(try_join_all(ranges.iter().map(one)))
    }

    /// Begins to read an object.
    pub fn body(self: &Arc<Self>, address: &str) -> Result<Body, String> {
        let got = self.get(address, GetOptions::new())?;
        Ok(Body {
            objects: Arc::clone(self),
            address: address.to_owned(),
            identity: Identity::of(got.meta.clone()),
            stream: got.into_stream(),
            at: 0,
            breaks: 0,
        })
    }

    fn get(&self, address: &str, options: GetOptions) -> Result<GetResult, String> {
        let (store, path) = self.store(address)?;
        block_on(store.get_opts(&path, options))
    }

    /// The store of an address, and the object's path in it.
    fn store(&self, address: &str) -> Result<(Arc<dyn ObjectStore>, Path), String> {
        let url = Url::parse(address).map_err(|error| error.to_string())?;
        let path = Path::from_url_path(url.path()).map_err(|error| error.to_string())?;
        let authority = authority(address)?;
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&authority) {
            return Ok((Arc::clone(store), path));
        }
        let store = open(&authority, url.scheme()).map_err(|error| message(&error))?;
        stores.insert(authority, Arc::clone(&store));
        Ok((store, path))
    }
}

/// Scheme and host of an address.
fn authority(address: &str) -> Result<String, String> {
    let url = Url::parse(address).map_err(|error| error.to_string())?;
    Ok(url[..Position::BeforePath].to_owned())
}

/// Opens a store. What it needs comes from the environment, as `object_store` reads it: `AWS_*`, `GOOGLE_*`, `AZURE_*`.
fn open(authority: &str, scheme: &str) -> object_store::Result<Arc<dyn ObjectStore>> {
    // For the connections' encryption; an error says that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // The time of a whole transfer is not bounded: shards are large.
    let settings = [
        (ClientConfigKey::Timeout, "7 days".to_owned()),
        (ClientConfigKey::ReadTimeout, format!("{} seconds", MOST_SILENCE.as_secs())),
        // Where the environment names an endpoint without encryption, it is wanted.
        (ClientConfigKey::AllowHttp, "true".to_owned()),
    ];
    let retry = RetryConfig { retry_timeout: Duration::from_secs(120), ..RetryConfig::default() };
    Ok(match scheme {
        "s3" | "s3a" => {
            let builder = AmazonS3Builder::from_env().with_url(authority).with_retry(retry);
            let with =
                |builder: AmazonS3Builder, (key, value)| builder.with_config(AmazonS3ConfigKey::Client(key), value);
            Arc::new(settings.into_iter().fold(builder, with).build()?)
        }
        "gs" => {
            let builder = GoogleCloudStorageBuilder::from_env().with_url(authority).with_retry(retry);
            let with = |builder: GoogleCloudStorageBuilder, (key, value)| {
                builder.with_config(GoogleConfigKey::Client(key), value)
            };
            Arc::new(settings.into_iter().fold(builder, with).build()?)
        }
        "az" | "abfs" | "abfss" => {
            let builder = MicrosoftAzureBuilder::from_env().with_url(authority).with_retry(retry);
            let with =
                |builder: MicrosoftAzureBuilder, (key, value)| builder.with_config(AzureConfigKey::Client(key), value);
            Arc::new(settings.into_iter().fold(builder, with).build()?)
        }
        _ => {
            let options = settings
                .into_iter()
                .fold(ClientOptions::new(), |options, (key, value)| options.with_config(key, value));
            Arc::new(HttpBuilder::new().with_url(authority).with_client_options(options).with_retry(retry).build()?)
        }
    })
}

/// Fetches `length` bytes. A transfer that breaks off begins again.
async fn whole(store: &dyn ObjectStore, path: &Path, options: GetOptions, length: u64) -> Result<Bytes, String> {
    let mut pause = FIRST_PAUSE;
    let mut breaks = 0;
    loop {
        let got = async { store.get_opts(path, options.clone()).await?.bytes().await };
        let broken = match got.await {
            Ok(bytes) if bytes.len() as u64 == length => return Ok(bytes),
            Ok(bytes) => format!("{} bytes came instead of {length}", bytes.len()),
            Err(error) => message(&error),
        };
        breaks += 1;
        if breaks > MOST_BREAKS {
            return Err(broken);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

/// What changes when an object does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub size: u64,
    pub e_tag: Option<String>,
    /// Its date.
    pub modified: String,
}

impl Identity {
    fn of(object: ObjectMeta) -> Self {
        Self { size: object.size, e_tag: object.e_tag, modified: object.last_modified.to_rfc3339() }
    }
}

/// An object that is read from its first byte to its last. A transfer that breaks off goes on where it stopped.
pub(super) struct Body {
    objects: Arc<Objects>,
    address: String,
    pub identity: Identity,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    /// The number of bytes that have arrived.
    at: u64,
    /// How often the transfer broke off since the last byte.
    breaks: u32,
}

impl Body {
    /// The next bytes; empty at the end.
    ///
    /// # Errors
    /// The transfer broke off several times, or the object has changed.
    pub fn chunk(&mut self) -> io::Result<Bytes> {
        loop {
            let mut broken = match runtime()?.block_on(self.stream.next()) {
                Some(Ok(bytes)) if bytes.is_empty() => continue,
                Some(Ok(bytes)) => {
                    self.at += bytes.len() as u64;
                    self.breaks = 0;
                    return Ok(bytes);
                }
                None if self.at >= self.identity.size => return Ok(Bytes::new()),
                None => format!("it ends at byte {} of {}", self.at, self.identity.size),
                Some(Err(error)) => message(&error),
            };
            loop {
                self.breaks += 1;
                if self.breaks > MOST_BREAKS {
                    return Err(io::Error::other(format!("after {} bytes: {broken}", self.at)));
                }
                std::thread::sleep(FIRST_PAUSE * 2_u32.pow(self.breaks - 1));
                match self.go_on() {
                    Ok(()) => break,
                    Err(error) => broken = error,
                }
            }
        }
    }

    /// Asks for the rest; or for the whole, if the server gives no ranges, and skips what is known.
    fn go_on(&mut self) -> Result<(), String> {
        let rest =
            GetOptions::new().with_range(Some(GetRange::Offset(self.at))).with_if_match(self.identity.e_tag.clone());
        let (got, mut skip) = match self.objects.get(&self.address, rest) {
            Ok(rest) => (rest, 0),
            Err(_) => (self.objects.get(&self.address, GetOptions::new())?, self.at),
        };
        if (got.meta.size, &got.meta.e_tag) != (self.identity.size, &self.identity.e_tag) {
            return Err("the object was replaced while it was read".to_owned());
        }
        let rest = got.into_stream().map_ok(move |mut bytes: Bytes| {
            let known = bytes.split_to(skip.min(bytes.len() as u64) as usize);
            skip -= known.len() as u64;
            bytes
        });
        self.stream = rest.boxed();
        Ok(())
    }
}

/// Waits for a request.
fn block_on<T>(request: impl Future<Output = object_store::Result<T>>) -> Result<T, String> {
    wait_for(async { request.await.map_err(|error| message(&error)) })
}

fn wait_for<T>(request: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    runtime().map_err(|error| message(&error))?.block_on(request)
}

/// The text of an error: on one line, short, and without the queries of addresses, which may hold a signature.
fn message(error: &dyn Display) -> String {
    let text = error.to_string();
    let words = text.split_whitespace().map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => word,
    });
    let line: Vec<&str> = words.collect();
    let line = line.join(" ");
    match line.char_indices().nth(MOST_MESSAGE) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_short_and_has_no_signature() {
        let error = "Error performing GET https://a.blob.core.windows.net/c/0.tar?sv=1&sig=secret in 3s -\n  Server returned 403";
        let expected = "Error performing GET https://a.blob.core.windows.net/c/0.tar in 3s - Server returned 403";
        assert_eq!(message(&error), expected);
        assert_eq!(message(&"é".repeat(1000)).chars().count(), MOST_MESSAGE + 2);
    }

    #[test]
    fn addresses_with_secrets_or_wildcards_on_the_web_are_refused() {
        let objects = Objects::default();
        for (pattern, expected) in [
            ("https://host/a.tar?X-Amz-Signature=1", "query"),
            ("https://me:secret@host/a.tar", "password"),
            ("https://host/*.tar", "braces"),
        ] {
            let message = objects.expand(pattern).unwrap_err().to_string();
            assert!(message.contains("data.source.shards") && message.contains(expected), "{message}");
        }
        let addresses = objects.expand("s3://b/{a,b}/{08..10}.tar").unwrap();
        assert_eq!((addresses.len(), addresses[2].as_str()), (6, "s3://b/a/10.tar"));
        assert_eq!(authority("https://host:80/x/y.tar").unwrap(), "https://host:80");
    }
}
