//! No room on a disk: what it says of an end, and what it holds back.

use tracing::{error, warn};

use super::{QUICK, SLOW, STARTUP_DEATHS_MAX, STARTUP_TROUBLE, Worker};
use crate::agent::driver::{CopyRoom, Database, Error};
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::desired::FollowDuty;
use crate::domain::space::Level;
use crate::runtime::Runtime;
use crate::session::Transport;

const MIB: u64 = 1 << 20;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Looks why PostgreSQL has ended by itself, once nothing of it is left. Data from which it
    /// cannot start for long is given up, but never for want of room: that is no fault of the
    /// data, and a copy would need even more.
    pub(super) async fn judge_end(&mut self) {
        if !std::mem::take(&mut self.ended_itself) {
            self.starved = 0;
            return;
        }
        let database = self.shared.database.clone();
        let said = self.bounded("reading PostgreSQL's log", QUICK, database.said_no_room()).await;
        let said = said.unwrap_or_else(|error| {
            warn!(member = %self.shared.member.name, %error, "why PostgreSQL ended is not known");
            false
        });
        let member = &self.shared.member.name;
        let now = self.shared.clock.now();
        let full = {
            let mut inner = self.shared.lock();
            inner.no_room_said = said;
            inner.disks.level() == Level::Critical
        };
        if said || full {
            self.starved = self.starved.saturating_add(1);
            self.dying_since = now;
            warn!(%member, "PostgreSQL has ended for want of room: it is tried again");
            self.shared.survey.notify_one();
            return;
        }
        self.starved = 0;
        // A machine in trouble for a moment is no reason to give data up.
        let long = now.since(self.dying_since) >= STARTUP_TROUBLE;
        if self.startup_deaths >= STARTUP_DEATHS_MAX && long {
            let database = self.shared.database.clone();
            let work = database.settings_to_blame();
            // A copy would be started with the same settings, and end the same way. Where nothing is
            // found out, the data stays as well.
            let blame = self.bounded("reading PostgreSQL's log", QUICK, work).await;
            if blame.unwrap_or(true) {
                warn!(%member, "PostgreSQL does not start, and its settings may be why");
                return;
            }
            error!(%member, "PostgreSQL cannot start from this data");
            self.shared.lock().unstartable = true;
        }
    }

    /// A rewind that runs out of room leaves a directory that only a copy can replace.
    pub(super) fn room_for_rewind(&self) -> Result<(), Error> {
        let level = self.shared.lock().disks.level();
        if level > Level::Critical {
            return Ok(());
        }
        let text = "its disk is as good as full, and a rewind needs room: make some, and it is \
                    rewound";
        self.shared.raise(Alarm::new(AlarmCode::NoRoomForCopy, text));
        Err(Error::Failed(text.to_owned()))
    }

    /// Before anything of the old data is touched.
    pub(super) async fn room_for_copy(&self, duty: &FollowDuty) -> Result<(), Error> {
        let database = self.shared.database.clone();
        let work = database.room_for_copy(duty);
        // Never left: what it removes is told, and nothing is removed while something else is done.
        let CopyRoom { needed_bytes, free_bytes, path, removed } =
            self.bounded("looking for room for a copy", SLOW, work).await?;
        for path in removed {
            self.shared.notice(
                NoticeCode::AsideRemoved,
                format!("{path} is removed: a copy needs its room, and the bounds allow it"),
            );
        }
        if free_bytes >= needed_bytes {
            self.shared.set_alarms(&[AlarmCode::NoRoomForCopy], Vec::new());
            return Ok(());
        }
        let aside: u64 = self.shared.lock().aside.iter().map(|a| a.bytes).sum();
        let text = format!(
            "a copy of {} needs {} MiB beside {path}, and {} MiB are free: make room, or remove \
             what is kept aside ({} MiB), or move the old data directory away; nothing was touched, \
             and the copy begins once there is room",
            duty.primary,
            needed_bytes.div_ceil(MIB),
            free_bytes / MIB,
            aside / MIB,
        );
        self.shared.raise(Alarm::new(AlarmCode::NoRoomForCopy, text.clone()));
        Err(Error::Failed(text))
    }
}
