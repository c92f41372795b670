//! Makes the text of `spire --version`: the version, the commit if this is a git checkout, and the features.

use std::path::Path;
use std::process::Command;

/// The features that a user chooses; `Cargo.toml` has what they enable.
const FEATURES: [&str; 5] = ["hub", "cuda", "vulkan", "wgpu", "mpi"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let enabled = |name: &&str| std::env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some();
    let features: Vec<&str> = FEATURES.into_iter().filter(enabled).collect();
    let features = if features.is_empty() { "none".to_owned() } else { features.join(", ") };
    let commit = commit().map(|commit| format!("{commit}, ")).unwrap_or_default();
    println!("cargo::rustc-env=SPIRE_VERSION={} ({commit}features: {features})", env!("CARGO_PKG_VERSION"));
}

/// The short hash of the checked-out commit; `None` without git or outside this project's own checkout.
fn commit() -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.canonicalize().ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != root {
        return None;
    }
    // A commit changes the log of HEAD; where there is none, HEAD itself changes at least with the branch.
    for name in ["logs/HEAD", "HEAD"] {
        let file = root.join("spire-cli").join(git(&["rev-parse", "--git-path", name])?);
        if file.is_file() {
            println!("cargo::rerun-if-changed={}", file.display());
        }
    }
    git(&["rev-parse", "--short", "HEAD"])
}

/// The output of a git command, run in this crate's folder.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
