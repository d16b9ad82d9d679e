//! Feeds inputs from files to a target, without the engine: `quorate-fuzz-replay TARGET FILE...`. A
//! folder stands for the files in it. Ends with the panic of the first that fails.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> std::io::Result<ExitCode> {
    let mut arguments = std::env::args().skip(1);
    let Some(target) = arguments.next().and_then(|name| quorate_fuzz::find(&name)) else {
        let names: Vec<&str> = quorate_fuzz::TARGETS.iter().map(|t| t.name).collect();
        eprintln!("usage: quorate-fuzz-replay TARGET FILE...; targets are {}", names.join(", "));
        return Ok(ExitCode::from(2));
    };
    let mut count = 0;
    for file in arguments.map(files).collect::<Result<Vec<_>, _>>()?.concat() {
        let bytes = std::fs::read(&file)?;
        eprintln!("{}", file.display());
        (target.run)(&bytes);
        count += 1;
    }
    println!("{count} input(s) passed");
    Ok(ExitCode::SUCCESS)
}

fn files(path: String) -> std::io::Result<Vec<PathBuf>> {
    if !Path::new(&path).is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(path)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}
