//! Compiles every `.proto` file under `proto/` to Rust, without `protoc`.
//!
//! Leaves in `OUT_DIR`: one file a package, `packages.rs` that includes them as modules, and
//! `descriptors.bin` for the reflection service.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Package of the public API. Its messages are also written as JSON, by `hactl`.
const PUBLIC: &str = "quorate.v1";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    compile(PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto"), true)
}

/// Compiles the files under `root`: messages, servers, and where asked for clients.
pub fn compile(root: PathBuf, clients: bool) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", root.display());

    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([&root])?;
    compiler.include_imports(true).include_source_info(true).open_files(&files)?;
    let descriptors = compiler.file_descriptor_set();
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut builder = tonic_prost_build::configure()
        .build_client(clients)
        .include_file("packages.rs")
        .type_attribute(
            format!(".{PUBLIC}"),
            "#[derive(serde::Serialize)] #[serde(rename_all = \"snake_case\")]",
        );
    for file in descriptors.file.iter().filter(|f| f.package() == PUBLIC) {
        for message in &file.message_type {
            for field in message.field.iter().filter(|f| !f.type_name().is_empty()) {
                if field.r#type().as_str_name() == "TYPE_ENUM" {
                    builder = builder.field_attribute(
                        format!(".{PUBLIC}.{}.{}", message.name(), field.name()),
                        format!("#[serde(serialize_with = \"{}\")]", writer(field.type_name())),
                    );
                }
            }
        }
    }
    builder.compile_fds(descriptors)?;
    Ok(())
}

/// The function in `src/pb.rs` that writes an enum of the public API as text.
fn writer(type_name: &str) -> String {
    let name = type_name.rsplit('.').next().unwrap_or(type_name);
    let mut snake = String::new();
    for (i, c) in name.char_indices() {
        if c.is_ascii_uppercase() && i > 0 {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    format!("crate::pb::text::{snake}")
}

/// Adds every `.proto` file under `dir`, and tells cargo to watch each directory on the way.
fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            println!("cargo::rerun-if-changed={}", path.display());
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            println!("cargo::rerun-if-changed={}", path.display());
            files.push(path);
        }
    }
    Ok(())
}
