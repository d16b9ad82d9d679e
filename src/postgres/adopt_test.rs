//! What somebody else configured is read, kept, and gives nothing away.

use super::aside::{ASIDE_MAX, CLEARED, keep_aside};
use super::*;
use crate::postgres::conf::{self, HEADER};

#[test]
fn lines_are_read_like_postgresql_reads_them() {
    let pair = |n: &str, v: &str| Ok(Some((n.to_owned(), v.to_owned())));
    let cases = [
        ("work_mem = 4MB", pair("work_mem", "4MB")),
        ("  Work_Mem 4MB # more", pair("work_mem", "4MB")),
        ("search_path='\"it''s\", x' # y", pair("search_path", "\"it's\", x")),
        ("a.b = 'x\\'y\\\\'", pair("a.b", "x'y\\")),
        ("port=5432#x", pair("port", "5432")),
        ("# comment", Ok(None)),
        ("", Ok(None)),
    ];
    for (line, want) in cases {
        assert_eq!(setting(line), want, "{line}");
    }
    for bad in ["= 3", "x = 'open", "x = '\\q'"] {
        assert!(setting(bad).is_err(), "{bad}");
    }
}

#[test]
fn includes_are_followed_and_what_is_ours_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    std::fs::create_dir(dir.path().join("conf.d")).unwrap();
    let main = "work_mem = 4MB\nport = 5433\nfsync = off\ninclude_dir 'conf.d'\n\
                include_if_exists 'none.conf'\ndata_directory = '/x'\n";
    put("postgresql.conf", main);
    put("conf.d/10.conf", "work_mem = 8MB\nstatement_timeout = '5s'\n");
    put("conf.d/20.txt", "work_mem = 16MB\n");
    put("postgresql.auto.conf", "statement_timeout = '7s'\nprimary_conninfo = 'password=x'\n");
    put("pg_hba.conf", "# x\nhost all all 10.0.0.0/8 md5\nhost all all\n");
    let found = read(dir.path(), &places(dir.path(), &Machine::default())).unwrap();
    let want = [("statement_timeout", "7s"), ("work_mem", "8MB")];
    assert_eq!(found.parameters, want.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    assert_eq!(found.hba, ["host all all 10.0.0.0/8 md5"]);
    let left = found.left_out.join("; ");
    for name in ["port", "fsync", "data_directory", "primary_conninfo", "too few"] {
        assert!(left.contains(name), "{name}: {left}");
    }
    assert!(!left.contains("password"), "{left}");
}

#[test]
fn a_checkpoint_ends_where_a_standby_says_that_it_ends() {
    let end = |at: u64| end_of_checkpoint(Lsn(at), 16 << 20).0;
    // Seen with PostgreSQL 15.
    assert_eq!(end(0x0300_88A0), 0x0300_8918);
    assert_eq!(end(8192 - 120), 8192);
    assert_eq!(end(8192 - 112), 8192 + PAGE_HEADER + 8);
    assert_eq!(end((16 << 20) - 64), (16 << 20) + SEGMENT_HEADER + 56);
}

#[test]
fn rules_are_read_where_the_configuration_says_and_all_is_kept_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (data, other) = (dir.path().join("data"), dir.path().join("other"));
    for made in [&data, &other] {
        std::fs::create_dir(made).unwrap();
    }
    let put = |path: &Path, text: &str| std::fs::write(path, text).unwrap();
    let (hba, ident) = (other.join("rules"), other.join("map"));
    let main = format!("hba_file = '{}'\nident_file = '{}'\n", hba.display(), ident.display());
    put(&data.join("postgresql.conf"), &main);
    put(&data.join("pg_hba.conf"), "host all all 10.0.0.0/8 trust\n");
    put(&hba, "host all all 10.0.0.0/8 scram-sha-256\n");
    put(&ident, "# x\nm root postgres\nm root\n");
    let found = read(&data, &places(&data, &Machine::default())).unwrap();
    assert_eq!(found.hba, ["host all all 10.0.0.0/8 scram-sha-256"]);
    assert_eq!(found.ident, ["m root postgres"]);
    assert_eq!(found.problems, Vec::<String>::new());
    let user = OsUser::current().unwrap();
    let aside = dir.path().join("aside");
    keep_aside(&data, &aside, &user, &user).unwrap();
    for (name, text) in [("pg_hba.conf", "scram"), ("pg_ident.conf", "m root")] {
        assert!(std::fs::read_to_string(aside.join(name)).unwrap().contains(text), "{name}");
    }

    // Adopted once more, with another configuration, and with ours.
    put(&hba, "host all all 10.1.0.0/16 md5\n");
    put(&data.join("postgresql.auto.conf"), HEADER);
    put(&data.join("postgresql.base.conf"), std::str::from_utf8(CLEARED).unwrap());
    for _ in 0..2 {
        keep_aside(&data, &aside, &user, &user).unwrap();
    }
    let mut kept: Vec<_> =
        aside.read_dir().unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    kept.sort();
    assert_eq!(kept, ["pg_hba.conf", "pg_hba.conf.2", "pg_ident.conf", "postgresql.conf"]);

    for (line, problem) in [
        ("hba_file = '/nonexistent/hba'", "cannot be read"),
        ("hba_file = 'pg_hba.conf'", "whole path"),
        ("ident_file = '/nonexistent/ident'", "cannot be read"),
        ("data_directory = '/nonexistent'", "data_dir of"),
    ] {
        put(&data.join("postgresql.conf"), line);
        let found = read(&data, &places(&data, &Machine::default())).unwrap();
        assert!(found.problems.join("; ").contains(problem), "{line}: {:?}", found.problems);
    }
    put(&data.join("postgresql.conf"), "");
    std::fs::remove_file(data.join("pg_hba.conf")).unwrap();
    assert_eq!(read(&data, &places(&data, &Machine::default())).unwrap().problems.len(), 1);
}

