//! The engine: libFuzzer around one target, which `QUORATE_FUZZ_TARGET` names. Started by
//! `scripts/fuzz.sh`.

#![no_main]

use std::sync::LazyLock;

use quorate_fuzz::{TARGETS, Target, find};

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("QUORATE_FUZZ_TARGET").unwrap_or_default();
    find(&name).unwrap_or_else(|| {
        let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
        eprintln!("QUORATE_FUZZ_TARGET has to be one of {}", names.join(", "));
        std::process::exit(2);
    })
});

libfuzzer_sys::fuzz_target!(init: { LazyLock::force(&TARGET); }, |bytes: &[u8]| (TARGET.run)(bytes));
