//! Replays every input that is checked in: those to begin with, and those that found a bug once.

// The fuzzer runs on the real machine.
#![allow(clippy::disallowed_methods)]

use std::path::{Path, PathBuf};

use quorate_fuzz::{TARGETS, Target};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

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

/// Most of the time that is spent on one target.
const TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// A change of an input: bytes that differ, are gone, are there twice, or come from another input.
fn mutate(bytes: &mut Vec<u8>, other: &[u8], draw: &mut impl FnMut(usize) -> usize) {
    for _ in 0..=draw(4) {
        let at = draw(bytes.len() + 1);
        let end = (at + 1 + draw(16)).min(bytes.len());
        match draw(5) {
            0 if at < bytes.len() => bytes[at] ^= 1 << draw(8),
            1 if at < bytes.len() => bytes[at] = [0, 1, 0x7F, 0x80, 0xFF, b'0', b'-'][draw(7)],
            2 => drop(bytes.drain(at.min(end)..end)),
            3 => {
                let again = bytes[at.min(end)..end].to_vec();
                bytes.splice(at..at, again);
            }
            _ => {
                let from = draw(other.len() + 1);
                let upto = (from + 1 + draw(64)).min(other.len());
                bytes.splice(at..at, other[from.min(upto)..upto].iter().copied());
            }
        }
    }
}

/// Some seconds of what `make fuzz` does for long, without looking at what code is reached. Which
/// inputs come is fixed; the time only says how many of them.
#[test]
fn changed_inputs_pass() {
    for target in TARGETS {
        let files: Vec<_> = ["corpus", "regressions"]
            .iter()
            .flat_map(|folder| inputs(folder, target))
            .map(|file| std::fs::read(file).unwrap())
            .collect();
        let mut rng = StdRng::seed_from_u64(1);
        let mut draw = |below: usize| rng.random_range(0..below.max(1));
        let begun = std::time::Instant::now();
        let mut count = 0_u64;
        while begun.elapsed() < TIME {
            let (one, two) = (draw(files.len()), draw(files.len()));
            let mut bytes = files[one].clone();
            mutate(&mut bytes, &files[two], &mut draw);
            let outcome = std::panic::catch_unwind(|| (target.run)(&bytes));
            if outcome.is_err() {
                let at = std::env::temp_dir().join(format!("quorate-fuzz-{}", target.name));
                std::fs::write(&at, &bytes).unwrap();
                panic!("target {} fails with change {count}: {}", target.name, at.display());
            }
            count += 1;
        }
        println!("{}: {count} changed inputs", target.name);
    }
}
