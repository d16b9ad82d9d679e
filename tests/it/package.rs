//! The Debian package: built from the programs that are tested, installed in a root of its own,
//! upgraded over a running cluster, purged. What is looked at is in tests/package/lifecycle.sh.

#![allow(clippy::disallowed_methods)] // a script is waited for

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Turn;

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(status.success(), "{command:?}: {status}");
}

#[test]
fn installed_upgraded_and_purged_without_an_outage() {
    // SAFETY: it only reads.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can install packages, also in a root of its own");
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(env!("CARGO_BIN_EXE_hanode")).parent().expect("a directory");
    let (profile, target) = match programs.file_name().and_then(|n| n.to_str()) {
        Some("debug") => ("dev", programs.parent()),
        Some(profile) => (profile, programs.parent()),
        None => panic!("{}", programs.display()),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let package = |version: &str| -> PathBuf {
        let output = dir.path().join(version);
        let mut build = Command::new(root.join("scripts/deb.sh"));
        build.arg(profile).arg(&output).arg(version);
        run(build.env("CARGO_TARGET_DIR", target.expect("a directory")));
        let mut made = std::fs::read_dir(&output).expect("it was made");
        made.next().expect("one package").expect("it can be read").path()
    };
    let (old, new) = (package("0.1.0-1"), package("0.1.0-2"));
    let _turn = Turn::take();
    run(Command::new(root.join("tests/package/root.sh")).arg(old).arg(new));
}
