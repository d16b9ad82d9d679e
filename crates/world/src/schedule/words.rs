//! Faults and operations in English, for a person who reads what happened.
//!
//! Owns the words. Imports the vocabulary.

use std::fmt;

use super::fault::Kind;
use super::operation::{Act, Event};
use super::who::{Disk, Links, Processes, Traffic, Who, Wipe};

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Who::Node(n) => write!(f, "n{n}"),
            Who::Holder => f.write_str("the holder"),
            Who::Leader => f.write_str("the leader"),
            Who::Standby(n) => write!(f, "standby {n}"),
            Who::Follower(n) => write!(f, "follower {n}"),
        }
    }
}

struct Names<'a>(&'a [Who]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("anybody");
        }
        for (i, who) in self.0.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{who}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.traffic {
            Traffic::All => "everything",
            Traffic::Raft => "Raft's messages",
            Traffic::Session => "the agents' sessions",
            Traffic::Replication => "replication",
        };
        write!(f, "{what} from {} to {}", Names(&self.from), Names(&self.to))
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Disk::Raft => "the disk of the Raft store",
            Disk::Data => "the disk of PostgreSQL",
            Disk::Both => "the disk",
        })
    }
}

impl fmt::Display for Processes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Processes::Daemon => "hanode",
            Processes::Guard => "the guard",
            Processes::Postmaster => "the postmaster",
            Processes::Postgres => "PostgreSQL",
            Processes::All => "every process",
        })
    }
}

