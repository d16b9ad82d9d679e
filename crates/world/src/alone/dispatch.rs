//! Who an event goes to: daemons, process trees and servers, each only while it is there; what comes
//! while it is held still waits.

use super::queue::{Ev, Kernel, Message, Server, Timer};
use super::world::World;

impl World {
    pub(super) fn daemon(&mut self, machine: usize, run: u32, what: Timer) {
        let place = &mut self.machines[machine];
        if place.run != run || !place.daemon || !place.up {
            return;
        }
        if place.paused > 0 || place.suspended > 0 {
            place.deferred.push(Ev::Daemon { machine: machine as u8, run, what });
            return;
        }
        self.note(machine as u64, 1);
        match what {
            Timer::Wake | Timer::Tick | Timer::Work(_) => self.worker(machine, what),
            Timer::Renew | Timer::RenewLate(_) => self.renewer(machine, what),
            Timer::Report => self.reporter(machine),
            Timer::Poll => self.poller(machine),
            Timer::Fence => self.fence(machine),
            Timer::Role => self.follow_role(machine),
            Timer::Plan => self.plan_due(machine),
            Timer::Append(change) => self.append_change(machine, *change),
            Timer::Settle(number) => self.settle(machine, number),
            Timer::Elect(number) => self.elect(machine, number),
            Timer::Resend => self.resend(machine),
            Timer::Synced(entry) => self.synced(machine, entry),
            Timer::Reply(to, message) => self.send(machine, usize::from(to), *message),
        }
    }

    pub(super) fn call(&mut self, machine: usize, message: Message) {
        let place = &mut self.machines[machine];
        if !place.daemon || !place.up {
            return;
        }
        if place.paused > 0 || place.suspended > 0 {
            place.deferred.push(Ev::Call { to: machine as u8, message });
            return;
        }
        self.note(machine as u64, 2);
        match message {
            Message::Renew { .. } | Message::Report { .. } | Message::Poll { .. } => {
                self.serve(machine, message);
            }
            Message::Renewed { .. } | Message::State { .. } | Message::NotLeader { .. } => {
                self.answered(machine, message);
            }
            _ => self.raft_message(machine, message),
        }
    }

    pub(super) fn kernel(&mut self, m: usize, life: u32, what: Kernel) {
        if self.members[m].tree.life != life {
            return;
        }
        if self.machines[m].suspended > 0 {
            self.machines[m].deferred.push(Ev::Kernel { member: m as u8, life, what });
            return;
        }
        self.note(m as u64, 3);
        match what {
            Kernel::Deadline => self.guard_deadline(m),
            Kernel::Empty => self.tree_empty(m),
        }
    }

    pub(super) fn server(&mut self, m: usize, life: u32, what: Server) {
        let of_tree = life != 0;
        if of_tree && self.members[m].tree.life != life || !self.machines[m].up {
            return;
        }
        if self.machines[m].suspended > 0 || self.members[m].tree.hung > 0 {
            if of_tree {
                self.machines[m].deferred.push(Ev::Server { member: m as u8, life, what });
            }
            return;
        }
        self.note(m as u64, 4);
        self.serve_clients(m, what);
    }

    /// What came in the meantime comes now, in its order.
    pub(super) fn release(&mut self, machine: usize) {
        for ev in std::mem::take(&mut self.machines[machine].deferred) {
            self.queue.put(self.now, ev);
        }
    }

    /// Forgets what came in the meantime: there is nobody any more to whom it could come.
    pub(super) fn drop_deferred(&mut self, machine: usize) {
        self.machines[machine].deferred.clear();
    }
}
