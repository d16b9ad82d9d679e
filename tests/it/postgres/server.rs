//! Members of a cluster for tests: real servers, started directly instead of by a guard.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use quorate::domain::types::{ClusterName, Epoch, MemberName, SystemId, WallMillis};
use quorate::postgres::basebackup::{self, Source};
use quorate::postgres::binaries::Binaries;
use quorate::postgres::conf::{Role, Settings, Synchronous};
use quorate::postgres::connect::Target;
use quorate::postgres::credentials::{Credentials, Login, Password};
use quorate::postgres::hba::Rules;
use quorate::postgres::layout::Layout;
use quorate::postgres::os_user::OsUser;
use quorate::postgres::promote::{self, Promoted};
use quorate::postgres::seal::{self, Sealed};
use quorate::postgres::sql::Session;
use quorate::postgres::start::{self, ServerIs, Signal};
use quorate::postgres::{files, initdb};

/// Longest time that anything here may take. Nothing waits for as long unless it is broken.
pub const LONG: Duration = Duration::from_secs(60);

/// Segments of one mebibyte keep the tests' disk use small.
pub const SEGMENT: u64 = 1 << 20;

/// Waits until `ready` gives a value; fails after [`LONG`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut ready: impl FnMut() -> F,
) -> T {
    let wait = async {
        loop {
            if let Some(value) = ready().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    match tokio::time::timeout(LONG, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for: {what}"),
    }
}

/// A port that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The places and programs that all members of a test share.
pub struct Site {
    pub root: tempfile::TempDir,
    pub user: OsUser,
    pub binaries: Binaries,
    pub credentials: Credentials,
}

impl Site {
    pub async fn new() -> Self {
        let user = OsUser::resolve(None).unwrap();
        let binaries = Binaries::find(None, None, &user).await.unwrap();
        let root = tempfile::tempdir().unwrap();
        files::ensure_dir(root.path(), 0o755, &user).unwrap();
        let login = |name: &str, password: &str| {
            Login::new(name, Password::new(password).unwrap()).unwrap()
        };
        let credentials = Credentials {
            superuser: login("admin", "admin's pass"),
            replication: login("replicator", "re:pl\\ica"),
            rewind: login("rewinder", "re wind"),
        };
        Self { root, user, binaries, credentials }
    }
}

/// One member; its server is stopped when it is dropped.
pub struct Member {
    pub name: MemberName,
    pub layout: Layout,
    pub settings: Settings,
    pub rules: Rules,
    pub session: Session,
    user: OsUser,
    binaries: Binaries,
    server: Option<Child>,
}

impl Member {
    /// A member without data.
    pub fn new(site: &Site, name: &str) -> Self {
        let name = MemberName::new(name).unwrap();
        let dir = site.root.path().join(name.as_str());
        files::ensure_dir(&dir, 0o755, &site.user).unwrap();
        let run = dir.join("run");
        let layout =
            Layout::new(dir.join("data"), run.clone(), run.clone(), dir.join("log")).unwrap();
        layout.prepare(&site.user).unwrap();
        let passfile = run.join("passfile");
        site.credentials.write_passfile(&passfile, &site.user).unwrap();
        let port = free_port();
        let settings = Settings {
            cluster: ClusterName::new("test").unwrap(),
            member: name.clone(),
            listen_addresses: "127.0.0.1".into(),
            port,
            pgdata: layout.pgdata.clone(),
            socket_dir: run.clone(),
            log_dir: layout.log_dir.clone(),
            passfile,
            replication_user: site.credentials.replication.user().into(),
            connection: BTreeMap::new(),
            major: site.binaries.major(),
            max_wal_senders: 10,
            max_replication_slots: 10,
            operator: BTreeMap::from([
                ("shared_buffers".into(), "16MB".into()),
                ("max_connections".into(), "20".into()),
                ("min_wal_size".into(), "4MB".into()),
            ]),
            synchronous: Synchronous::Nobody,
            role: Role::Sealed { promised: Epoch(2) },
        };
        let rules = Rules {
            superuser: site.credentials.superuser.user().into(),
            replication: site.credentials.replication.user().into(),
            rewind: site.credentials.rewind.user().into(),
            peers: vec![],
            peers_tls: false,
            slot_sync: false,
            operator: vec![],
            ident: vec![],
        };
        let target = Target {
            socket_dir: run,
            port,
            login: site.credentials.superuser.clone(),
            dbname: "postgres".into(),
        };
        let session = Session::new(target, Duration::from_secs(10));
        let (user, binaries) = (site.user.clone(), site.binaries.clone());
        Self { name, layout, settings, rules, session, user, binaries, server: None }
    }

    /// A member whose new data directory has served as the sealed standby it was started as.
    pub async fn first(site: &Site, name: &str) -> (Self, SystemId) {
        let mut member = Self::new(site, name);
        let options = initdb::Options { segment_mib: 1, ..initdb::Options::default() };
        let control = initdb::create(
            &site.binaries,
            &site.user,
            &member.layout,
            &site.credentials,
            &options,
            &member.settings,
        )
        .await
        .unwrap();
        member.start(Role::Sealed { promised: Epoch(2) }).await;
        (member, control.system_id)
    }

    /// Where this member can be copied or rewound from, as `user`.
    pub fn source(&self, user: &str) -> Source {
        Source {
            host: "127.0.0.1".into(),
            port: self.settings.port,
            user: user.into(),
            passfile: self.settings.passfile.clone(),
            connection: BTreeMap::new(),
        }
    }

    /// The role of a standby that follows `primary`.
    pub fn role_following(&self, primary: &Member, epoch: u64) -> Role {
        Role::Standby {
            epoch: Epoch(epoch),
            host: "127.0.0.1".into(),
            port: primary.settings.port,
            slot: self.name.slot_name(),
            eager: false,
            delay_ms: 0,
        }
    }

    /// A copy of `primary` through this member's slot there.
    pub fn copy_job(&self, primary: &Member, expected: SystemId) -> basebackup::Job {
        basebackup::Job {
            source: primary.source("replicator"),
            expected,
            slot: Some(self.name.slot_name()),
            create_slot: false,
            tablespaces: vec![],
            deadline: LONG,
            at: WallMillis(0),
            reason: "test".into(),
        }
    }

    /// Copies `primary` with a slot and follows it.
    pub async fn copy_of(
        site: &Site,
        name: &str,
        primary: &mut Member,
        id: SystemId,
        epoch: u64,
    ) -> Self {
        let mut member = Self::new(site, name);
        primary.session.create_slot(&member.name.slot_name(), true).await.unwrap();
        let job = member.copy_job(primary, id);
        let mut last = None;
        let copied =
            basebackup::copy(&site.binaries, &site.user, &member.layout, &job, |p| last = Some(p))
                .await
                .unwrap();
        assert!(copied.end > copied.start && copied.kept_aside.is_none(), "{copied:?}");
        let last = last.expect("progress was reported");
        assert!(last.bytes_done > 0 && last.bytes_total >= last.bytes_done, "{last:?}");
        member.start(member.role_following(primary, epoch)).await;
        member
    }

    /// Writes the files and starts the server as a standby, as every start of ours is.
    pub async fn start(&mut self, role: Role) {
        assert!(self.server.is_none());
        self.settings.role = role;
        start::remove_stale_locks(&self.layout, self.settings.port).unwrap();
        start::install(&self.layout, &self.user, &self.settings, &self.rules, ServerIs::Stopped)
            .unwrap();
        start::set_signal(&self.layout, &self.user, Signal::Standby).unwrap();
        let (control, _) = start::preflight(
            &self.binaries,
            &self.user,
            &self.layout,
            None,
            &self.settings.listen_addresses,
            self.settings.port,
        )
        .await
        .unwrap();
        start::raise_to_floor(&self.binaries, &self.user, &self.layout, &control).await.unwrap();
        self.spawn();
        let answered = tokio::time::timeout(LONG, async {
            while self.session.query("SELECT 1").await.is_err() {
                let ended = self.server.as_mut().unwrap().try_wait().unwrap();
                assert!(ended.is_none(), "the server ended:\n{}", read_logs(&self.layout.log_dir));
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        if answered.await.is_err() {
            panic!("the server did not start:\n{}", self.logs());
        }
    }

    fn spawn(&mut self) {
        let spec = start::spec(&self.binaries, &self.user, &self.layout);
        let log = std::fs::File::options().append(true).create(true).open(&spec.log_file).unwrap();
        let mut command = Command::new(&spec.program);
        command.args(&spec.args).env_clear().envs(&spec.env).current_dir(&spec.dir);
        command.stdin(std::process::Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        if let Some(ids) = spec.user {
            command.uid(ids.uid).gid(ids.gid);
        }
        self.server = Some(command.spawn().unwrap());
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> i32 {
        self.server.as_ref().map_or(0, |s| s.id() as i32)
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: i32) {
        if self.server.is_some() {
            // SAFETY: plain system call; the child was not reaped.
            unsafe { libc::kill(self.pid(), signal) };
        }
    }

    /// Ends the server: fast (SIGINT) or as in a crash (SIGQUIT).
    pub async fn stop(&mut self, signal: i32) {
        self.session.close();
        self.signal(signal);
        let Some(mut server) = self.server.take() else { return };
        eventually("the server's end", || {
            let ended = server.try_wait().unwrap();
            async move { ended }
        })
        .await;
    }

    /// Writes the settings of `role` under the running server and reloads.
    pub async fn become_role(&mut self, role: Role) {
        self.settings.role = role;
        start::install(&self.layout, &self.user, &self.settings, &self.rules, ServerIs::Running)
            .unwrap();
        self.session.reload().await.unwrap();
    }

    /// Seals the running standby for `epoch`.
    pub async fn seal(&mut self, epoch: u64) -> Sealed {
        self.settings.role = Role::Sealed { promised: Epoch(epoch) };
        let (layout, user, rules) = (&self.layout, &self.user, &self.rules);
        seal::seal(&mut self.session, layout, user, &self.settings, rules, SEGMENT, LONG)
            .await
            .unwrap()
    }

    /// Promotes the sealed standby to `epoch` and lets it be written to.
    pub async fn promote(&mut self, epoch: u64) -> Promoted {
        self.become_role(Role::Primary { epoch: Epoch(epoch), read_only: true }).await;
        let promoted = self.try_promote(epoch).await.unwrap();
        self.become_role(Role::Primary { epoch: Epoch(epoch), read_only: false }).await;
        promoted
    }

    /// Promotes only.
    pub async fn try_promote(&mut self, epoch: u64) -> Result<Promoted, promote::Error> {
        let (layout, user) = (&self.layout, &self.user);
        promote::promote(&mut self.session, layout, user, Epoch(epoch), LONG).await
    }

    /// Sets who must confirm commits, without the barrier.
    pub fn set_synchronous(&mut self, count: u32, members: &[&Member]) {
        let members = members.iter().map(|m| m.name.clone()).collect();
        self.settings.synchronous = Synchronous::Any { count, members };
    }

    /// Waits until this standby has replayed to `lsn`.
    pub async fn await_replay(&mut self, lsn: quorate::domain::types::Lsn) {
        let reached = tokio::time::timeout(LONG, async {
            loop {
                let status = self.session.standby_status().await.unwrap();
                if status.replay.is_some_and(|r| r >= lsn) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        if reached.is_err() {
            let status = self.session.standby_status().await;
            panic!("{lsn} not reached: {status:?}\n{}", read_logs(&self.layout.log_dir));
        }
    }

    /// Everything that the server has logged.
    pub fn logs(&self) -> String {
        read_logs(&self.layout.log_dir)
    }
}

fn read_logs(dir: &Path) -> String {
    let files = std::fs::read_dir(dir).unwrap();
    files.map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap_or_default()).collect()
}

impl Drop for Member {
    fn drop(&mut self) {
        // A stopped process takes no other signal than these.
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGQUIT);
        if let Some(mut server) = self.server.take() {
            for _ in 0..500 {
                if server.try_wait().is_ok_and(|ended| ended.is_some()) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}
