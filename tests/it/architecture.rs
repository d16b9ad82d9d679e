//! The table of imports: which part of `src/` may name which other part, and which crates.
//!
//! The table is the one of the architecture document. A new import that is not in it fails here,
//! with file and line: change the import, or the table and the document together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A part of `src/`, and the parts of the crate that it may name besides itself. An entry with
/// `::` allows this module only, the others everything below them.
const TABLE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("clock", &["domain::types"]),
    ("config", &["domain::types"]),
    ("transport", &[]),
    ("pb", &[]),
    ("convert", &["domain", "pb"]),
    ("raft", &["domain", "pb", "transport", "clock", "watch"]),
    ("runtime", &["raft::AsyncRuntime", "raft::runtime"]),
    ("watch", &[]),
    ("service_manager", &[]),
    // Its server side answers with the controller's service.
    ("session", &["domain", "pb", "transport", "clock", "runtime", "controller", "watch"]),
    ("controller", &["domain", "session", "raft", "clock", "runtime"]),
    // The configuration for the settings of a database alone.
    ("agent", &["domain", "postgres", "guard", "session", "clock", "runtime", "config", "watch"]),
    ("guard", &["domain::types", "clock"]),
    ("postgres", &["domain::types", "domain::libraries", "config"]),
    ("proxy", &["domain", "raft::handle", "clock"]),
    ("http", &["domain", "raft::handle", "clock"]),
    ("rescue", &["domain", "raft"]),
    // The rules of a specification are those of a configuration file.
    ("api", &["domain", "pb", "convert", "config"]),
    ("client", &["pb", "transport"]),
    // The domain's types, the clock and the store for what is done offline.
    ("cli", &["pb", "client", "config", "rescue", "raft", "domain", "clock"]),
    ("telemetry", &["config"]),
];

/// Parts that may name everything: the wiring and the programs.
const FREE: &[&str] = &["node", "stop", "bin", "lib"];

/// Crates that the domain may name.
const DOMAIN_CRATES: &[&str] = &["std", "core", "alloc", "serde", "thiserror"];

/// Parts that may name generated types. They come from `pb`, and `convert` turns them into types
/// of the domain; the others are where RPCs are sent and served.
const GENERATED: &[&str] = &["pb", "convert", "api", "raft", "session", "client", "cli"];

/// Crates with one owner: a change of theirs must stay within it.
const OWNERS: &[(&str, &[&str])] = &[
    ("openraft", &["raft"]),
    ("openraft_rt_tokio", &["raft", "node"]),
    ("rocksdb", &["raft"]),
    ("tokio_postgres", &["postgres"]),
    ("prost", GENERATED),
    ("tonic_prost", GENERATED),
    ("toml", &["config", "cli"]),
    ("clap", &["cli", "bin"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
];

/// One path that a source file names, and where.
struct Named {
    part: String,
    at: String,
    path: String,
}

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

/// Blanks comments and the content of texts, and keeps every line where it is. Raw texts and
/// character literals are treated as far as this code base uses them.
fn code_only(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    let mut before = ' ';
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                while chars.peek().is_some_and(|c| *c != '\n') {
                    chars.next();
                }
            }
            '/' if chars.peek() == Some(&'*') => {
                let mut last = ' ';
                for c in chars.by_ref() {
                    if c == '\n' {
                        out.push(c);
                    }
                    if last == '*' && c == '/' {
                        break;
                    }
                    last = c;
                }
            }
            '\'' => {
                // A character, unless it is a lifetime.
                let mut ahead = chars.clone();
                let first = ahead.next();
                if first == Some('\\') || ahead.next() == Some('\'') {
                    chars.next();
                    if first == Some('\\') {
                        chars.next();
                    }
                    chars.by_ref().find(|c| *c == '\'');
                    out.push_str("' '");
                } else {
                    out.push(c);
                }
            }
            'r' if !before.is_alphanumeric() && before != '_' && raw_text(&mut chars, &mut out) => {
            }
            '"' => {
                out.push('"');
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => {
                            let escaped = chars.next();
                            out.extend(escaped.filter(|c| *c == '\n'));
                        }
                        '\n' => out.push('\n'),
                        '"' => break,
                        _ => {}
                    }
                }
                out.push('"');
            }
            c => out.push(c),
        }
        before = c;
    }
    out
}

