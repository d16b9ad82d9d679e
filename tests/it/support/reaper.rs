//! Ends the processes of a test that was itself killed and could not clean up.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Tells a reaper from what it looks for.
pub const MARK: &str = "quorate-test-reaper";

/// A small process of its own session that waits for the end of this one.
pub struct Reaper(Child);

/// Kills every process that runs in the directory or names it, twice: the first round may have
/// missed one that was being started. Removes the directory.
const SCRIPT: &str = r#"
cat >/dev/null
[ -d "$1" ] || exit 0
for round in 1 2 3; do
  for p in /proc/[0-9]*; do
    pid=${p#/proc/}
    [ "$pid" != $$ ] || continue
    line=$(tr '\0' ' ' <"$p/cmdline" 2>/dev/null)
    case $line in *quorate-test-reaper*) continue ;; esac
    case "$(readlink "$p/cwd" 2>/dev/null) $line" in
      *"$1"*) kill -KILL "$pid" 2>/dev/null ;;
    esac
  done
  sleep 0.5
done
rm -rf "$1"
"#;

impl Reaper {
    /// Watches over the processes of `dir`.
    pub fn watch(dir: &Path) -> Reaper {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SCRIPT, MARK]).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: setsid is async-signal-safe, and touches nothing of this process.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            })
        };
        Reaper(command.spawn().expect("/bin/sh can be started"))
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        // What it waits for: nobody holds the other end of its standard input any more.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
