//! Machines and scopes: what lives, what is held, what dies.

use super::clock::{Clocks, Nanos};
use super::core::Core;
use super::rng::Stream;
use super::task::TaskId;
use super::{MachineId, ScopeId};

/// What is known about a machine.
pub(crate) struct Machine {
    pub(super) name: String,
    pub(super) clocks: Clocks,
    /// What its processes draw from.
    pub(super) rng: Stream,
    /// How late its timers are.
    pub(super) lateness: Stream,
    suspended: bool,
    /// Its scopes are being killed because it crashes.
    crashing: bool,
}

/// What is known about a scope.
pub(crate) struct Scope {
    name: String,
    pub(super) machine: MachineId,
    pub(super) alive: bool,
    paused: bool,
    /// Paused, or on a suspended machine: what becomes runnable is parked.
    pub(super) held: bool,
    pub(super) parked: Vec<TaskId>,
    exits: Vec<Box<dyn FnOnce()>>,
}

impl Core {
    /// Adds a machine.
    pub(super) fn add_machine(&self, name: &str, uptime: u64) -> MachineId {
        let mut machines = self.machines.borrow_mut();
        let taken = machines.iter().any(|machine| machine.name == name);
        assert!(!taken, "two machines of one name would share their randomness: {name}");
        let id = MachineId(u32::try_from(machines.len()).unwrap_or(u32::MAX));
        machines.push(Machine {
            name: name.to_owned(),
            clocks: Clocks::new(self.now.get(), uptime),
            rng: Stream::new(self.seed, name),
            lateness: Stream::new(self.seed, &format!("{name}/lateness")),
            suspended: false,
            crashing: false,
        });
        self.timers.borrow_mut().add_machine();
        id
    }

    /// Adds a scope.
    pub(super) fn add_scope(&self, machine: MachineId, name: &str) -> ScopeId {
        let held = self.machines.borrow()[machine.index()].suspended;
        let mut scopes = self.scopes.borrow_mut();
        scopes.push(Scope {
            name: name.to_owned(),
            machine,
            alive: true,
            paused: false,
            held,
            parked: Vec::new(),
            exits: Vec::new(),
        });
        ScopeId(u32::try_from(scopes.len() - 1).unwrap_or(u32::MAX))
    }

    /// Machine and scope, by name.
    pub(super) fn describe(&self, scope: ScopeId) -> String {
        let scopes = self.scopes.borrow();
        let scope = &scopes[scope.index()];
        format!("{}/{}", self.machines.borrow()[scope.machine.index()].name, scope.name)
    }

    pub(super) fn machine_of(&self, scope: ScopeId) -> MachineId {
        self.scopes.borrow()[scope.index()].machine
    }

    pub(super) fn machine_now(&self) -> MachineId {
        self.machine_of(self.scope.get())
    }

    pub(super) fn boot(&self, machine: MachineId) -> u64 {
        self.machines.borrow()[machine.index()].clocks.boot(self.now.get())
    }

    /// Has `exit` called after the scope was killed; at once if it is dead.
    pub(super) fn on_exit(&self, scope: ScopeId, exit: Box<dyn FnOnce()>) {
        let mut scopes = self.scopes.borrow_mut();
        let owner = &mut scopes[scope.index()];
        if owner.alive {
            owner.exits.push(exit);
        } else {
            drop(scopes);
            self.run_last(scope, exit);
        }
    }

    /// Drops all futures of a scope.
    pub(super) fn kill(&self, scope: ScopeId) {
        let exits = {
            let mut scopes = self.scopes.borrow_mut();
            let owner = &mut scopes[scope.index()];
            if !std::mem::replace(&mut owner.alive, false) {
                return;
            }
            owner.parked.clear();
            std::mem::take(&mut owner.exits)
        };
        // All leave the table before the first is dropped: nothing that one of them does wakes
        // another, or finds it.
        let futures: Vec<_> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids = tasks.of_scope(scope);
            ids.into_iter().filter_map(|id| tasks.remove(id)).collect()
        };
        for future in futures {
            self.drop_future(scope, future, None);
        }
        for exit in exits {
            self.run_last(scope, exit);
        }
    }

    /// Sees whether a scope is held, and lets its tasks run if not.
    fn hold(&self, scope: ScopeId) {
        let parked = {
            let mut scopes = self.scopes.borrow_mut();
            let owner = &mut scopes[scope.index()];
            owner.held = owner.paused || self.machines.borrow()[owner.machine.index()].suspended;
            if owner.held {
                return;
            }
            std::mem::take(&mut owner.parked)
        };
        let mut tasks = self.tasks.borrow_mut();
        parked.into_iter().for_each(|id| tasks.requeue(id));
    }

    pub(super) fn set_paused(&self, scope: ScopeId, is: bool) {
        self.scopes.borrow_mut()[scope.index()].paused = is;
        self.hold(scope);
    }

    /// Changes the clocks of a machine, and with them when its timers are due.
    pub(super) fn change_clocks(
        &self,
        machine: MachineId,
        change: impl FnOnce(&mut Clocks, Nanos),
    ) {
        assert_ne!(machine, MachineId::WORLD, "the clocks of the world tell the truth");
        let mut machines = self.machines.borrow_mut();
        let clocks = &mut machines[machine.index()].clocks;
        change(clocks, self.now.get());
        self.timers.borrow_mut().clocks_changed(machine, clocks);
    }

    fn scopes_of(&self, machine: MachineId) -> Vec<ScopeId> {
        let scopes = self.scopes.borrow();
        let here = scopes.iter().enumerate().filter(|(_, s)| s.alive && s.machine == machine);
        here.map(|(i, _)| ScopeId(i as u32)).collect()
    }

    pub(super) fn is_suspended(&self, machine: MachineId) -> bool {
        self.machines.borrow()[machine.index()].suspended
    }

    pub(super) fn is_crashing(&self, machine: MachineId) -> bool {
        self.machines.borrow()[machine.index()].crashing
    }

    pub(super) fn name_of(&self, machine: MachineId) -> String {
        self.machines.borrow()[machine.index()].name.clone()
    }

    pub(super) fn set_suspended(&self, machine: MachineId, is: bool) {
        self.change_clocks(machine, |clocks, now| clocks.suspend(now, is));
        self.machines.borrow_mut()[machine.index()].suspended = is;
        for scope in self.scopes_of(machine) {
            self.hold(scope);
        }
    }

    /// Kills all scopes of a machine, and begins its boot time anew.
    pub(super) fn crash(&self, machine: MachineId) {
        self.machines.borrow_mut()[machine.index()].crashing = true;
        for scope in self.scopes_of(machine) {
            self.kill(scope);
        }
        {
            let mut machines = self.machines.borrow_mut();
            let machine = &mut machines[machine.index()];
            (machine.crashing, machine.suspended) = (false, false);
        }
        self.change_clocks(machine, Clocks::reboot);
    }
}
