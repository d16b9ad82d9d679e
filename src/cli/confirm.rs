//! Asking before what is dangerous.
//!
//! A verb that interrupts, ends or removes something uses it in three steps:
//! 1. its arguments hold `#[command(flatten)] consent: Consent`, which brings `--yes`;
//! 2. it calls [`Consent::possible`] first, before the control plane is asked anything: where
//!    nobody can answer and `--yes` is not given, it ends there, with exit code 2 and a hint;
//! 3. once it knows what would happen, it calls [`Consent::ask`], or where data would be lost
//!    [`Consent::ask_for_name`], with a question that says what the operator risks.
//!
//! Questions go to standard error, so that standard output holds the result alone.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Args;

use super::failure::Failure;

/// The part of a command line that answers questions beforehand.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(super) struct Consent {
    /// Do not ask
    #[arg(short, long)]
    pub(super) yes: bool,
}

impl Consent {
    /// Refuses where a question would have to be asked and nobody can answer it. A dry run asks
    /// nothing: it does not call this.
    pub(super) fn possible(&self) -> Result<(), Failure> {
        if self.yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
            return Ok(());
        }
        Err(Failure::NobodyToAsk)
    }

    /// Asks whether to go on; everything but `y` and `yes` is a no.
    pub(super) fn ask(&self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        self.possible()?;
        let answer = read(&format!("{question} [y/N] "), io::stdin().lock(), io::stderr())?;
        agreed(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
    }

    /// Asks for the name of what would be lost, which nobody types by mistake.
    pub(super) fn ask_for_name(&self, question: &str, name: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        self.possible()?;
        let prompt = format!("{question}\nType {name} to go on: ");
        agreed(read(&prompt, io::stdin().lock(), io::stderr())? == name)
    }
}

fn agreed(yes: bool) -> Result<(), Failure> {
    if yes { Ok(()) } else { Err(Failure::refused("not done", "")) }
}

/// Asks, and returns the answer without blanks around it; the end of the input is no answer.
fn read(prompt: &str, mut input: impl BufRead, mut output: impl Write) -> io::Result<String> {
    write!(output, "{prompt}")?;
    output.flush()?;
    let mut answer = String::new();
    if input.read_line(&mut answer)? == 0 {
        // The cursor is still behind the question.
        writeln!(output)?;
    }
    Ok(answer.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_asked_once_and_answers_are_trimmed() {
        for (typed, answer, shown) in [(" yes \nno\n", "yes", "go? "), ("", "", "go? \n")] {
            let mut said = Vec::new();
            assert_eq!(read("go? ", typed.as_bytes(), &mut said).unwrap(), answer);
            assert_eq!(String::from_utf8(said).unwrap(), shown);
        }
    }

    #[test]
    fn with_yes_nothing_is_asked() {
        let consent = Consent { yes: true };
        assert!(consent.possible().is_ok());
        assert!(consent.ask("really?").is_ok() && consent.ask_for_name("really?", "main").is_ok());
        assert!(agreed(false).is_err_and(|f| f.exit_code() == 1));
    }
}
