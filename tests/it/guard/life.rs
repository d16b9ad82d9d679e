//! A guard's life: start, report, being left and found again, leaving.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
use quorate::guard::{
    Error, Exit, FencingKind, GuardClient, Refusal, SOCKET_FILE, Stage, TreeState,
};

use super::harness::{Running, SOON, Scene, is_alive, process, send, tree_is, until};

fn refusal<T: std::fmt::Debug>(answer: Result<T, Error>) -> Refusal {
    match answer {
        Err(Error::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn the_end_of_the_postmaster_is_reported_and_takes_orphans_along() {
    let orphan = "( setsid sh -c 'trap \"\" TERM; sleep 1000; sleep 1000' & ); read x; ";
    for (end, exit) in [("exit 7", Exit::Code(7)), ("kill -USR1 $$", Exit::Signal(libc::SIGUSR1))] {
        let scene = Scene::new();
        let fifo = scene.dir().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
        let script = format!("exec <{}; {orphan} {end}", fifo.display());
        let client = scene.spawn().await;
        let opener = std::thread::spawn(move || std::fs::File::options().write(true).open(fifo));
        let tree = Running::with(client, &scene.sh(&script), 4).await;
        assert_eq!(*tree.client.watch().borrow(), TreeState::Running);
        drop(opener.join());
        let ended = tree_is(&tree.client, |tree| matches!(tree, TreeState::Empty(_))).await;
        assert_eq!(ended, TreeState::Empty(Some(exit)));
        tree.assert_empties().await;
        // It stays until it is told to leave.
        assert_eq!(tree.client.status().await.expect("status").tree, ended);
        tree.client.exit().await.expect("exit");
        until("the guard leaves", || (!is_alive(tree.guard_pid, tree.guard_start)).then_some(()))
            .await;
        assert!(scene.attach().await.is_none());
        // What was proven stays proven.
        tree_is(&tree.client, |tree| *tree == TreeState::Lost).await;
        tree.client.empty(SOON).await.expect("empty for good");
    }
}

#[tokio::test]
async fn a_signal_reaches_the_postmaster_and_kill_reaches_all() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    assert_eq!(refusal(client.signal(libc::SIGTERM).await), Refusal::NotRunning);
    assert_eq!(refusal(client.kill().await), Refusal::NotRunning);
    client.empty(SOON).await.expect("nothing was started");
    let script = "trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    client.start(&scene.sh(script)).await.expect("start");
    until("the trap is set", || scene.log().contains("ready").then_some(())).await;
    let invalid = refusal(client.signal(9999).await);
    assert_eq!(invalid, Refusal::System { errno: libc::EINVAL });
    client.signal(libc::SIGTERM).await.expect("signal");
    let ended = tree_is(&client, |tree| matches!(tree, TreeState::Empty(_))).await;
    assert_eq!(ended, TreeState::Empty(Some(Exit::Code(5))));
    assert_eq!(refusal(client.signal(libc::SIGTERM).await), Refusal::NotRunning);
    client.kill().await.expect("a dead tree is dead");

    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    assert_eq!(refusal(tree.client.exit().await), Refusal::TreeAlive);
    tree.client.kill().await.expect("kill");
    tree.assert_empties().await;
    let ended = tree_is(&tree.client, |tree| matches!(tree, TreeState::Empty(_))).await;
    assert_eq!(ended, TreeState::Empty(None));
}

#[tokio::test]
async fn a_guard_starts_one_tree() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let again = tree.client.start(&scene.stubborn()).await;
    assert_eq!(refusal(again), Refusal::AlreadyStarted);
    tree.client.kill().await.expect("kill");
    tree.assert_empties().await;
    let again = tree.client.start(&scene.stubborn()).await;
    assert_eq!(refusal(again), Refusal::AlreadyStarted);
}

#[tokio::test]
async fn a_failed_start_names_its_step_and_leaves_nothing() {
    let scene = Scene::new();
    let good = scene.sh("exit 0");
    let mut no_program = good.clone();
    no_program.program = "/nonexistent".into();
    let mut no_dir = good.clone();
    no_dir.working_dir = "/nonexistent".into();
    let mut no_log = good.clone();
    no_log.log_file = "/nonexistent/log".into();
    for (spec, stage) in
        [(no_program, Stage::Exec), (no_dir, Stage::WorkingDirectory), (no_log, Stage::LogFile)]
    {
        let scene = Scene::new();
        let client = scene.spawn().await;
        let failed = Refusal::Failed { stage, errno: libc::ENOENT };
        assert_eq!(refusal(client.start(&spec).await), failed);
        client.empty(SOON).await.expect("empty");
        tree_is(&client, |tree| *tree == TreeState::Empty(None)).await;
        client.exit().await.expect("exit");
    }
}

#[tokio::test]
async fn the_postmaster_has_what_the_specification_names_and_nothing_else() {
    let scene = Scene::new();
    let postgres = scene.give_to("postgres");
    let client = scene.spawn().await;
    let mut spec = scene.sh(
        "id -u; id -g; umask; pwd; echo $$; env | sort | tr '\\n' ' '; echo; \
         grep -E 'SigBlk|SigIgn|CapEff|NSpid|NSsid' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '; \
         echo nice $(cut -d' ' -f19 /proc/self/stat); \
         cat /proc/self/oom_score_adj; echo done",
    );
    spec.env.push(("MARK".into(), "a b".into()));
    spec.credentials = Some(postgres.clone());
    spec.working_dir = scene.run_dir();
    spec.umask = 0o027;
    client.start(&spec).await.expect("start");
    client.empty(SOON).await.expect("empty");
    let log = scene.log();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], postgres.uid.to_string(), "{log}");
    assert_eq!(lines[1], postgres.gid.to_string());
    assert_eq!(lines[2], "0027");
    assert_eq!(lines[3], scene.run_dir().to_str().expect("text"));
    assert_eq!(lines[4], "2", "first child of the namespace");
    assert_eq!(lines[5].trim(), format!("MARK=a b PATH=/usr/bin:/bin PWD={}", lines[3]));
    for line in &lines[6..] {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("SigBlk:" | "SigIgn:" | "CapEff:") => {
                assert_eq!(words.next(), Some("0000000000000000"), "{line}");
            }
            Some("NSsid:") => assert_eq!(words.last(), Some("2"), "a session of its own: {line}"),
            // The guard's own priority is not inherited.
            Some("nice") => assert_eq!(words.next(), Some("0"), "{line}"),
            // Standard streams and the directory that `ls` reads.
            Some("0") if words.next() == Some("1") => {
                assert!(line.starts_with("0 1 2 3 "), "{line}")
            }
            _ => {}
        }
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").expect("own value");
    assert!(log.trim_end().ends_with(&format!("{}\ndone", own.trim())), "{log}");
}

