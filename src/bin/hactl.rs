//! `hactl`: shows and changes the clusters of a control plane. All of it is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::cli::main()
}
