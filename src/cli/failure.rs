//! How `hactl` fails: what is printed, and with which exit code.

use std::io;

use super::output;
use crate::client;

/// Why a command did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line or the configuration is wrong.
    Usage(String),
    /// It was not done, for a reason that was found here.
    Refused {
        /// What is wrong.
        message: String,
        /// What to do; may be empty.
        hint: String,
    },
    /// The control plane was asked, and this came of it.
    Client(client::Error),
    /// What was printed says it all; only the exit code is missing.
    Said(u8),
    /// A question would have to be asked, and nobody is there to answer it.
    NobodyToAsk,
    /// An operation had not ended at the deadline.
    StillRunning(u64),
    /// The operator did not want to wait for the end of an operation.
    Interrupted(u64),
    /// Reading or writing failed here.
    Io(io::Error),
}

/// It worked.
const DONE: u8 = 0;
/// It was refused, or it failed.
pub(super) const REFUSED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;
/// `hactl doctor` warns. Its codes are those of monitoring plugins: 0, 1, 2, and 3 for unknown.
pub(super) const WARNINGS: u8 = 1;
/// `hactl doctor` has found what does not work.
pub(super) const PROBLEMS: u8 = 2;
/// Nobody answered, or there is no leader.
pub(super) const UNREACHABLE: u8 = 3;
/// The outcome is unknown.
const UNKNOWN: u8 = 4;

/// What scripts can rely on: every exit code, and what it says.
pub(super) const EXIT_CODES: [(u8, &str); 5] = [
    (DONE, "it worked"),
    (REFUSED, "it was refused, or it failed; nothing is unclear. doctor: warnings"),
    (USAGE, "the command line or the configuration is wrong. doctor: problems"),
    (UNREACHABLE, "nobody answered, or there is no leader"),
    (UNKNOWN, "the outcome is unknown, or it still goes on: look at `hactl history`"),
];

/// The exit codes as text, for `hactl --help`.
pub(super) fn exit_codes() -> String {
    let lines: Vec<String> = EXIT_CODES.iter().map(|(c, what)| format!("  {c}  {what}")).collect();
    format!("Exit codes:\n{}", lines.join("\n"))
}

impl Failure {
    pub(super) fn refused(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Failure::Refused { message: message.into(), hint: hint.into() }
    }

    /// The exit code, as `hactl --help` lists them.
    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_)
            | Failure::NobodyToAsk
            | Failure::Client(client::Error::BadEndpoint { .. }) => USAGE,
            Failure::Client(client::Error::Unreachable(_) | client::Error::NoLeader(_)) => {
                UNREACHABLE
            }
            Failure::Client(client::Error::UnknownOutcome { .. })
            | Failure::StillRunning(_)
            | Failure::Interrupted(_) => UNKNOWN,
            Failure::Client(client::Error::Refused(r))
                if r.code == tonic::Code::InvalidArgument =>
            {
                USAGE
            }
            Failure::Client(client::Error::Refused(_)) | Failure::Refused { .. } => REFUSED,
            Failure::Said(code) => *code,
            // Whoever read the output has enough of it.
            Failure::Io(e) if e.kind() == io::ErrorKind::BrokenPipe => DONE,
            Failure::Io(_) => REFUSED,
        }
    }

    /// Tells the operator, on standard error.
    pub(super) fn print(&self) {
        let width = output::width(&io::stderr());
        for line in self.lines() {
            let line = output::folded(&line, width);
            // Nobody can be told if this fails.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{line}\n"));
        }
    }

    fn lines(&self) -> Vec<String> {
        let with_hint = |message: &str, hint: &str| {
            let mut lines = vec![format!("error: {message}")];
            if !hint.is_empty() {
                lines.push(format!("  hint: {hint}"));
            }
            lines
        };
        match self {
            Failure::Said(_) => Vec::new(),
            Failure::Io(e) if e.kind() == io::ErrorKind::BrokenPipe => Vec::new(),
            Failure::Io(e) => with_hint(&e.to_string(), ""),
            Failure::Usage(message) => with_hint(message, "see `hactl --help`"),
            Failure::Refused { message, hint } => with_hint(message, hint),
            Failure::NobodyToAsk => with_hint(
                "standard input is not a terminal, so nobody can be asked",
                "give --yes to do it without a question",
            ),
            Failure::Interrupted(id) => with_hint(
                &format!("operation {id} goes on: only the wait for it has ended"),
                &look(*id),
            ),
            Failure::StillRunning(id) => with_hint(
                &format!("operation {id} has not ended in time"),
                &format!("it goes on; {}, or give a longer --timeout", look(*id)),
            ),
            Failure::Client(client::Error::Refused(refusal)) => refusal_lines(refusal),
            Failure::Client(error) => with_hint(&error.to_string(), client_hint(error)),
        }
    }
}

/// How to look at an operation that is not waited for.
fn look(id: u64) -> String {
    format!("see `hactl operation show {id}`, wait again by `hactl operation wait {id}`")
}

fn client_hint(error: &client::Error) -> &'static str {
    match error {
        client::Error::Unreachable(_) => {
            "is hanode running? Name its nodes with --endpoint, with HACTL_ENDPOINTS, or as \
             `endpoints` in ~/.config/quorate/hactl.toml"
        }
        client::Error::NoLeader(_) => {
            "more than half of the controllers must run and reach each other; \
             `hactl status` shows what is known"
        }
        client::Error::UnknownOutcome { .. } => {
            "it may happen yet: see `hactl history` before trying again"
        }
        client::Error::BadEndpoint { .. } | client::Error::Refused(_) => "",
    }
}

fn refusal_lines(refusal: &client::Refusal) -> Vec<String> {
    if refusal.infos.is_empty() {
        return vec![
            format!("error: {} answered: {}", refusal.endpoint, refusal.message),
            "  hint: is this the port of hanode's API?".to_owned(),
        ];
    }
    let mut lines = Vec::new();
    for info in &refusal.infos {
        lines.push(format!("error: {}", info.message));
        lines.push(format!("  rule: {}", info.rule));
        if !info.hint.is_empty() {
            lines.push(format!("  hint: {}", info.hint));
        }
    }
    lines
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        Failure::Client(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::v1::ErrorInfo;

    #[test]
    fn refusals_show_rule_and_hint() {
        let info = ErrorInfo {
            rule: "epoch.current".to_owned(),
            message: "the cluster is at epoch 4".to_owned(),
            hint: "look again".to_owned(),
            ..Default::default()
        };
        let refusal = client::Refusal {
            endpoint: "a:1".to_owned(),
            code: tonic::Code::Aborted,
            message: String::new(),
            infos: vec![info],
        };
        let failure = Failure::Client(client::Error::Refused(refusal));
        assert_eq!(failure.exit_code(), REFUSED);
        let want =
            ["error: the cluster is at epoch 4", "  rule: epoch.current", "  hint: look again"];
        assert_eq!(failure.lines(), want);
    }

    #[test]
    fn exit_codes() {
        let io = |kind| Failure::Io(io::Error::from(kind));
        assert_eq!(Failure::Usage(String::new()).exit_code(), 2);
        assert_eq!(Failure::from(client::Error::Unreachable(vec![])).exit_code(), 3);
        let unknown = client::Error::UnknownOutcome { why: String::new() };
        assert_eq!(Failure::from(unknown).exit_code(), 4);
        assert_eq!(Failure::StillRunning(1).exit_code(), 4);
        assert_eq!(io(io::ErrorKind::BrokenPipe).exit_code(), 0);
        assert_eq!(io(io::ErrorKind::NotFound).exit_code(), 1);
    }
}
