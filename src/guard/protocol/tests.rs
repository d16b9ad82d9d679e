//! Every message survives the wire, and no bytes make a reader panic.

use super::*;

fn spec() -> StartSpec {
    StartSpec {
        program: "/usr/bin/postgres".into(),
        argv: vec!["postgres".into(), "-D".into(), "/data dir/ä".into()],
        env: vec![("LC_ALL".into(), "C".into()), ("EMPTY".into(), String::new())],
        credentials: Some(Credentials { uid: 101, gid: 102, groups: vec![102, 103] }),
        working_dir: "/".into(),
        log_file: "/tmp/log".into(),
        umask: 0o077,
        cgroup: Some("/sys/fs/cgroup/pg".into()),
        best_effort: true,
        only: Some(FencingKind::Cgroup),
    }
}

fn requests() -> Vec<Request> {
    let plain =
        StartSpec { credentials: None, cgroup: None, best_effort: false, only: None, ..spec() };
    vec![
        Request::Start(Box::new(spec())),
        Request::Start(Box::new(plain)),
        Request::Arm(BootTime::from_nanos(u64::MAX)),
        Request::Signal(-15),
        Request::Kill,
        Request::Status,
        Request::PidFd,
        Request::Exit,
    ]
}

fn replies() -> Vec<Reply> {
    let status = Status {
        guard_id: GuardId::from_bytes([7; 16]),
        guard_pid: 1,
        init_pid: Some(2),
        postmaster_pid: None,
        tree: TreeState::PostmasterExited(Exit::Signal(9)),
        deadline: Some(BootTime::from_nanos(5)),
        fencing: Some(FencingKind::PidNamespace),
    };
    let mut replies = vec![
        Reply::Done,
        Reply::Status(Box::new(status)),
        Reply::Armed(BootTime::from_nanos(9)),
        Reply::PidFd(FencingKind::BestEffort),
        Reply::Event(TreeState::Idle),
        Reply::Event(TreeState::Starting),
        Reply::Event(TreeState::Running),
        Reply::Event(TreeState::PostmasterExited(Exit::Code(1))),
        Reply::Event(TreeState::Empty(None)),
        Reply::Event(TreeState::Empty(Some(Exit::Code(0)))),
    ];
    let refusals = [
        Refusal::Malformed,
        Refusal::Unsupported,
        Refusal::AlreadyStarted,
        Refusal::NotRunning,
        Refusal::TreeEnded,
        Refusal::TreeAlive,
        Refusal::DeadlinePassed,
        Refusal::DeadlineTooFar,
        Refusal::DeadlineBackwards { in_force: BootTime::from_nanos(3) },
        Refusal::System { errno: 1 },
        Refusal::NoFencing { pid_namespace: 1, user_namespace: 28, cgroup: 0 },
        Refusal::Failed { stage: Stage::Clone, errno: 1 },
        Refusal::Failed { stage: Stage::Exec, errno: 2 },
    ];
    replies.extend(refusals.map(Reply::Refused));
    replies
}

#[test]
fn every_message_survives_the_wire() {
    let mut buf = Vec::new();
    for request in requests() {
        request.encode(7, &mut buf);
        assert_eq!(Request::decode(&buf), Ok((7, request)));
    }
    for reply in replies() {
        reply.encode(8, &mut buf);
        assert_eq!(Reply::decode(&buf), Ok((8, reply)));
    }
}

#[test]
fn a_request_cut_anywhere_or_with_more_bytes_is_malformed() {
    let mut buf = Vec::new();
    for request in requests() {
        request.encode(7, &mut buf);
        for len in 0..buf.len() {
            let expected = if len < 8 { DecodeError::Header } else { DecodeError::Payload(7) };
            assert_eq!(Request::decode(&buf[..len]), Err(expected), "{request:?} cut at {len}");
        }
        buf.push(0);
        assert_eq!(Request::decode(&buf), Err(DecodeError::Payload(7)), "{request:?}");
    }
}

#[test]
fn a_reply_of_a_later_version_may_be_longer() {
    let mut buf = Vec::new();
    for reply in replies() {
        reply.encode(7, &mut buf);
        buf.extend_from_slice(&[1, 2, 3]);
        assert_eq!(Reply::decode(&buf), Ok((7, reply)));
    }
}

#[test]
fn no_single_wrong_byte_panics_a_reader() {
    let mut buf = Vec::new();
    for request in requests() {
        request.encode(7, &mut buf);
        for at in 0..buf.len() {
            for value in [0, 1, 2, 0x7f, 0x80, 0xff] {
                let mut packet = buf.clone();
                packet[at] = value;
                let _ = Request::decode(&packet);
                let _ = Reply::decode(&packet);
            }
        }
    }
    let mut unknown = Vec::new();
    Request::Kill.encode(3, &mut unknown);
    unknown[2] = 99;
    assert_eq!(Request::decode(&unknown), Err(DecodeError::Unsupported(3)));
    unknown[1] = 2;
    assert_eq!(Request::decode(&unknown), Err(DecodeError::Unsupported(3)));
    // A NUL inside a text would end an argument early.
    let mut nul = Vec::new();
    Request::Start(Box::new(StartSpec { argv: vec!["a\0b".into()], ..spec() })).encode(3, &mut nul);
    assert_eq!(Request::decode(&nul), Err(DecodeError::Payload(3)));
}
