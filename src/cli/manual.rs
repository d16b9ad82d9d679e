//! Manual pages and completions, written by the programs from their own command lines.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_complete::Shell;

use super::failure::{EXIT_CODES, Failure};

/// Arguments of `completion`.
#[derive(Debug, Args)]
pub(super) struct CompletionArgs {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of the hidden command that packages use.
#[derive(Debug, Args)]
pub struct ManualArgs {
    /// The directory, which is made; below it `man1` or `man8`, and `bash`, `zsh`, `fish`
    directory: PathBuf,
}

/// Prints the completions of one shell.
pub(super) fn completion(mut command: Command, args: &CompletionArgs) -> Result<(), Failure> {
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut text);
    let mut out = io::stdout().lock();
    out.write_all(&text)?;
    Ok(out.flush()?)
}

/// Writes the manual pages of a program and of each of its commands, and the completions of bash,
/// zsh and fish. Pages of `hactl` belong to section 1 of the manual, those of the daemon to
/// section 8.
pub fn write(mut command: Command, args: &ManualArgs) -> io::Result<()> {
    let section = if command.get_name() == "hactl" { "1" } else { "8" };
    let pages = args.directory.join(format!("man{section}"));
    fs::create_dir_all(&pages)?;
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let dir = args.directory.join(shell.to_string());
        fs::create_dir_all(&dir)?;
        let name = command.get_name().to_owned();
        clap_complete::generate_to(shell, &mut command, name, dir)?;
    }
    command.build();
    write_pages(&command, section, &pages)
}

fn write_pages(command: &Command, section: &str, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let mut text = Vec::new();
    // What follows the help text of hactl are its exit codes: they have a section of their own.
    let page = clap_mangen::Man::new(command.clone().after_help(None::<&str>));
    let page = page.title(&name).section(section);
    page.source(concat!("Quorate ", env!("CARGO_PKG_VERSION"))).render(&mut text)?;
    if section == "1" {
        exit_status(&mut text)?;
    }
    fs::write(dir.join(format!("{name}.{section}")), text)?;
    let shown = command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    shown.into_iter().try_for_each(|c| write_pages(c, section, dir))
}

fn exit_status(page: &mut Vec<u8>) -> io::Result<()> {
    writeln!(page, ".SH \"EXIT STATUS\"")?;
    for (code, meaning) in EXIT_CODES {
        // A backquote is a quotation mark of its own in roff.
        writeln!(page, ".TP\n.B {code}\n{}", meaning.replace('`', "\\(aq"))?;
    }
    writeln!(page, ".SH FILES\n.TP\n.I /etc/quorate/hactl.toml\nnodes to ask, and the cluster")?;
    writeln!(page, ".TP\n.I ~/.config/quorate/hactl.toml\nthe same for one user, instead of it")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_completions() {
        let dir = tempfile::tempdir().unwrap();
        let args = ManualArgs { directory: dir.path().to_owned() };
        write(Cli::command(), &args).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let page = read(&format!("man1/hactl-{}.1", command.get_name()));
            assert!(page.contains(".SH SYNOPSIS"), "{page}");
            for (code, _) in EXIT_CODES {
                assert!(page.contains(&format!(".TP\n.B {code}\n")), "{page}");
            }
        }
        assert!(read("man1/hactl.1").contains("EXIT STATUS"));
        assert!(!dir.path().join("man1/hactl-manual.1").exists());
        for (shell, file) in [("bash", "hactl.bash"), ("zsh", "_hactl"), ("fish", "hactl.fish")] {
            let text = read(&format!("{shell}/{file}"));
            assert!(text.contains("switchover"), "{text}");
        }
    }
}