#[tokio::test]
async fn a_restarted_agent_finds_the_tree_and_the_newest_client_counts() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let deadline = quorate::clock::boot_now().plus(std::time::Duration::from_secs(100));
    tree.client.arm(deadline).await.expect("arm");
    let second = scene.attach().await.expect("a guard");
    assert_eq!(second.guard_id(), tree.client.guard_id());
    tree_is(&tree.client, |tree| *tree == TreeState::Lost).await;
    let status = second.status().await.expect("status");
    assert_eq!((status.tree, status.deadline), (TreeState::Running, Some(deadline)));
    assert_eq!(status.fencing, Some(FencingKind::PidNamespace));
    assert_eq!(status.init_pid, Some(tree.init_pid));
    drop(second);
    let third = scene.attach().await.expect("a guard");
    assert_eq!(*third.watch().borrow(), TreeState::Running);
    // A lost client still has its own proof.
    third.kill().await.expect("kill");
    tree.assert_empties().await;
    drop(third);
    // The end is not lost on a client that comes after it.
    let fourth = scene.attach().await.expect("a guard");
    tree_is(&fourth, |tree| *tree == TreeState::Empty(None)).await;
    fourth.empty(SOON).await.expect("empty");
}

#[tokio::test]
async fn signals_of_a_service_manager_are_ignored() {
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGPIPE] {
        send(tree.guard_pid, signal);
        send(tree.init_pid, signal);
        let status = tree.client.status().await.expect("the guard lives");
        assert_eq!(status.tree, TreeState::Running);
    }
    assert!(is_alive(tree.init_pid, tree.members[&tree.init_pid]));
    // A session of its own, no standard streams of ours.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", tree.guard_pid)).expect("stat");
    let fields: Vec<&str> =
        stat.rsplit_once(')').expect("stat").1.split_ascii_whitespace().collect();
    assert_eq!(fields[3], tree.guard_pid.to_string(), "session");
    assert_eq!(fields[4], "0", "no terminal");
}

