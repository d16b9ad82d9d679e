//! `hactl config`: the specification of a cluster, shown and changed.
//!
//! Owns the way from a document of the operator to a change: read, compared, confirmed, sent for the
//! revision that was read.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};
use toml::{Table, Value};

use super::Context;
use super::config_document as document;
use super::confirm::Consent;
use super::failure::Failure;
use super::operate::requested_by;
use super::output::{self, Format, time};
use super::table::{Column, Screen, Text, render};
use crate::pb::v1;

/// Most bytes of a document that is read.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;

/// Arguments of `hactl config`.
#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show the specification, and what waits for a restart
    Show(ShowArgs),
    /// Change it in an editor: $VISUAL, $EDITOR or vi
    Edit(ChangeArgs),
    /// Set keys, such as write_quorum=2 or parameters.work_mem=64MB
    Set(SetArgs),
    /// Make it what a file says: all of it
    Apply(ApplyArgs),
    /// Show its latest revisions
    History,
    /// Go back to what an earlier revision said
    Rollback(RollbackArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// An earlier revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
}

/// What every change takes.
#[derive(Debug, Args)]
struct ChangeArgs {
    /// Only check, and show what would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    consent: Consent,
    /// Take parameters that cannot be checked or are refused by the check; PostgreSQL still judges
    #[arg(long)]
    no_validate: bool,
}

