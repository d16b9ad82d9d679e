//! From the TOML tables to the types of the configuration.
//!
//! Owns defaults and ranges of single values; what ties several values together is in `check`.
//! Imports domain types and the siblings only.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use toml::Table;

use super::error::Problem;
use super::reader::Section;
use super::{
    Address, Cluster, Config, Controller, Fencing, Hooks, LogFormat, Member, Node, Role,
    Synchronous, Tags, check, hba, objects, settings, timing,
};
use crate::domain::types::{MemberName, NodeName};

/// Reads the whole file. All problems come back at once.
pub(super) fn config(table: Table, file: &Path) -> Result<Config, Vec<Problem>> {
    let base = file.parent().unwrap_or(Path::new("/"));
    let mut problems = Vec::new();
    let mut root = Section::new("", table);

    // The rule for names of nodes serves for the name of the control plane too.
    let control_plane = root.required::<NodeName>("control_plane", "\"demo\"");
    let secret_file = root.required_path("secret_file", "\"/etc/quorate/secret\"", base);
    let node = root.table("node");
    let raft = root.table("raft");
    let timing = root.table("timing");
    let controllers = root.tables("controller");
    let clusters = root.tables("cluster");
    let members = root.tables("member");
    let hooks = root.table("hooks");
    root.finish(&mut problems);

    let node = read_node(node, base, &mut problems);
    let raft = timing::read_raft(raft, &mut problems);
    let timing = timing::read_timing(timing, &mut problems);
    let controllers: Vec<_> =
        controllers.into_iter().map(|s| read_controller(s, &mut problems)).collect();
    let clusters: Vec<_> = clusters.into_iter().map(|s| read_cluster(s, &mut problems)).collect();
    let hooks = super::hooks::read(hooks, &mut problems);
    let members: Vec<_> = members
        .into_iter()
        .map(|s| read_member(s, base, node.as_ref(), &hooks, &mut problems))
        .collect();

    // Rules between sections run on the sections that could be read. Where an item of a list could
    // not, the rules that need the whole list would only add noise.
    let complete = problems.is_empty();
    if let (Some(raft), Some(timing)) = (&raft, &timing) {
        timing::check(raft, timing, &mut problems);
    }
    let config = Config {
        file: file.to_path_buf(),
        control_plane: control_plane.map(|n| n.to_string()).unwrap_or_default(),
        secret_file: secret_file.unwrap_or_default(),
        node: match node {
            Some(node) => node,
            None => return Err(problems),
        },
        raft: match raft {
            Some(raft) => raft,
            None => return Err(problems),
        },
        timing: match timing {
            Some(timing) => timing,
            None => return Err(problems),
        },
        controllers: controllers.into_iter().flatten().collect(),
        clusters: clusters.into_iter().flatten().collect(),
        members: members.into_iter().flatten().collect(),
        warnings: Vec::new(),
    };
    check::uniqueness(&config, &mut problems);
    if complete {
        check::relations(&config, &mut problems);
    }
    if problems.is_empty() {
        let warnings = check::warnings(&config);
        Ok(Config { warnings, ..config })
    } else {
        Err(problems)
    }
}

