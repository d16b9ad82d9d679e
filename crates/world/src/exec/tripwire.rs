//! Catches real time and real randomness while a world runs.
//!
//! Owns the switch (whether simulated code runs on this thread) and what happens when such code
//! asks the operating system for the time or for random bytes: the process aborts, and says who
//! asked. A binary takes part by [`tripwire!`](crate::tripwire), which puts functions of its own in
//! the place of the C library's; everything in the process that is linked to that library, Rust's
//! standard library first of all, calls these.
//!
//! The keys of Rust's hash maps are the exception: the standard library asks for them once a
//! thread. Simulated code then gets fixed ones, and [`hash_keys`] counts it. A map whose order
//! matters still makes two runs on one thread differ, since its keys count up from there.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

#[doc(hidden)]
pub use libc;

thread_local! {
    static ARMED: Cell<bool> = const { Cell::new(false) };
}

static HASH_KEYS: AtomicU64 = AtomicU64::new(0);

/// Restores the switch when it is dropped.
pub(crate) struct Switched(bool);

impl Drop for Switched {
    fn drop(&mut self) {
        ARMED.set(self.0);
    }
}

/// Arms the wire for this thread.
pub(crate) fn arm() -> Switched {
    Switched(ARMED.replace(true))
}

/// Runs code of whoever runs the world, which may read real clocks.
pub(crate) fn disarmed<T>(f: impl FnOnce() -> T) -> T {
    let _switched = Switched(ARMED.replace(false));
    f()
}

/// Whether simulated code runs on this thread.
pub fn is_armed() -> bool {
    // A thread that ends runs none.
    ARMED.try_with(Cell::get).unwrap_or(false)
}

/// How often simulated code asked for keys of hash maps, in the whole process. Once a thread is
/// what the standard library does.
pub fn hash_keys() -> u64 {
    HASH_KEYS.load(Ordering::Relaxed)
}

/// Aborts if simulated code runs on this thread.
fn check(function: &str) {
    if !is_armed() {
        return;
    }
    ARMED.set(false);
    let whose = super::core::Core::try_current()
        .map(|core| format!(" of {} at {} ns", core.describe(core.scope.get()), core.now.get()));
    let whose = whose.unwrap_or_default();
    let backtrace = std::backtrace::Backtrace::force_capture();
    eprintln!("tripwire: simulated code{whose} calls {function}: a seed is not one run any more");
    eprintln!("{backtrace}");
    std::process::abort();
}

/// The kernel's clock_gettime(2), for code that is not simulated.
///
/// # Safety
/// As clock_gettime(2): `time` has to be valid for writing.
pub unsafe fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    check("clock_gettime");
    // SAFETY: the caller's pointer goes to the kernel as it is, which checks it.
    unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) as libc::c_int }
}

/// The kernel's gettimeofday(2), for code that is not simulated.
///
/// # Safety
/// As gettimeofday(2): each pointer has to be null or valid for writing.
pub unsafe fn gettimeofday(time: *mut libc::timeval, zone: *mut c_void) -> libc::c_int {
    check("gettimeofday");
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_gettimeofday, time, zone) as libc::c_int }
}

/// time(2), for code that is not simulated.
///
/// # Safety
/// As time(2): `time` has to be null or valid for writing.
pub unsafe fn time(time: *mut libc::time_t) -> libc::time_t {
    check("time");
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is ours, and `time` is written only where there is something.
    unsafe {
        libc::syscall(libc::SYS_clock_gettime, libc::CLOCK_REALTIME, &mut now);
        if !time.is_null() {
            *time = now.tv_sec;
        }
    }
    now.tv_sec
}

/// The kernel's nanosleep(2), for code that is not simulated.
///
/// # Safety
/// As nanosleep(2): `span` has to be valid, `left` null or valid for writing.
pub unsafe fn nanosleep(span: *const libc::timespec, left: *mut libc::timespec) -> libc::c_int {
    check("nanosleep");
    // SAFETY: as above.
    unsafe { libc::syscall(libc::SYS_nanosleep, span, left) as libc::c_int }
}

/// The kernel's clock_nanosleep(2), for code that is not simulated. Returns the error's number, as
/// the C library's does.
///
/// # Safety
/// As clock_nanosleep(2): `span` has to be valid, `left` null or valid for writing.
pub unsafe fn clock_nanosleep(
    clock: libc::clockid_t,
    flags: libc::c_int,
    span: *const libc::timespec,
    left: *mut libc::timespec,
) -> libc::c_int {
    check("clock_nanosleep");
    // SAFETY: as above; errno is this thread's.
    unsafe {
        let rc = libc::syscall(libc::SYS_clock_nanosleep, clock, flags, span, left);
        if rc == 0 { 0 } else { *libc::__errno_location() }
    }
}

/// The kernel's getrandom(2), for code that is not simulated. Keys of hash maps are fixed ones for
/// code that is: only the standard library asks with GRND_INSECURE, and only for those.
///
/// # Safety
/// As getrandom(2): `buffer` has to be valid for writing `length` bytes.
pub unsafe fn getrandom(
    buffer: *mut c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if is_armed() && flags & libc::GRND_INSECURE != 0 {
        HASH_KEYS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { std::ptr::write_bytes(buffer.cast::<u8>(), 0x5a, length) };
        return length as libc::ssize_t;
    }
    check("getrandom");
    // SAFETY: the caller's promise.
    unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as libc::ssize_t }
}

/// Puts the tripwire into a binary: once, at the top of its main file, and in no library.
///
/// While a world runs on a thread, whatever reads a real clock, sleeps in real time or draws real
/// randomness on that thread aborts the process with a message and a backtrace.
#[macro_export]
macro_rules! tripwire {
    () => {
        /// Functions of the C library, with a check before them.
        mod tripwire_functions {
            use $crate::exec::tripwire::{self, libc};

            #[unsafe(no_mangle)]
            unsafe extern "C" fn clock_gettime(
                clock: libc::clockid_t,
                time: *mut libc::timespec,
            ) -> libc::c_int {
                // SAFETY: the same contract.
                unsafe { tripwire::clock_gettime(clock, time) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn gettimeofday(
                time: *mut libc::timeval,
                zone: *mut libc::c_void,
            ) -> libc::c_int {
                // SAFETY: the same contract.
                unsafe { tripwire::gettimeofday(time, zone) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn time(time: *mut libc::time_t) -> libc::time_t {
                // SAFETY: the same contract.
                unsafe { tripwire::time(time) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn nanosleep(
                span: *const libc::timespec,
                left: *mut libc::timespec,
            ) -> libc::c_int {
                // SAFETY: the same contract.
                unsafe { tripwire::nanosleep(span, left) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn clock_nanosleep(
                clock: libc::clockid_t,
                flags: libc::c_int,
                span: *const libc::timespec,
                left: *mut libc::timespec,
            ) -> libc::c_int {
                // SAFETY: the same contract.
                unsafe { tripwire::clock_nanosleep(clock, flags, span, left) }
            }

            #[unsafe(no_mangle)]
            unsafe extern "C" fn getrandom(
                buffer: *mut libc::c_void,
                length: libc::size_t,
                flags: libc::c_uint,
            ) -> libc::ssize_t {
                // SAFETY: the same contract.
                unsafe { tripwire::getrandom(buffer, length, flags) }
            }
        }
    };
}