#[derive(Debug, Args)]
struct SetArgs {
    /// What to set. A list is written as in TOML: 'hba=["host all all all scram-sha-256"]'
    #[arg(value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// A key to remove, so that its default holds; several times for several
    #[arg(long, value_name = "KEY")]
    unset: Vec<String>,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct ApplyArgs {
    /// The document, TOML as `hactl config show` prints it; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Debug, Args)]
struct RollbackArgs {
    /// Which one, see `hactl config history`
    revision: u64,
    #[command(flatten)]
    change: ChangeArgs,
}

pub(super) async fn run(mut context: Context, args: &ConfigArgs) -> Result<(), Failure> {
    match &args.verb {
        Verb::Show(args) => show(context, args).await,
        Verb::History => history(context).await,
        Verb::Set(args) => {
            if args.set.is_empty() && args.unset.is_empty() {
                let message = "nothing to set: give KEY=VALUE, or --unset KEY";
                return Err(Failure::Usage(message.to_owned()));
            }
            let known = current(&mut context).await?;
            let mut table = document::of(&known)?;
            for key in &args.unset {
                unset(&mut table, key)?;
            }
            for assignment in &args.set {
                set(&mut table, assignment)?;
            }
            change(context, known, table, &args.change).await
        }
        Verb::Apply(args) => {
            let table = parse(&read(&args.file)?)?;
            let known = current(&mut context).await?;
            change(context, known, table, &args.change).await
        }
        Verb::Edit(args) => {
            let known = current(&mut context).await?;
            let before = document::text(&known)?;
            let after = edit(&before)?;
            if after == before {
                return output::note("nothing was changed");
            }
            change(context, known, parse(&after)?, args).await
        }
        Verb::Rollback(args) => {
            let known = current(&mut context).await?;
            let older = get(&mut context, args.revision).await?;
            let table = document::of(&older)?;
            change(context, known, table, &args.change).await
        }
    }
}

async fn current(context: &mut Context) -> Result<v1::GetSpecResponse, Failure> {
    get(context, 0).await
}

async fn get(context: &mut Context, revision: u64) -> Result<v1::GetSpecResponse, Failure> {
    let request = v1::GetSpecRequest { cluster: context.cluster().await?, revision };
    let answer = context.client.read(|mut c| {
        let request = request.clone();
        async move { c.get_spec(request).await }
    });
    Ok(answer.await?)
}

async fn show(mut context: Context, args: &ShowArgs) -> Result<(), Failure> {
    let answer = get(&mut context, args.revision.unwrap_or(0)).await?;
    if matches!(context.format, Format::Json | Format::Yaml) {
        return output::value(context.format, &answer, String::new);
    }
    let mut text = format!("# cluster {}, revision {}\n", answer.cluster, answer.revision);
    if answer.revision == answer.current_revision {
        for line in member_lines(&answer) {
            text.push_str(&format!("# {line}\n"));
        }
    } else {
        text.push_str(&format!("# in force is revision {}\n", answer.current_revision));
    }
    output::line(text + document::text(&answer)?.trim_end())
}

/// What keeps members from having all of it.
fn member_lines(answer: &v1::GetSpecResponse) -> Vec<String> {
    let mut lines = Vec::new();
    for m in &answer.members {
        if let Some(refused) = &m.refused {
            lines.push(format!(
                "{}: PostgreSQL refuses revision {}: {}",
                m.member, refused.revision, refused.why
            ));
        } else if m.revision == 0 {
            lines.push(format!("{}: not known", m.member));
        } else if m.revision != answer.current_revision {
            lines.push(format!("{}: has revision {} so far", m.member, m.revision));
        }
        for p in &m.pending_restart {
            let first = if p.first.is_empty() { String::new() } else { format!("; {}", p.first) };
            lines.push(format!(
                "{}: waits for a restart: {} runs with {}, wanted is {}{first}",
                m.member, p.name, p.running, p.wanted
            ));
        }
    }
    lines
}

const COLUMNS: [Column; 4] = [
    Column::new("REVISION").right(),
    Column::new("TIME"),
    Column::new("BY"),
    Column::new("CHANGES").prose(),
];

async fn history(mut context: Context) -> Result<(), Failure> {
    let request = v1::SpecHistoryRequest { cluster: context.cluster().await? };
    let answer = context.client.read(|mut c| {
        let request = request.clone();
        async move { c.spec_history(request).await }
    });
    let answer = answer.await?;
    output::value(context.format, &answer, || {
        let rows: Vec<Vec<Text>> = answer
            .revisions
            .iter()
            .map(|r| {
                let changes: Vec<String> = r.changes.iter().map(change_text).collect();
                let why = (!r.why.is_empty()).then(|| format!("rolled back: {}", r.why));
                let what: Vec<String> = why.into_iter().chain(changes).collect();
                let at = if r.at_unix_ms == 0 { "-".to_owned() } else { time(r.at_unix_ms) };
                vec![
                    r.revision.to_string().into(),
                    at.into(),
                    r.requested_by.clone().into(),
                    what.join("; ").into(),
                ]
            })
            .collect();
        render(&COLUMNS, &rows, Screen::stdout())
    })
}

fn change_text(c: &v1::SpecChange) -> String {
    match (&c.old, &c.new) {
        (Some(old), Some(new)) => format!("{}: {old} -> {new}", c.key),
        (None, Some(new)) => format!("{}: {new} added", c.key),
        (Some(old), None) => format!("{}: {old} removed", c.key),
        (None, None) => c.key.clone(),
    }
}

/// Checks a document, shows what it changes, asks, and has it changed.
async fn change(
    mut context: Context,
    known: v1::GetSpecResponse,
    table: Table,
    args: &ChangeArgs,
) -> Result<(), Failure> {
    if !args.dry_run {
        args.consent.possible()?;
    }
    let members: BTreeSet<String> = known.members.iter().map(|m| m.member.clone()).collect();
    let spec = document::read(table, &known.cluster, &members)?;
    let request = v1::UpdateSpecRequest {
        cluster: known.cluster.clone(),
        expect_revision: known.current_revision,
        spec: Some(spec),
        dry_run: true,
        requested_by: requested_by(),
        no_validate: args.no_validate,
    };
    let checked = context.client.update_spec(request.clone()).await?;
    if checked.changes.is_empty() {
        return output::value(context.format, &checked, || "nothing differs".to_owned());
    }
    if args.dry_run {
        return output::value(context.format, &checked, || diff(&checked.changes));
    }
    if context.format.is_for_people() || !args.consent.yes {
        output::note(&diff(&checked.changes))?;
    }
    let number = known.current_revision + 1;
    args.consent.ask(&format!("Make this revision {number} of cluster {}?", known.cluster))?;
    let request = v1::UpdateSpecRequest { dry_run: false, ..request };
    let done = context.client.update_spec(request).await?;
    output::value(context.format, &done, || {
        format!("cluster {} has revision {}", known.cluster, done.revision)
    })
}

/// The changes as lines with - and +.
fn diff(changes: &[v1::SpecChange]) -> String {
    let mut out = String::new();
    for c in changes {
        let restart = if c.restart { "    # at a restart of PostgreSQL" } else { "" };
        if let Some(old) = &c.old {
            out.push_str(&format!("- {} = {old}\n", c.key));
        }
        if let Some(new) = &c.new {
            out.push_str(&format!("+ {} = {new}{restart}\n", c.key));
        }
    }
    out.trim_end().to_owned()
}

/// The table that holds `key`, and the last part of the key.
fn place<'a, 'k>(table: &'a mut Table, key: &'k str) -> Result<(&'a mut Table, &'k str), Failure> {
    match key.split_once('.') {
        None => Ok((table, key)),
        // A parameter of an extension has a dot of its own.
        Some(("parameters", name)) if !name.is_empty() => {
            let inner = table
                .entry("parameters")
                .or_insert_with(|| Value::Table(Table::new()))
                .as_table_mut();
            let inner = inner.ok_or_else(|| Failure::Usage("parameters is no table".to_owned()))?;
            Ok((inner, name))
        }
        Some(_) => Err(Failure::Usage(format!(
            "{key}: only parameters have parts; write parameters.NAME, or edit the rest with \
             `hactl config edit`"
        ))),
    }
}

fn set(table: &mut Table, assignment: &str) -> Result<(), Failure> {
    let Some((key, value)) = assignment.split_once('=') else {
        let message = format!("{assignment}: write KEY=VALUE, or --unset KEY to remove it");
        return Err(Failure::Usage(message));
    };
    let (inner, name) = place(table, key.trim())?;
    // A number, a list or a table is written as in TOML; everything else is text.
    let parsed = format!("value = {value}").parse::<Table>();
    let parsed = parsed.ok().and_then(|mut t| t.remove("value"));
    let value = parsed.unwrap_or_else(|| Value::String(value.to_owned()));
    inner.insert(name.to_owned(), value);
    Ok(())
}

fn unset(table: &mut Table, key: &str) -> Result<(), Failure> {
    let (inner, name) = place(table, key)?;
    match inner.remove(name) {
        Some(_) => Ok(()),
        None => Err(Failure::Usage(format!("{key} is not set, see `hactl config show`"))),
    }
}

fn parse(text: &str) -> Result<Table, Failure> {
    text.parse().map_err(|e: toml::de::Error| {
        let at = e.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let what = e.message().trim().replace('\n', ", ");
        Failure::Usage(format!("line {line} of the document is not valid TOML: {what}"))
    })
}

fn read(path: &PathBuf) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        io::stdin().lock().take(DOCUMENT_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(DOCUMENT_BYTES_MAX).read_to_string(&mut text))
    };
    match read {
        Ok(_) => Ok(text),
        Err(e) => Err(Failure::Usage(format!("{}: {e}", path.display()))),
    }
}

