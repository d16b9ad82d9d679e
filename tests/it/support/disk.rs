//! File systems of a bounded size, in memory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const BLOCK: usize = 64 << 10;

/// A mounted one. Dropping it takes it away.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one with so many MiB; `None` where the machine does not permit that.
    pub fn mount(at: &Path, mib: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(at).expect("a directory");
        let mut command = Command::new("mount");
        let options = format!("size={mib}m,mode=0755");
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at);
        command.status().is_ok_and(|s| s.success()).then(|| SmallDisk(at.to_path_buf()))
    }

    fn ballast(&self) -> PathBuf {
        self.0.join("operators-file")
    }

    /// Bytes that are free.
    pub fn free(&self) -> u64 {
        let path = std::ffi::CString::new(self.0.to_str().expect("UTF-8")).expect("no NUL");
        // SAFETY: a zeroed statvfs is valid, and the path is a C string.
        let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: both pointers live for the call.
        let done = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
        assert_eq!(done, 0, "statvfs");
        found.f_bavail * found.f_frsize
    }

    /// An operator's file grows until so many bytes are left, or until nothing is.
    pub fn fill_to(&self, free: u64) {
        let mut options = std::fs::File::options();
        let mut file = options.create(true).append(true).open(self.ballast()).expect("a file");
        let block = vec![0; BLOCK];
        while self.free() > free + BLOCK as u64 {
            if file.write_all(&block).is_err() {
                break;
            }
        }
        if free == 0 {
            while file.write_all(&block).is_ok() {}
            // The last bytes of the last block too.
            while file.write_all(&block[..512]).is_ok() {}
        }
    }

    /// The operator removes it.
    pub fn empty(&self) {
        std::fs::remove_file(self.ballast()).expect("it is removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // At once, whoever still uses it: the processes are ended after it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