impl fmt::Display for Wipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Wipe::Data => "the data directory",
            Wipe::Member => "the data directory and the member's record",
            Wipe::Raft => "the Raft store",
            Wipe::Machine => "all that its disks held",
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Loss { links, permille } => write!(f, "{links}: {permille} of 1000 are lost"),
            Kind::Delay { links, add_ms, jitter_ms } => {
                write!(f, "{links}: late by {add_ms} to {} ms", add_ms + jitter_ms)
            }
            Kind::Duplicate { links, permille } => {
                write!(f, "{links}: {permille} of 1000 arrive twice")
            }
            Kind::Reorder { links, permille, by_ms } => {
                write!(f, "{links}: {permille} of 1000 are held back for up to {by_ms} ms")
            }
            Kind::Cut { links } => write!(f, "{links}: cut"),
            Kind::Isolate { node, clients: false } => {
                write!(f, "{node} is cut off from all other nodes; clients reach it")
            }
            Kind::Isolate { node, clients: true } => write!(f, "{node} is cut off from all"),
            Kind::Split { left, right } => {
                write!(f, "{} and {} do not hear each other", Names(left), Names(right))
            }
            Kind::Ring => f.write_str("every node hears its two neighbours alone"),
            Kind::CutClients { node } => write!(f, "clients do not reach {node}"),
            Kind::CrashDaemon { node } => write!(f, "hanode of {node} is killed"),
            Kind::CrashMachine { node, torn } => {
                let torn = if *torn { ", and its last write is torn" } else { "" };
                write!(f, "the machine {node} loses power{torn}")
            }
            Kind::KillPostmaster { node, orphans_ms } => {
                write!(
                    f,
                    "the postmaster of {node} is killed; its backends go on for {orphans_ms} ms"
                )
            }
            Kind::CrashBackend { node } => write!(f, "a backend of {node} crashes"),
            Kind::KillGuard { node } => write!(f, "the guard of {node} is killed"),
            Kind::StopByHand { node } => write!(f, "PostgreSQL of {node} is stopped by hand"),
            Kind::HangPostmaster { node } => {
                write!(f, "the postmaster of {node} stands still until it is killed")
            }
            Kind::Pause { node, processes } => write!(f, "{processes} of {node} stands still"),
            Kind::Suspend { node } => write!(f, "the machine {node} is suspended"),
            Kind::ClockRate { node, ppm } => {
                write!(f, "the clock of {node} runs {ppm} ppm too fast")
            }
            Kind::WallStep { node, by_ms } => {
                write!(f, "the wall clock of {node} steps by {by_ms} ms")
            }
            Kind::BootJump { node, by_ms } => {
                write!(f, "CLOCK_BOOTTIME of {node} jumps ahead by {by_ms} ms")
            }
            Kind::Freeze { node } => write!(f, "the machine {node} stands still with its clocks"),
            Kind::SlowDisk { node, disk, sync_ms } => {
                write!(f, "{disk} of {node} takes {sync_ms} ms for a sync")
            }
            Kind::StuckDisk { node, disk } => write!(f, "{disk} of {node} does nothing"),
            Kind::FailingDisk { node, disk } => write!(f, "{disk} of {node} fails"),
            Kind::FullDisk { node, disk } => write!(f, "{disk} of {node} is full"),
            Kind::LyingDisk { node, disk } => write!(f, "{disk} of {node} lies about syncs"),
            Kind::WipeDisk { node, what } => write!(f, "{node} loses {what}"),
            Kind::StuckWalsender { node, to: None } => {
                write!(f, "all walsenders of {node} are stuck")
            }
            Kind::StuckWalsender { node, to: Some(to) } => {
                write!(f, "the walsender of {node} to {to} is stuck")
            }
            Kind::StuckReplay { node } => write!(f, "a session on {node} holds up replay"),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Event::Elected => "a controller begins to lead",
            Event::Closed => "an epoch is closed",
            Event::Sealed => "a standby is sealed",
            Event::Granted => "an epoch is granted",
            Event::Promoted => "PostgreSQL has left recovery",
            Event::Recorded => "a promotion is recorded",
            Event::Active => "an epoch is open for writes",
            Event::SyncChangeBegun => "a synchronous configuration is put beside another",
            Event::SyncChangeEnded => "an older synchronous configuration ends",
            Event::Streams => "a standby begins to stream",
            Event::RewindBegun => "a rewind begins",
            Event::RewindDone => "a rewind is done",
            Event::CopyBegun => "a copy begins",
            Event::CopyDone => "a copy is done",
            Event::HandOver => "the primary begins to hand over",
        })
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Switchover { target } => write!(f, "switchover to {target}"),
            Act::Failover { target, accept_data_loss } => {
                f.write_str("failover to ")?;
                match target {
                    Some(target) => write!(f, "{target}")?,
                    None => f.write_str("the best")?,
                }
                f.write_str(if *accept_data_loss { ", whatever is lost" } else { "" })
            }
            Act::Restart { node } => write!(f, "{node} is to be restarted"),
            Act::Roll => f.write_str("all members are to be restarted, one after the other"),
            Act::Reinitialise { node } => write!(f, "{node} is to be copied anew"),
            Act::Pause { length_ms } => write!(f, "the cluster is paused for {length_ms} ms"),
            Act::Leave { node, away_ms } => {
                write!(f, "{node} is removed, and may come back {away_ms} ms later")
            }
            Act::Retag { node, tags } => {
                let tags = serde_json::to_string(tags).unwrap_or_default();
                write!(f, "{node} gets the tags {tags}")
            }
            Act::RestartDaemon { node } => write!(f, "hanode of {node} is started anew"),
            Act::TransferLeadership { to } => write!(f, "{to} is to lead the control plane"),
            Act::AddController { node } => write!(f, "n{node} becomes a controller"),
            Act::RemoveController { node } => write!(f, "{node} is a controller no more"),
            Act::ReplaceController { node } => {
                write!(f, "the controller of {node} is replaced by a new one")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Profile, generate};

    #[test]
    fn every_fault_can_be_told() {
        for seed in 0..500 {
            let plan = generate(seed, Profile::All);
            for fault in &plan.faults {
                let text = fault.what.to_string();
                assert!(text.len() > 5 && text.len() < 300, "{text}");
            }
            for operation in &plan.operations {
                assert!(operation.what.to_string().len() > 5);
            }
        }
    }
}