fn read_node(mut s: Section, base: &Path, problems: &mut Vec<Problem>) -> Option<Node> {
    let name = s.required::<NodeName>("name", "\"n1\"");
    let words = s.texts("roles", "[\"controller\", \"agent\"]");
    let mut roles = BTreeSet::new();
    for word in &words {
        let role = match word.as_str() {
            "controller" => Role::Controller,
            "agent" => Role::Agent,
            "proxy" => {
                let mend =
                    "remove it; let clients list all members with target_session_attrs=read-write";
                s.refuse("roles", "\"proxy\"", "is not yet supported", mend);
                continue;
            }
            other => {
                let mend = "use \"controller\" and \"agent\"";
                s.refuse("roles", format!("{other:?}"), "is not a role", mend);
                continue;
            }
        };
        if !roles.insert(role) {
            s.refuse("roles", format!("{word:?}"), "is given twice", "keep it once");
        }
    }
    if words.is_empty() {
        let mend = "add roles = [\"controller\", \"agent\"], or one of the two";
        s.refuse("roles", "", "names no role", mend);
    }
    let listen = s.required::<SocketAddr>("listen", "\"10.0.0.1:7400\"");
    if let Some(listen) = listen.filter(|l| l.port() == 0) {
        let mend = "choose a port, such as 7400";
        s.refuse("listen", listen, "has port 0, which peers could not know", mend);
    }
    let advertise = s.parsed::<Address>("advertise", "\"10.0.0.1:7400\"");
    let advertise = match (advertise, listen) {
        (Some(address), _) if address.is_unspecified() => {
            let mend = "write the address that the other nodes reach this one at";
            s.refuse("advertise", &address, "is no address that others can reach", mend);
            None
        }
        (Some(address), _) => Some(address),
        (None, Some(listen)) if listen.ip().is_unspecified() => {
            if s.is_clean() {
                let mend = "add advertise = \"address of this node:port\"";
                let problem = format!("is missing, and listen = {listen} is no address for others");
                s.refuse("advertise", "", problem, mend);
            }
            None
        }
        // Fails for port 0 only, which is refused above.
        (None, Some(listen)) => listen.to_string().parse().ok(),
        (None, None) => None,
    };
    let data_dir = s.required_path("data_dir", "\"/var/lib/quorate\"", base);
    let run_dir = s.path("run_dir", "\"/run/quorate\"", base);
    let log_format = s.word(
        "log_format",
        &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        LogFormat::Text,
    );
    let clean = s.is_clean();
    s.finish(problems);
    if !clean {
        return None;
    }
    let data_dir = data_dir?;
    Some(Node {
        name: name?,
        roles,
        listen: listen?,
        advertise: advertise?,
        run_dir: run_dir.unwrap_or_else(|| data_dir.join("run")),
        data_dir,
        log_format,
    })
}

fn read_controller(mut s: Section, problems: &mut Vec<Problem>) -> Option<Controller> {
    if let Some(name) = s.peek("name").map(str::to_owned) {
        s.rename(format!("controller[{name}]"));
    }
    let id = s.number("id", 1..=i64::MAX as u64);
    if id.is_none() && s.is_clean() {
        s.refuse("id", "", "is missing", "add id = 1, another number for every controller");
    }
    let name = s.required::<NodeName>("name", "\"n1\"");
    let address = s.required::<Address>("address", "\"10.0.0.1:7400\"");
    if let Some(address) = address.as_ref().filter(|a| a.is_unspecified()) {
        let mend = "write the address that the other nodes reach it at";
        s.refuse("address", address, "is no address that others can reach", mend);
    }
    let clean = s.is_clean();
    s.finish(problems);
    if !clean {
        return None;
    }
    Some(Controller { id: id?, name: name?, address: address? })
}

