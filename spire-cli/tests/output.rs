//! The standard output, `--version`, completions and manual pages of the real program.

mod common;

use std::fs;
use std::process::Stdio;

use common::{command, error, ok, spire};
use tempfile::TempDir;

/// Runs a command whose reader reads nothing, as `spire … | true`; returns its exit status and what it told.
#[cfg(unix)]
fn without_reader(args: &[&str]) -> (Option<i32>, String) {
    let mut child = command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_ends_quietly() {
    // Without an end, the first of them would print for hours.
    for args in [
        &["data", "prompts", "-n", "1000000000"][..],
        &["weights", "inspect", "assets/tiny"],
        &["completions", "bash"],
        &["man"],
        &["train", "--help"],
        &["train", "configs/tiny.toml", "--dry-run"],
        &["sweep", "configs/sweeps/smallest.toml", "--dry-run"],
        &["verify", "tests/reference/case-psnr-ssim"],
    ] {
        let (status, told) = without_reader(args);
        assert_eq!(status, Some(0), "{args:?}: {told}");
        assert!(!["panicked", "error", "pipe"].iter().any(|word| told.contains(word)), "{args:?}: {told}");
    }
}

#[cfg(unix)]
#[test]
fn a_closed_pipe_does_not_hide_a_failure() {
    let scratch = TempDir::new().unwrap();
    fs::write(scratch.path().join("case.toml"), "kind = \"none\"\ntolerance = 1e-4\nsource = \"nowhere\"\n").unwrap();
    let (status, told) = without_reader(&["verify", scratch.path().to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert!(!told.contains("panicked"), "{told}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    for args in [&["data", "prompts", "-n", "3"][..], &["completions", "zsh"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let printed =
            error(command(args).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap());
        assert!(printed.contains("can't write to the standard output"), "{printed}");
    }
}

#[test]
fn the_version_has_the_features() {
    let version = ok(spire(&["--version"]));
    assert!(version.starts_with(concat!("spire ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.trim_end().ends_with(')') && version.contains("features: "), "{version}");
    assert_eq!(version.contains("hub"), cfg!(feature = "hub"), "{version}");
}

#[test]
fn shells_complete_commands_and_options() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ok(spire(&["completions", shell]));
        for word in ["spire", "restore", "colour-fix", "benchmark"] {
            assert!(script.contains(word), "{word} for {shell}");
        }
    }
    assert!(error(spire(&["completions", "csh"])).contains("bash"));
}

#[test]
fn every_command_has_a_manual_page() {
    let page = ok(spire(&["man"]));
    assert!(page.contains(".SH NAME") && page.contains("spire\\-train(1)"), "{page}");
    let scratch = TempDir::new().unwrap();
    let folder = scratch.path().join("man1");
    let printed = ok(spire(&["man", "-o", folder.to_str().unwrap()]));
    for name in ["spire.1", "spire-train.1", "spire-restore.1", "spire-bench-train.1", "spire-man.1"] {
        let page = fs::read_to_string(folder.join(name)).unwrap();
        assert!(page.contains(".TH") && page.contains(".SH DESCRIPTION"), "{name}");
        assert!(printed.contains(name), "{printed}");
    }
    assert!(fs::read_to_string(folder.join("spire-restore.1")).unwrap().contains("colour"));
    assert!(!folder.join("spire-help.1").exists());
}

#[test]
fn quiet_tells_less_and_verbose_more() {
    let scratch = TempDir::new().unwrap();
    let both = error(spire(&["-q", "-v", "man"]));
    assert!(both.contains("--quiet") && both.contains("--verbose"), "{both}");
    let output = scratch.path().join("degraded.png");
    let args = [
        "degrade",
        "tests/pictures/scene.png",
        "--prompt",
        "Deblur with sigma 1.0",
        "-o",
        output.to_str().unwrap(),
        "-q",
    ];
    let printed = spire(&args);
    assert_eq!(String::from_utf8_lossy(&printed.stderr), "");
    assert_eq!(ok(printed).trim(), output.display().to_string());

    let restored = scratch.path().join("restored.png");
    let args = ["restore", output.to_str().unwrap(), "--steps", "1", "--overwrite", "-o", restored.to_str().unwrap()];
    let told = |flag: &[&str]| {
        let printed = spire(&[&args[..], flag].concat());
        let told = String::from_utf8_lossy(&printed.stderr).into_owned();
        ok(printed);
        told
    };
    assert!(told(&["-v"]).contains("SHA-256") && !told(&[]).contains("SHA-256"));
}
