//! Who may connect: `pg_hba.conf` and `pg_ident.conf` (PostgreSQL manual, sections 21.1, 21.2).
//!
//! Owns the rules that we need ourselves, and the shape of the operator's. The first rule that
//! matches decides, so ours come first. The file never changes with the role of a member: libpq
//! gives up at the first host that refuses it here.

use super::conf::HEADER;
use crate::config::hba;

/// Why a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Error {
    /// Which. A rule is not shown: its options can hold a password.
    pub what: String,
    /// What is wrong, as a clause.
    pub why: &'static str,
}

/// What the file is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Our superuser: it connects through the socket.
    pub superuser: String,
    /// The user of walreceivers and base backups.
    pub replication: String,
    /// The user of `pg_rewind`.
    pub rewind: String,
    /// Addresses of the members (`10.0.0.1/32`, a host name, or `all`). Empty means `all`.
    pub peers: Vec<String>,
    /// Whether members must use TLS among themselves.
    pub peers_tls: bool,
    /// Whether standbys copy logical slots from the primary, for which they log in to a database.
    pub slot_sync: bool,
    /// The operator's rules, one each. Empty means: everybody, with a password.
    pub operator: Vec<String>,
    /// Lines of the operator for `pg_ident.conf`.
    pub ident: Vec<String>,
}

fn check_peer(peer: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_');
    if !peer.is_empty() && peer.chars().all(plain) {
        return Ok(());
    }
    Err(Error { what: format!("{peer:?}"), why: "is not an address of a member" })
}

/// The content of `pg_hba.conf`.
pub fn render(rules: &Rules) -> Result<String, Error> {
    let kind = if rules.peers_tls { "hostssl" } else { "host" };
    let all = [String::from("all")];
    let peers = if rules.peers.is_empty() { &all[..] } else { &rules.peers };
    let mut text = HEADER.to_owned();
    text.push_str(&format!("local all \"{}\" scram-sha-256\n", rules.superuser));
    // `all` does not match replication. See `super::feedback`.
    text.push_str(&format!("local replication \"{}\" scram-sha-256\n", rules.replication));
    for peer in peers {
        check_peer(peer)?;
        // A bare address needs its mask.
        let peer = match peer.parse::<std::net::IpAddr>() {
            Ok(std::net::IpAddr::V4(_)) => format!("{peer}/32"),
            Ok(std::net::IpAddr::V6(_)) => format!("{peer}/128"),
            Err(_) => peer.clone(),
        };
        let (replication, rewind) = (&rules.replication, &rules.rewind);
        text.push_str(&format!("{kind} replication \"{replication}\" {peer} scram-sha-256\n"));
        text.push_str(&format!("{kind} postgres \"{rewind}\" {peer} scram-sha-256\n"));
        if rules.slot_sync {
            text.push_str(&format!("{kind} postgres \"{replication}\" {peer} scram-sha-256\n"));
        }
    }
    if rules.operator.is_empty() {
        text.push_str("local all all scram-sha-256\nhost all all all scram-sha-256\n");
    }
    for (i, rule) in rules.operator.iter().enumerate() {
        if let Some((why, _)) = hba::problem(rule) {
            return Err(Error { what: format!("rule {} for pg_hba.conf", i + 1), why });
        }
        text.push_str(rule);
        text.push('\n');
    }
    Ok(text)
}

/// Whether a line is one that [`render`] writes for these users of ours: no rule of the operator.
pub fn is_ours(line: &str, superuser: &str, replication: &str, rewind: &str) -> bool {
    let Some(rest) = line.trim().strip_suffix(" scram-sha-256") else { return false };
    let local =
        [format!("local all \"{superuser}\""), format!("local replication \"{replication}\"")];
    let Some((kind, host)) = rest.split_once(' ') else { return false };
    let peers = [
        format!("replication \"{replication}\" "),
        format!("postgres \"{rewind}\" "),
        format!("postgres \"{replication}\" "),
    ];
    local.iter().any(|l| l == rest)
        || (["host", "hostssl"].contains(&kind) && peers.iter().any(|p| host.starts_with(p)))
}

/// The content of `pg_ident.conf`.
pub fn render_ident(rules: &Rules) -> Result<String, Error> {
    let mut text = HEADER.to_owned();
    for (i, line) in rules.ident.iter().enumerate() {
        let complete = hba::fields(line).is_some_and(|f| f.len() == 3);
        if line.contains(|c: char| c.is_control() && c != '\t') || line.ends_with('\\') || !complete
        {
            let why = "is not a map, a system user and a database user";
            return Err(Error { what: format!("line {} for pg_ident.conf", i + 1), why });
        }
        text.push_str(line);
        text.push('\n');
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(operator: &[&str]) -> Rules {
        Rules {
            superuser: "admin".into(),
            replication: "replicator".into(),
            rewind: "rewinder".into(),
            peers: vec!["10.0.0.1".into(), "fd00::1".into(), "db3.example".into()],
            peers_tls: false,
            slot_sync: false,
            operator: operator.iter().map(|s| (*s).to_owned()).collect(),
            ident: vec!["m root postgres".into()],
        }
    }

    #[test]
    fn ours_come_first() {
        let text = render(&rules(&["host all all 10.0.0.0/8 md5"])).unwrap();
        let lines: Vec<_> = text.lines().skip(1).collect();
        assert_eq!(lines[0], "local all \"admin\" scram-sha-256");
        assert_eq!(lines[1], "local replication \"replicator\" scram-sha-256");
        assert_eq!(lines[2], "host replication \"replicator\" 10.0.0.1/32 scram-sha-256");
        assert_eq!(lines[5], "host postgres \"rewinder\" fd00::1/128 scram-sha-256");
        assert_eq!(lines[6], "host replication \"replicator\" db3.example scram-sha-256");
        assert_eq!(lines[8..], ["host all all 10.0.0.0/8 md5"]);
        let theirs = lines.iter().filter(|l| !is_ours(l, "admin", "replicator", "rewinder"));
        assert_eq!(theirs.collect::<Vec<_>>(), [&lines[8]]);
        let syncs = Rules { slot_sync: true, ..rules(&["host all all 10.0.0.0/8 md5"]) };
        let text = render(&syncs).unwrap();
        assert!(text.contains("host postgres \"replicator\" 10.0.0.1/32 scram-sha-256"), "{text}");
        assert!(render(&rules(&[])).unwrap().ends_with("host all all all scram-sha-256\n"));
        assert!(render_ident(&rules(&[])).unwrap().ends_with("\nm root postgres\n"));
    }

    #[test]
    fn what_postgresql_refuses_is_not_written() {
        assert!(render(&rules(&["host \"my db\" +g,x 10.0.0.0 255.0.0.0 md5 # note"])).is_ok());
        let refused = render(&rules(&["local all all peer", "host all all all ldap secret"]));
        let told = refused.unwrap_err().to_string();
        assert!(told.starts_with("rule 2 for pg_hba.conf has "), "{told}");
        assert!(!told.contains("secret"), "{told}");
        for bad in ["m root", "m root \"postgres", "m root postgres\\"] {
            let rules = Rules { ident: vec![bad.into()], ..rules(&[]) };
            assert!(render_ident(&rules).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(line in "(?s).*") {
            if let Ok(text) = render(&rules(&[&line])) {
                prop_assert_eq!(text.lines().count(), 10);
            }
        }
    }
}