pub(super) fn read_cluster(mut s: Section, problems: &mut Vec<Problem>) -> Option<Cluster> {
    if let Some(name) = s.peek("name").map(str::to_owned) {
        s.rename(format!("cluster[{name}]"));
    }
    let name = s.required("name", "\"main\"");
    let mut bootstrap_members = BTreeSet::new();
    for text in s.texts("bootstrap_members", "[\"a\", \"b\", \"c\"]") {
        match MemberName::new(text) {
            Err(e) => {
                let mend = "correct the name";
                s.refuse("bootstrap_members", format!("{:?}", e.value), e.to_string(), mend);
            }
            Ok(member) => {
                if !bootstrap_members.insert(member.clone()) {
                    s.refuse("bootstrap_members", member, "is named twice", "keep it once");
                }
            }
        }
    }
    if bootstrap_members.is_empty() && s.is_clean() {
        let mend = "add bootstrap_members = [\"a\", \"b\", \"c\"] with the members that begin";
        s.refuse("bootstrap_members", "", "names no member", mend);
    }
    let default =
        if bootstrap_members.len() >= 2 { Synchronous::Quorum } else { Synchronous::Async };
    let synchronous = s.word(
        "synchronous",
        &[
            ("quorum", Synchronous::Quorum),
            ("priority", Synchronous::Priority),
            ("async", Synchronous::Async),
        ],
        default,
    );
    let waits = synchronous != Synchronous::Async;
    let write_quorum = s.number_or("write_quorum", 0..=100, u64::from(waits));
    let strict = s.flag("strict", false);
    let floor = s.number("write_quorum_min", 0..=100);
    if let (true, Some(floor)) = (strict, floor) {
        let mend = "keep one of them: strict = true means that write_quorum is the least";
        s.refuse("write_quorum_min", floor, "is given beside strict = true", mend);
    }
    let write_quorum_min = match (strict, floor) {
        (true, _) => write_quorum,
        (false, Some(floor)) => floor,
        (false, None) => u64::from(waits && bootstrap_members.len() > 2).min(write_quorum),
    };
    let shrink_after_ms = s.number_or("shrink_after_ms", 1000..=86_400_000, 10_000);
    let sync_lag_bytes_max = s.number_or("sync_lag_bytes_max", 1 << 20..=i64::MAX as u64, 64 << 20);
    let max_lag_bytes = s.number("max_lag_bytes", 0..=i64::MAX as u64);
    let slot_ttl_ms = s.number_or("slot_ttl_ms", 1000..=31_536_000_000, 4 * 3_600_000);
    let crash_failovers_max = s.number_or("crash_failovers_max", 0..=1000, 3);
    let crash_window_ms = s.number_or("crash_window_ms", 1000..=86_400_000, 600_000);
    let failsafe = s.flag("failsafe", false);
    let lines = s.texts("hba", "[\"host all all 10.0.0.0/8 scram-sha-256\"]");
    for (i, line) in lines.iter().enumerate() {
        if let Some((problem, mend)) = hba::problem(line) {
            // The line is not shown: its options can hold a password.
            s.refuse("hba", "", format!("line {} of the list {problem}", i + 1), mend);
        }
    }
    let ident = s.texts("ident", "[\"map system_user database_user\"]");
    for (i, line) in ident.iter().enumerate() {
        if let Some((problem, mend)) = hba::ident_problem(line) {
            s.refuse("ident", "", format!("line {} of the list {problem}", i + 1), mend);
        }
    }
    let parameters = s.table("parameters");
    let roles = s.tables("role");
    let databases = s.tables("database");
    let count = problems.len();
    let clean = s.is_clean();
    s.finish(problems);
    let parameters = settings::read(parameters, synchronous, bootstrap_members.len(), problems);
    let roles = objects::roles(roles, problems);
    let databases = objects::databases(databases, problems);
    if !clean || problems.len() > count {
        return None;
    }
    Some(Cluster {
        name: name?,
        bootstrap_members,
        synchronous,
        write_quorum: small(write_quorum),
        write_quorum_min: small(write_quorum_min),
        shrink_after_ms,
        sync_lag_bytes_max,
        max_lag_bytes,
        slot_ttl_ms,
        crash_failovers_max: small(crash_failovers_max),
        crash_window_ms,
        failsafe,
        parameters,
        hba: lines,
        ident,
        roles,
        databases,
    })
}

