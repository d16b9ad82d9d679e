//! The definition of a cluster that is to be created, as an operator hands it in: the keys of one
//! `[[cluster]]` without its name, and `[timing]` where other times than the usual are wanted.

use toml::Table;

use super::error::Problem;
use super::reader::Section;
use super::{Cluster, Timing, check, read, timing};
use crate::domain::types::ClusterName;

/// Reads the specification of the cluster of that name.
///
/// # Errors
/// All problems at once, each with its key and what to do.
pub fn definition(name: &ClusterName, text: &str) -> Result<(Cluster, Timing), Vec<Problem>> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| {
        let problem = e.message().trim().replace('\n', ", ");
        vec![Problem::new("specification", "", problem, "correct the TOML")]
    })?;
    let mut problems = Vec::new();
    let mut table = table;
    let times = match table.remove("timing") {
        None => Table::new(),
        Some(toml::Value::Table(times)) => times,
        Some(other) => {
            let mend = "write it as a table: [timing]";
            return Err(vec![Problem::new("timing", other, "is no table", mend)]);
        }
    };
    match table.insert("name".to_owned(), name.as_str().into()) {
        Some(given) if given.as_str() != Some(name.as_str()) => {
            let mend = "leave it out: the name is given beside the specification";
            return Err(vec![Problem::new("name", given, "is another cluster", mend)]);
        }
        _ => {}
    }
    let times = timing::read_timing(Section::new("timing", times), &mut problems);
    let cluster = read::read_cluster(Section::new("cluster", table), &mut problems);
    if let (Some(times), Some(cluster), true) = (times, cluster, problems.is_empty()) {
        check::cluster(&cluster, &mut problems);
        if problems.is_empty() {
            return Ok((cluster, times));
        }
    }
    Err(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(Cluster, Timing), Vec<String>> {
        let name = ClusterName::new("second").unwrap();
        definition(&name, text).map_err(|all| all.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_specification_stands_alone() {
        let text = "bootstrap_members = ['a', 'b']\nwrite_quorum_min = 1\n\
                    [parameters]\nwork_mem = '8MB'\n[timing]\nttl_ms = 5000\n";
        let (cluster, times) = read(text).unwrap();
        assert_eq!((cluster.name.as_str(), cluster.write_quorum_min), ("second", 1));
        assert_eq!(cluster.parameters["work_mem"], "8MB");
        assert_eq!(times.ttl_ms, 5000);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("bootstrap_members = [", "TOML"),
            ("write_quorum = 1", "bootstrap_members"),
            ("bootstrap_members = ['a']\nname = 'other'", "name"),
            ("bootstrap_members = ['a']\ntiming = 3", "timing"),
            ("bootstrap_members = ['a']\nwrote_quorum = 3", "wrote_quorum"),
            ("bootstrap_members = ['a', 'b']\nwrite_quorum = 3", "write_quorum"),
        ];
        for (text, named) in cases {
            let problems = read(text).unwrap_err().join("; ");
            assert!(problems.contains(named), "{text}: {problems}");
        }
    }
}
