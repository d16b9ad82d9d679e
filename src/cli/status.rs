//! `hactl status`: everything at a glance.

use clap::Args;

use super::Context;
use super::failure::{Failure, UNREACHABLE};
use super::leaderless;
use super::operation::one;
use super::output::{self, Format, age, bytes, time};
use super::table::{Column, Screen, Text, Tone, render};
use super::topology::{label, tree};
use crate::client;
use crate::pb::{text, v1};
use v1::{MemberRole, Reachability};

/// Arguments of `hactl status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// Go on, and show every change
    #[arg(short, long)]
    watch: bool,
    /// Show the members as a tree: who streams from whom
    #[arg(long)]
    topology: bool,
}

pub(super) async fn run(mut context: Context, args: &StatusArgs) -> Result<(), Failure> {
    let cluster = context.cluster.clone().unwrap_or_default();
    if args.watch {
        return watch(context, &cluster, args.topology).await;
    }
    let (status, stale) = context.status(&cluster).await?;
    output::value(context.format, &status, || screenful(&status, args.topology, Screen::stdout()))?;
    if stale {
        output::note(leaderless::STATUS)?;
        return Err(Failure::Said(UNREACHABLE));
    }
    Ok(())
}

/// Shows every status of the leader; while there is none, says so and looks for one.
async fn watch(mut context: Context, cluster: &str, topology: bool) -> Result<(), Failure> {
    let request = v1::WatchStatusRequest {
        cluster: cluster.to_owned(),
        from_leader: true,
        heartbeat_ms: 2000,
    };
    let clear = context.format == Format::Table && output::on_screen();
    let mut told = false;
    loop {
        let opened = context
            .client
            .read(|mut c| {
                let request = request.clone();
                async move { c.watch_status(request).await }
            })
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(client::Error::NoLeader(_)) => {
                if !told {
                    output::note("no leader answers, trying again")?;
                    told = true;
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        // The stream ends when the leader does: the next is looked for.
        while let Ok(Some(message)) = stream.message().await {
            told = false;
            let Some(status) = message.status else { continue };
            // Nobody has to read again what did not change, unless its ages are on the screen.
            if message.heartbeat && !clear {
                continue;
            }
            if clear {
                output::line("\x1b[H\x1b[2J\x1b[3J")?;
            }
            output::item(context.format, &status, || {
                screenful(&status, topology, Screen::stdout())
            })?;
        }
        // The leader that is first asked again may have stepped down a moment ago.
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

/// A status as text, with the members as a tree where that is wanted.
pub(super) fn screenful(status: &v1::Status, topology: bool, screen: Screen) -> String {
    let mut out = headline(status);
    for cluster in &status.clusters {
        out.push('\n');
        out.push_str(&cluster_lines(cluster, status.from_leader));
        if !cluster.members.is_empty() {
            out.push_str(&members(cluster, topology, screen));
        }
        for member in &cluster.members {
            for alarm in &member.alarms {
                out.push_str(&format!("! {}: {}: {}\n", member.name, alarm.code, alarm.text));
            }
            for problem in &member.problems {
                out.push_str(&format!("! {}: {problem}\n", member.name));
            }
        }
    }
    if status.clusters.is_empty() {
        out.push_str("\nno cluster yet: it appears once a node with an agent has registered\n");
    }
    out
}

fn headline(status: &v1::Status) -> String {
    let raft = status.raft.clone().unwrap_or_default();
    let leader = match raft.leader.as_str() {
        "" => "no leader known".to_owned(),
        name => format!("leader {name}"),
    };
    let controllers: Vec<String> = raft
        .controllers
        .iter()
        .map(|c| match c.last_contact_ms {
            Some(ms) if ms >= 2000 => format!("{} (silent {})", c.name, age(ms)),
            _ => c.name.clone(),
        })
        .collect();
    let generation = match raft.generation {
        0 | 1 => String::new(),
        n => format!(", generation {n}"),
    };
    format!(
        "control plane {}: {leader}, term {}{generation}, controllers {}\n",
        status.control_plane,
        raft.term,
        controllers.join(" ")
    )
}

fn cluster_lines(cluster: &v1::Cluster, from_leader: bool) -> String {
    let primary = match cluster.primary.as_str() {
        "" => "NO PRIMARY".to_owned(),
        name => format!("primary {name}"),
    };
    let mut facts = vec![format!("epoch {}", cluster.epoch), primary];
    if cluster.phase != i32::from(v1::ClusterPhase::Running) {
        facts.push(text::of::<v1::ClusterPhase>(cluster.phase));
    }
    match (cluster.lease_age_ms, &cluster.tenure) {
        (Some(ms), _) => facts.push(format!("lease renewed {} ago", age(ms))),
        (None, Some(t)) if from_leader && t.closed.is_none() => {
            facts.push("lease not renewed yet".to_owned());
        }
        _ => {}
    }
    facts.push(sync_text(cluster));
    facts.extend(failsafe_text(cluster));
    let mut out = format!("cluster {}: {}\n", cluster.name, facts.join(", "));
    if let Some(t) = &cluster.tenure {
        out.push_str(&tenure_line(t));
    }
    if let Some(paused) = &cluster.paused {
        let until = match paused.until_unix_ms {
            0 => String::new(),
            at => format!(", until {}", time(at)),
        };
        let (by, at) = (&paused.by, time(paused.at_unix_ms));
        out.push_str(&format!("  PAUSED by {by} since {at}{until}: no failover happens\n"));
    }
    for o in cluster.operation.iter().chain(&cluster.jobs).chain(&cluster.scheduled) {
        out.push_str(&format!("  {}, asked for by {}\n", one(o), o.requested_by));
    }
    out
}

/// Off is the usual, and is not said.
fn failsafe_text(cluster: &v1::Cluster) -> Option<String> {
    match v1::Failsafe::try_from(cluster.failsafe).ok()? {
        v1::Failsafe::Armed => Some("failsafe armed".to_owned()),
        v1::Failsafe::Active => {
            Some("failsafe ACTIVE: no controller acknowledges its lease".to_owned())
        }
        v1::Failsafe::Pending => Some("failsafe from the next epoch on".to_owned()),
        v1::Failsafe::Off | v1::Failsafe::Unspecified => None,
    }
}

fn tenure_line(t: &v1::Tenure) -> String {
    match &t.closed {
        Some(closed) => {
            let why = text::of::<v1::CloseReason>(closed.reason);
            let proof = if t.stopped { "its stop is proven" } else { "its stop is not proven" };
            format!(
                "  epoch {} of {} is closed: {why}, {proof}; see `hactl explain`\n",
                t.epoch, t.member
            )
        }
        None if t.stage == i32::from(v1::TenureStage::Active) => String::new(),
        None => {
            let stage = text::of::<v1::TenureStage>(t.stage);
            format!("  epoch {} of {}: {stage}, not open for writes yet\n", t.epoch, t.member)
        }
    }
}

fn sync_text(cluster: &v1::Cluster) -> String {
    let one = |c: &v1::SyncConfig| match c.w {
        0 => "asynchronous".to_owned(),
        w => {
            let method = if c.first { "FIRST" } else { "ANY" };
            format!("{method} {w} ({})", c.members.join(", "))
        }
    };
    match cluster.syncs.as_slice() {
        [] => "no synchronous configuration yet".to_owned(),
        [.., last] => {
            let all: Vec<String> = cluster.syncs.iter().map(one).collect();
            let mut out = format!("sync {}", all.join(" -> "));
            if let Some(streaming) = last.streaming.filter(|_| last.w > 0) {
                out.push_str(&format!(", {streaming} streaming"));
                if streaming < last.w {
                    out.push_str(": COMMITS WAIT");
                }
            }
            let policy = cluster.sync_policy.as_ref();
            let wanted = policy.filter(|p| p.mode() != v1::SyncMode::Async);
            if let Some(wanted) = wanted.map(|p| p.write_quorum).filter(|w| *w > last.w) {
                out.push_str(&format!(", {wanted} wanted"));
            }
            out
        }
    }
}

const COLUMNS: [Column; 13] = [
    Column::new("MEMBER"),
    Column::new("ROLE"),
    Column::new("STATE").squeezed(),
    Column::new("LAG").right(),
    Column::new("REPLAY LAG").right().spare(3),
    Column::new("SYNC").spare(1),
    Column::new("EPOCH").right().spare(5),
    Column::new("LSN").right().spare(6),
    Column::new("NODE").spare(2),
    Column::new("ADDRESS").spare(4),
    Column::new("FENCING").spare(7),
    Column::new("FREE").right().spare(3),
    Column::new("TAGS").spare(2),
];

fn members(cluster: &v1::Cluster, topology: bool, screen: Screen) -> String {
    let order = match topology {
        true => tree(cluster),
        false => cluster.members.iter().map(|m| (0, m)).collect(),
    };
    let rows: Vec<Vec<Text>> =
        order.into_iter().map(|(depth, m)| row(cluster, m, label(depth, &m.name))).collect();
    render(&COLUMNS, &rows, screen)
}

fn row(cluster: &v1::Cluster, member: &v1::Member, name: String) -> Vec<Text> {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let known = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let sync = match (member.synchronous, member.counts) {
        _ if member.nofailover => "no (nofailover)",
        _ if cluster.primary == member.name => "-",
        (true, false) if member.reachability() == Reachability::Reporting => "yes, unproven",
        (true, _) => "yes",
        (false, _) => "no",
    };
    vec![
        name.into(),
        Text::toned(text::of::<MemberRole>(member.role), role_tone(member.role())),
        state(cluster, member),
        or_dash(member.lag_bytes.map(bytes)).into(),
        or_dash(member.replay_lag_bytes.map(bytes)).into(),
        sync.into(),
        or_dash((member.epoch > 0).then(|| member.epoch.to_string())).into(),
        known(&member.flush_lsn).into(),
        member.node.clone().into(),
        member.address.clone().into(),
        fencing(member.fencing()),
        free(member),
        tags(member).into(),
    ]
}

/// Room on the fuller of its file systems.
fn free(member: &v1::Member) -> Text {
    let spaces = [&member.data_space, &member.wal_space].into_iter().flatten();
    let Some(space) = spaces.max_by_key(|s| s.level) else { return "-".into() };
    let text = bytes(space.free_bytes);
    match space.level() {
        v1::SpaceLevel::Critical => Text::toned(text, Tone::Bad),
        v1::SpaceLevel::Low => Text::toned(text, Tone::Changing),
        _ => text.into(),
    }
}

fn tags(member: &v1::Member) -> String {
    let Some(tags) = &member.tags else { return "-".to_owned() };
    let mut out: Vec<String> = Vec::new();
    let flags = [
        (tags.nofailover, "nofailover"),
        (tags.nosync, "nosync"),
        (tags.noloadbalance, "noloadbalance"),
        (tags.clonefrom, "clonefrom"),
    ];
    out.extend(flags.iter().filter(|(set, _)| *set).map(|(_, name)| (*name).to_owned()));
    if !tags.replicatefrom.is_empty() {
        let now = if member.upstream == tags.replicatefrom { "" } else { " (not now)" };
        out.push(format!("replicatefrom {}{now}", tags.replicatefrom));
    }
    if tags.delay_ms > 0 {
        out.push(format!("delay {}", age(tags.delay_ms)));
    }
    if member.priority != 0 {
        out.push(format!("priority {}", member.priority));
    }
    if out.is_empty() { "-".to_owned() } else { out.join(", ") }
}

fn fencing(fencing: v1::Fencing) -> Text {
    match fencing {
        v1::Fencing::BestEffort => Text::toned("best-effort", Tone::Bad),
        v1::Fencing::Unknown | v1::Fencing::Unspecified => "-".into(),
        other => text::of::<v1::Fencing>(other.into()).into(),
    }
}

fn role_tone(role: MemberRole) -> Tone {
    match role {
        MemberRole::Primary => Tone::Good,
        MemberRole::Standby => Tone::Plain,
        MemberRole::Unknown | MemberRole::Down | MemberRole::Ending => Tone::Bad,
        _ => Tone::Changing,
    }
}

/// In what state a member is, in a few words.
fn state(cluster: &v1::Cluster, member: &v1::Member) -> Text {
    let seen = || member.report_age_ms.map(age).unwrap_or_default();
    match member.reachability() {
        Reachability::Silent => {
            let was = text::of::<MemberRole>(member.last_role);
            return Text::toned(format!("silent {}, was {was}", seen()), Tone::Bad);
        }
        Reachability::NeverHeard => return Text::toned("never heard", Tone::Bad),
        Reachability::Reporting => {}
        _ => return "-".into(),
    }
    if let Some(copy) = &member.clone {
        let of = match copy.total_bytes {
            0 => bytes(copy.done_bytes),
            total => format!("{} %", u128::from(copy.done_bytes) * 100 / u128::from(total)),
        };
        return Text::toned(format!("{of} from {}", copy.source), Tone::Changing);
    }
    match member.role() {
        MemberRole::Primary => Text::toned("open", Tone::Good),
        MemberRole::Standby if member.streaming => Text::toned("streaming", Tone::Good),
        MemberRole::Standby if cluster.primary.is_empty() => "waiting for a primary".into(),
        MemberRole::Standby => Text::toned("not streaming", Tone::Bad),
        MemberRole::Sealed => "ready for a takeover".into(),
        _ => "-".into(),
    }
}
