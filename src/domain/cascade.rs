//! Whether a standby that is to stream from another one can, and when it goes back to it.
//!
//! Pure: the agent asks the upstream, and brings the time. It is left soon, and gone back to only
//! once it was well for a while, which grows each time that it was left: a member that changed its
//! upstream all the time would be worse off than one that stays with the primary.

use std::time::Duration;

use super::desired::Upstream;
use super::types::{BootTime, Epoch};

/// How long nothing may be streamed from the upstream until it is left.
pub const SILENT: Duration = Duration::from_secs(4);
/// How long an upstream from which it streams may be unfit (cut off itself, or too far behind).
pub const UNFIT: Duration = Duration::from_secs(8);
/// How long it must have been well, the first time and at most.
pub const WELL_MIN: Duration = Duration::from_secs(8);
pub const WELL_MAX: Duration = Duration::from_secs(300);
/// After how long with it nothing is held against it any more.
pub const CALM: Duration = Duration::from_secs(600);
/// How long it may be lost before that is an alarm: changes of the primary are none.
pub const ALARM: Duration = Duration::from_secs(15);

/// What is known of the upstream of one member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    asked: Option<(Epoch, Upstream)>,
    /// Set while it is not to be streamed from, since when.
    lost: Option<BootTime>,
    silent: Option<BootTime>,
    unfit: Option<BootTime>,
    well: Option<BootTime>,
    found: BootTime,
    /// How long it must have been well; zero where it was never left.
    patience: Duration,
}

impl Watch {
    /// Says whom it is to stream from, in which epoch; `there` where it does already. Of another
    /// upstream, or under another primary, nothing is known at first: it must be asked anew.
    pub fn ask(&mut self, epoch: Epoch, upstream: &Upstream, there: bool, now: BootTime) {
        if self.asked.as_ref().is_some_and(|(e, u)| *e == epoch && u == upstream) {
            return;
        }
        let same = self.asked.as_ref().is_some_and(|(_, u)| u.member == upstream.member);
        *self = Self {
            asked: Some((epoch, upstream.clone())),
            lost: (!there).then_some(now),
            found: now,
            patience: if same { self.patience } else { Duration::ZERO },
            ..Self::default()
        };
    }

    /// Says that it is to stream from the primary.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether it cannot be streamed from, as far as known.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Whether that is an alarm.
    pub fn is_alarm(&self, now: BootTime) -> bool {
        self.lost.is_some_and(|since| now.since(since) >= ALARM)
    }

    /// Whom it is to stream from.
    pub fn upstream(&self) -> Option<&Upstream> {
        self.asked.as_ref().map(|(_, upstream)| upstream)
    }

    /// Notes whether WAL comes from it, while it is followed.
    pub fn note_streaming(&mut self, streams: bool, now: BootTime) {
        if streams {
            self.silent = None;
            if now.since(self.found) >= CALM {
                self.patience = Duration::ZERO;
            }
        } else if now.since(*self.silent.get_or_insert(now)) >= SILENT {
            self.lose(now);
        }
    }

    /// Notes what it answered, of which `epoch` it was asked.
    pub fn note_answer(&mut self, epoch: Epoch, fit: bool, now: BootTime) {
        if self.asked.as_ref().is_none_or(|(e, _)| *e != epoch) {
            return;
        }
        match (self.lost, fit) {
            (None, true) => self.unfit = None,
            (None, false) => {
                if now.since(*self.unfit.get_or_insert(now)) >= UNFIT {
                    self.lose(now);
                }
            }
            (Some(_), true) => {
                if now.since(*self.well.get_or_insert(now)) >= self.patience {
                    (self.lost, self.silent, self.unfit) = (None, None, None);
                    self.found = now;
                }
            }
            (Some(_), false) => self.well = None,
        }
    }

    /// It cannot be followed now.
    pub fn lose(&mut self, now: BootTime) {
        if self.lost.is_none() {
            self.lost = Some(now);
            self.patience = (self.patience * 2).clamp(WELL_MIN, WELL_MAX);
        }
        (self.silent, self.unfit, self.well) = (None, None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::types::MemberName;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_nanos(seconds * 1_000_000_000)
    }

    fn upstream(name: &str) -> Upstream {
        Upstream { member: MemberName::new(name).unwrap(), address: format!("{name}:1") }
    }

    /// An upstream that was followed from the beginning.
    fn followed() -> Watch {
        let mut watch = Watch::default();
        watch.ask(Epoch(5), &upstream("b"), false, at(0));
        assert!(watch.is_lost() && !watch.is_alarm(at(14)) && watch.is_alarm(at(15)));
        watch.note_answer(Epoch(5), true, at(0));
        assert!(!watch.is_lost(), "one good answer is enough where nothing is against it");
        watch
    }

    #[test]
    fn it_is_left_when_it_is_silent_or_unfit_for_a_while() {
        let mut watch = followed();
        watch.note_streaming(false, at(10));
        watch.note_streaming(true, at(13));
        watch.note_streaming(false, at(14));
        watch.note_streaming(false, at(17));
        assert!(!watch.is_lost());
        watch.note_streaming(false, at(18));
        assert!(watch.is_lost());

        let mut watch = followed();
        for (seconds, fit, lost) in
            [(10, false, false), (16, true, false), (17, false, false), (25, false, true)]
        {
            watch.note_answer(Epoch(5), fit, at(seconds));
            assert_eq!(watch.is_lost(), lost, "{seconds}");
        }
    }

    #[test]
    fn it_is_gone_back_to_without_flapping() {
        let mut watch = followed();
        let mut now = 100;
        for wait in [8, 16, 32, 64, 128, 256, 300, 300] {
            watch.lose(at(now));
            watch.note_answer(Epoch(5), true, at(now));
            watch.note_answer(Epoch(5), false, at(now + 1));
            watch.note_answer(Epoch(5), true, at(now + 2));
            watch.note_answer(Epoch(5), true, at(now + 1 + wait));
            assert!(watch.is_lost(), "well for {} s", wait - 1);
            watch.note_answer(Epoch(5), true, at(now + 2 + wait));
            assert!(!watch.is_lost(), "well for {wait} s");
            now += 1000;
        }
        watch.note_streaming(true, at(now + 600));
        watch.lose(at(now + 700));
        watch.note_answer(Epoch(5), true, at(now + 700));
        watch.note_answer(Epoch(5), true, at(now + 708));
        assert!(!watch.is_lost(), "forgiven");
    }

    #[test]
    fn nothing_is_known_of_it_under_another_primary() {
        let mut watch = followed();
        watch.ask(Epoch(5), &upstream("b"), false, at(1));
        assert!(!watch.is_lost(), "asked already");
        watch.ask(Epoch(6), &upstream("b"), false, at(2));
        assert!(watch.is_lost());
        watch.note_answer(Epoch(5), true, at(3));
        assert!(watch.is_lost(), "an answer of before");
        watch.note_answer(Epoch(6), true, at(3));
        assert!(!watch.is_lost());
        watch.ask(Epoch(6), &upstream("c"), false, at(4));
        assert!(watch.is_lost());
        watch.ask(Epoch(7), &upstream("c"), true, at(5));
        assert!(!watch.is_lost(), "an agent that takes over what streams from it");
        watch.forget();
        assert!(!watch.is_lost() && watch.upstream().is_none());
    }
}
