//! Replays every input that is checked in: those to begin with, and those that found a bug once.

use std::path::{Path, PathBuf};

use quorate_fuzz::{TARGETS, Target};

fn inputs(folder: &str, target: &Target) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(target.name);
    let Ok(entries) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    files
}

#[test]
fn every_input_passes() {
    for target in TARGETS {
        let corpus = inputs("corpus", target);
        assert!(!corpus.is_empty(), "target {} has nothing to begin with", target.name);
        for file in corpus.into_iter().chain(inputs("regressions", target)) {
            let bytes = std::fs::read(&file).unwrap();
            let outcome = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(outcome.is_ok(), "target {} fails with {}", target.name, file.display());
        }
    }
}
