//! PostgreSQL hangs, or is only busy: what does nothing is replaced, what is slow is left alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{APP_USER, Cluster, Conn, HEAL, Mode, Node, Options, SOON, until, until_seen};

/// A disk of its own that can be made to stand still: every write to it waits, reads go on.
struct Disk {
    at: PathBuf,
    /// Lets it go on and takes it away, also where this process is killed.
    keeper: Child,
}

/// Waits for the end of its standard input.
const KEEPER: &str = r#"
cat >/dev/null
fsfreeze -u "$1" 2>/dev/null
umount -l "$1"
"#;

impl Disk {
    /// A file system in `image`, mounted; `None` where the machine does not permit that.
    fn mount(image: &Path, at: &Path) -> Option<Disk> {
        use std::os::unix::process::CommandExt;
        std::fs::create_dir_all(at).expect("a directory");
        let file = std::fs::File::create(image).expect("an image");
        file.set_len(2 << 30).expect("a sparse file");
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-m", "0"]).arg(image);
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop"]).arg(image).arg(at);
        if !run(&mut mkfs) || !run(&mut mount) {
            return None;
        }
        std::fs::remove_dir(at.join("lost+found")).expect("an empty directory");
        let mut keeper = Command::new("/bin/sh");
        keeper.args(["-c", KEEPER, "disk-keeper"]).arg(at);
        keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe, and touches nothing of this process.
        unsafe {
            keeper.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        let keeper = keeper.spawn().expect("/bin/sh can be started");
        Some(Disk { at: at.to_path_buf(), keeper })
    }

    fn freeze(&self) {
        assert!(run(Command::new("fsfreeze").arg("-f").arg(&self.at)), "it stands still");
    }

    fn thaw(&self) {
        assert!(run(Command::new("fsfreeze").arg("-u").arg(&self.at)), "it goes on");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn run(command: &mut Command) -> bool {
    command.status().is_ok_and(|status| status.success())
}

/// The texts of the history that name `what`.
async fn told(cluster: &Cluster, what: &str) -> Vec<String> {
    let all: Vec<String> = cluster.history().await.iter().map(ToString::to_string).collect();
    all.into_iter().filter(|text| text.contains(what)).collect()
}

/// Whether the leader shows this alarm of the member.
async fn is_raised(cluster: &Cluster, member: &str, code: &str) -> bool {
    let Some(status) = cluster.status().await else { return false };
    let members = status.0["clusters"][0]["members"].as_array().cloned().unwrap_or_default();
    let member = members.iter().find(|m| m["name"] == member);
    let alarms = member.and_then(|m| m["alarms"].as_array().cloned()).unwrap_or_default();
    alarms.iter().any(|a| a["code"] == code)
}

async fn raised(cluster: &Cluster, member: &str, code: &str) {
    until(code, HEAL, || async { is_raised(cluster, member, code).await.then_some(()) }).await;
}

async fn cleared(cluster: &Cluster, member: &str, code: &str) {
    let what = format!("the end of {code}");
    until(&what, HEAL, || async { (!is_raised(cluster, member, code).await).then_some(()) }).await;
}

/// The disk of the primary stands still: it answers questions and commits nothing. Another takes
/// over without a proof that it has ended, since nothing on that disk can be ended or recorded.
async fn freeze_disk(name: &str, data_alone: bool) {
    let options = Options::default();
    let cluster = Cluster::prepare(name, &options);
    // The member that comes first makes the data, and is the first primary.
    let node = &cluster.nodes[0];
    let at = if data_alone { node.state_dir().join("disk") } else { node.state_dir() };
    let Some(disk) = Disk::mount(&cluster.dir().join("disk.image"), &at) else {
        eprintln!("skipped: no file system can be mounted here");
        return;
    };
    if data_alone {
        let config = std::fs::read_to_string(node.config()).expect("a configuration");
        let moved = config.replace("/main\"", "/disk/main\"");
        assert_ne!(config, moved);
        std::fs::write(node.config(), moved).expect("it is written");
    }
    cluster.bring_up(&options).await;
    let since = Instant::now();
    let mut writers = vec![cluster.writer(Mode::Fresh), cluster.writer(Mode::Held)];
    writers.extend(cluster.probes());
    cluster.rows_flow(50).await;
    let before = cluster.healed().await;
    assert_eq!(before.primary().as_ref(), Some(&node.member));
    let old = cluster.superuser(node.index).await;

    let frozen_at = Instant::now();
    disk.freeze();
    assert_eq!(old.must("SELECT 1").await, "1", "an open connection is answered");
    let new = cluster.superuser(node.index).await;
    assert_eq!(new.must("SELECT 1").await, "1", "and so is a new one");
    assert_eq!(cluster.leaders_status().await.epoch(), before.epoch(), "that was in time");

    let after = cluster.new_epoch(before.epoch()).await;
    assert_ne!(after.primary(), before.primary(), "another takes over");
    cluster.rows_flow(50).await;
    let taken_at = cluster.journal.first_above(before.epoch()).expect("a row");
    eprintln!("{name}: from the freeze to the first row: {:?}", taken_at - frozen_at);
    // Where that node led the control plane, the others could not be told before.
    for what in ["given-up", "local-write"] {
        until(what, HEAL, || async { told(&cluster, what).await.pop() }).await;
    }

    disk.thaw();
    until_seen("PostgreSQL runs there again", HEAL, || {
        // A daemon whose own store stood still has ended; its supervisor starts it again.
        if node.ended().is_some() {
            node.start();
        }
        node.find_tree()
    })
    .await;
    cluster.judge(writers, since).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_the_data_stands_still() {
    freeze_disk("the_disk_of_the_data_stands_still", true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_the_node_stands_still() {
    freeze_disk("the_disk_of_the_node_stands_still", false).await;
}

/// What is wrong with a server that serves its clients is shown, and is no reason to fail over.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_hang() {
    let cluster = Cluster::start("what_is_no_hang", &Options::default()).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Held)];
    cluster.rows_flow(30).await;
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    let conn = cluster.superuser(node.index).await;

    eprintln!("-- the checkpointer stands still");
    let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
    let inner = conn.must(sql).await.parse().expect("a number");
    let checkpointer = node.tree().inner(inner).expect("a process");
    checkpointer.freeze().await;
    raised(&cluster, &node.member, "checkpointer").await;
    // It has to stop in order, which needs a checkpoint; nothing is stopped without one.
    let begun = Instant::now();
    let to = cluster.standbys().await[0].member.as_str();
    let answer = cluster.hactl(&["switchover", "--to", to, "--yes"]).await;
    eprintln!("a switchover took {:?}: {answer:?}", begun.elapsed());
    assert_ne!(answer.code, 0, "it is refused, in time");
    cluster.rows_flow(30).await;
    checkpointer.thaw();
    cleared(&cluster, &node.member, "checkpointer").await;
    assert_ne!(told(&cluster, "checkpointer").await, Vec::<String>::new());
    let during = cluster.healed().await;
    assert_eq!(during.epoch(), before.epoch(), "commits work: nobody fails over");

    eprintln!("-- clients take all connections");
    let held = take_all_connections(node).await;
    raised(&cluster, &node.member, "connections-exhausted").await;
    cluster.rows_flow(20).await;
    drop(held);
    cleared(&cluster, &node.member, "connections-exhausted").await;
    let after = cluster.healed().await;
    assert_eq!(after.epoch(), before.epoch(), "nobody fails over");
    assert_eq!(told(&cluster, "given-up").await, Vec::<String>::new());
    cluster.judge(writers, since).await;
}

async fn take_all_connections(node: &Node) -> Vec<Conn> {
    let mut held = Vec::new();
    let config = crate::support::application(&[node.sql()], false);
    let begun = Instant::now();
    loop {
        match Conn::open(&config).await {
            Ok(conn) => held.push(conn),
            Err(_) if held.len() > 20 => return held,
            Err(e) => assert!(begun.elapsed() < SOON, "{e}"),
        }
    }
}

/// A limit on the processor time of a process tree.
struct Limit(PathBuf);

impl Limit {
    /// A tenth of one processor for these processes and what they start; `None` where the machine
    /// does not permit that.
    fn put_on(pids: &[i32]) -> Option<Limit> {
        let at =
            Path::new("/sys/fs/cgroup/cpu").join(format!("quorate-test-{}", std::process::id()));
        std::fs::create_dir(&at).ok()?;
        let limit = Limit(at);
        std::fs::write(limit.0.join("cpu.cfs_quota_us"), "10000").ok()?;
        for pid in pids {
            // One that has ended meanwhile needs none.
            let _ = std::fs::write(limit.0.join("cgroup.procs"), pid.to_string());
        }
        Some(limit)
    }

    fn lift(&self) {
        let _ = std::fs::write(self.0.join("cpu.cfs_quota_us"), "-1");
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        let root = self.0.parent().expect("a parent").join("cgroup.procs");
        for pid in pids.lines() {
            let _ = std::fs::write(&root, pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// A program that is ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Many clients keep a server busy that gets hardly any processor: its answers are late, and it is
/// left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_left_alone() {
    let cluster = Cluster::start("a_busy_server_is_left_alone", &Options::default()).await;
    let since = Instant::now();
    let writers = vec![cluster.writer(Mode::Held)];
    cluster.rows_flow(20).await;
    let before = cluster.healed().await;
    let node = cluster.primary().await;
    let pids: Vec<i32> = node.tree().processes().iter().map(|p| p.pid()).collect();
    let Some(limit) = Limit::put_on(&pids) else {
        eprintln!("skipped: processor time cannot be limited here");
        return;
    };
    let script = cluster.dir().join("busy.sql");
    let sql = "SELECT sum(sqrt(i)) FROM generate_series(1, 200000) i;\n";
    std::fs::write(&script, sql).expect("a script");
    let mut pgbench = Command::new("/usr/lib/postgresql/15/bin/pgbench");
    pgbench.args(["-n", "-c", "30", "-T", "600", "-U", APP_USER, "-h", &node.host, "-f"]);
    pgbench.arg(&script).args(["-p", &node.sql().port.to_string(), "postgres"]);
    pgbench.env("PGPASSWORD", crate::support::APP_PASSWORD);
    pgbench.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let pgbench = Program(pgbench.spawn().expect("pgbench"));
    let begun = Instant::now();
    let mut late = Vec::new();
    // Three times as long as a hung PostgreSQL is put up with: that it does not happen has no
    // other end.
    while begun.elapsed() < Duration::from_secs(40) {
        for code in ["held-connection", "new-connection", "local-write"] {
            if !late.contains(&code) && is_raised(&cluster, &node.member, code).await {
                late.push(code);
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    eprintln!("late were: {late:?}");
    drop(pgbench);
    limit.lift();
    let after = cluster.healed().await;
    assert_eq!(told(&cluster, "given-up").await, Vec::<String>::new(), "busy is not hung");
    assert_eq!(after.epoch(), before.epoch(), "nobody fails over");
    cluster.judge(writers, since).await;
}
