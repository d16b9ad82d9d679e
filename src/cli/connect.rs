//! `hactl dsn` and `hactl psql`: connection strings that find the primary by themselves.

use std::os::unix::process::CommandExt;

use clap::Args;

use super::Context;
use super::failure::Failure;
use super::output;
use crate::pb::v1;

/// Seconds that libpq waits for one host before it tries the next: its own default is for ever.
const CONNECT_TIMEOUT_S: u32 = 3;

/// What a connection is for.
#[derive(Debug, Args)]
pub(super) struct DsnArgs {
    /// Prefer a standby, and accept the primary where none answers
    #[arg(long)]
    read_only: bool,
    /// Database user; libpq's default where it is left out
    #[arg(short = 'U', long)]
    user: Option<String>,
    /// Database
    #[arg(short, long, default_value = "postgres")]
    dbname: String,
}

/// Arguments of `hactl psql`.
#[derive(Debug, Args)]
pub(super) struct PsqlArgs {
    #[command(flatten)]
    dsn: DsnArgs,
    /// Arguments for psql
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

#[derive(serde::Serialize)]
struct Answer<'a> {
    cluster: &'a str,
    dsn: &'a str,
    hosts: &'a [v1::Host],
}

pub(super) async fn dsn(mut context: Context, args: &DsnArgs) -> Result<(), Failure> {
    let connection = connection(&mut context).await?;
    let dsn = uri(&connection.hosts, args);
    let answer = Answer { cluster: &connection.cluster, dsn: &dsn, hosts: &connection.hosts };
    output::value(context.format, &answer, || dsn.clone())
}

pub(super) async fn psql(mut context: Context, args: &PsqlArgs) -> Result<(), Failure> {
    let connection = connection(&mut context).await?;
    let dsn = uri(&connection.hosts, &args.dsn);
    // Replaces this process, so that signals and the terminal are psql's; returns only to say why
    // it could not.
    let error = std::process::Command::new("psql").arg(&dsn).args(&args.args).exec();
    Err(Failure::refused(
        format!("psql cannot be run: {error}"),
        "install the client programs of PostgreSQL, or use `hactl dsn` with another client",
    ))
}

async fn connection(context: &mut Context) -> Result<v1::GetConnectionResponse, Failure> {
    let request = v1::GetConnectionRequest { cluster: context.cluster().await? };
    let answer = context
        .client
        .read(|mut c| {
            let request = request.clone();
            async move { c.get_connection(request).await }
        })
        .await?;
    if answer.hosts.is_empty() {
        let message = format!("cluster {} has no members yet", answer.cluster);
        return Err(Failure::refused(message, "see `hactl explain`"));
    }
    Ok(answer)
}

/// A connection URI with several hosts (PostgreSQL manual, section 34.1.1.2). It holds no password:
/// libpq takes that from PGPASSWORD or ~/.pgpass.
fn uri(hosts: &[v1::Host], args: &DsnArgs) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|h| match h.host.contains(':') {
            true => format!("[{}]:{}", h.host, h.port),
            false => format!("{}:{}", escape(&h.host), h.port),
        })
        .collect();
    let user = args.user.as_ref().map(|u| format!("{}@", escape(u))).unwrap_or_default();
    let session = if args.read_only { "prefer-standby" } else { "read-write" };
    format!(
        "postgresql://{user}{}/{}?target_session_attrs={session}&connect_timeout={CONNECT_TIMEOUT_S}",
        hosts.join(","),
        escape(&args.dbname)
    )
}

/// Percent-encoding of everything that may have a meaning in a URI (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~');
    let mut out = String::new();
    for b in text.bytes() {
        if plain(b) { out.push(char::from(b)) } else { out.push_str(&format!("%{b:02X}")) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_escaped_and_in_order() {
        let host = |host: &str, port| v1::Host { host: host.into(), port, ..Default::default() };
        let hosts = [host("10.0.0.2", 5432), host("fe80::1", 5433), host("db-1.example", 5432)];
        let args = |read_only, user: Option<&str>, dbname: &str| DsnArgs {
            read_only,
            user: user.map(str::to_owned),
            dbname: dbname.to_owned(),
        };
        assert_eq!(
            uri(&hosts, &args(false, None, "postgres")),
            "postgresql://10.0.0.2:5432,[fe80::1]:5433,db-1.example:5432/postgres\
             ?target_session_attrs=read-write&connect_timeout=3"
        );
        assert_eq!(
            uri(&hosts[..1], &args(true, Some("a@b"), "x/y?z")),
            "postgresql://a%40b@10.0.0.2:5432/x%2Fy%3Fz\
             ?target_session_attrs=prefer-standby&connect_timeout=3"
        );
    }
}
