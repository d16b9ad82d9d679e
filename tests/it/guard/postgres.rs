//! PostgreSQL itself under a guard: busy backends die with it, and the shared-memory interlock
//! still keeps a second postmaster off the data directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use quorate::clock::boot_now;
use quorate::guard::{Credentials, Exit, StartSpec, TreeState};

use super::harness::{Running, Scene, is_alive, members, process, send, stop, tree_is, until};

fn bin() -> PathBuf {
    let dir = std::env::var_os("PG_BIN").unwrap_or("/usr/lib/postgresql/15/bin".into());
    PathBuf::from(dir)
}

fn as_user(user: &Credentials, program: &Path, args: &[&str]) -> Output {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(program);
    command.args(args).uid(user.uid).gid(user.gid).current_dir("/");
    command.output().expect("the program runs")
}

struct Server {
    scene: Scene,
    user: Credentials,
}

impl Server {
    fn new() -> Server {
        let scene = Scene::new();
        let user = scene.give_to("postgres");
        let data = scene.dir().join("data");
        let args = ["-D", data.to_str().expect("text"), "-A", "trust", "-N"];
        let made = as_user(&user, &bin().join("initdb"), &args);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Server { scene, user }
    }

    fn spec(&self, log: &str) -> StartSpec {
        let dir = self.scene.dir().to_str().expect("text");
        // PostgreSQL finds its installation by its own name.
        let program = bin().join("postgres");
        let program = program.to_str().expect("text");
        let argv = [program, "-D", &format!("{dir}/data"), "-k", dir, "-c", "listen_addresses="]
            .map(str::to_owned);
        StartSpec {
            program: program.into(),
            argv: argv.to_vec(),
            credentials: Some(self.user.clone()),
            log_file: self.scene.dir().join(log),
            ..self.scene.sh("")
        }
    }

    fn sql_args<'a>(&'a self, sql: &'a str) -> [&'a str; 9] {
        let dir = self.scene.dir().to_str().expect("text");
        ["-X", "-A", "-t", "-h", dir, "-d", "postgres", "-c", sql]
    }

    fn psql(&self, sql: &str) -> Option<String> {
        let done = as_user(&self.user, &bin().join("psql"), &self.sql_args(sql));
        done.status.success().then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
    }

    /// Runs `sql` in a session of its own, for as long as it takes.
    fn session(&self, sql: &str) -> std::process::Child {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(bin().join("psql"));
        command.args(self.sql_args(sql)).uid(self.user.uid).gid(self.user.gid).current_dir("/");
        command.stderr(std::process::Stdio::null()).spawn().expect("psql")
    }

    async fn start(&self) -> Running {
        let tree = Running::with(self.scene.spawn().await, &self.spec("log"), 3).await;
        until("PostgreSQL answers", || self.psql("select 1")).await;
        tree
    }
}

const WRITER: &str = "do $$ begin loop insert into t default values; commit; end loop; end $$";

#[tokio::test]
async fn busy_backends_die_with_the_guard() {
    let server = Server::new();
    for stopped in [false, true] {
        let mut tree = server.start().await;
        server
            .psql("create table if not exists t (id bigint generated always as identity)")
            .expect("create table");
        let mut sessions = [
            server.session("select pg_sleep(1000)"),
            server.session(WRITER),
            server.session(WRITER),
        ];
        until("the backends are busy", || {
            let busy = "select count(*) from pg_stat_activity where state = 'active' \
                        and backend_type = 'client backend'";
            let rows = "select count(*) > 100 from t";
            (server.psql(busy)? == "4" && server.psql(rows)? == "t").then_some(())
        })
        .await;
        tree.members = members(tree.init_pid);
        let postmaster = tree.client.status().await.expect("status").postmaster_pid.expect("pid");
        if stopped {
            tree.client.arm(boot_now().plus(Duration::from_millis(500))).await.expect("arm");
            stop(tree.guard_pid).await;
            stop(tree.init_pid).await;
        } else {
            // The case that needs a fence: without its postmaster a backend would go on.
            stop(postmaster).await;
            send(tree.guard_pid, libc::SIGKILL);
        }
        tree.assert_empties().await;
        for session in &mut sessions {
            session.wait().expect("a session whose server is gone ends");
        }
        // The data directory is as good as after any crash, the stale postmaster.pid is harmless.
        quorate::guard::prove_empty(&server.scene.run_dir(), false, super::harness::SOON)
            .await
            .expect("proof");
    }
    let tree = server.start().await;
    // A fast shutdown in order, see the PostgreSQL manual, section 19.5.
    tree.client.signal(libc::SIGINT).await.expect("signal");
    let ended = tree_is(&tree.client, |tree| matches!(tree, TreeState::Empty(_))).await;
    assert_eq!(ended, TreeState::Empty(Some(Exit::Code(0))));
    tree.assert_empties().await;
}

#[tokio::test]
async fn the_interlock_refuses_a_second_postmaster_of_another_namespace() {
    let server = Server::new();
    let tree = server.start().await;
    let other = Scene::new();
    let pid_file = server.scene.dir().join("data/postmaster.pid");
    let honest = std::fs::read_to_string(&pid_file).expect("postmaster.pid");
    let (pid, rest) = honest.split_once('\n').expect("lines");
    // In the second namespace the second postmaster is process 2 as well and takes the file for
    // its own, so that only the shared memory can tell.
    assert_eq!(pid, "2");
    for (case, text) in
        [("as is", Some(honest.clone())), ("dead", Some(format!("999999\n{rest}"))), ("gone", None)]
    {
        match text {
            Some(text) => std::fs::write(&pid_file, text).expect("write"),
            None => std::fs::remove_file(&pid_file).expect("remove"),
        }
        let second = other.spawn().await;
        let guard_pid = second.status().await.expect("status").guard_pid;
        let guard_start = process(guard_pid).expect("a guard").1;
        second.start(&server.spec(case)).await.expect("the program itself runs");
        let ended = tree_is(&second, |tree| matches!(tree, TreeState::Empty(_))).await;
        assert_eq!(ended, TreeState::Empty(Some(Exit::Code(1))), "{case}");
        let log = std::fs::read_to_string(server.scene.dir().join(case)).expect("log");
        assert!(log.contains("pre-existing shared memory block"), "{case}: {log}");
        second.exit().await.expect("exit");
        until("the second guard leaves", || (!is_alive(guard_pid, guard_start)).then_some(()))
            .await;
    }
    // The first looks after its file once a minute.
    std::fs::write(&pid_file, &honest).expect("write");
    assert!(is_alive(tree.init_pid, tree.members[&tree.init_pid]));
    assert_eq!(server.psql("select 1").as_deref(), Some("1"));
    tree.client.signal(libc::SIGINT).await.expect("signal");
    tree.assert_empties().await;
}