/// After an `r`: skips a raw text if one begins here.
fn raw_text(chars: &mut std::iter::Peekable<std::str::Chars<'_>>, out: &mut String) -> bool {
    let mut ahead = chars.clone();
    let mut hashes = 0;
    while ahead.peek() == Some(&'#') {
        ahead.next();
        hashes += 1;
    }
    if ahead.next() != Some('"') {
        return false;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let rest: String = ahead.collect();
    let Some(length) = rest.find(&end) else { return false };
    let whole = 1 + hashes + rest[..length].chars().count() + end.len();
    for c in chars.by_ref().take(whole) {
        if c == '\n' {
            out.push(c);
        }
    }
    out.push_str("\"\"");
    true
}

/// Flattens the tree of a `use`: `a::{b, c::{d, e as f}}` gives `a::b`, `a::c::d`, `a::c::e`.
fn flatten(prefix: &str, tree: &str, out: &mut Vec<String>) {
    let mut depth = 0;
    let mut start = 0;
    let mut parts = Vec::new();
    for (i, c) in tree.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&tree[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&tree[start..]);
    for part in parts.into_iter().map(str::trim).filter(|p| !p.is_empty()) {
        match part.split_once('{') {
            Some((head, rest)) => {
                let rest = rest.trim_end().strip_suffix('}').unwrap_or(rest);
                flatten(&format!("{prefix}{}", head.trim()), rest, out);
            }
            None => {
                let name = part.split(" as ").next().unwrap_or(part).trim();
                let path = format!("{prefix}{name}");
                out.push(path.strip_suffix("::self").unwrap_or(&path).to_owned());
            }
        }
    }
}

/// Every path with `::` that one file names, in `use` or in the code, with its line.
fn named(file: &Path, src: &Path) -> Vec<Named> {
    let relative = file.strip_prefix(src).unwrap();
    let part = relative.components().next().unwrap().as_os_str().to_string_lossy();
    let part = part.trim_end_matches(".rs").to_owned();
    let code = code_only(&std::fs::read_to_string(file).unwrap());
    let mut out = Vec::new();
    let mut push = |offset: usize, path: String| {
        let line = code[..offset].matches('\n').count() + 1;
        let at = format!("src/{}:{line}", relative.display());
        out.push(Named { part: part.clone(), at, path });
    };
    let mut at = 0;
    while at < code.len() {
        let rest = &code[at..];
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        if word == 0 {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        if &rest[..word] == "use" {
            let end = rest.find(';').unwrap_or(rest.len());
            let tree: String = rest[word..end].split_whitespace().collect::<Vec<_>>().join(" ");
            let mut paths = Vec::new();
            flatten("", &tree, &mut paths);
            paths.into_iter().for_each(|p| push(at, p.trim_start_matches("::").to_owned()));
            at += end;
            continue;
        }
        // A path in the code: words with `::` between.
        let mut length = word;
        while rest[length..].starts_with("::") {
            let tail = &rest[length + 2..];
            let next =
                tail.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(tail.len());
            if next == 0 {
                break;
            }
            length += 2 + next;
        }
        let continued = code[..at].ends_with("::") || code[..at].ends_with('.');
        if length > word && !continued {
            push(at, rest[..length].to_owned());
        }
        at += length;
    }
    out
}

/// All paths that the code names, with `super` and `self` left out: they stay within a part unless
/// they climb out of it, which `climbs_out` judges.
fn all() -> Vec<Named> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 10, "the sources are not where they are looked for");
    files.iter().flat_map(|f| named(f, &src)).collect()
}

fn allowed(entry: &str, target: &str) -> bool {
    target == entry || target.strip_prefix(entry).is_some_and(|rest| rest.starts_with("::"))
}

/// Why `named` is against the table; `None` where it is not.
fn against_table(named: &Named) -> Option<String> {
    let target =
        named.path.strip_prefix("crate::").or_else(|| named.path.strip_prefix("quorate::"))?;
    let Named { part, at, .. } = named;
    if FREE.contains(&part.as_str()) || allowed(part, target) {
        return None;
    }
    let Some((_, may)) = TABLE.iter().find(|(p, _)| p == part) else {
        return Some(format!("{at}: {part} is not in the table of imports"));
    };
    let fine = may.iter().any(|entry| allowed(entry, target));
    (!fine).then(|| {
        format!(
            "{at}: {part} names {target}, and may name {} only",
            [&["itself"], *may].concat().join(", ")
        )
    })
}

fn crate_of(path: &str) -> &str {
    path.split("::").next().unwrap_or(path)
}

#[test]
fn the_table_of_imports_holds() {
    let wrong: Vec<String> = all().iter().filter_map(against_table).collect();
    assert!(wrong.is_empty(), "against the table of imports:\n{}", wrong.join("\n"));
}

#[test]
fn a_part_is_not_left_by_super() {
    // `super` of a module directly in a part reaches the part; one more reaches the crate's root,
    // where the table could be gone around.
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let wrong: Vec<String> = all()
        .iter()
        .filter(|n| {
            let file = n.at.rsplit_once(':').map_or("", |(file, _)| file);
            let file = src.join(file.trim_start_matches("src/"));
            let relative = file.strip_prefix(&src).unwrap();
            let mut depth = relative.components().count();
            if relative.ends_with("mod.rs") {
                depth -= 1;
            }
            // One level of inline `mod tests` may be in between.
            n.path.split("::").take_while(|p| *p == "super").count() > depth
        })
        .map(|n| format!("{}: {}", n.at, n.path))
        .collect();
    assert!(wrong.is_empty(), "super leaves the part:\n{}", wrong.join("\n"));
}

