//! Compiles production code without what talks to a real machine, and the messages of the API.

use std::error::Error;
use std::path::Path;

/// The product's own build script, of which the compiler of messages is used.
#[allow(dead_code)]
#[path = "../../build.rs"]
mod product;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../build.rs");
    println!("cargo::rustc-cfg=quorate_sim");
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    product::compile(root.join("proto"), false)
}
