//! Writes the inputs to begin with that are made of values of the product, into `corpus/`. To be
//! run when a format gets something new; what is there under another name stays.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for (target, name, bytes) in quorate_fuzz::seeds() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join(name), bytes)?;
    }
    Ok(())
}
