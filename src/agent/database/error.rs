//! From the errors of PostgreSQL's tools and of the guard to those of the driver.
//!
//! Owns the judgement which of them means "ask again", which "unknown", and which "no".

use std::time::Duration;

use crate::agent::driver::Error;
use crate::guard;
use crate::postgres::{
    barrier, basebackup, connect, controldata, credentials, files, initdb, layout, os_user,
    promote, rewind, seal, start,
};

pub(super) type Result<T> = std::result::Result<T, Error>;

/// A step that did not end: whether it was done is not known.
pub(super) fn timed_out(what: impl Into<String>, after: Duration) -> Error {
    Error::TimedOut { what: what.into(), seconds: after.as_secs_f64().ceil() as u64 }
}

/// What a statement's error means for a step that can simply be taken again.
pub(super) fn sql(error: connect::Error) -> Error {
    match error {
        connect::Error::CannotConnectNow(_)
        | connect::Error::Lost(_)
        | connect::Error::QueueFull => Error::NotReady(error.to_string()),
        connect::Error::Deadline(after) => timed_out("a statement", after),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn start(error: start::Error) -> Error {
    match &error {
        start::Error::OtherVersion { .. }
        | start::Error::Mode { .. }
        | start::Error::Owner { .. }
        | start::Error::Port { .. }
        | start::Error::Run(_)
        | start::Error::Layout(_)
        | start::Error::File(_) => Error::Machine(error.to_string()),
        _ => Error::Failed(error.to_string()),
    }
}

pub(super) fn seal(error: seal::Error) -> Error {
    match error {
        seal::Error::Sql(error) => sql(error),
        seal::Error::Start(error) => start(error),
        seal::Error::Deadline { deadline, state } => {
            timed_out(format!("the seal ({state})"), deadline)
        }
        other => Error::Failed(other.to_string()),
    }
}

/// Errors after which nobody knows whether the server is a primary are unknown, never "no".
pub(super) fn promote(error: promote::Error, deadline: Duration) -> Error {
    match error {
        promote::Error::Sql(connect::Error::CannotConnectNow(why)) => Error::NotReady(why),
        e if e.is_unknown() => timed_out(format!("the promotion ({e})"), deadline),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn barrier(error: barrier::Error) -> Error {
    match error {
        barrier::Error::Sql(error) => sql(error),
        barrier::Error::NotInForce { deadline, .. }
        | barrier::Error::Walsenders(deadline)
        | barrier::Error::Unconfirmed { deadline, .. } => timed_out(error.to_string(), deadline),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn guard(error: guard::Error) -> Error {
    match error {
        guard::Error::TimedOut { after } => timed_out("the guard's answer", after),
        guard::Error::NotEmpty { after } => timed_out("the end of the process tree", after),
        guard::Error::Refused(
            guard::Refusal::NoFencing { .. }
            | guard::Refusal::System { .. }
            | guard::Refusal::Failed { .. },
        )
        | guard::Error::AnotherGuard { .. }
        | guard::Error::EarlierTree { .. }
        | guard::Error::NotStarted { .. }
        | guard::Error::Io { .. } => Error::Machine(error.to_string()),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn initdb(error: initdb::Error) -> Error {
    match error {
        initdb::Error::Layout(_) | initdb::Error::File(_) => Error::Machine(error.to_string()),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn rewind(error: rewind::Error) -> Error {
    match error {
        rewind::Error::Run(error) => run(error),
        rewind::Error::Layout(_) | rewind::Error::File(_) => Error::Machine(error.to_string()),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn copy(error: basebackup::Error) -> Error {
    match error {
        basebackup::Error::Run(error) => run(error),
        basebackup::Error::Layout(_) => Error::Machine(error.to_string()),
        other => Error::Failed(other.to_string()),
    }
}

pub(super) fn run(error: os_user::Error) -> Error {
    match &error {
        os_user::Error::Deadline { program, deadline, .. } => timed_out(program.clone(), *deadline),
        os_user::Error::Failed { .. } | os_user::Error::Io { .. } => {
            Error::Failed(error.to_string())
        }
        _ => Error::Machine(error.to_string()),
    }
}

pub(super) fn control(error: controldata::Error) -> Error {
    Error::Failed(error.to_string())
}

pub(super) fn file(error: files::Error) -> Error {
    Error::Machine(error.to_string())
}

pub(super) fn place(error: layout::Error) -> Error {
    Error::Machine(error.to_string())
}

pub(super) fn credentials(error: credentials::Error) -> Error {
    Error::Machine(error.to_string())
}
