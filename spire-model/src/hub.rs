//! Models named as on the Hugging Face Hub: found in its local cache, or downloaded into it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, Result, bail};

/// Files that repeat the weights in another form; they are not downloaded.
const UNWANTED: [&str; 4] = ["*.msgpack", "*.onnx*", "*.h5", "*openvino*"];

/// Variants of the weights, which are downloaded only if they are asked for.
const VARIANTS: [&str; 2] = ["fp16", "non_ema"];

/// Which files of a repository to download.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Patterns of their paths. As in huggingface_hub, `*` matches `/` too.
    pub files: &'a [&'a str],
    /// The variant of the weights, such as `fp16`; by default the one without a name.
    pub variant: Option<&'a str>,
}

impl Wanted<'_> {
    /// The patterns of the files that are not downloaded.
    fn unwanted(&self) -> Vec<String> {
        let others = VARIANTS.iter().filter(|variant| self.variant != Some(variant));
        let others = others.flat_map(|variant| [format!("*.{variant}.*"), format!("*.{variant}-*")]);
        UNWANTED.iter().map(ToString::to_string).chain(others).collect()
    }
}

/// `owner/name` and a revision, `main` by default.
#[derive(Clone, Debug, Eq, PartialEq)]
struct HubName {
    owner: String,
    name: String,
    revision: String,
}

impl HubName {
    /// Parses `owner/name` or `owner/name@revision`; `None` if the text cannot be a name on the Hub.
    fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = path.split_once('/')?;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_word = |word: &str| !word.is_empty() && !word.starts_with('.') && word.chars().all(allowed);
        let is_name = is_word(owner) && is_word(name) && is_word(revision);
        is_name.then(|| Self { owner: owner.into(), name: name.into(), revision: revision.into() })
    }

    /// The newest snapshot of the revision in the cache.
    fn cached(&self, cache: &Path) -> Option<PathBuf> {
        let repository = cache.join(format!("models--{}--{}", self.owner, self.name));
        let commit = fs::read_to_string(repository.join("refs").join(&self.revision));
        let commit = commit.unwrap_or_else(|_| self.revision.clone());
        let snapshot = repository.join("snapshots").join(commit.trim());
        snapshot.is_dir().then_some(snapshot)
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

/// `owner/name@commit` of a snapshot in a cache; `None` for any other path.
pub fn name_of(snapshot: &Path) -> Option<String> {
    let mut parts = snapshot.iter().rev().map(|part| part.to_string_lossy());
    let (commit, snapshots, repository) = (parts.next()?, parts.next()?, parts.next()?);
    let (owner, name) = repository.strip_prefix("models--")?.split_once("--")?;
    (snapshots == "snapshots").then(|| format!("{owner}/{name}@{commit}"))
}

/// The snapshot of the repository that `path` names, from the cache or downloaded. Parameters as [`crate::locate::locate`].
///
/// # Errors
/// `path` is no name on the Hub, or as [`find`].
pub fn locate(path: &Path, what: &str, wanted: &Wanted, missing: impl Fn(&Path) -> Vec<String>) -> Result<PathBuf> {
    match path.to_str().and_then(HubName::parse) {
        Some(name) => find(&name, wanted, missing),
        None => bail!("there is no {what} {}", path.display()),
    }
}

/// The complete snapshot of a repository. Parameters as [`locate`].
///
/// # Errors
/// The cache does not hold a complete snapshot, and the download fails or does not complete it.
fn find(name: &HubName, wanted: &Wanted, missing: impl Fn(&Path) -> Vec<String>) -> Result<PathBuf> {
    let cache = cache_folder()?;
    let found = name.cached(&cache);
    let mut lacking = match &found {
        Some(folder) => missing(folder),
        None => vec![],
    };
    if let (Some(folder), true) = (&found, lacking.is_empty()) {
        return Ok(folder.clone());
    }
    let failure = match download(name, wanted) {
        Ok(folder) => {
            lacking = missing(&folder);
            if lacking.is_empty() {
                return Ok(folder);
            }
            "the repository does not have them".to_owned()
        }
        Err(error) => format!("it can't be downloaded: {}", error.root_cause()),
    };
    let state = match &found {
        Some(folder) => format!("the copy in {} lacks {}", folder.display(), lacking.join(", ")),
        None => format!("there is no folder or file of that name, and no copy in {}", cache.display()),
    };
    let unwanted = wanted.unwanted();
    let unwanted: Vec<&str> = unwanted.iter().map(String::as_str).collect();
    let quoted =
        |patterns: &[&str]| patterns.iter().map(|pattern| format!("'{pattern}'")).collect::<Vec<_>>().join(" ");
    bail!(
        "model {name}: {state}; {failure}. Where there is a network: hf download {name} --revision {} --include {} \
         --exclude {}",
        name.revision,
        quoted(wanted.files),
        quoted(&unwanted)
    )
}

/// The cache, found as huggingface_hub finds it: `HF_HUB_CACHE`, `$HF_HOME/hub`, `$XDG_CACHE_HOME/huggingface/hub`,
/// `~/.cache/huggingface/hub`.
fn cache_folder() -> Result<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("HF_HUB_CACHE")
        .or_else(|| Some(variable("HF_HOME")?.join("hub")))
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(env::home_dir()?.join(".cache/huggingface/hub")))
        .context("there is no home folder; set HF_HOME to the Hugging Face cache")
}