#[tokio::test]
async fn one_guard_lives_in_a_run_directory() {
    let scene = Scene::new();
    let client = scene.spawn().await;
    let hanode = std::path::Path::new(crate::support::hanode_bin());
    let second = GuardClient::spawn(hanode, &scene.run_dir(), SOON).await;
    assert!(matches!(second, Err(Error::AnotherGuard { .. })), "{:?}", second.err());
    client.status().await.expect("the first is undisturbed");
    client.exit().await.expect("exit");
    tree_is(&client, |tree| *tree == TreeState::Lost).await;

    // A guard refuses to come up beside a tree of an earlier one.
    let mut sleep = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
    let pid = i32::try_from(sleep.id()).expect("a pid");
    let mut record = until("the guard has left", || {
        let record = scene.record()?;
        let pid = i32::try_from(record["guard_pid"].as_i64()?).ok()?;
        process(pid).is_none_or(|(state, _)| state == 'Z').then_some(record)
    })
    .await;
    record["init_pid"] = pid.into();
    record["init_starttime"] = process(pid).expect("sleep").1.into();
    record["fencing"] = "pid-namespace".into();
    scene.write_record(&record);
    let second = GuardClient::spawn(hanode, &scene.run_dir(), SOON).await;
    assert!(matches!(second, Err(Error::EarlierTree { .. })), "{:?}", second.err());
    sleep.kill().expect("kill");
    sleep.wait().expect("wait");
    scene.spawn().await.exit().await.expect("exit");
}

fn raw(scene: &Scene) -> OwnedFd {
    let fd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .expect("socket");
    let address = UnixAddr::new(&scene.run_dir().join(SOCKET_FILE)).expect("address");
    socket::connect(fd.as_raw_fd(), &address).expect("connect");
    fd
}

/// Sends a packet and returns the kind of the answer and what follows it; `None`: hung up.
fn ask(fd: &OwnedFd, packet: &[u8]) -> Option<(u8, Vec<u8>)> {
    socket::send(fd.as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).ok()?;
    let mut buf = [0u8; 4096];
    let n = socket::recv(fd.as_raw_fd(), &mut buf, MsgFlags::empty()).ok().filter(|n| *n > 0)?;
    Some((buf[2], buf[8..n].to_vec()))
}

#[tokio::test]
async fn malformed_frames_are_refused_and_harm_nothing() {
    const REFUSED: u8 = 0x84;
    let scene = Scene::new();
    let tree = Running::new(&scene).await;
    let fd = raw(&scene);
    // Well-formed headers with bad contents: an answer, and the connection goes on.
    for (kind, payload, code) in [
        (1u8, &b""[..], 0u8),
        (1, &[0xff; 300][..], 0),
        (2, &[1, 2, 3][..], 0),
        (4, &[0][..], 0),
        (99, &[][..], 1),
        (0x81, &[][..], 1),
    ] {
        let mut packet = vec![b'Q', 1, kind, 0, 7, 0, 0, 0];
        packet.extend_from_slice(payload);
        assert_eq!(ask(&fd, &packet), Some((REFUSED, vec![code])), "kind {kind}");
    }
    let status = [b'Q', 1, 5, 0, 7, 0, 0, 0];
    assert_eq!(ask(&fd, &status).expect("an answer").0, 0x81);
    // A header of another protocol: the connection ends.
    for packet in [&b"GET / HTTP/1.0\r\n\r\n"[..], b"Q", &[0; 8], &[b'Q'; 66_000]] {
        let fd = raw(&scene);
        assert_eq!(ask(&fd, packet), Some((REFUSED, vec![0])));
        assert_eq!(ask(&fd, &status), None, "hung up");
    }
    // Descriptors that are sent along are not kept.
    let open_files =
        || std::fs::read_dir(format!("/proc/{}/fd", tree.guard_pid)).expect("descriptors").count();
    let fd = raw(&scene);
    ask(&fd, &status);
    let before = open_files();
    let pass = [fd.as_raw_fd()];
    let iov = [std::io::IoSlice::new(&status)];
    let rights = [socket::ControlMessage::ScmRights(&pass)];
    socket::sendmsg::<()>(fd.as_raw_fd(), &iov, &rights, MsgFlags::empty(), None).expect("send");
    ask(&fd, &status);
    assert_eq!(open_files(), before);
    // A client that never reads is dropped; the guard does not wait for it.
    let deaf = raw(&scene);
    // SAFETY: a duplicate for the loop below.
    let copy = unsafe { OwnedFd::from_raw_fd(libc::dup(deaf.as_raw_fd())) };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    until("the deaf client is dropped", || {
        let sent = socket::send(copy.as_raw_fd(), &status, flags);
        matches!(sent, Err(nix::errno::Errno::EPIPE)).then_some(())
    })
    .await;
    let client = scene.attach().await.expect("the guard lives");
    assert_eq!(client.status().await.expect("status").tree, TreeState::Running);
}
