//! What would start a server is found by what files say, turned off, and given back.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A machine in a directory, with systemd and a cluster of Debian's on `data`.
struct Bench {
    dir: tempfile::TempDir,
    machine: Machine,
    us: OsUser,
    postgres: OsUser,
}

fn mode_of(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let machine = Machine {
            debian: at("etc"),
            runtime_units: at("run"),
            local_units: at("local"),
            vendor_units: vec![at("vendor")],
            systemctl: at("systemctl"),
        };
        for made in ["etc/15/shop", "run", "local", "vendor", "data", "other", "aside"] {
            std::fs::create_dir_all(at(made)).unwrap();
        }
        let us = OsUser::current().unwrap();
        let bench = Bench { machine, postgres: us.clone(), us, dir };
        let conf = format!("data_directory = '{}'\n", bench.at("data").display());
        bench.put("etc/15/shop/postgresql.conf", &conf);
        // What `systemctl mask` does, and what it was asked.
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {0}/asked\ncase $1 in\nmask) ln -sf /dev/null {0}/local/$2;;\n\
             unmask) rm -f {0}/local/$2;;\nesac\n",
            bench.dir.path().display()
        );
        bench.put("systemctl", &script);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bench.at("systemctl"), mode).unwrap();
        bench
    }

    /// As Debian has it: we are root, and the configuration is that of PostgreSQL's user. `None`
    /// where we are not.
    fn of_root() -> Option<Self> {
        let mut bench = Bench::new();
        if bench.us.uid() != 0 {
            return None;
        }
        bench.postgres = OsUser::resolve(Some("nobody")).unwrap();
        mode_of(bench.dir.path(), 0o755);
        for theirs in ["etc", "etc/15", "etc/15/shop", "etc/15/shop/postgresql.conf"] {
            bench.give(theirs);
        }
        Some(bench)
    }

    fn give(&self, name: &str) {
        let (uid, gid) = (Some(self.postgres.uid()), Some(self.postgres.gid()));
        std::os::unix::fs::lchown(self.at(name), uid, gid).unwrap();
    }

    fn undo(&self) {
        let script = self.at("aside").join(UNDO);
        let path = format!("{}:/usr/bin:/bin", self.dir.path().display());
        let status = std::process::Command::new("sh").arg(script).env("PATH", path).status();
        assert!(status.unwrap().success());
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.at(name), text).unwrap();
    }

    fn get(&self, name: &str) -> String {
        std::fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn steps(&self) -> Vec<String> {
        let starters = self.machine.starters(&self.at("data"), &self.postgres).unwrap();
        let short = |s: &Starter| match s {
            Starter::StartConf { .. } => "start.conf".to_owned(),
            Starter::Unit { name, local } => {
                format!("{name}{}", if local.is_some() { " (local)" } else { "" })
            }
        };
        starters.iter().map(short).collect()
    }

    async fn turn_off(&self) -> Result<Option<String>, Error> {
        self.machine.turn_off(&self.at("data"), &self.at("aside"), &self.us, &self.postgres).await
    }
}

#[test]
fn start_conf_is_read_and_written_as_debian_does() {
    for (text, mode) in [
        ("# Automatic startup configuration\n#   auto: ...\n\nauto\n", Some("auto")),
        ("manual # by hand\n", Some("manual")),
        ("# auto\n  disabled \n", Some("disabled")),
        ("", Some("auto")),
        ("root:x:0:0\n", None),
    ] {
        assert_eq!(start_conf::said(text), mode, "{text:?}");
    }
    let new = start_conf::disabled(Path::new("/aside\nauto"));
    let bare = |l: &&str| !l.trim().is_empty() && !l.trim_start().starts_with('#');
    assert_eq!(new.lines().filter(bare).collect::<Vec<_>>(), ["disabled"], "{new}");
}

