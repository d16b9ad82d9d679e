//! What is explored: how far, with which faults, and which rule of a member is left out.

/// Most members of a model.
pub const MEMBERS_MAX: usize = 3;

/// Which synchronous configurations may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// All other members.
    Others,
    /// For grants what production would ask for; for changes every set.
    Planned,
    /// Every set of other members but none.
    Subsets,
    /// Those, and waiting for nobody.
    WithAsync,
}

/// A rule that members, not the agreed state, keep: left out, one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twist {
    /// A promotion takes the next number that is free, as PostgreSQL does by itself.
    NextFreeTimeline,
    /// Having followed an epoch counts as holding a record of it.
    FollowedEpochCounts,
    /// Synchronous names are written after the promotion.
    NamesAfterPromotion,
    /// A barrier does not wait for walsenders to have the new setting.
    BarrierBeforeRefresh,
    /// A promise is lost by a crash, and the first view after it may be an old one.
    VolatilePromise,
    /// The first view after a crash may be an old one.
    OldViewAfterCrash,
    /// PostgreSQL opens by itself after a crash.
    ReopensAfterCrash,
}

/// The bounds of one exploration.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Members: 1 to 3.
    pub members: usize,
    /// W.
    pub write_quorum: u32,
    /// The first epoch granted is 2; this is the last.
    pub last_epoch: u8,
    /// Writes.
    pub writes: u8,
    /// Faults, all kinds together.
    pub faults: u8,
    /// Changes of the synchronous configuration, beside those that come with grants.
    pub changes: u8,
    /// Operations of the operator.
    pub operations: u8,
    /// Which configurations a grant or a change may ask for.
    pub choice: Choice,
    /// Whether PostgreSQL, an agent or a node may crash.
    pub crash: bool,
    /// Whether a data directory may be lost, the record beside it kept.
    pub wipe: bool,
    /// Whether a machine may come back with neither data nor record.
    pub wipe_all: bool,
    /// Whether a rewind or a copy may be interrupted.
    pub interrupt: bool,
    /// Whether a member may be lost for good: it never does anything again.
    pub lose: bool,
    /// Whether a connection may outlive its standby, and confirm late.
    pub half_open: bool,
    /// Whether standbys may stream from each other, and be copied from each other.
    pub cascade: bool,
    /// Whether a leader waits for those that a new primary waits for, as long as they are not lost
    /// for good, before it lets it wait for others.
    pub patient: bool,
    /// Whether no active primary is asked for while a majority of the members is lost, or without
    /// data that counts.
    pub forgiving: bool,
    /// So many of the writes are there at the beginning, on the first member alone.
    pub ahead: u8,
    /// Whether the cluster begins with data that nobody has led yet.
    pub fresh: bool,
    /// The rule of a member that is left out.
    pub twist: Option<Twist>,
}

impl Bounds {
    /// Whether this rule is left out.
    pub fn without(&self, twist: Twist) -> bool {
        self.twist == Some(twist)
    }
}
