//! Programs of the operator that are run when the member's role changes.
//!
//! Owns when they are told what. They run in a task of their own, one at a time: what changes
//! meanwhile is told afterwards, and only the newest of it, but for the end of a primary that was
//! told of: that is told before anything else. Nothing waits for them but a promotion, and that for
//! a bounded time; a fence, a renewal, a close or a stop never do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::driver::Database;
use super::shared::Shared;
use crate::clock::Clock;
use crate::domain::alarm::{Alarm, AlarmCode, NoticeCode};
use crate::domain::lease::HolderLease;
use crate::domain::plan::PROMOTION_DEADLINE;
use crate::domain::reconcile::Process;
use crate::domain::types::{BootTime, Epoch};
use crate::runtime::{self, Boxed, Runtime};

/// How often the member's role is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Longest time that a promotion waits for a hook: the promotion itself needs the rest.
pub const BEFORE_PROMOTION_MAX: Duration = Duration::from_secs(20);
const _: () = assert!(BEFORE_PROMOTION_MAX.as_secs() * 3 <= PROMOTION_DEADLINE.as_secs());

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// After the member's role has changed.
    RoleChange,
    /// Before the member is promoted.
    BeforePromotion,
    /// Once the member that made the first data directory is open for writes.
    AfterBootstrap,
}

impl Hook {
    /// Its name, as in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Hook::RoleChange => "on_role_change",
            Hook::BeforePromotion => "before_promotion",
            Hook::AfterBootstrap => "after_bootstrap",
        }
    }
}

/// What a hook is told of the member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It is open for writes.
    Primary,
    /// It follows a primary.
    Standby,
    /// It was primary, its lease ran out, and its processes are killed.
    Fenced,
    /// It does not run, or was stopped.
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Fenced => "fenced",
            Role::Stopped => "stopped",
        })
    }
}

/// One run of a hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// The role is this now.
    RoleChange(Role, Epoch),
    /// The member is about to be promoted to this epoch.
    BeforePromotion(Epoch),
    /// The cluster's first primary takes writes.
    AfterBootstrap,
}

impl Call {
    /// Which hook.
    pub fn hook(&self) -> Hook {
        match self {
            Call::RoleChange(..) => Hook::RoleChange,
            Call::BeforePromotion(_) => Hook::BeforePromotion,
            Call::AfterBootstrap => Hook::AfterBootstrap,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.hook().name();
        match self {
            Call::RoleChange(role, epoch) => write!(f, "hook {name} ({role}, epoch {epoch})"),
            Call::BeforePromotion(epoch) => write!(f, "hook {name} (epoch {epoch})"),
            Call::AfterBootstrap => write!(f, "hook {name}"),
        }
    }
}

/// The hooks of a member.
pub trait Hooks: fmt::Debug + Send + Sync + 'static {
    /// Whether there is one.
    fn has(&self, hook: Hook) -> bool;

    /// Whether the member gives an epoch up where [`Hook::BeforePromotion`] fails.
    fn is_required(&self) -> bool;

    /// Runs one, for a bounded time. A future that is dropped kills all of its processes. An error
    /// says how it failed, in a form that may be shown to everybody: no output of it.
    fn run(&self, call: Call) -> Boxed<'static, Result<(), String>>;
}

/// None at all.
#[derive(Debug, Clone, Copy)]
pub struct NoHooks;

impl Hooks for NoHooks {
    fn has(&self, _: Hook) -> bool {
        false
    }

    fn is_required(&self) -> bool {
        false
    }

    fn run(&self, _: Call) -> Boxed<'static, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

/// How an epoch of this member ends.
pub(super) fn end_of(epoch: Epoch, lease: Option<HolderLease>, now: BootTime) -> (Role, Epoch) {
    let leased = lease.is_some_and(|l| l.may_write(epoch, now));
    (if leased { Role::Stopped } else { Role::Fenced }, epoch)
}

/// What was seen of a member's role.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    newest: Option<(Role, Epoch)>,
    /// How the last epoch ended here. A new role may be reached before anybody looks.
    ended: Option<(Role, Epoch)>,
    told: Option<(Role, Epoch)>,
}

impl Seen {
    /// Takes a look. What is on its way from one role to another keeps the one that it had.
    fn look(&mut self, process: &Process, ended: Option<(Role, Epoch)>) {
        self.ended = ended;
        let next = match (process, self.newest) {
            (Process::Primary { epoch, writes_open: true, .. }, _) => (Role::Primary, *epoch),
            (Process::Following { epoch, .. }, _) => (Role::Standby, *epoch),
            (Process::Ending | Process::Down, Some((Role::Primary, epoch))) => {
                ended.filter(|(_, e)| *e == epoch).unwrap_or((Role::Stopped, epoch))
            }
            (Process::Ending | Process::Down, Some((Role::Standby, epoch))) => {
                (Role::Stopped, epoch)
            }
            _ => return,
        };
        self.newest = Some(next);
    }

    /// What is to be told next, if anything; it counts as told.
    fn tell(&mut self) -> Option<(Role, Epoch)> {
        let untold = match (self.told, self.ended) {
            (Some((Role::Primary, told)), Some((_, ended))) if told == ended => self.ended,
            _ => self.newest.filter(|newest| Some(*newest) != self.told),
        };
        self.told = untold.or(self.told);
        untold
    }
}