#[test]
fn what_was_edited_or_included_is_kept_and_nothing_falls_out() {
    let dir = tempfile::tempdir().unwrap();
    let (data, aside) = (dir.path().join("data"), dir.path().join("aside"));
    std::fs::create_dir(&data).unwrap();
    let put = |name: &str, text: &str| std::fs::write(data.join(name), text).unwrap();
    let user = OsUser::current().unwrap();
    let keep = || keep_aside(&data, &aside, &user, &user);
    put("postgresql.conf", &format!("{}work_mem = 1MB\n", conf::render_main()));
    put("quorate.spec.conf", HEADER);
    put("quorate.conf", &format!("{HEADER}port = 1\n"));
    put("pg_hba.conf", &format!("{HEADER}host all all all md5\n"));
    put("postgresql.base.conf", "include 'more.conf'\n");
    put("more.conf", "work_mem = 2MB\n");
    keep().unwrap();
    let kept = |name: &str| std::fs::read_to_string(aside.join(name)).unwrap_or_default();
    assert!(kept("postgresql.conf").ends_with("work_mem = 1MB\n"));
    assert!(kept("pg_hba.conf").ends_with("md5\n"));
    let more = data.join("more.conf").display().to_string();
    assert_eq!(kept(&more[1..].replace('/', "%")), "work_mem = 2MB\n");
    assert_eq!(aside.read_dir().unwrap().count(), 4, "ours are not kept");
    put("postgresql.conf", &conf::render_main());
    keep().unwrap();
    assert_eq!(aside.read_dir().unwrap().count(), 4);

    for number in 2..=ASIDE_MAX {
        put("pg_hba.conf", &format!("# {number}\n"));
        keep().unwrap();
    }
    put("pg_hba.conf", "# one more\n");
    let error = keep().unwrap_err().to_string();
    assert!(error.contains("pg_hba.conf: 9 versions") && error.contains("move"), "{error}");
}

#[test]
fn rules_of_our_form_are_left_out_and_told() {
    let rule = |line: &str| line.to_owned();
    let ours = "host replication \"r\" 10.9.9.9/32 scram-sha-256";
    let mut found =
        Found { hba: vec![rule(ours), rule("host all all all md5")], ..Found::default() };
    found.leave_out_ours("s", "r", "w");
    assert_eq!(found.hba, ["host all all all md5"]);
    assert!(found.left_out.len() == 1 && found.left_out[0].contains("10.9.9.9"));
}

#[test]
fn an_include_of_what_the_user_may_not_read_gives_nothing_away() {
    let Ok(user) = OsUser::resolve(Some("nobody")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(path, mode).unwrap();
    };
    let (data, secret) = (dir.path().join("data"), dir.path().join("secret"));
    std::fs::create_dir(&data).unwrap();
    for dir in [dir.path(), &data] {
        mode(dir, 0o755);
    }
    std::fs::write(&secret, "root:$6$secret\n").unwrap();
    mode(&secret, 0o640);
    std::os::unix::fs::symlink(&secret, data.join("pg_hba.conf")).unwrap();
    std::fs::write(data.join("postgresql.conf"), "include '../secret'\n").unwrap();
    let look = || read(&data, &places(&data, &Machine::default()));
    assert!(files::as_user(&user, &data, look).is_err());
    let aside = dir.path().join("aside");
    keep_aside(&data, &aside, &OsUser::current().unwrap(), &user).unwrap_err();
    assert!(!aside.exists());
}

#[test]
fn which_of_two_configurations_is_meant_is_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let (data, etc) = (dir.path().join("data"), dir.path().join("etc"));
    std::fs::create_dir(&data).unwrap();
    let machine = Machine { debian: etc.clone(), ..Machine::default() };
    for name in ["main", "twin"] {
        std::fs::create_dir_all(etc.join("15").join(name)).unwrap();
        let text = format!("data_directory = '{}'\n", data.display());
        std::fs::write(etc.join("15").join(name).join("postgresql.conf"), text).unwrap();
        let places = places(&data, &machine);
        assert_eq!(places.main, etc.join("15/main/postgresql.conf"));
        assert_eq!(places.problems.len(), usize::from(name == "twin"), "{places:?}");
    }
    std::fs::write(etc.join("15/twin/postgresql.conf"), "= 3\n").unwrap();
    assert!(places(&data, &machine).problems[0].contains("cannot be found out"));
}

#[test]
fn an_include_of_itself_ends() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("postgresql.conf"), "include 'postgresql.conf'\n").unwrap();
    assert!(read(dir.path(), &places(dir.path(), &Machine::default())).is_err());
    let twice = "include 'postgresql.conf'\n".repeat(2);
    std::fs::write(dir.path().join("postgresql.conf"), twice).unwrap();
    assert!(read(dir.path(), &places(dir.path(), &Machine::default())).is_err());
}