/// For numbers whose range has been checked to fit.
fn small(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn read_member(
    mut s: Section,
    base: &Path,
    node: Option<&Node>,
    hooks: &Hooks,
    problems: &mut Vec<Problem>,
) -> Option<Member> {
    if let (Some(cluster), Some(name)) = (s.peek("cluster"), s.peek("name")) {
        let path = format!("member[{cluster}/{name}]");
        s.rename(path);
    }
    let cluster = s.required("cluster", "\"main\"");
    let name = s.required::<MemberName>("name", "\"a\"");
    let address = s.required::<Address>("address", "\"10.0.0.1:5432\"");
    if let Some(address) = address.as_ref().filter(|a| a.is_unspecified()) {
        let mend = "write the address that clients and other members reach it at";
        s.refuse("address", address, "is no address that others can reach", mend);
    }
    let listen_addresses = s.text("listen_addresses", "\"*\"");
    if let Some(list) = &listen_addresses {
        let ok = |c: char| c.is_ascii_alphanumeric() || " ,.:*-_".contains(c);
        if !list.chars().all(ok) {
            let mend = "write addresses with commas between, or \"*\"";
            s.refuse("listen_addresses", format!("{list:?}"), "is not a list of addresses", mend);
        }
    }
    let data_dir = s.required_path("data_dir", "\"/var/lib/quorate/main\"", base);
    let log_dir = s.path("log_dir", "\"/var/log/quorate/main\"", base);
    let bin_dir = s.path("bin_dir", "\"/usr/lib/postgresql/15/bin\"", base);
    let socket_dir = s.path("socket_dir", "\"/run/quorate/socket\"", base);
    let run_as = s.text("run_as", "\"postgres\"");
    if run_as.as_deref() == Some("root") {
        let mend = "write run_as = \"postgres\"";
        s.refuse("run_as", "\"root\"", "is refused by PostgreSQL", mend);
    }
    let superuser_password_file = s.path("superuser_password_file", "\"/etc/...\"", base);
    let replication_password_file = s.path("replication_password_file", "\"/etc/...\"", base);
    let rewind_password_file = s.path("rewind_password_file", "\"/etc/...\"", base);
    let fencing = s.word(
        "fencing",
        &[("required", Fencing::Required), ("best-effort", Fencing::BestEffort)],
        Fencing::Required,
    );
    let tags = Tags {
        nofailover: s.flag("nofailover", false),
        nosync: s.flag("nosync", false),
        noloadbalance: s.flag("noloadbalance", false),
        clonefrom: s.flag("clonefrom", false),
        replicatefrom: s.parsed("replicatefrom", "\"b\""),
        delay_ms: s.number_or("delay_ms", 0..=i32::MAX as u64, 0),
    };
    if tags.replicatefrom.is_some() && tags.replicatefrom == name {
        let mend = "name another member, or remove it";
        s.refuse("replicatefrom", "", "is the member itself", mend);
    }
    let adopt = s.flag("adopt", false);
    let failover_priority = s.number_or("failover_priority", 0..=1000, 0);
    let aside_count_max = s.number_or("aside_count_max", 0..=100, 2);
    let aside_bytes_max = s.number_or("aside_bytes_max", 0..=i64::MAX as u64, 0);
    // All of them or none: a mixture with those of the node would surprise.
    let own = s.has("hooks").then(|| s.table("hooks"));
    let clean = s.is_clean();
    let hooks = own.map_or_else(|| hooks.clone(), |own| super::hooks::read(own, problems));
    s.finish(problems);
    if !clean {
        return None;
    }
    let (cluster, name, address, node) = (cluster?, name?, address?, node?);
    Some(Member {
        listen_addresses: listen_addresses
            .unwrap_or_else(|| address.ip().map_or("*".to_owned(), |ip| ip.to_string())),
        data_dir: data_dir?,
        log_dir: log_dir
            .unwrap_or_else(|| node.data_dir.join("log").join(format!("{cluster}.{name}"))),
        bin_dir,
        socket_dir: socket_dir
            .unwrap_or_else(|| node.run_dir.join(format!("{cluster}.{name}")).join("socket")),
        run_as,
        superuser_password_file,
        replication_password_file,
        rewind_password_file,
        fencing,
        tags,
        adopt,
        failover_priority: i32::try_from(failover_priority).unwrap_or(i32::MAX),
        aside_count_max: small(aside_count_max),
        aside_bytes_max,
        hooks,
        cluster,
        name,
        address,
    })
}