#[tokio::test]
async fn a_link_in_place_of_start_conf_gives_nothing_away() {
    let Some(bench) = Bench::of_root() else { return };
    let start_conf = bench.at("etc/15/shop/start.conf");
    bench.put("secret", "auto\nroot:x\n");
    mode_of(&bench.at("secret"), 0o640);
    symlink(bench.at("secret"), &start_conf).unwrap();
    let error = bench.turn_off().await.unwrap_err();
    assert!(matches!(error, Error::File(_)), "{error}");
    assert_eq!(bench.at("aside").read_dir().unwrap().count(), 0);

    // A link to what may be read is replaced, and nothing but the word is kept.
    mode_of(&bench.at("secret"), 0o644);
    bench.turn_off().await.unwrap().unwrap();
    assert_eq!(bench.get("secret"), "auto\nroot:x\n");
    assert!(!start_conf.is_symlink());
    let script = bench.get("aside/undo.sh");
    assert!(!script.contains("root:x") && script.contains(" auto '"), "{script}");

    // A link that waits for the one who undoes it.
    for planted in ["start.conf", "start.conf.undo"] {
        let planted = bench.at("etc/15/shop").join(planted);
        let _ = std::fs::remove_file(&planted);
        symlink(bench.at("secret"), &planted).unwrap();
    }
    bench.undo();
    assert_eq!(bench.get("secret"), "auto\nroot:x\n");
    assert_eq!(std::fs::read_to_string(&start_conf).unwrap(), "auto\n");
    let meta = std::fs::symlink_metadata(&start_conf).unwrap();
    let owner = std::os::unix::fs::MetadataExt::uid(&meta);
    assert!(meta.is_file() && owner == bench.postgres.uid(), "{meta:?}");
}

#[tokio::test]
async fn a_link_in_place_of_a_directory_leads_nowhere() {
    let Some(bench) = Bench::of_root() else { return };
    std::fs::rename(bench.at("etc/15/shop"), bench.at("victim")).unwrap();
    std::os::unix::fs::chown(bench.at("victim"), Some(0), Some(0)).unwrap();
    symlink(bench.at("victim"), bench.at("etc/15/shop")).unwrap();
    let before = bench.at("victim").read_dir().unwrap().count();
    let error = bench.turn_off().await.unwrap_err();
    assert!(matches!(error, Error::Hindered { .. }), "{error}");
    // It may come between the look and the change.
    let path = bench.at("etc/15/shop/start.conf");
    start_conf::disable(&path, Path::new("/undo"), &bench.postgres).unwrap_err();
    assert_eq!(bench.at("victim").read_dir().unwrap().count(), before);
    // A directory of root below one of another user is not safe to us, and not that user's.
    let hands = |dir: &str| {
        start_conf::hands(&bench.machine.debian, &bench.at(dir), &bench.us, &bench.postgres)
    };
    std::fs::create_dir(bench.at("etc/15/roots")).unwrap();
    assert_eq!(hands("etc/15/roots"), None);
    for dir in ["etc", "etc/15"] {
        std::os::unix::fs::chown(bench.at(dir), Some(0), Some(0)).unwrap();
    }
    assert_eq!(hands("etc/15/roots"), Some(&bench.us));
    assert_eq!(hands("etc/15/shop"), None);
}

#[test]
fn a_pipe_in_place_of_a_file_is_not_waited_for() {
    let bench = Bench::new();
    let pipe = bench.at("etc/15/shop/start.conf");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(bench.machine.starters(&bench.at("data"), &bench.postgres).is_err());
}

#[test]
fn a_cluster_of_debian_is_found_by_its_data() {
    let bench = Bench::new();
    let name =
        |data: &str| bench.machine.debian(&bench.at(data)).unwrap().first().map(Debian::unit);
    assert_eq!(name("data").as_deref(), Some("postgresql@15-shop.service"));
    assert_eq!(name("other"), None);
    // By another name of the directory.
    symlink(bench.at("data"), bench.at("link")).unwrap();
    assert!(name("link").is_some());
    // Where the configuration does not say it, the names do.
    bench.put("etc/15/shop/postgresql.conf", "port = 5433\n");
    assert_eq!(name("data"), None);
    std::fs::create_dir_all(bench.at("x/15/shop")).unwrap();
    assert!(name("x/15/shop").is_some());
}

#[test]
fn units_are_found_by_the_directory_that_they_start() {
    let bench = Bench::new();
    let data = bench.at("data").display().to_string();
    bench.put("vendor/postgresql@.service", "");
    bench.put("etc/15/shop/start.conf", "auto\n");
    assert_eq!(bench.steps(), ["start.conf", "postgresql@15-shop.service"]);
    bench.put("etc/15/shop/start.conf", "disabled\n");
    symlink("/dev/null", bench.at("local/postgresql@15-shop.service")).unwrap();
    assert_eq!(bench.steps(), Vec::<String>::new());

    let red_hat = "[Service]\nEnvironment=PGDATA=/nonexistent/data/\n\
                   ExecStartPre=/usr/libexec/check ${PGDATA}\nExecStart=/usr/bin/postmaster -D ${PGDATA}\n";
    bench.put("vendor/postgresql.service", red_hat);
    assert_eq!(bench.steps(), Vec::<String>::new(), "of another directory");
    std::fs::create_dir(bench.at("local/postgresql.service.d")).unwrap();
    let drop_in = format!("[Service]\nEnvironment=\"PGDATA={data}/\"\n");
    bench.put("local/postgresql.service.d/10.conf", &drop_in);
    assert_eq!(bench.steps(), ["postgresql.service"]);
    let other = format!("[Service]\nExecStart=-/usr/bin/pg_ctl -D {data} \\\n -w start\n");
    bench.put("local/mine.service", &other);
    assert_eq!(bench.steps(), ["mine.service (local)", "postgresql.service"]);
    // A unit that does something else with the directory, and another name of one.
    bench.put("vendor/save.service", &format!("[Service]\nExecStart=/bin/tar c {data}\n"));
    let reload = format!("[Service]\nExecStart=/usr/bin/pg_ctl -D {data} reload\n");
    bench.put("vendor/reload.service", &reload);
    symlink(bench.at("vendor/postgresql.service"), bench.at("local/db.service")).unwrap();
    assert_eq!(bench.steps().len(), 2);
    // Without systemd no unit starts anything.
    std::fs::remove_dir(bench.at("run")).unwrap();
    assert_eq!(bench.steps(), Vec::<String>::new());
}

