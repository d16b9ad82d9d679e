//! Copies and rewinds.

use std::time::Duration;

use quorate_world::domain::types::Timeline;
use quorate_world::pg::{Lab, Mode, Outcome, Rewound};

use crate::fleet;

const ACKED: Option<Outcome> = Some(Outcome::Acknowledged);
const SOON: Duration = Duration::from_secs(3);

/// a and b have both written since they parted: b is on timeline 2, a is stopped.
fn parted() -> Lab {
    let mut lab = fleet(&["b"]);
    assert_eq!(lab.put("a", 1), ACKED);
    lab.cut("a", "b");
    assert_eq!(lab.put("a", 10), ACKED);
    lab
}

fn follow_back(lab: &mut Lab) {
    lab.create_slot("b", "slot_a").unwrap();
    lab.follow("a", "b", Some("slot_a"));
    lab.start("a", true).unwrap();
}

#[test]
fn a_rewind_takes_back_what_nobody_else_has() {
    let mut lab = parted();
    assert!(lab.promote("b"));
    assert_eq!(lab.put("b", 20), ACKED);
    assert!(lab.checkpoint("b"));
    lab.stop("a", Mode::Fast);
    lab.advance(Duration::from_secs(11));
    assert!(!lab.is_running("a"));
    lab.join("a", "b");
    let rewound = lab.rewind("a", "b").unwrap();
    assert!(matches!(rewound, Rewound::Done { timeline: Timeline(1), .. }), "{rewound:?}");
    follow_back(&mut lab);
    assert!(lab.until(SOON, |lab| lab.rows("a").ok() == Some(vec![1, 20])), "{:?}", lab.said());
}

#[test]
fn a_rewind_before_the_first_checkpoint_does_nothing() {
    let mut lab = parted();
    // The checkpoint after the promotion takes its time.
    let slow = quorate_world::pg::Span::millis(60_000, 60_000);
    lab.pace("b", quorate_world::pg::Pace { spread: slow, ..Default::default() });
    assert!(lab.promote("b"));
    lab.kill_all("a");
    lab.join("a", "b");
    lab.recover_alone("a").unwrap();
    assert_eq!(lab.rewind("a", "b").unwrap(), Rewound::NotRequired);
    follow_back(&mut lab);
    lab.advance(SOON);
    assert_eq!(lab.rows("a").unwrap(), [1, 10], "it still has what nobody else has");
    lab.stop("a", Mode::Fast);
    assert!(lab.checkpoint("b"));
    let rewound = lab.rewind("a", "b").unwrap();
    assert!(matches!(rewound, Rewound::Done { .. }), "{rewound:?}");
}

#[test]
fn a_rewind_wants_an_orderly_stop() {
    let mut lab = parted();
    assert!(lab.promote("b"));
    lab.kill_all("a");
    lab.join("a", "b");
    let refused = lab.rewind("a", "b").unwrap();
    assert!(matches!(&refused, Rewound::Refused(why) if why.contains("cleanly")), "{refused:?}");
    lab.recover_alone("a").unwrap();
    assert!(matches!(lab.rewind("a", "b").unwrap(), Rewound::Done { .. }));
}

#[test]
fn a_prefix_needs_no_rewind() {
    let mut lab = fleet(&["b"]);
    lab.put("a", 1);
    lab.stop("a", Mode::Fast);
    assert!(lab.promote("b"));
    assert!(lab.checkpoint("b"));
    assert_eq!(lab.rewind("a", "b").unwrap(), Rewound::NotRequired);
}

#[test]
fn a_rewound_directory_is_not_readable_before_it_has_caught_up() {
    let mut lab = parted();
    assert!(lab.promote("b"));
    assert!(lab.checkpoint("b"));
    assert_eq!(lab.put("b", 20), ACKED);
    lab.kill_all("a");
    lab.recover_alone("a").unwrap();
    lab.join("a", "b");
    assert!(matches!(lab.rewind("a", "b").unwrap(), Rewound::Done { .. }));
    let needs = lab.control("a").min_recovery;
    assert!(needs > lab.control("a").redo);
    follow_back(&mut lab);
    assert!(lab.until(SOON, |lab| lab.status("a").is_ok_and(|s| s.replay >= needs)));
}

#[test]
fn a_copy_of_a_standby_lags_like_it() {
    let mut lab = fleet(&["b"]);
    lab.put("a", 1);
    lab.cut("a", "b");
    lab.put("a", 2);
    lab.copy("c", "b").unwrap();
    lab.start("c", true).unwrap();
    assert_eq!(lab.rows("c").unwrap(), [1]);
    assert!(lab.promote("c"));
    assert_eq!(lab.put("c", 3), ACKED);
}

#[test]
fn a_copy_carries_no_slots_and_one_history() {
    let mut lab = fleet(&["b"]);
    for number in 2..=3 {
        lab.write_history("b", quorate_world::pg::History::placeholder(Timeline(number)));
    }
    assert!(lab.promote("b"));
    lab.copy("c", "b").unwrap();
    assert!(lab.slot("c", "slot_b").is_none());
    assert!(lab.history("c", 4).is_some() && lab.history("c", 3).is_none());
    lab.start("c", true).unwrap();
    assert!(lab.promote("c"));
    assert_eq!(lab.status("c").unwrap().timeline, Timeline(5));
}

#[test]
fn a_copy_fails_where_its_source_is_promoted() {
    let mut lab = fleet(&["b"]);
    let backup = lab.server("b").begin_backup().unwrap();
    assert!(lab.promote("b"));
    let now = lab.now();
    let ended = lab.server_mut("b").end_backup(now, &backup);
    assert!(ended.unwrap_err().contains("promoted"));
}

#[test]
fn wal_is_kept_for_slots_and_removed_without() {
    let mut lab = fleet(&["b", "c"]);
    lab.stop("b", Mode::Fast);
    lab.stop("c", Mode::Fast);
    lab.drop_slot("a", "slot_c").unwrap();
    let now = lab.now();
    lab.server_mut("a").bulk(now, 1 << 30);
    lab.settle();
    lab.put("a", 1);
    assert!(lab.checkpoint("a"));
    lab.start("b", true).unwrap();
    assert!(lab.until(SOON, |lab| lab.rows("b").ok() == Some(vec![1])), "{:?}", lab.said());
    assert!(lab.checkpoint("a"));
    assert!(lab.checkpoint("a"));
    lab.create_slot("a", "slot_c").unwrap();
    lab.start("c", true).unwrap();
    lab.advance(SOON);
    assert!(lab.said().iter().any(|s| s.contains("already been removed")), "{:?}", lab.said());
    assert!(lab.rows("c").unwrap().is_empty());
}
