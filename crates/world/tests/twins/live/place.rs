//! Where real servers live: programs, user, directories, ports, and the data directory that all
//! of them descend from.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;

/// The size of a WAL segment. Small ones keep the copies small.
pub const SEGMENT: u64 = 1 << 20;

/// The first part of the template's name. It goes on with the version of PostgreSQL, and with a
/// sum of the settings, which are part of it.
const TEMPLATE: &str = "twins-template-2";

/// The programs, the user that runs them, and a directory that is removed in the end.
pub struct Place {
    bin: PathBuf,
    /// Uid and gid to change to; `None` where we are not root.
    user: Option<(u32, u32)>,
    root: tempfile::TempDir,
}

impl Place {
    /// Finds the programs and makes the directory.
    pub fn new() -> Self {
        let user = nix::unistd::geteuid().is_root().then(|| {
            let user = User::from_name("postgres").unwrap().expect("a user named postgres");
            (user.uid.as_raw(), user.gid.as_raw())
        });
        // Servers sync their files as they do in production. In memory that takes no time; and
        // nothing here ends the machine, so the difference cannot be seen.
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
        let root = tempfile::Builder::new().prefix("quorate-twins-").tempdir_in(parent).unwrap();
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { bin: find_programs(), user, root };
        place.own(place.root.path());
        place
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The data directory of a server.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A program of PostgreSQL, to be run as the right user, without our environment.
    pub fn program(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("PATH", &self.bin).env("TZ", "UTC").env("LC_ALL", "C");
        command.current_dir(self.root()).stdin(Stdio::null());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Removes the System V shared memory of a server that was killed: nobody else does. Its number
    /// is in the lock file (`miscinit.c`, `AddToDataDirLockFile`: line 7).
    pub fn remove_shared_memory(&self, data: &Path) {
        let lock = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
        let number = lock.lines().nth(6).and_then(|l| l.split_ascii_whitespace().nth(1));
        if let Some(number) = number.and_then(|n| n.parse().ok()) {
            // SAFETY: integers, and a null pointer that this operation does not read. Failure
            // means that it is gone already.
            unsafe { libc::shmctl(number, libc::IPC_RMID, std::ptr::null_mut()) };
        }
    }

    /// Gives a file or directory to the user that runs the programs.
    pub fn own(&self, path: &Path) {
        if let Some((uid, gid)) = self.user {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Writes a file that the servers own.
    pub fn write(&self, path: &Path, text: &str) {
        fs::write(path, text).unwrap();
        self.own(path);
    }

    /// Makes a data directory as a copy of the template.
    pub fn copy_template(&self, data: &Path) {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let version = self.run("postgres", ["--version"]);
        let version = version.split_ascii_whitespace().nth(2).expect("a version");
        let sum = super::conf::sum();
        let template = dir.join(format!("{TEMPLATE}-{version}-{sum:08x}"));
        let lock = File::create(dir.join(format!("{TEMPLATE}.lock"))).unwrap();
        lock.lock().unwrap();
        if !template.is_dir() {
            let made = self.data("template");
            self.initdb(&made);
            let half = dir.join(format!("{TEMPLATE}.half"));
            let _ = fs::remove_dir_all(&half);
            self.copy(&made, &half);
            fs::rename(&half, &template).unwrap();
            fs::remove_dir_all(&made).unwrap();
        }
        drop(lock);
        self.copy(&template, data);
    }

    /// Makes a data directory with an empty table `t`.
    fn initdb(&self, data: &Path) {
        let segment = format!("--wal-segsize={}", SEGMENT >> 20);
        let fixed = ["-A", "trust", "-U", "postgres", "--no-sync", "--no-instructions"];
        let variable = ["--locale=C", "-E", "UTF8", &segment, "-D", data.to_str().unwrap()];
        self.run("initdb", fixed.into_iter().chain(variable));
        // A standby compares its limits with those that the WAL names.
        let settings = super::conf::Conf::default().text("template", 1024, None);
        self.write(&data.join("postgresql.conf"), &settings);
        let mut single = self.program("postgres");
        single.args(["--single", "-F", "-D", data.to_str().unwrap(), "postgres"]);
        single.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = single.spawn().unwrap();
        // Frozen catalogs: reading them later writes no hints, and so no WAL.
        let sql = b"CREATE TABLE t (row bigint NOT NULL, filler text)\nVACUUM FREEZE\n";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), sql).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a program to its end and gives its output; panics if it fails.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, args: impl IntoIterator<Item = A>) -> String {
        let output = self.program(program).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{program}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// Copies a directory with all that is in it, for the user that runs the programs.
    pub fn copy(&self, from: &Path, to: &Path) {
        fs::create_dir(to).unwrap();
        fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
        self.own(to);
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.metadata().unwrap().is_dir() {
                self.copy(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), &target).unwrap();
                self.own(&target);
            }
        }
    }
}

/// A port that nobody uses now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The directory of the programs: `PGBIN`, or else of the newest version.
fn find_programs() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGBIN") {
        return dir.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL, or PGBIN set");
    versions
        .filter_map(|v| {
            let bin = v.ok()?.path().join("bin");
            let major: u32 = bin.parent()?.file_name()?.to_str()?.parse().ok()?;
            let runs = bin.join("postgres").metadata().is_ok_and(|m| m.mode() & 0o111 != 0);
            runs.then_some((major, bin))
        })
        .max()
        .expect("PostgreSQL, or PGBIN set")
        .1
}
