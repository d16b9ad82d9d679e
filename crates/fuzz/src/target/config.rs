//! The configuration file: every text is refused with reasons or read, and what is read works.

use std::path::Path;

use crate::alloc;
use crate::config::{Config, Error};
use crate::domain::invariants::spec_problem;
use crate::postgres::conf::check_operator;
use crate::postgresql;
use crate::spec::spec;

/// The file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = Path::new("/etc/quorate/hanode.toml");
    let bytes_max = 256 * 1024 + 512 * text.len();
    let read = alloc::within(bytes_max, "a configuration", || Config::parse(text, file));
    match read {
        Ok(config) => accepted(text, file, &config),
        Err(error) => refused(&error),
    }
}

/// Every refusal names what it is about and how to mend it, on lines that it makes itself.
fn refused(error: &Error) {
    let told = error.to_string();
    assert!(told.contains("hanode.toml") && told.contains("To mend it: "), "{told:?}");
    assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
    let problems = error.problems();
    assert_eq!(problems.is_empty(), matches!(error, Error::Syntax { .. }), "{told:?}");
    for problem in problems {
        let told = problem.to_string();
        assert!(!problem.key.is_empty() && !problem.problem.is_empty(), "{problem:?}");
        assert!(!problem.mend.is_empty(), "{problem:?}");
        assert!(told.contains(&problem.key) && told.contains(&problem.value), "{problem:?}");
        assert!(!told.chars().any(char::is_control), "{problem:?}");
    }
}

fn accepted(text: &str, file: &Path, config: &Config) {
    let table: toml::Table = text.parse().expect("it was read as TOML");
    let again = Config::parse(&table.to_string(), file).expect("the same in another form");
    assert_eq!(again, *config);
    for cluster in &config.clusters {
        // What comes later must not refuse what the file's reader let pass: it would only be seen
        // when the cluster does not come up.
        let wanted = spec(config, cluster);
        assert_eq!(spec_problem(&wanted), None, "{wanted:?}");
        for line in &cluster.hba {
            assert_eq!(
                postgresql::hba_problem(line),
                Ok(()),
                "accepted by the configuration: {line}"
            );
        }
        assert_eq!(check_operator(&cluster.parameters), Ok(()), "{:?}", cluster.parameters);
    }
    for member in &config.members {
        assert!(config.cluster(&member.cluster).is_some());
        assert!(member.data_dir.is_absolute() && member.socket_dir.is_absolute());
        let address = member.address.to_string();
        assert_eq!(address.parse().as_ref(), Ok(&member.address), "{address}");
    }
}