/// What an editor makes of a text.
fn edit(text: &str) -> Result<String, Failure> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(std::env::var_os).filter(|e| !e.is_empty());
    let editor = editor.unwrap_or_else(|| "vi".into());
    let dir = std::env::temp_dir();
    let path = dir.join(format!("hactl-{}-{}.toml", std::process::id(), unique()));
    let mut file = {
        use std::os::unix::fs::OpenOptionsExt;
        // Rules of access can hold a password.
        std::fs::File::options().write(true).create_new(true).mode(0o600).open(&path)?
    };
    file.write_all(text.as_bytes())?;
    drop(file);
    // The variable may hold arguments, so the shell splits it, as others do.
    let mut command = std::process::Command::new("/bin/sh");
    command.arg("-c").arg("$HACTL_EDITOR \"$1\"").arg("sh").arg(&path);
    let ended = command.env("HACTL_EDITOR", &editor).status();
    let after = std::fs::read_to_string(&path);
    std::fs::remove_file(&path)?;
    match ended {
        Ok(status) if status.success() => Ok(after?),
        Ok(status) => Err(Failure::refused(format!("the editor ended with {status}"), "")),
        Err(e) => Err(Failure::refused(format!("the editor cannot be run: {e}"), "set EDITOR")),
    }
}

fn unique() -> u128 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        "write_quorum = 1\n[parameters]\nwork_mem = \"4MB\"".parse().unwrap()
    }

    #[test]
    fn keys_are_set_and_removed() {
        let mut t = table();
        for assignment in [
            "write_quorum=2",
            "parameters.work_mem=64MB",
            "parameters.pg_stat_statements.max=5000",
            "parameters.search_path=\"a\", b",
            "hba=[\"host all all all md5\"]",
            "synchronous=priority",
        ] {
            set(&mut t, assignment).unwrap();
        }
        let parameters = t["parameters"].as_table().unwrap();
        assert_eq!(t["write_quorum"].as_integer(), Some(2));
        assert_eq!(parameters["work_mem"].as_str(), Some("64MB"));
        assert_eq!(parameters["pg_stat_statements.max"].as_integer(), Some(5000));
        assert_eq!(parameters["search_path"].as_str(), Some("\"a\", b"));
        assert_eq!(t["hba"].as_array().unwrap().len(), 1);
        assert_eq!(t["synchronous"].as_str(), Some("priority"));
        unset(&mut t, "parameters.work_mem").unwrap();
        assert!(unset(&mut t, "parameters.work_mem").is_err());
        assert!(set(&mut t, "write_quorum").is_err());
        assert!(set(&mut t, "role.app=1").is_err());
    }

    #[test]
    fn a_diff_says_what_waits_for_a_restart() {
        let change = v1::SpecChange {
            key: "parameters.max_connections".into(),
            old: Some("100".into()),
            new: Some("200".into()),
            restart: true,
        };
        let text = diff(&[change]);
        assert!(text.starts_with("- parameters.max_connections = 100\n+ parameters."), "{text}");
        assert!(text.ends_with("# at a restart of PostgreSQL"), "{text}");
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let Err(Failure::Usage(told)) = parse("a = 1\nb = ") else { panic!() };
        assert!(told.starts_with("line 2 "), "{told}");
    }
}
