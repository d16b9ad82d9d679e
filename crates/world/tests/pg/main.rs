//! The rules of PostgreSQL that the model has, one test each.

mod commits;
mod ends;
mod lines;
mod tools;

use quorate_world::pg::{Lab, SyncNames};

/// A primary `a` with standbys, each of which has a slot; commits wait for nobody.
pub fn fleet(standbys: &[&str]) -> Lab {
    let mut lab = Lab::new();
    lab.initdb("a");
    lab.start("a", false).unwrap();
    for standby in standbys {
        lab.add_standby(standby, "a");
    }
    lab
}

/// The same; commits wait for `count` of the standbys.
pub fn synchronous_fleet(standbys: &[&str], count: usize) -> Lab {
    let mut lab = fleet(standbys);
    lab.synchronous("a", Some(SyncNames::any(count, standbys.iter().copied())));
    lab
}
