//! What `pg_rewind` does, and what it leaves when it does not come to its end.

use crate::servers::{Play, Process, Rewound};

/// A primary `a` that has rows of its own, stopped, and `b`, promoted before it had them.
fn diverged<S: Play>(s: &mut S) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.freeze("b", Process::Receiver);
    s.put("a", 2);
    s.kill("a");
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    s.shows("b", &[1]);
}

/// Before the source's first checkpoint on its new timeline its control file names the old one:
/// nothing is done, and it is called a success. After it the directory is turned back
/// (`pg_rewind.c`, `main`: "source and target cluster are on the same timeline").
pub fn a_rewind_before_the_first_checkpoint_does_nothing(s: &mut impl Play) {
    diverged(s);
    s.freeze("b", Process::Checkpointer);
    assert_eq!(s.promote("b"), 2);
    s.put("b", 3);
    assert_eq!(s.rewind("a", "b"), Rewound::NotRequired);
    s.thaw("b", Process::Checkpointer);
    s.checkpoint("b");
    // The directory is what it was.
    assert_eq!(s.control("a").timeline, 1);

    assert_eq!(s.rewind("a", "b"), Rewound::Done);
    s.follow("a", Some("b"));
    s.start("a").unwrap();
    s.shows("a", &[1, 3]);
    s.names("b", "ANY 1 (a)", &["a"]);
    s.put("b", 4);
    s.shows("a", &[1, 3, 4]);
}

/// Two servers that took the same timeline number are one history to a rewind
/// (`pg_rewind.c`, `main`).
pub fn a_rewind_takes_equal_numbers_for_one_history(s: &mut impl Play) {
    diverged(s);
    assert_eq!(s.promote("b"), 2);
    s.checkpoint("b");
    s.follow("a", None);
    s.start("a").unwrap();
    assert_eq!(s.promote("a"), 2);
    s.checkpoint("a");
    s.kill("a");
    assert_eq!(s.rewind("a", "b"), Rewound::NotRequired);
}

/// A server without WAL of its own needs no rewind: it is behind the fork
/// (`pg_rewind.c`, `main`: `divergerec`).
pub fn a_rewind_of_a_server_behind_the_fork_does_nothing(s: &mut impl Play) {
    s.cluster(&["b", "c"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.shows("c", &[1]);
    s.stop("c");
    s.ends("c");
    s.put("a", 2);
    s.shows("b", &[1, 2]);
    s.kill("a");
    assert_eq!(s.promote("b"), 2);
    s.checkpoint("b");
    assert_eq!(s.rewind("c", "b"), Rewound::NotRequired);
    s.follow("c", Some("b"));
    s.start("c").unwrap();
    s.shows("c", &[1, 2]);
}

/// A rewind that was killed leaves a control file that says nothing of it, and a directory that
/// does not start (manual, "pg_rewind": "the data folder of the target is likely not in a state
/// that can be recovered"; `pg_rewind.c`, `perform_rewind`: files that only the target has are
/// removed first, the label of the backup and the control file are written last).
pub fn an_interrupted_rewind_leaves_a_broken_directory(s: &mut impl Play) {
    s.cluster(&["b"]);
    s.put("a", 1);
    s.shows("b", &[1]);
    s.freeze("b", Process::Receiver);
    s.fill("a", 10_000..12_000);
    let stuck = s.sender("a", "b").id;
    s.stop("a");
    s.end("a", Process::Sender(stuck));
    s.ends("a");
    let before = s.control("a");
    assert!(before.shut_down);
    s.kill("b");
    s.follow("b", None);
    s.start("b").unwrap();
    assert_eq!(s.promote("b"), 2);
    s.fill("b", 20_000..22_000);
    s.checkpoint("b");

    s.rewind_halfway("a", "b");
    assert_eq!(s.control("a"), before, "the control file is written last");
    // The WAL that the control file names is gone: what only the target has is removed first.
    assert!(s.start("a").is_err());
}