#[test]
fn drop_ins_are_applied_as_systemd_does() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.at("etc")).unwrap();
    let (data, other) = (bench.at("data"), bench.at("other"));
    let (data, other) = (data.display(), other.display());
    for dir in ["vendor/pg.service.d", "local/pg.service.d", "local/service.d"] {
        std::fs::create_dir(bench.at(dir)).unwrap();
    }
    let unit = format!(
        "[Unit]\nExecStart=/x\n[Service]\n# ExecStart=/y\nEnvironment=A=b PGDATA={data}\n\
         ExecStart=/usr/bin/postmaster -D \\\n# a comment\n  ${{PGDATA}}\n"
    );
    bench.put("vendor/pg.service", &unit);
    let on = |what: &str| assert_eq!(bench.steps(), ["pg.service"], "{what}");
    let off = |what: &str| assert_eq!(bench.steps(), Vec::<String>::new(), "{what}");
    on("the unit alone");
    let moved = format!("[Service]\nEnvironment=PGDATA={other}\n");
    bench.put("vendor/pg.service.d/20.conf", &moved);
    off("the last one counts");
    symlink("/dev/null", bench.at("local/pg.service.d/20.conf")).unwrap();
    on("a drop-in is hidden by one of its name");
    bench.put("local/service.d/30.conf", &moved);
    off("a drop-in for all services");
    bench.put("vendor/pg.service.d/40.conf", &format!("[Service]\nEnvironment=PGDATA={data}/\n"));
    on("in the order of names");
    bench.put("local/pg.service.d/50.conf", "[Service]\nExecStart=\nExecStart=/bin/true\n");
    off("the list of commands is begun anew");
    bench.put("local/pg.service.d/50.conf", "[Service]\nEnvironment=\n");
    off("the environment is begun anew");
    bench.put("local/pg.service.d/50.conf", "");
    on("an empty one");
    // Until the machine is restarted only.
    symlink("/dev/null", bench.at("run/pg.service")).unwrap();
    on("a mask that ends is none");
    symlink("/dev/null", bench.at("local/pg.service")).unwrap();
    off("a mask");
}

#[test]
fn a_unit_that_is_linked_counts() {
    let bench = Bench::new();
    std::fs::remove_dir_all(bench.at("etc")).unwrap();
    let text = format!("[Service]\nExecStart=/x/postgres -D {}\n", bench.at("data").display());
    bench.put("other/mine.service", &text);
    symlink(bench.at("other/mine.service"), bench.at("local/mine.service")).unwrap();
    assert_eq!(bench.steps(), ["mine.service (local)"]);
    // One that leads nowhere is none.
    std::fs::remove_file(bench.at("other/mine.service")).unwrap();
    assert_eq!(bench.steps(), Vec::<String>::new());
}

#[tokio::test]
async fn all_clusters_of_debian_on_the_directory_are_turned_off() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("etc/15/twin")).unwrap();
    bench.put("etc/15/twin/postgresql.conf", &bench.get("etc/15/shop/postgresql.conf"));
    bench.put("vendor/postgresql@.service", "");
    assert_eq!(bench.steps().len(), 4, "{:?}", bench.steps());
    bench.turn_off().await.unwrap().unwrap();
    assert_eq!(bench.steps(), Vec::<String>::new());
    bench.undo();
    for cluster in ["shop", "twin"] {
        // There was none.
        assert!(!bench.at("etc/15").join(cluster).join("start.conf").exists());
    }
    // What cannot be understood may name this directory as well.
    bench.put("etc/15/twin/postgresql.conf", "= 3\n");
    let error = bench.machine.starters(&bench.at("data"), &bench.postgres).unwrap_err();
    assert!(matches!(error, Error::Unclear { .. }), "{error}");
}

