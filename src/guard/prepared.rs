//! A start specification in the form that system calls take.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use super::spec::{Credentials, StartSpec};

/// Strings that end in NUL and arrays that end in null, made before the fork: a forked process
/// only points at them.
pub struct Prepared {
    /// Path of the program.
    pub program: CString,
    /// Arguments.
    pub argv: CStrings,
    /// Environment, as `NAME=value`.
    pub env: CStrings,
    /// User and groups to change to.
    pub credentials: Option<Credentials>,
    /// Working directory.
    pub working_dir: CString,
    /// File for standard output and error.
    pub log_file: CString,
    /// File mode creation mask.
    pub umask: libc::mode_t,
    /// The guard protects itself from the out-of-memory killer; its child gets back the value
    /// that the guard was started with.
    pub oom_score_adj: Option<CString>,
}

/// An array of C strings for `execve(2)`.
pub struct CStrings {
    // Keeps the strings that `pointers` points at.
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl CStrings {
    fn new(strings: Vec<CString>) -> CStrings {
        // The characters of a CString are on the heap: moving the vector does not move them.
        let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr()).collect();
        pointers.push(ptr::null());
        CStrings { _strings: strings, pointers }
    }

    /// The array, with a null pointer at its end.
    pub fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr()
    }
}

impl Prepared {
    /// Converts `spec`; fails where a text holds a NUL.
    pub fn new(spec: &StartSpec, oom_score_adj: Option<&str>) -> io::Result<Prepared> {
        let c = |s: &OsStr| CString::new(s.as_bytes());
        let argv = spec.argv.iter().map(|s| CString::new(s.as_str()));
        let env = spec.env.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
        Ok(Prepared {
            program: c(spec.program.as_os_str())?,
            argv: CStrings::new(argv.collect::<Result<_, _>>()?),
            env: CStrings::new(env.collect::<Result<_, _>>()?),
            credentials: spec.credentials.clone(),
            working_dir: c(spec.working_dir.as_os_str())?,
            log_file: c(spec.log_file.as_os_str())?,
            umask: spec.umask & 0o777,
            oom_score_adj: oom_score_adj.map(CString::new).transpose()?,
        })
    }
}
