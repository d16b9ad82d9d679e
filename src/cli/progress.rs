//! What a person sees while something goes on.
//!
//! On a terminal it is one line that is rewritten, with the time that has passed; elsewhere it is
//! one line for each change, so that a log of it can be read. It goes to standard error, and is
//! left out where the output is for programs.
//!
//! A verb that starts an operation calls [`super::follow::finish`], which does all of this. A verb
//! that waits for something else makes a [`Progress`], calls [`Progress::show`] whenever it knows
//! more, and drops it before it prints its result.

use std::io::{self, IsTerminal, Write};

use tokio::time::Instant;

use super::output::{self, Format};

/// How it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Not at all.
    Quiet,
    /// A line for each change.
    Lines,
    /// One line of so many characters at most, rewritten.
    Rewritten(usize),
}

/// A line about what goes on.
#[derive(Debug)]
pub(super) struct Progress<W: Write = io::Stderr> {
    to: W,
    form: Form,
    text: String,
    began: Instant,
    /// Something is on the line that has to be taken away.
    drawn: bool,
}

impl Progress {
    /// One on standard error, as it fits the form of the output.
    pub(super) fn new(format: Format) -> Self {
        let terminal = io::stderr().is_terminal() && output::can_move();
        let form = match format {
            Format::Table | Format::Toml if terminal => {
                Form::Rewritten(output::width(&io::stderr()).unwrap_or(80))
            }
            Format::Table | Format::Toml => Form::Lines,
            Format::Json | Format::Yaml => Form::Quiet,
        };
        Self::of(io::stderr(), form)
    }
}

impl<W: Write> Progress<W> {
    fn of(to: W, form: Form) -> Self {
        Self { to, form, text: String::new(), began: Instant::now(), drawn: false }
    }

    /// Shows what goes on now. To call it again with the same text moves the clock on a terminal,
    /// and does nothing elsewhere. That it cannot be shown is no reason to end: nothing is returned.
    pub(super) fn show(&mut self, text: &str) {
        let changed = self.text != text;
        if changed {
            text.clone_into(&mut self.text);
        }
        let _ = match self.form {
            Form::Quiet => Ok(()),
            Form::Lines if changed => writeln!(self.to, "{text}"),
            Form::Lines => Ok(()),
            Form::Rewritten(width) => self.draw(width),
        };
    }

    /// Moves the clock.
    pub(super) fn tick(&mut self) {
        if let (Form::Rewritten(width), false) = (self.form, self.text.is_empty()) {
            let _ = self.draw(width);
        }
    }

    /// Takes the line away, so that something else can be printed.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(self.to, "\r\x1b[K").and_then(|()| self.to.flush());
        }
    }

    fn draw(&mut self, width: usize) -> io::Result<()> {
        let clock = format!(" {:.1} s", self.began.elapsed().as_secs_f64());
        // The last column stays free: some terminals go on to the next line otherwise.
        let room = width.saturating_sub(clock.len() + 1);
        let mut text = self.text.clone();
        if text.chars().count() > room {
            text = text.chars().take(room.saturating_sub(3)).collect::<String>() + "...";
        }
        self.drawn = true;
        write!(self.to, "\r\x1b[K{text}{clock}")?;
        self.to.flush()
    }
}

impl<W: Write> Drop for Progress<W> {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(form: Form, texts: &[&str]) -> String {
        let mut said = Vec::new();
        let mut progress = Progress::of(&mut said, form);
        texts.iter().for_each(|t| progress.show(t));
        progress.tick();
        drop(progress);
        String::from_utf8(said).unwrap()
    }

    #[test]
    fn a_pipe_gets_a_line_for_each_change() {
        assert_eq!(shown(Form::Lines, &["a", "a", "b"]), "a\nb\n");
        assert_eq!(shown(Form::Quiet, &["a", "b"]), "");
    }

    #[test]
    fn a_terminal_has_one_line_that_is_taken_away_and_never_wraps() {
        let text = shown(Form::Rewritten(20), &["promoting the standby b", "done"]);
        let lines: Vec<&str> = text.split("\r\x1b[K").collect();
        let [first, long, done, again, last] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!((*first, *last), ("", ""));
        assert!(long.starts_with("promoting") && long.contains("... "), "{long}");
        assert!(long.chars().count() < 20, "{long}");
        assert!(done.starts_with("done ") && again.starts_with("done "), "{lines:?}");
        assert!(!text.contains('\n'), "{text:?}");
        assert_eq!(shown(Form::Rewritten(20), &[]), "");
    }
}
