//! Who may connect: `pg_hba.conf` and `pg_ident.conf` (PostgreSQL manual, sections 21.1, 21.2).
//!
//! Owns the rules that we need ourselves, and the shape of the operator's. The first rule that
//! matches decides, so ours come first. The file never changes with the role of a member: libpq
//! gives up at the first host that refuses it here.

use super::conf::HEADER;
use crate::config::hba::METHODS;

/// Why a rule is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line:?} is not a rule for pg_hba.conf: {why}")]
pub struct Error {
    /// The rule.
    pub line: String,
    /// What is wrong.
    pub why: &'static str,
}

const HOST_TYPES: [&str; 5] = ["host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"];

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

/// Splits a line into its fields; a quoted field may hold blanks. `None` for an open quote.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let (mut quoted, mut any) = (false, false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                any = true;
                field.push(c);
            }
            c if c.is_whitespace() && !quoted => {
                if any {
                    fields.push(std::mem::take(&mut field));
                }
                any = false;
            }
            '#' if !quoted => break,
            c => {
                any = true;
                field.push(c);
            }
        }
    }
    if any {
        fields.push(field);
    }
    (!quoted).then_some(fields)
}

/// Checks the shape of one rule: type, databases, users, address, method. Whether names and
/// addresses exist is PostgreSQL's matter.
pub fn check_rule(line: &str) -> Result<(), Error> {
    let error = |why| Error { line: line.to_owned(), why };
    if line.contains(['\n', '\r', '\0']) || line.ends_with('\\') {
        return Err(error("it is more than one line"));
    }
    let fields = fields(line).ok_or_else(|| error("a quote is not closed"))?;
    let field = |n: usize| fields.get(n).map(String::as_str).unwrap_or_default();
    let method_at = if field(0) == "local" {
        3
    } else if HOST_TYPES.contains(&field(0)) {
        // An address and a mask in two fields.
        let mask = !field(3).contains('/') && field(4).parse::<std::net::IpAddr>().is_ok();
        if mask { 5 } else { 4 }
    } else {
        return Err(error("it must begin with local, host, hostssl or the like"));
    };
    if fields.len() <= method_at {
        return Err(error("a field is missing"));
    }
    if !METHODS.contains(&field(method_at)) {
        return Err(error("the authentication method is not known"));
    }
    if fields.iter().skip(method_at + 1).any(|o| !o.contains('=')) {
        return Err(error("what follows the method must be options like name=value"));
    }
    Ok(())
}

fn check_peer(peer: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '/' | '-' | '_');
    if !peer.is_empty() && peer.chars().all(plain) {
        return Ok(());
    }
    Err(Error { line: peer.to_owned(), why: "it is not an address of a member" })
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
    for rule in &rules.operator {
        check_rule(rule)?;
        text.push_str(rule);
        text.push('\n');
    }
    Ok(text)
}

/// The content of `pg_ident.conf`.
pub fn render_ident(rules: &Rules) -> Result<String, Error> {
    let mut text = HEADER.to_owned();
    for line in &rules.ident {
        let complete = fields(line).is_some_and(|f| f.len() == 3);
        if line.contains(['\n', '\r', '\0']) || line.ends_with('\\') || !complete {
            let why = "pg_ident.conf wants a map, a system user and a database user";
            return Err(Error { line: line.clone(), why });
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
        let syncs = Rules { slot_sync: true, ..rules(&["host all all 10.0.0.0/8 md5"]) };
        let text = render(&syncs).unwrap();
        assert!(text.contains("host postgres \"replicator\" 10.0.0.1/32 scram-sha-256"), "{text}");
        assert!(render(&rules(&[])).unwrap().ends_with("host all all all scram-sha-256\n"));
        assert!(render_ident(&rules(&[])).unwrap().ends_with("\nm root postgres\n"));
    }

    #[test]
    fn shapes_are_checked() {
        for good in [
            "local all all peer",
            "host \"my db\" +group,x 10.0.0.0 255.0.0.0 md5 # note",
            "hostssl all all ::/0 cert map=m clientcert=verify-full",
            "host all all samenet scram-sha-256",
        ] {
            assert_eq!(check_rule(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "# x",
            "include other.conf",
            "local all all",
            "host all all md5",
            "host all all all nonsense",
            "host all all all trust\nhost all all all trust",
            "host \"all all all trust",
            "host all all all trust extra",
            "local all all trust \\",
        ] {
            assert!(check_rule(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(line in "(?s).*") {
            if check_rule(&line).is_ok() {
                prop_assert_eq!(line.lines().count(), 1);
            }
        }
    }
}
