//! What would start a server is found by what files say, turned off, and given back.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A machine in a directory, with systemd and a cluster of Debian's on `data`.
struct Bench {
    dir: tempfile::TempDir,
    machine: Machine,
    us: OsUser,
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
        let bench = Bench { machine, us: OsUser::current().unwrap(), dir };
        let conf = format!("data_directory = '{}'\n", bench.at("data").display());
        bench.put("etc/15/shop/postgresql.conf", &conf);
        // What `systemctl mask` does, and what it was asked.
        let script = format!(
            "#!/bin/sh\necho \"$@\" >> {0}/asked\ncase $1 in\nmask) ln -sf /dev/null {0}/local/$2;;\n\
             unmask) rm {0}/local/$2;;\nesac\n",
            bench.dir.path().display()
        );
        bench.put("systemctl", &script);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(bench.at("systemctl"), mode).unwrap();
        bench
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
        let starters = self.machine.starters(&self.at("data")).unwrap();
        let short = |s: &Starter| match s {
            Starter::StartConf { .. } => "start.conf".to_owned(),
            Starter::Unit { name, local } => {
                format!("{name}{}", if local.is_some() { " (local)" } else { "" })
            }
        };
        starters.iter().map(short).collect()
    }

    async fn turn_off(&self) -> Result<Option<String>, Error> {
        self.machine.turn_off(&self.at("data"), &self.at("aside"), &self.us, &self.us).await
    }
}

#[test]
fn start_conf_is_read_and_written_as_debian_does() {
    for (text, mode) in [
        ("# Automatic startup configuration\n#   auto: ...\n\nauto\n", "auto"),
        ("manual # by hand\n", "manual"),
        ("# auto\n  disabled \n", "disabled"),
        ("", "auto"),
    ] {
        assert_eq!(start_mode(text), mode, "{text:?}");
        let new = disabled(text, Path::new("/aside"));
        assert_eq!(start_mode(&new), "disabled");
        let bare = |l: &&str| !l.trim().is_empty() && !l.trim_start().starts_with('#');
        assert_eq!(new.lines().filter(bare).collect::<Vec<_>>(), ["disabled"], "{new}");
        for comment in text.lines().filter(|l| l.starts_with('#')) {
            assert!(new.contains(comment), "{new}");
        }
    }
}

#[test]
fn a_cluster_of_debian_is_found_by_its_data() {
    let bench = Bench::new();
    let name = |data: &str| bench.machine.debian(&bench.at(data)).map(|d| d.unit());
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
fn who_may_not_turn_it_off_says_what_to_run() {
    let unit = |local: Option<&str>| Starter::Unit {
        name: "postgresql.service".to_owned(),
        local: local.map(PathBuf::from),
    };
    let us = OsUser::current().unwrap();
    let local = unit(Some("/etc/systemd/system/postgresql.service")).hindrance(&us).unwrap();
    assert!(local.contains("systemctl disable postgresql.service"), "{local}");
    if us.uid() != 0 {
        assert!(unit(None).hindrance(&us).unwrap().contains("systemctl mask postgresql.service"));
        return;
    }
    assert_eq!(unit(None).hindrance(&us), None);
    let bench = Bench::new();
    let path = bench.at("etc/15/shop/start.conf");
    assert_eq!(Starter::StartConf { path }.hindrance(&us), None);
}

#[tokio::test]
async fn all_is_turned_off_once_and_given_back() {
    let bench = Bench::new();
    bench.put("vendor/postgresql@.service", "");
    let old = "# a comment\nauto\n";
    bench.put("etc/15/shop/start.conf", old);
    let told = bench.turn_off().await.unwrap().unwrap();
    assert!(told.contains("postgresql@15-shop.service is masked"), "{told}");
    assert_eq!(start_mode(&bench.get("etc/15/shop/start.conf")), "disabled");
    assert_eq!(bench.get("aside/start.conf"), old);
    assert_eq!(bench.turn_off().await.unwrap(), None);
    assert_eq!(bench.get("asked"), "mask postgresql@15-shop.service\n");

    let run = || {
        let script = bench.at("aside").join(UNDO);
        let path = format!("{}:/usr/bin:/bin", bench.dir.path().display());
        let status = std::process::Command::new("sh").arg(script).env("PATH", path).status();
        assert!(status.unwrap().success());
    };
    run();
    assert_eq!(bench.get("etc/15/shop/start.conf"), old);
    assert!(bench.get("asked").ends_with("unmask postgresql@15-shop.service\n"));

    // Another time, with another content, and where there was no file.
    bench.put("etc/15/shop/start.conf", "manual\n");
    bench.turn_off().await.unwrap().unwrap();
    assert_eq!(bench.get("aside/start.conf"), "manual\n");
    assert_eq!(bench.get("aside/undo.sh").matches("unmask").count(), 1);
}

#[tokio::test]
async fn what_was_not_turned_off_is_an_error() {
    let bench = Bench::new();
    bench.put("vendor/postgresql@.service", "");
    let mode = std::fs::Permissions::from_mode(0o755);
    bench.put("systemctl", "#!/bin/sh\necho Access denied >&2\nexit 1\n");
    std::fs::set_permissions(bench.at("systemctl"), mode).unwrap();
    let error = bench.turn_off().await.unwrap_err().to_string();
    assert!(error.contains("Access denied") && error.contains("run as root"), "{error}");
    bench.put("systemctl", "#!/bin/sh\n");
    let error = bench.turn_off().await.unwrap_err();
    assert!(matches!(error, Error::StillOn { .. }), "{error}");
}