/// Downloads the files of a repository that [`select`] chooses. Files that are in the cache already are kept.
#[cfg(feature = "hub")]
fn download(name: &HubName, wanted: &Wanted) -> Result<PathBuf> {
    use hf_hub::api::sync::ApiBuilder;
    use hf_hub::{Repo, RepoType};

    if env::var("HF_HUB_OFFLINE").is_ok_and(|value| !["", "0"].contains(&value.as_str())) {
        bail!("HF_HUB_OFFLINE is set");
    }
    tracing::info!("downloading {name} from the Hugging Face Hub");
    let mut builder = ApiBuilder::from_env().with_cache_dir(cache_folder()?).with_retries(3);
    if let Ok(token) = env::var("HF_TOKEN") {
        builder = builder.with_token(Some(token));
    }
    let repository =
        builder.build()?.repo(Repo::with_revision(name.to_string(), RepoType::Model, name.revision.clone()));
    let files = repository.info()?.siblings;
    let files: Vec<&str> = files.iter().map(|file| file.rfilename.as_str()).collect();
    for file in select(&files, wanted) {
        repository.get(file).with_context(|| file.to_owned())?;
    }
    name.cached(&cache_folder()?).with_context(|| format!("{name} has none of the files {}", wanted.files.join(", ")))
}

/// The files of a repository to download: those that match a pattern and are no other form of the weights. In each folder
/// that has weights of the variant, only those; and where there are safetensors, no pickles.
#[cfg(feature = "hub")]
fn select<'a>(files: &[&'a str], wanted: &Wanted) -> Vec<&'a str> {
    let matches = |pattern: &str, file: &str| glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(file));
    let unwanted = wanted.unwanted();
    let mut selected: Vec<&str> = files
        .iter()
        .copied()
        .filter(|file| wanted.files.iter().any(|pattern| matches(pattern, file)))
        .filter(|file| !unwanted.iter().any(|pattern| matches(pattern, file)))
        .collect();
    if let Some(variant) = wanted.variant {
        let of_variant = |file: &str| [".", "-"].iter().any(|end| file.contains(&format!(".{variant}{end}")));
        selected = preferred(selected, of_variant);
    }
    preferred(selected, is_safetensors)
}

/// Drops the other weights of each folder that has weights for which `is_better` holds.
#[cfg(feature = "hub")]
fn preferred(files: Vec<&str>, is_better: impl Fn(&str) -> bool) -> Vec<&str> {
    fn folder(file: &str) -> &str {
        file.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
    let is_pickle = |file: &str| [".bin", ".ckpt", ".pt", ".pth"].iter().any(|ending| file.contains(ending));
    let better: Vec<&str> = files.iter().filter(|file| is_better(file)).map(|file| folder(file)).collect();
    let is_other = |file: &str| (is_pickle(file) || is_safetensors(file)) && !is_better(file);
    files.into_iter().filter(|file| !is_other(file) || !better.contains(&folder(file))).collect()
}

/// Whether a file is a part or the index of weights in safetensors.
#[cfg(feature = "hub")]
fn is_safetensors(file: &str) -> bool {
    file.contains(".safetensors")
}

#[cfg(not(feature = "hub"))]
fn download(_name: &HubName, _wanted: &Wanted) -> Result<PathBuf> {
    bail!("this program was built without the feature hub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_the_name_that_finds_it_again() {
        let snapshot = Path::new("/hub/models--owner--a--name/snapshots/0123abc");
        let name = name_of(snapshot).unwrap();
        assert_eq!(name, "owner/a--name@0123abc");
        assert!(HubName::parse(&name).is_some());
        assert_eq!(name_of(Path::new("/models/owner--name")), None);
        assert_eq!(name_of(Path::new("a")), None);
    }

    #[test]
    fn paths_are_not_taken_for_names_on_the_hub() {
        let name = HubName::parse("stable-diffusion-v1-5/stable-diffusion-v1-5@fp16").unwrap();
        assert_eq!(
            (name.to_string().as_str(), name.revision.as_str()),
            ("stable-diffusion-v1-5/stable-diffusion-v1-5", "fp16")
        );
        for path in ["models", "/models/sd", "./sd", "../a/b", "a/b/c", "a/", "C:\\models\\sd", "a b/c"] {
            assert_eq!(HubName::parse(path), None, "{path}");
        }
    }

    #[cfg(feature = "hub")]
    #[test]
    fn second_copies_of_weights_are_not_downloaded() {
        let files = [
            "README.md",
            "text_encoder/config.json",
            "text_encoder/pytorch_model.bin",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.fp16.bin",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "unet/model.onnx",
            "vae/diffusion_pytorch_model.fp16.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        let selected = |variant| select(&files, &Wanted { files: &["unet/*", "vae/*", "text_encoder/*"], variant });
        let plain = [
            "text_encoder/config.json",
            "text_encoder/pytorch_model.bin",
            "unet/config.json",
            "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.json",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        assert_eq!(selected(None), plain);
        let half = [
            "text_encoder/config.json",
            "text_encoder/pytorch_model.bin",
            "unet/config.json",
            "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
            "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
            "vae/diffusion_pytorch_model.fp16.safetensors",
        ];
        assert_eq!(selected(Some("fp16")), half);
        let non_ema = [
            "text_encoder/config.json",
            "text_encoder/pytorch_model.bin",
            "unet/config.json",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "vae/diffusion_pytorch_model.safetensors",
        ];
        assert_eq!(selected(Some("non_ema")), non_ema);
    }

    #[test]
    fn the_cache_is_read_through_refs() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--a--b");
        fs::create_dir_all(repository.join("snapshots/0123")).unwrap();
        fs::create_dir_all(repository.join("refs")).unwrap();
        fs::write(repository.join("refs/main"), "0123\n").unwrap();
        let snapshot = Some(repository.join("snapshots/0123"));
        assert_eq!(HubName::parse("a/b").unwrap().cached(cache.path()), snapshot);
        assert_eq!(HubName::parse("a/b@0123").unwrap().cached(cache.path()), snapshot);
        assert_eq!(HubName::parse("a/b@other").unwrap().cached(cache.path()), None);
    }
}