#[test]
fn the_domain_is_pure() {
    let inside: BTreeSet<&str> = BTreeSet::from(["crate", "self", "super"]);
    let foreign = dependencies();
    let wrong: Vec<String> = all()
        .iter()
        .filter(|n| n.part == "domain")
        // Its tests read how long they are to walk.
        .filter(|n| !n.at.contains("_test.rs:"))
        .filter(|n| {
            let first = crate_of(&n.path);
            let ours = inside.contains(first) || DOMAIN_CRATES.contains(&first);
            (!ours && foreign.contains(first)) || impure(&n.path)
        })
        .map(|n| format!("{}: {}", n.at, n.path))
        .collect();
    assert!(wrong.is_empty(), "the domain names what it may not:\n{}", wrong.join("\n"));
}

/// Parts of `std` that read time, files, the network or the process.
fn impure(path: &str) -> bool {
    const IMPURE: &[&str] = &[
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "std::env",
        "std::io",
        "std::os",
        "std::time::Instant",
        "std::time::SystemTime",
        "std::collections::HashMap",
        "std::collections::HashSet",
    ];
    IMPURE.iter().any(|p| allowed(p, path))
}

/// The crates that the manifest names, as the code spells them. Those of tests are left out: test
/// modules beside the code may use them.
fn dependencies() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let text = std::fs::read_to_string(manifest).unwrap();
    let mut inside = false;
    let mut out = BTreeSet::new();
    for line in text.lines() {
        if line.starts_with('[') {
            inside = line.trim() == "[dependencies]";
        } else if let Some((name, _)) = line.split_once('=').filter(|_| inside) {
            // The tests of the domain print states as JSON.
            let name = name.trim();
            if !name.starts_with('#') && name != "serde_json" {
                out.insert(name.replace('-', "_"));
            }
        }
    }
    assert!(out.contains("openraft"), "the manifest could not be read");
    out
}

#[test]
fn crates_with_an_owner_are_named_by_it_only() {
    let wrong: Vec<String> = all()
        .iter()
        .filter_map(|n| {
            let (name, owners) = OWNERS.iter().find(|(c, _)| *c == crate_of(&n.path))?;
            let fine = owners.contains(&n.part.as_str());
            (!fine).then(|| format!("{}: {} belongs to {}", n.at, name, owners.join(", ")))
        })
        .collect();
    assert!(wrong.is_empty(), "crates outside their owners:\n{}", wrong.join("\n"));
}

#[test]
fn generated_types_stay_at_the_edges() {
    let wrong: Vec<String> = all()
        .iter()
        .filter(|n| n.path.starts_with("crate::pb") || n.path.starts_with("quorate::pb"))
        .filter(|n| !GENERATED.contains(&n.part.as_str()) && !FREE.contains(&n.part.as_str()))
        .map(|n| format!("{}: {}", n.at, n.path))
        .collect();
    assert!(wrong.is_empty(), "generated types outside the edges:\n{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_sees_what_it_must() {
    let dir = tempfile::tempdir().unwrap();
    let part = dir.path().join("agent");
    std::fs::create_dir(&part).unwrap();
    let file = part.join("x.rs");
    let text = r##"//! crate::raft::store in a comment
use crate::{
    domain::{types::Lsn as L, plan},
    raft::store,
};
/* crate::http */ pub(crate) use ::openraft::Raft;
const T: &str = "crate::api::x // \" crate::api::y";
const R: &str = r#"crate::api::"z""#;
fn f<'a>(c: char) -> bool { c == '"' || c == '\'' || crate::pb::y::z::<u8>(c) }
"##;
    std::fs::write(&file, text).unwrap();
    let found = named(&file, dir.path());
    let found: Vec<_> = found.iter().map(|n| format!("{} {}", n.at, n.path)).collect();
    assert_eq!(
        found,
        [
            "src/agent/x.rs:2 crate::domain::types::Lsn",
            "src/agent/x.rs:2 crate::domain::plan",
            "src/agent/x.rs:2 crate::raft::store",
            "src/agent/x.rs:6 openraft::Raft",
            "src/agent/x.rs:9 crate::pb::y::z",
        ]
    );
    let wrong: Vec<_> = named(&file, dir.path()).iter().filter_map(against_table).collect();
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].starts_with("src/agent/x.rs:2: agent names raft::store"), "{wrong:?}");
}
