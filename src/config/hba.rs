//! Lines of `pg_hba.conf` that the operator gives (PostgreSQL manual, section 21.1).
//!
//! Owns the form of a rule, for `cluster.hba` and for whoever writes the file. PostgreSQL judges the
//! rest.

use std::net::IpAddr;

/// What is wrong with `line`, and how to mend it; `None` where its form is right. PostgreSQL does not
/// start with a file that has a wrong one, so what it refuses by form is refused here.
pub(crate) fn problem(line: &str) -> Option<(&'static str, &'static str)> {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Some((
            "contains a line end or another control character",
            "write one entry a line",
        ));
    }
    if line.ends_with('\\') {
        return Some(("ends with a backslash, which takes in the next line", "remove it"));
    }
    let Some(fields) = fields(line) else {
        return Some(("has a quote that is not closed", "close it"));
    };
    let field = |n: usize| fields.get(n).map(String::as_str);
    let Some(kind) = field(0) else { return Some(("is empty or a comment", "remove it")) };
    // Before the method: type, databases, users, and what tells where from.
    let method_at = match kind {
        "local" => 3,
        "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc" => {
            match field(3).map_or(Some(false), |a| address_has_mask(a, field(4))) {
                Some(mask) => 4 + usize::from(mask),
                None => {
                    return Some((
                        "has an address that is none, or one without a mask",
                        "write an address with its mask, such as 10.0.0.0/8 or 10.0.0.1/32",
                    ));
                }
            }
        }
        "include" | "include_if_exists" | "include_dir" => return Some(INCLUDES),
        _ => {
            return Some((
                "does not begin with local, host, hostssl, hostnossl, hostgssenc or hostnogssenc",
                "write, for example, \"host all all 10.0.0.0/8 scram-sha-256\"",
            ));
        }
    };
    if fields.iter().any(|f| f.split(',').any(|part| part.len() > 1 && part.starts_with('@'))) {
        return Some(INCLUDES);
    }
    match field(method_at) {
        None => Some((
            "has too few fields",
            "write type, database, user, address (not for local) and method",
        )),
        Some(m) if !METHODS.contains(&m) => Some((
            "has no authentication method where one belongs",
            "write, for example, scram-sha-256",
        )),
        Some(_) => {
            let mut options = fields.iter().skip(method_at + 1).flat_map(|f| f.split(','));
            options.any(|o| !o.is_empty() && !o.contains('=')).then_some((
                "has something behind the method that is no option",
                "write options as name=value",
            ))
        }
    }
}

/// What is wrong with a line of `pg_ident.conf`, and how to mend it (PostgreSQL manual, section
/// 21.2).
pub(crate) fn ident_problem(line: &str) -> Option<(&'static str, &'static str)> {
    if line.contains(|c: char| c.is_control() && c != '\t') {
        return Some((
            "contains a line end or another control character",
            "write one entry a line",
        ));
    }
    if line.ends_with('\\') {
        return Some(("ends with a backslash, which takes in the next line", "remove it"));
    }
    let fields = fields(line).filter(|f| f.len() == 3);
    let Some(fields) = fields else {
        return Some((
            "is not a map, a system user and a database user",
            "write these three with blanks between, such as \"m root postgres\"",
        ));
    };
    let first = fields.first().map_or("", String::as_str);
    let includes = first.starts_with("include") || fields.iter().any(|f| f.starts_with('@'));
    includes.then_some(INCLUDES)
}

const INCLUDES: (&str, &str) = (
    "includes another file, which could not be the same on every member",
    "write the content of that file here",
);

/// Whether the address is followed by a mask in a field of its own; `None` where it is no address.
fn address_has_mask(address: &str, next: Option<&str>) -> Option<bool> {
    if let Some((ip, bits)) = address.split_once('/') {
        let most = if ip.parse::<IpAddr>().ok()?.is_ipv4() { 32 } else { 128 };
        let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
        return (digits && bits.parse::<u32>().ok()? <= most).then_some(false);
    }
    if let Ok(ip) = address.parse::<IpAddr>() {
        let mask = next?.parse::<IpAddr>().ok()?;
        return (ip.is_ipv4() == mask.is_ipv4()).then_some(true);
    }
    // A name, or one of the words for every address. What ends in a number is a mistyped address
    // (inet_aton(3)).
    let name = address.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
    let last = address.trim_end_matches('.').rsplit('.').next()?;
    let digits = last.strip_prefix("0x").unwrap_or(last);
    let number = digits.bytes().all(|b| b.is_ascii_digit())
        || (digits.len() < last.len() && digits.bytes().all(|b| b.is_ascii_hexdigit()));
    (name && !number).then_some(false)
}

/// Authentication methods (PostgreSQL manual, section 21.3).
const METHODS: &[&str] = &[
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
/// a comma with what follows is one field, as PostgreSQL reads it. `None` for an open quote.
pub(crate) fn fields(line: &str) -> Option<Vec<String>> {
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
            // Commas before a field count as blanks.
            ',' if !quoted && field.is_empty() => {}
            c => field.push(c),
        }
    }
    if !field.is_empty() {
        out.push(field);
    }
    (!quoted).then_some(out)
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
            "host \"my db\" +group,x 10.0.0.0 255.0.0.0 md5",
            "host all ,,all ::1 ffff:: trust",
            "host all all all ldap ldapserver=a, ldapport=1",
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
            ("local all all trust \\", "backslash"),
            ("host \"all all all trust", "not closed"),
            ("host all all all trust extra", "no option"),
            ("host all all 10.0.0.0/33 trust", "address"),
            ("host all all 10.0.0.0/+8 trust", "address"),
            ("host all all 10.1 trust", "address"),
            ("host all all 0x7f trust", "address"),
            ("host all all ::1 255.0.0.0 trust", "address"),
            ("host all all 10.0.0.1/32,10.0.0.2/32 trust", "address"),
            ("host @databases all all trust", "includes"),
            ("host all a,@users all trust", "includes"),
        ] {
            let (problem, _) = problem(bad).unwrap();
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }
}
