//! How PostgreSQL and libpq read what the product writes: models of their parsers, to judge by.

/// A line of a configuration file: a name in lower case and its value.
pub type Setting = (String, String);

/// Reads a configuration file as `guc-file.l` of PostgreSQL 15 does; the number of the first line
/// that it refuses, if any.
pub fn settings(text: &str) -> Result<Vec<Setting>, usize> {
    let mut found = Vec::new();
    for (number, line) in text.split('\n').enumerate() {
        if let Some(setting) = setting(line).map_err(|()| number + 1)? {
            found.push(setting);
        }
    }
    Ok(found)
}

fn setting(line: &str) -> Result<Option<Setting>, ()> {
    let line = skip(line);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let letter = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
    let part = |c: char| letter(c) || c.is_ascii_digit() || c == '$';
    let end = line.find(|c| !(part(c) || c == '.')).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let parts: Vec<&str> = name.split('.').collect();
    if parts.len() > 2 || !parts.iter().all(|p| p.starts_with(letter)) {
        return Err(());
    }
    let rest = skip(rest);
    let rest = skip(rest.strip_prefix('=').unwrap_or(rest));
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => quoted_value(quoted)?,
        None => {
            let plain = |c: char| part(c) || "-._:/+".contains(c);
            let end = rest.find(|c| !plain(c)).unwrap_or(rest.len());
            (rest[..end].to_owned(), &rest[end..])
        }
    };
    let rest = skip(rest);
    if !rest.is_empty() && !rest.starts_with('#') {
        return Err(());
    }
    Ok(Some((name.to_ascii_lowercase(), value)))
}

/// White space within a line.
fn skip(text: &str) -> &str {
    text.trim_start_matches([' ', '\t', '\r'])
}

/// The value behind an opening quote, and what follows the closing one (`DeescapeQuotedString`).
fn quoted_value(text: &str) -> Result<(String, &str), ()> {
    let mut value = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next().ok_or(())?.1 {
                'b' => value.push('\u{8}'),
                'f' => value.push('\u{c}'),
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                // Octal numbers: nothing that we write has them.
                '0'..='7' => return Err(()),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    Err(())
}

/// Reads a connection string as libpq does (`conninfo_parse` of `fe-connect.c`).
pub fn conninfo(text: &str) -> Option<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            return Some(found);
        }
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| *c != '=' && !c.is_ascii_whitespace()) {
            name.push(c);
        }
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        chars.next_if_eq(&'=')?;
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        let quoted = chars.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        loop {
            match chars.next() {
                Some('\'') if quoted => break,
                Some('\\') => value.extend(chars.next()),
                Some(c) if !quoted && c.is_ascii_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        found.push((name, value));
    }
}

/// Why PostgreSQL would not load a file with this rule, judged by its form (`parse_hba_line` of
/// `hba.c`).
pub fn hba_problem(line: &str) -> Result<(), &'static str> {
    use std::net::IpAddr;
    let fields = hba_fields(line);
    if fields.iter().flatten().any(|token| token.len() > 1 && token.starts_with('@')) {
        return Err("another file is included");
    }
    let single = |n: usize| match fields.get(n).map(Vec::as_slice) {
        Some([token]) => Ok(token.as_str()),
        Some(_) => Err("multiple values where one is wanted"),
        None => Err("end of line before the end of the rule"),
    };
    let host = match single(0)? {
        "local" => false,
        "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc" => true,
        _ => return Err("invalid connection type"),
    };
    let mut next = 3;
    if host {
        let address = single(next)?;
        next += 1;
        let (ip, bits) = address.split_once('/').map_or((address, None), |(a, b)| (a, Some(b)));
        match (ip.parse::<IpAddr>(), bits) {
            (Err(_), Some(_)) => return Err("specifying both host name and CIDR mask is invalid"),
            (Err(_), None) => {}
            (Ok(ip), Some(bits)) => {
                let most = if ip.is_ipv4() { 32 } else { 128 };
                if bits.parse::<u32>().map_or(true, |bits| bits > most) {
                    return Err("invalid CIDR mask in address");
                }
            }
            (Ok(ip), None) => {
                let mask = single(next)?.parse::<IpAddr>().map_err(|_| "invalid IP mask")?;
                next += 1;
                if mask.is_ipv4() != ip.is_ipv4() {
                    return Err("IP address and mask do not match");
                }
            }
        }
    }
    let methods = [
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
    if !methods.contains(&single(next)?) {
        return Err("invalid authentication method");
    }
    let mut options = fields.iter().skip(next + 1).flatten();
    if options.any(|option| !option.contains('=')) {
        return Err("authentication option not in name=value format");
    }
    Ok(())
}

/// Splits a line of `pg_hba.conf` into fields of alternatives (`next_token` and
/// `next_field_expand` of `hba.c`, without the files that `@` includes).
pub fn hba_fields(line: &str) -> Vec<Vec<String>> {
    let mut rest = line.chars().peekable();
    let mut fields = Vec::new();
    loop {
        let mut field = Vec::new();
        loop {
            let (token, comma) = hba_token(&mut rest);
            if let Some(token) = token {
                field.push(token);
            } else {
                break;
            }
            if !comma {
                break;
            }
        }
        if field.is_empty() {
            return fields;
        }
        fields.push(field);
    }
}

fn hba_token(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> (Option<String>, bool) {
    let blank = |c: &char| matches!(c, ' ' | '\t' | '\r' | '\n');
    // Commas before a token are skipped like blanks.
    while rest.next_if(|c| blank(c) || *c == ',').is_some() {}
    let (mut token, mut quoted, mut any, mut comma) = (String::new(), false, false, false);
    while let Some(&c) = rest.peek() {
        if blank(&c) && !quoted {
            break;
        }
        rest.next();
        match c {
            '#' if !quoted => {
                rest.by_ref().for_each(drop);
                break;
            }
            ',' if !quoted => {
                comma = true;
                break;
            }
            '"' => {
                // Two quotes within quotes are one (`hba.c` since version 9).
                if quoted && rest.next_if_eq(&'"').is_some() {
                    token.push('"');
                } else {
                    quoted = !quoted;
                    any = true;
                }
            }
            c => {
                token.push(c);
                any = true;
            }
        }
    }
    (any.then_some(token), comma)
}