#[tokio::test]
async fn what_cannot_be_turned_off_leaves_the_rest_as_it_is() {
    let bench = Bench::new();
    let text = format!("[Service]\nExecStart=/x/postgres -D {}\n", bench.at("data").display());
    bench.put("local/mine.service", &text);
    bench.put("etc/15/shop/start.conf", "auto\n");
    let error = bench.turn_off().await.unwrap_err();
    assert!(error.to_string().contains("systemctl disable mine.service"), "{error}");
    assert_eq!(bench.get("etc/15/shop/start.conf"), "auto\n");
}

#[test]
fn who_may_not_turn_it_off_says_what_to_run() {
    let unit = |local: Option<&str>| Starter::Unit {
        name: "postgresql.service".to_owned(),
        local: local.map(PathBuf::from),
    };
    let us = OsUser::current().unwrap();
    let bench = Bench::new();
    let said = |starter: &Starter, us: &OsUser| bench.machine.hindrance(starter, us, us);
    let local = unit(Some("/etc/systemd/system/postgresql.service"));
    let local = said(&local, &us).unwrap();
    assert!(local.contains("systemctl disable postgresql.service"), "{local}");
    let start_conf =
        Starter::StartConf { path: bench.at("etc/15/shop/start.conf"), mode: Some("auto") };
    assert_eq!(said(&start_conf, &us), None);
    if us.uid() == 0 {
        assert_eq!(said(&unit(None), &us), None);
        let other = OsUser::resolve(Some("nobody")).unwrap();
        let words = said(&unit(None), &other).unwrap();
        assert!(words.contains("run as root: systemctl mask postgresql.service"), "{words}");
        let words = said(&start_conf, &other).unwrap();
        assert!(words.contains("user nobody") && words.contains("write `disabled`"), "{words}");
    }
}

#[tokio::test]
async fn all_is_turned_off_once_and_given_back() {
    let bench = Bench::new();
    bench.put("vendor/postgresql@.service", "");
    let old = "# a comment\nauto\n";
    bench.put("etc/15/shop/start.conf", old);
    let told = bench.turn_off().await.unwrap().unwrap();
    assert!(told.contains("postgresql@15-shop.service is masked"), "{told}");
    assert!(bench.get("etc/15/shop/start.conf").ends_with("\ndisabled\n"));
    assert_eq!(bench.turn_off().await.unwrap(), None);
    assert_eq!(bench.get("asked"), "mask postgresql@15-shop.service\n");
    for _ in 0..2 {
        bench.undo();
        assert_eq!(bench.get("etc/15/shop/start.conf"), "auto\n");
    }
    assert!(bench.get("asked").ends_with("unmask postgresql@15-shop.service\n"));

    // Another time, with another content: the newest counts, and is there once.
    bench.put("etc/15/shop/start.conf", "manual\n");
    bench.turn_off().await.unwrap().unwrap();
    let lines = bench.get("aside/undo.sh");
    let count = |words: &str| lines.lines().filter(|l| l.starts_with(words)).count();
    assert_eq!((count("systemctl unmask "), count("start_conf ")), (1, 1));
    bench.undo();
    assert_eq!(bench.get("etc/15/shop/start.conf"), "manual\n");
    // There was no file.
    std::fs::remove_file(bench.at("etc/15/shop/start.conf")).unwrap();
    bench.turn_off().await.unwrap().unwrap();
    for _ in 0..2 {
        bench.undo();
        assert!(!bench.at("etc/15/shop/start.conf").exists());
    }
    // The whole cluster is gone.
    std::fs::remove_dir_all(bench.at("etc/15")).unwrap();
    bench.undo();
}

#[tokio::test]
async fn what_was_not_turned_off_is_an_error() {
    let bench = Bench::new();
    bench.put("vendor/postgresql@.service", "");
    let mode = std::fs::Permissions::from_mode(0o755);
    bench.put("systemctl", "#!/bin/sh\necho Access denied >&2\nexit 1\n");
    std::fs::set_permissions(bench.at("systemctl"), mode).unwrap();
    let error = bench.turn_off().await.unwrap_err().to_string();
    assert!(error.contains("done before") && error.contains("undo.sh"), "{error}");
    assert!(error.contains("Access denied") && error.contains("run as root"), "{error}");
    bench.put("systemctl", "#!/bin/sh\n");
    let error = bench.turn_off().await.unwrap_err();
    assert!(matches!(error, Error::StillOn { .. }), "{error}");
}
