//! Libraries that PostgreSQL is told to load, and on which members they are missing.
//!
//! Pure. A library that is missing stops the next start, or every new session: so what members say
//! of the libraries on their nodes is asked before a specification that names one is taken.

use std::collections::BTreeMap;
use std::time::Duration;

use super::observation::Observations;
use super::state::ClusterSpec;
use super::types::{BootTime, MemberName};

/// Settings that name libraries to load (PostgreSQL manual, section 20.11.4), and whether they are
/// looked for in `$libdir/plugins` only.
pub const PRELOADS: [(&str, bool); 3] = [
    ("shared_preload_libraries", false),
    ("session_preload_libraries", false),
    ("local_preload_libraries", true),
];
/// The setting that says where libraries are looked for.
const SEARCH: &str = "dynamic_library_path";
/// What was reported longer ago may not hold any more.
const RECENT: Duration = Duration::from_secs(15);

/// A library that members do not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The setting that names it, as it is written.
    pub setting: String,
    /// Its value.
    pub value: String,
    /// The library.
    pub library: String,
    /// Who does not have it.
    pub members: Vec<MemberName>,
}

/// The names of a list of libraries, split as PostgreSQL does it: at commas, with double quotes
/// around what has one.
pub fn names(list: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut name, mut quoted) = (String::new(), false);
    for c in list.chars() {
        match c {
            '"' => quoted = !quoted,
            ',' if !quoted => found.push(std::mem::take(&mut name)),
            c => name.push(c),
        }
    }
    found.push(name);
    found.iter().map(|n| n.trim().to_owned()).filter(|n| !n.is_empty()).collect()
}

/// The settings of `parameters` that name libraries, and whether they are looked for among the
/// plugins only.
pub fn preloads(
    parameters: &BTreeMap<String, String>,
) -> impl Iterator<Item = (&String, &String, bool)> {
    parameters.iter().filter_map(|(name, value)| {
        let (_, plugins) = PRELOADS.iter().find(|(p, _)| name.eq_ignore_ascii_case(p))?;
        Some((name, value, *plugins))
    })
}

/// Libraries that `new` names and `old` does not, and that members are known not to have. Only of
/// plain names, which are looked for where members say that they look; a member that has not said
/// of late what it has is taken to have everything.
pub fn missing(
    old: &ClusterSpec,
    new: &ClusterSpec,
    seen: &Observations,
    now: BootTime,
) -> Vec<Missing> {
    let search = |spec: &ClusterSpec| {
        let given = spec.parameters.iter().find(|(k, _)| k.eq_ignore_ascii_case(SEARCH));
        given.map(|(_, v)| v.clone())
    };
    if search(old) != search(new) {
        return Vec::new();
    }
    let mut all = Vec::new();
    for (setting, value, plugins) in preloads(&new.parameters) {
        if plugins || old.parameters.get(setting) == Some(value) {
            continue;
        }
        for library in names(value).into_iter().filter(|name| !name.contains('/')) {
            let plain = library.strip_suffix(".so").unwrap_or(&library);
            let recent = seen.members.iter().filter(|(_, o)| now.since(o.at) <= RECENT);
            let lacks = recent.filter(|(_, o)| {
                let there = o.report.settings.libraries.as_ref();
                there.is_some_and(|there| !there.contains(plain))
            });
            let members: Vec<MemberName> = lacks.map(|(member, _)| member.clone()).collect();
            if !members.is_empty() {
                let (setting, value) = (setting.clone(), value.clone());
                all.push(Missing { setting, value, library, members });
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_split_as_postgresql_does_it() {
        assert_eq!(names("a, b ,\"c,d\",, \"e\""), ["a", "b", "c,d", "e"]);
        assert_eq!(names(" "), Vec::<String>::new());
    }

    #[cfg(not(quorate_mutants))]
    #[test]
    fn only_what_is_known_to_be_missing_is_told() {
        use std::collections::BTreeSet;

        use super::super::fixture_test::{Leader, spec, standby};
        use super::super::state::SynchronousMode;

        let mut leader = Leader::new();
        for (name, has) in
            [("a", Some("one two")), ("b", Some("one")), ("c", None), ("d", Some(""))]
        {
            let mut report = standby(name, 2, 100);
            let all = |list: &str| list.split_whitespace().map(str::to_owned).collect();
            report.settings.libraries = has.map(all);
            leader.hears(name, report);
        }
        let old = spec("a b c d", SynchronousMode::Quorum, 1);
        let asks = |name: &str, value: &str| {
            let mut new = old.clone();
            new.parameters.insert(name.to_owned(), value.to_owned());
            new
        };
        let check = |new: &ClusterSpec, after: u64| {
            let now = leader.now.plus(Duration::from_secs(after));
            let found = missing(&old, new, &leader.observed, now);
            let text = |n: &Missing| {
                let members: Vec<_> = n.members.iter().map(ToString::to_string).collect();
                format!("{}: {}", n.library, members.join(" "))
            };
            found.iter().map(text).collect::<BTreeSet<_>>()
        };
        let none = BTreeSet::new();
        let both = asks("shared_preload_libraries", "one.so,two");
        assert_eq!(check(&both, 0), ["one.so: d", "two: b d"].map(str::to_owned).into());
        assert_eq!(check(&both, 60), none, "nobody was heard of late");
        assert_eq!(check(&asks("Session_Preload_Libraries", "two"), 0).len(), 1);
        assert_eq!(check(&asks("local_preload_libraries", "two"), 0), none, "of plugins");
        assert_eq!(check(&asks("shared_preload_libraries", "/x/two"), 0), none, "has a place");
        let mut elsewhere = both.clone();
        elsewhere.parameters.insert(SEARCH.to_owned(), "/x".to_owned());
        assert_eq!(check(&elsewhere, 0), none, "looked for elsewhere");
        assert_eq!(missing(&both, &both, &leader.observed, leader.now), vec![], "it is no change");
    }
}
