//! What the figures were measured on.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::figures::Series;
use super::since_ms;
use super::support::{hactl_bin, hanode_bin};

/// Directory of PostgreSQL's programs: `PGBIN` where it is set, else the newest of Debian's, else
/// what `pg_config` says.
pub fn postgres_bin() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGBIN") {
        return dir.into();
    }
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|e| Some((e.file_name().to_str()?.parse::<u32>().ok()?, e.path().join("bin"))))
        .filter(|(_, bin)| bin.join("postgres").exists())
        .max();
    match newest {
        Some((_, bin)) => bin,
        None => first_line("pg_config", &["--bindir"]).into(),
    }
}

fn first_line(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").trim().to_owned()
}

/// The first line of a file that begins with `key`, without it.
fn field(file: &str, key: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.unwrap_or("unknown").trim_matches(|c: char| c.is_whitespace() || c == ':').to_owned()
}

/// Fields 14 and 15 of proc_pid_stat(5), over all threads, those that have ended as well, of the
/// process that this directory of `/proc` is of.
pub fn cpu_time(dir: &str) -> Duration {
    let text = fs::read_to_string(format!("{dir}/stat")).unwrap_or_default();
    let Some((_, rest)) = text.rsplit_once(')') else { return Duration::ZERO };
    let fields: Vec<u64> =
        rest.split_ascii_whitespace().skip(11).take(2).filter_map(|f| f.parse().ok()).collect();
    // SAFETY: it takes and returns an integer.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    Duration::from_secs_f64(fields.iter().sum::<u64>() as f64 / ticks_a_second as f64)
}

/// How long a `fdatasync` of 8 kB takes where the clusters keep their data, in milliseconds: the
/// floor of every commit.
fn fdatasync_ms() -> Series {
    let mut series = Series::default();
    let Ok(mut file) = tempfile::tempfile_in("/tmp") else { return series };
    for _ in 0..200 {
        let begun = Instant::now();
        if file.write_all(&[7; 8192]).and_then(|()| file.sync_data()).is_err() {
            break;
        }
        series.0.push(since_ms(begun));
    }
    series
}

/// Prints what the figures were measured on, and returns it.
pub fn describe(settings: &[(&str, String)]) -> Value {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" ");
    let sync = fdatasync_ms();
    let profile = if cfg!(debug_assertions) { "development" } else { "release" };
    let postgres = postgres_bin().join("postgres");
    let mut facts = vec![
        ("hanode", first_line(hanode_bin(), &["--version"])),
        ("program", hanode_bin().to_owned()),
        ("hactl", first_line(hactl_bin(), &["--version"])),
        ("benchmark built for", profile.to_owned()),
        ("PostgreSQL", first_line(&postgres.to_string_lossy(), &["--version"])),
        ("kernel", first_line("uname", &["-srm"])),
        ("processor", field("/proc/cpuinfo", "model name")),
        ("cores", cores.to_string()),
        ("memory", field("/proc/meminfo", "MemTotal")),
        ("load average at the end", load),
        (
            "fdatasync of 8 kB",
            format!("median {:.3} ms, p99 {:.3} ms", sync.median(), sync.quantile(0.99)),
        ),
    ];
    facts.extend(settings.iter().cloned());
    println!("\nMeasured on");
    for (what, value) in &facts {
        println!("  {what:<24}{value}");
    }
    facts.iter().map(|(what, value)| ((*what).to_owned(), json!(value))).collect()
}
