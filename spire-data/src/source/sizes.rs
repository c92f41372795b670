//! The number of samples of each shard, without reading them.

use std::collections::{HashMap, HashSet};
use std::path::MAIN_SEPARATOR;

use serde::Deserialize;

use super::SourceError;

/// The list beside the shards, as the tools of WebDataset have it: `{"000000.tar": 10000, …}`.
pub(super) const LIST: &str = "sizes.json";

/// The most bytes of a list.
pub(super) const MOST_BYTES: u64 = 1 << 28;

/// A list, or WebDataset's `wids` index under the same name.
#[derive(Deserialize)]
#[serde(untagged)]
enum Listed {
    Wids { shardlist: Vec<Shard> },
    Plain(HashMap<String, usize>),
}

#[derive(Deserialize)]
struct Shard {
    url: String,
    nsamples: usize,
}

/// The numbers of samples of the shards with these paths or addresses, from the lists in their folders. `fetch` reads a list, and
/// gives `None` if there is none. `None` if a folder has no list.
pub(super) fn published<B: AsRef<[u8]>>(
    addresses: &[String],
    fetch: impl Fn(&str) -> Result<Option<B>, String>,
) -> Result<Option<Vec<usize>>, SourceError> {
    let folders: HashSet<&str> = addresses.iter().map(|address| split(address).0).collect();
    let mut lists = HashMap::new();
    for folder in folders {
        let address = format!("{folder}{LIST}");
        let wrong = |message: String| SourceError::Store { address: address.clone(), message };
        let Some(bytes) = fetch(&address).map_err(wrong)? else { return Ok(None) };
        lists.insert(folder, read(bytes.as_ref()).map_err(wrong)?);
    }
    let size = |address: &String| {
        let (folder, name) = split(address);
        lists[folder].get(name).copied().ok_or_else(|| SourceError::Store {
            address: format!("{folder}{LIST}"),
            message: format!("it does not list {name}: add it with its number of samples, or remove the file"),
        })
    };
    addresses.iter().map(size).collect::<Result<_, _>>().map(Some)
}

/// Splits a path or an address into the folder, with its slash, and the name.
fn split(address: &str) -> (&str, &str) {
    address.split_at(address.rfind(['/', MAIN_SEPARATOR]).map_or(0, |slash| slash + 1))
}

fn read(bytes: &[u8]) -> Result<HashMap<String, usize>, String> {
    let listed = serde_json::from_slice(bytes)
        .map_err(|_| "not a list of shards and their numbers of samples, as in {\"000000.tar\": 10000}".to_owned())?;
    Ok(match listed {
        Listed::Plain(sizes) => sizes,
        Listed::Wids { shardlist } => {
            shardlist.into_iter().map(|shard| (split(&shard.url).1.to_owned(), shard.nsamples)).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_lists_are_read() {
        let wids = br#"{"wids_version": 1, "shardlist": [{"url": "x/a.tar", "nsamples": 3, "filesize": 9}]}"#;
        for bytes in [&wids[..], br#"{"a.tar": 3}"#] {
            assert_eq!(read(bytes).unwrap(), HashMap::from([("a.tar".to_owned(), 3)]));
        }
        for wrong in [&b"[3]"[..], b"{\"a.tar\": -1}", b"<html>"] {
            assert!(read(wrong).unwrap_err().contains("000000.tar"));
        }
    }
}
