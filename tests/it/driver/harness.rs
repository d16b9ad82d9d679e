//! What the tests of the driver share: a site with two members, waiting, cleaning up.

use std::collections::BTreeSet;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate::agent::database::{PgDatabase, Settings};
use quorate::agent::driver::{Care, Database, Error, Other, Position, Seen, StartMode, Tree};
use quorate::clock::boot_now;
use quorate::config::{Config, Secret};
use quorate::domain::desired::FollowDuty;
use quorate::domain::lineage::Lineage;
use quorate::domain::record::MemberRecord;
use quorate::domain::state::ClusterSpec;
use quorate::domain::sync::SyncConfig;
use quorate::domain::types::{Epoch, GuardId, MemberName, SystemId};
use quorate::postgres::connect::Target;
use quorate::postgres::sql::Session;
use tempfile::TempDir;

/// Longest time that anything here may take. Nothing waits for as long unless it is broken.
pub const LONG: Duration = Duration::from_secs(60);

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
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    match tokio::time::timeout(LONG, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for: {what}"),
    }
}

/// Repeats what says "not ready" or "not in time": these are to be asked again.
pub async fn settled<T, F: Future<Output = Result<T, Error>>>(
    what: &str,
    mut step: impl FnMut() -> F,
) -> T {
    let wait = async {
        loop {
            match step().await {
                Ok(value) => return value,
                Err(Error::NotReady(_) | Error::TimedOut { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(e) => panic!("{what}: {e}"),
            }
        }
    };
    match tokio::time::timeout(LONG, wait).await {
        Ok(value) => value,
        Err(_) => panic!("waited too long for: {what}"),
    }
}

pub fn member(name: &str) -> MemberName {
    MemberName::new(name).unwrap()
}

pub fn spec() -> ClusterSpec {
    let parameter = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    ClusterSpec {
        parameters: [
            ("shared_buffers", "16MB"),
            ("max_connections", "20"),
            ("min_wal_size", "32MB"),
            ("max_wal_size", "64MB"),
            // What no slot keeps goes with the next checkpoint.
            ("wal_keep_size", "0"),
        ]
        .map(parameter)
        .into(),
        hba: vec!["host all all 127.0.0.1/32 scram-sha-256".into()],
        ..ClusterSpec::of(vec![member("a"), member("b")])
    }
}

pub fn sync(epoch: u64, members: &[&str]) -> SyncConfig {
    let members: BTreeSet<_> = members.iter().map(|m| member(m)).collect();
    SyncConfig {
        epoch: Epoch(epoch),
        seq: 1,
        w: u32::from(!members.is_empty()),
        members,
        order: Vec::new(),
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The directory of a test. What its guards run is killed when it is dropped.
pub struct Site {
    root: TempDir,
    guard_dirs: std::sync::Mutex<Vec<PathBuf>>,
}

impl Site {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let secret = root.path().join("secret");
        std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        Self { root, guard_dirs: Default::default() }
    }

    /// The settings of member `name`, from a configuration as an operator writes it.
    pub fn settings(&self, name: &str) -> Settings {
        let port = free_port();
        let text = format!(
            r#"
            control_plane = "test"
            secret_file = "secret"
            [node]
            name = "n-{name}"
            roles = ["agent"]
            listen = "127.0.0.1:7400"
            advertise = "127.0.0.1:7400"
            data_dir = "{name}"
            run_dir = "{name}/r"
            [[controller]]
            id = 1
            name = "n1"
            address = "127.0.0.1:7401"
            [[cluster]]
            name = "main"
            bootstrap_members = ["a", "b"]
            synchronous = "quorum"
            write_quorum = 1
            [[member]]
            cluster = "main"
            name = "{name}"
            address = "127.0.0.1:{port}"
            data_dir = "{name}/pg/data"
            "#
        );
        let config = Config::parse(&text, &self.root.path().join("node.toml"))
            .unwrap_or_else(|e| panic!("{e}"));
        let secret = Secret::load(&config.secret_file).unwrap();
        let mut settings = Settings::from_config(&config, &config.members[0], &secret).unwrap();
        settings.guard_program = crate::support::hanode_bin().into();
        self.guard_dirs.lock().unwrap().push(settings.guard_dir.clone());
        settings
    }

    pub async fn member(&self, name: &str) -> Member {
        Member::new(self.settings(name)).await
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let dirs = self.guard_dirs.lock().unwrap().clone();
        let kill = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for dir in dirs {
                let killed = quorate::guard::prove_empty(&dir, true, Duration::from_secs(10));
                if let Err(e) = runtime.block_on(killed) {
                    eprintln!("{}: {e}", dir.display());
                }
            }
        };
        // A runtime cannot be started on a thread that runs one.
        let _ = std::thread::spawn(kill).join();
        if std::thread::panicking() {
            let logs = std::process::Command::new("sh")
                .args([
                    "-c",
                    "tail -n 25 */log/*/*.log */r/*/guard.log */log/*/*.start 2>/dev/null",
                ])
                .current_dir(self.root.path())
                .output();
            if let Ok(logs) = logs {
                eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
            }
        }
    }
}

/// One member, with the driver that a test drives.
pub struct Member {
    pub name: MemberName,
    pub settings: Settings,
    pub db: PgDatabase,
}

impl Member {
    pub async fn new(settings: Settings) -> Self {
        let db = PgDatabase::new(settings.clone()).await.unwrap_or_else(|e| panic!("{e}"));
        Self { name: settings.member.clone(), settings, db }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.settings.port)
    }

    pub fn record(&self, system_id: SystemId) -> MemberRecord {
        let mut record = MemberRecord::new(self.settings.cluster.clone(), self.name.clone());
        record.system_id = Some(system_id);
        record
    }

    /// What another member has to do to follow this one.
    pub fn duty(&self, epoch: u64, lineage: &Lineage) -> FollowDuty {
        FollowDuty {
            epoch: Epoch(epoch),
            primary: self.name.clone(),
            address: self.address(),
            lineage: lineage.clone(),
            active: true,
            counted: true,
            others: vec![],
            upstream: None,
            sources: Vec::new(),
            delay_ms: 0,
            restart: None,
            copy_anew: None,
            expendable: false,
        }
    }

    /// A session of the superuser.
    pub fn session(&self) -> Session {
        let target = Target {
            socket_dir: self.settings.layout.socket_dir.clone(),
            port: self.settings.port,
            login: self.settings.credentials.superuser.clone(),
            dbname: "postgres".into(),
        };
        Session::new(target, Duration::from_secs(10))
    }

    pub async fn start(&self, mode: StartMode) -> GuardId {
        let started = self.db.start(&mode, &spec()).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(*self.db.tree().borrow(), Tree::Running);
        started.guard
    }

    pub async fn start_sealed(&self, promise: u64) -> GuardId {
        self.start(StartMode::Sealed { promise: Epoch(promise) }).await
    }

    pub async fn seal(&self, promise: u64) -> Position {
        let spec = spec();
        settled("seal", || self.db.seal(Epoch(promise), &spec)).await
    }

    /// Arms the guard far ahead: leases are not what these tests are about.
    pub async fn arm(&self, guard: &GuardId) {
        self.db.arm(guard, boot_now().plus(Duration::from_secs(600))).await.unwrap();
    }

    /// From sealed to open for writes.
    pub async fn lead(&self, guard: &GuardId, epoch: u64, config: &SyncConfig) -> Lineage {
        self.arm(guard).await;
        let (epoch, spec) = (Epoch(epoch), spec());
        let lineage = settled("promote", || self.db.promote(epoch, config, &spec)).await;
        let status = self.session().primary_status().await.unwrap();
        assert!(status.read_only && !status.in_recovery);
        assert_eq!(status.synchronous_standby_names, config.setting());
        settled("confirm", || self.db.confirm_sync(epoch, config, false, &spec)).await;
        settled("open", || self.db.open_writes(epoch, config, &spec)).await;
        assert!(!self.session().primary_status().await.unwrap().read_only);
        lineage
    }

    pub async fn streams(&self, epoch: u64) {
        eventually("streaming", || async {
            match self.db.observe().await {
                Ok(Seen::Standby { streaming: Some(t), .. }) => {
                    (t.epoch() == Epoch(epoch)).then_some(())
                }
                _ => None,
            }
        })
        .await;
    }

    pub async fn follow(&self, duty: &FollowDuty) {
        let spec = spec();
        settled("follow", || self.db.follow(duty, &spec)).await;
        self.streams(duty.epoch.0).await;
    }

    /// Copies the data of the primary of `duty`, and starts.
    pub async fn copy(&self, duty: &FollowDuty) -> GuardId {
        let progress = Arc::new(|_, _| {});
        let id =
            self.db.clone_from(duty, &spec(), progress).await.unwrap_or_else(|e| panic!("{e}"));
        self.db.save_record(&self.record(id)).await.unwrap();
        self.start(StartMode::Following(duty.clone())).await
    }

    pub async fn kill_and_prove(&self) {
        self.db.kill().await.unwrap();
        self.prove().await;
    }

    pub async fn prove(&self) {
        settled("proof", || self.db.prove_empty()).await;
        assert_eq!(*self.db.tree().borrow(), Tree::None);
    }

    pub async fn rows(&self, table: &str) -> Option<u64> {
        let rows = self.session().query(&format!("SELECT count(*) AS n FROM public.{table}")).await;
        rows.ok()?.first()?.parse("n").ok()
    }
}

/// A member with new data that leads epoch 2, asynchronously.
pub async fn first_primary(site: &Site) -> (Member, GuardId, Lineage) {
    begin(site.member("a").await).await
}

/// The same with a member that was not begun yet.
pub async fn begin(a: Member) -> (Member, GuardId, Lineage) {
    let id = a.db.initialise(&spec()).await.unwrap_or_else(|e| panic!("{e}"));
    a.db.save_record(&a.record(id)).await.unwrap();
    let guard = a.start_sealed(2).await;
    let position = a.seal(2).await;
    assert_eq!(position.wal_epoch, Epoch(1));
    assert_eq!(position.lineage, Lineage::root(Epoch(1)));
    let lineage = a.lead(&guard, 2, &sync(2, &[])).await;
    assert_eq!(lineage, Lineage::root(Epoch(1)).with(Epoch(2), position.lsn));
    a.session()
        .query("CREATE TABLE public.t (n int); INSERT INTO public.t VALUES (1)")
        .await
        .unwrap();
    (a, guard, lineage)
}

/// What is asked of the upkeep, with these other members, who were heard of just now.
pub fn care(others: &[&str]) -> Care {
    care_for(&others.iter().map(|name| (*name, true, 0)).collect::<Vec<_>>())
}

/// The same with members by name, whether they were heard of, and for how long they are silent, in
/// seconds.
pub fn care_for(others: &[(&str, bool, u64)]) -> Care {
    let other = |(name, heard, silent): &(&str, bool, u64)| Other {
        member: member(name),
        position: None,
        heard: *heard,
        silent: Duration::from_secs(*silent),
        preloaded: Vec::new(),
    };
    Care {
        others: others.iter().map(other).collect(),
        sync: None,
        spec: spec(),
        revision: 1,
        active: false,
        out_of_room: false,
    }
}

/// A switchover that goes on being asked for.
pub fn still_asked() -> quorate::agent::driver::Asked {
    std::sync::Arc::new(|| true)
}
