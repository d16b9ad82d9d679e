//! Lines of `pg_hba.conf` that the operator gives (PostgreSQL manual, section 21.1).
//!
//! Owns the check of `cluster.hba`. Only the form is checked; PostgreSQL judges the rest.

use std::net::IpAddr;

/// What is wrong with `line`, and how to mend it; `None` where its form is right.
pub(super) fn problem(line: &str) -> Option<(&'static str, &'static str)> {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Some((
            "contains a line end or another control character",
            "write one entry a line",
        ));
    }
    let fields = fields(line);
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let (kind, rest) = match fields.as_slice() {
        [] => return Some(("is empty or a comment", "remove it")),
        [kind, rest @ ..] => (*kind, rest),
    };
    let method = match kind {
        "local" => rest.get(2),
        "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc" => {
            match rest.get(2).map(|a| a.parse::<IpAddr>().is_ok()) {
                // A bare IP address is followed by its mask as a field of its own.
                Some(true) => match rest.get(3).and_then(|m| m.parse::<IpAddr>().ok()) {
                    Some(_) => rest.get(4),
                    None => {
                        return Some((
                            "has an address without a mask",
                            "write a mask, such as 10.0.0.0/8 or 10.0.0.1/32",
                        ));
                    }
                },
                _ => rest.get(3),
            }
        }
        "include" | "include_if_exists" | "include_dir" => {
            return Some((
                "includes another file, which could not be the same on every member",
                "write the lines of that file here",
            ));
        }
        _ => {
            return Some((
                "does not begin with local, host, hostssl, hostnossl, hostgssenc or hostnogssenc",
                "write, for example, \"host all all 10.0.0.0/8 scram-sha-256\"",
            ));
        }
    };
    match method {
        None => Some((
            "has too few fields",
            "write type, database, user, address (not for local) and method",
        )),
        Some(m) if !METHODS.contains(m) => Some((
            "has no authentication method where one belongs",
            "write, for example, scram-sha-256",
        )),
        Some(_) => None,
    }
}

/// Authentication methods (PostgreSQL manual, section 21.3).
pub const METHODS: &[&str] = &[
    "trust",
    "reject",
    "scram-sha-256",
    "md5",
    "password",
    "gss",
    "sspi",
    "ident",
    "peer",
    "ldap",
    "radius",
    "cert",
    "pam",
    "bsd",
    "oauth",
];

/// Splits a line at white space; text in double quotes stays together, `#` begins a comment, and
/// a comma with its neighbours is one field, as PostgreSQL reads it.
fn fields(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut quoted = false;
    let mut field = String::new();
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                field.push(c);
            }
            '#' if !quoted => break,
            ' ' | '\t' if !quoted => {
                if !field.is_empty() && !field.ends_with(',') {
                    out.push(std::mem::take(&mut field));
                }
            }
            c => field.push(c),
        }
    }
    if !field.is_empty() {
        out.push(field);
    }
    out
}

#[cfg(test)]
mod unit {
    use super::problem;

    #[test]
    fn the_form_of_lines() {
        for good in [
            "local all all peer",
            "host all all 10.0.0.0/8 scram-sha-256",
            "hostssl app \"some user\" ::/0 cert clientcert=verify-full",
            "host a, b all 10.0.0.1 255.255.255.255 md5 # why",
            "host all all samenet reject",
            "host all all .example.org gss",
        ] {
            assert_eq!(problem(good), None, "{good}");
        }
        for (bad, part) in [
            ("", "empty"),
            ("# x", "empty"),
            ("host all all 10.0.0.0/8", "too few"),
            ("host all all 10.0.0.1 scram-sha-256", "without a mask"),
            ("local all all 10.0.0.0/8 md5", "no authentication method"),
            ("hosts all all 10.0.0.0/8 md5", "does not begin"),
            ("include other.conf", "includes"),
            ("local all all peer\nhost all all ::/0 trust", "line end"),
        ] {
            let (problem, _) = problem(bad).unwrap();
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }
}
