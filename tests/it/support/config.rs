//! Configuration files of a test cluster.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::address::{API_PORT, SQL_PORT};

/// Name of the cluster.
pub const CLUSTER: &str = "main";
/// Password of the superuser, who comes through the socket only.
pub const SUPERUSER_PASSWORD: &str = "a-superuser-of-tests";

/// What differs from the usual.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many nodes, each with a controller and a member.
    pub nodes: usize,
    /// How many of the last of them only vote.
    pub witnesses: usize,
    /// Whether the witnesses are all the controllers that there are: nodes with a member have none.
    pub apart: bool,
    /// Lines for `[cluster.parameters]`.
    pub parameters: Vec<String>,
    /// Lines for `[[cluster]]`.
    pub cluster: Vec<String>,
    /// Lines for `[[member]]`.
    pub member: Vec<String>,
    /// Lines for `[timing]`.
    pub timing: Vec<String>,
    /// PGDATA within a node's directory.
    pub data_dir: &'static str,
    /// Whether the ways into PostgreSQL that only tests need are made: an ordinary user and a table.
    pub prepared: bool,
}

impl Default for Options {
    fn default() -> Self {
        let (parameters, cluster, member) = (Vec::new(), Vec::new(), Vec::new());
        let (timing, data_dir) = (Vec::new(), "main");
        Self {
            nodes: 3,
            witnesses: 0,
            apart: false,
            parameters,
            cluster,
            member,
            timing,
            data_dir,
            prepared: true,
        }
    }
}

/// Name of the member of node `i`, from 0: `a`, `b`, ...
pub fn member_name(i: usize) -> String {
    char::from(b'a' + i as u8).to_string()
}

/// Name of node `i`, from 0: `n1`, `n2`, ...
pub fn node_name(i: usize) -> String {
    format!("n{}", i + 1)
}

/// Writes secrets and one configuration a node into `dir`; `hosts` has an address for each.
pub fn write(dir: &Path, hosts: &[String], options: &Options) {
    let secret: String = random(32).iter().map(|b| format!("{b:02x}")).collect();
    put(&dir.join("secret"), &secret, 0o600);
    put(&dir.join("superuser"), SUPERUSER_PASSWORD, 0o600);
    for i in 0..hosts.len() {
        put(&dir.join(format!("{}.toml", node_name(i))), &text(i, hosts, options), 0o644);
    }
}

/// Writes a file with a mode.
pub fn put(path: &Path, content: &str, mode: u32) {
    fs::write(path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
}

fn random(count: usize) -> Vec<u8> {
    use std::io::Read;
    let mut bytes = vec![0; count];
    let mut source = fs::File::open("/dev/urandom").expect("/dev/urandom");
    source.read_exact(&mut bytes).expect("/dev/urandom");
    bytes
}

/// The section of times, where a test asks for others than the usual.
fn timing(options: &Options) -> String {
    match options.timing.is_empty() {
        true => String::new(),
        false => format!("[timing]\n{}\n", options.timing.join("\n")),
    }
}

/// The configuration of node `i`.
pub fn text(i: usize, hosts: &[String], options: &Options) -> String {
    let (node, member, host) = (node_name(i), member_name(i), &hosts[i]);
    let count = hosts.len() - options.witnesses;
    let votes = |j: usize| !options.apart || j >= count;
    let roles = match (votes(i), i < count) {
        (true, true) => "\"controller\", \"agent\"",
        (true, false) => "\"controller\"",
        (false, _) => "\"agent\"",
    };
    let id = if votes(i) { format!("node_id = {}", i + 1) } else { String::new() };
    let mut out = format!(
        r#"control_plane = "test"
secret_file = "secret"

[node]
name = "{node}"
roles = [{roles}]
listen = "{host}:{API_PORT}"
data_dir = "{node}"

[raft]
{id}
"#
    );
    for (j, host) in hosts.iter().enumerate().filter(|(j, _)| votes(*j)) {
        let _ = write!(
            out,
            "\n[[controller]]\nid = {}\nname = \"{}\"\naddress = \"{host}:{API_PORT}\"\n",
            j + 1,
            node_name(j)
        );
    }
    let members: Vec<String> = (0..count).map(|j| format!("\"{}\"", member_name(j))).collect();
    let _ = write!(
        out,
        r#"
[[cluster]]
name = "{CLUSTER}"
bootstrap_members = [{}]
hba = ["host all all 127.0.0.0/8 scram-sha-256", "host all all 10.0.0.0/8 scram-sha-256"]
{}

{}
[cluster.parameters]
shared_buffers = "16MB"
max_connections = 60
log_line_prefix = "%m [%p] "
{}
"#,
        members.join(", "),
        options.cluster.join("\n"),
        timing(options),
        options.parameters.join("\n"),
    );
    if i < count {
        let _ = write!(
            out,
            r#"
[[member]]
cluster = "{CLUSTER}"
name = "{member}"
address = "{host}:{SQL_PORT}"
data_dir = "{node}/{}"
superuser_password_file = "superuser"
{}
"#,
            options.data_dir,
            options.member.join("\n"),
        );
    }
    out
}
