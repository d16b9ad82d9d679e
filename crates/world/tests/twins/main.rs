//! The model tells the truth: every rule of the modelled PostgreSQL, on the model and on the real
//! one.
//!
//! A rule is a *scenario*: a function over [`Servers`], written once. [`twins`] makes two tests of
//! each, `real::name` and `model::name`. Where the two disagree, the model is wrong.
//!
//! The real servers are those of `PGBIN`, or else the newest below `/usr/lib/postgresql`. They
//! refuse root: as root, they run as the user `postgres`.

mod live;
mod scenarios;
mod servers;

/// Makes the two lists of tests, from one list of scenarios.
macro_rules! twins {
    ($($file:ident { $($name:ident),+ $(,)? })+) => {
        /// Scenarios on real servers.
        mod real {
            $($(
                #[test]
                fn $name() {
                    crate::scenarios::$file::$name(&mut crate::live::Live::new());
                }
            )+)+
        }

        /// The scenarios that have tests, file by file.
        const LISTED: &[(&str, &str, &[&str])] = &[$((
            stringify!($file),
            include_str!(concat!("scenarios/", stringify!($file), ".rs")),
            &[$(stringify!($name)),+],
        )),+];
    };
}

twins! {
    waiters {
        any_k_releases_at_the_kth_newest_flush,
    }
}

/// The lists of `real` and of `model` are one list by construction; this is its other half: no
/// scenario is without its tests.
#[test]
fn every_scenario_is_listed() {
    for (file, source, listed) in LISTED {
        let written: Vec<&str> = source
            .lines()
            .filter_map(|line| line.strip_prefix("pub fn ")?.split_once(['<', '(']))
            .map(|(name, _)| name)
            .collect();
        assert_eq!(&written, listed, "scenarios/{file}.rs");
    }
}