pub(super) async fn run<RT: Runtime, D: Database, C: Clock>(shared: Arc<Shared<D, C>>) {
    let hooks = shared.database.hooks();
    let mut seen = Seen::default();
    let mut running: Option<(Call, Boxed<'static, Result<(), String>>)> = None;
    loop {
        let bootstrapped = {
            let inner = shared.lock();
            if inner.loaded {
                seen.look(&inner.process, inner.role_ended);
            }
            inner.record.bootstrap_hook && !inner.bootstrap_hook_ran
        };
        if running.is_none() {
            let primary = matches!(seen.newest, Some((Role::Primary, _)));
            let call = if bootstrapped && primary {
                shared.lock().bootstrap_hook_ran = true;
                Some(Call::AfterBootstrap)
            } else {
                seen.tell().map(|(role, epoch)| Call::RoleChange(role, epoch))
            };
            running = call.filter(|c| hooks.has(c.hook())).map(|call| (call, hooks.run(call)));
        }
        let ended = match &mut running {
            None => {
                RT::sleep(LOOK_EVERY).await;
                None
            }
            Some((call, run)) => {
                let ended = runtime::first_of(vec![
                    Box::pin(async { Some(run.await) }) as Boxed<'_, _>,
                    Box::pin(async {
                        RT::sleep(LOOK_EVERY).await;
                        None
                    }),
                ]);
                ended.await.map(|outcome| (*call, outcome))
            }
        };
        if let Some((call, outcome)) = ended {
            running = None;
            shared.tell_of_hook(call, &outcome);
            if call == Call::AfterBootstrap {
                shared.bootstrap_hook_ended(&outcome);
            }
        }
    }
}

impl<D: Database, C: Clock> Shared<D, C> {
    /// Whether anything is told to hooks of their own accord.
    pub(super) fn has_hooks(&self) -> bool {
        let hooks = self.database.hooks();
        hooks.has(Hook::RoleChange) || hooks.has(Hook::AfterBootstrap)
    }

    /// Writes into the history what became of a hook.
    pub(super) fn tell_of_hook(&self, call: Call, outcome: &Result<(), String>) {
        match outcome {
            Ok(()) => self.notice(NoticeCode::HookRan, format!("{call} ran")),
            Err(why) => self.notice(NoticeCode::HookFailed, format!("{call} failed: {why}")),
        }
    }

    fn bootstrap_hook_ended(&self, outcome: &Result<(), String>) {
        match outcome {
            Ok(()) => {
                self.lock().bootstrap_hook_done = true;
                self.set_alarms(&[AlarmCode::BootstrapHook], Vec::new());
                self.wake.notify_one();
            }
            Err(why) => {
                let text = format!(
                    "hook after_bootstrap failed: {why}; see hanode's log there. It is run again \
                     when hanode is started again, or remove it from the configuration then"
                );
                self.raise(Alarm::new(AlarmCode::BootstrapHook, text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lease::Timing;

    const EPOCH: Epoch = Epoch(3);

    fn primary(writes_open: bool) -> Process {
        Process::Primary { epoch: EPOCH, promoted: true, confirmed: None, writes_open }
    }

    fn following(epoch: Epoch) -> Process {
        Process::Following { epoch, address: String::new() }
    }

    fn after(looks: &[&Process]) -> Option<(Role, Epoch)> {
        let mut seen = Seen::default();
        looks.iter().for_each(|process| seen.look(process, None));
        seen.newest
    }

    /// What is told of looks, where nothing runs for long.
    fn told(looks: &[(&Process, Option<(Role, Epoch)>)]) -> Vec<(Role, Epoch)> {
        let mut seen = Seen::default();
        let mut told = Vec::new();
        for (process, ended) in looks {
            seen.look(process, *ended);
            told.extend(std::iter::from_fn(|| seen.tell()));
        }
        told
    }

    #[test]
    fn roles_are_told_once_they_are_reached() {
        let following = following(EPOCH);
        assert_eq!(after(&[&Process::Down]), None);
        assert_eq!(after(&[&primary(false)]), None);
        assert_eq!(after(&[&primary(true)]), Some((Role::Primary, EPOCH)));
        assert_eq!(after(&[&following]), Some((Role::Standby, EPOCH)));
        // On its way to be primary it is what it was.
        let sealed = Process::Sealed { promise: Epoch(4), position: None };
        let on_its_way = [&following, &sealed, &primary(false)];
        assert_eq!(after(&on_its_way), Some((Role::Standby, EPOCH)));
        assert_eq!(after(&[&following, &Process::Down]), Some((Role::Stopped, EPOCH)));
    }

    #[test]
    fn a_primary_that_outlived_its_lease_was_fenced() {
        let start = BootTime::from_nanos(1_000_000_000);
        let lease = Some(HolderLease::from_renewal(EPOCH, start, &Timing::default()));
        let after = |ms| end_of(EPOCH, lease, start.plus(Duration::from_millis(ms)));
        assert_eq!(after(100), (Role::Stopped, EPOCH));
        assert_eq!(after(60_000), (Role::Fenced, EPOCH));
        assert_eq!(end_of(EPOCH, None, start), (Role::Fenced, EPOCH));
        let (open, fenced) = (primary(true), Some((Role::Fenced, EPOCH)));
        let seen = told(&[(&open, None), (&Process::Ending, fenced), (&Process::Down, fenced)]);
        assert_eq!(seen, [(Role::Primary, EPOCH), (Role::Fenced, EPOCH)]);
    }

    #[test]
    fn the_end_of_a_primary_is_told_however_soon_it_is_something_else() {
        let (open, standby) = (primary(true), following(Epoch(4)));
        let stopped = Some((Role::Stopped, EPOCH));
        let seen = told(&[(&open, None), (&standby, stopped), (&standby, stopped)]);
        assert_eq!(
            seen,
            [(Role::Primary, EPOCH), (Role::Stopped, EPOCH), (Role::Standby, Epoch(4))]
        );
        // One that was never told of as primary is told of as what it is.
        assert_eq!(told(&[(&standby, stopped)]), [(Role::Standby, Epoch(4))]);
    }
}
