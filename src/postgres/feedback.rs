//! Making a slot that nobody uses forget the `xmin` that it holds back.
//!
//! Owns a minimal replication connection. A physical slot keeps the `xmin` of the last feedback of
//! its standby (PostgreSQL manual, section 27.2.6), also while the standby is away: dead rows are
//! then kept on the whole cluster. No function takes it back, and a copy of the slot copies it
//! (measured on 15). What does is a feedback message without an `xmin` (manual, section 55.4): it
//! is sent here in the standby's stead. The slot keeps its WAL, and nothing has to be undone where
//! this is interrupted.

use std::time::Duration;

use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::connect::{Error, Target, literal};
use super::credentials::Login;
use super::sql::Session;
use crate::domain::types::Lsn;

/// `application_name` of the connection. No member can have it as its name.
const APPLICATION_NAME: &str = "quorate release";
/// Version 3.0 of the protocol.
const PROTOCOL: u32 = 196_608;
/// Longest message of the server that is read here: errors and the like.
const MESSAGE_BYTES_MAX: u32 = 1 << 20;
const POLL: Duration = Duration::from_millis(5);

/// Takes the unused physical slot for a moment, as `login`, and clears its `xmin`. `session` tells
/// when that has been done. Works on primaries and standbys. Returns once the slot holds none and
/// is free again.
///
/// # Errors
/// The slot is in use, as by its standby that has just come back; or the server refuses.
pub async fn release_xmin(
    session: &mut Session,
    login: &Login,
    slot: &str,
    deadline: Duration,
) -> Result<(), Error> {
    let target = session.target().clone();
    let work = async {
        let mut wire = Wire::open(&target, login).await?;
        // From here on there is little to be sent, so nothing of the stream has to be read.
        let end = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                   ELSE pg_current_wal_flush_lsn() END AS lsn";
        let from = session.row(end).await?.lsn("lsn")?;
        wire.start(slot, from).await?;
        wire.feedback_without_xmin().await?;
        let holds = "xmin IS NOT NULL OR catalog_xmin IS NOT NULL";
        await_slot(session, slot, holds).await?;
        drop(wire);
        await_slot(session, slot, "active_pid IS NOT NULL").await
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(done) => done,
        Err(_) => {
            // Dropped in the middle of a statement.
            session.close();
            Err(Error::Deadline(deadline))
        }
    }
}

/// Waits until the slot does not fit the condition any more.
async fn await_slot(session: &mut Session, slot: &str, condition: &str) -> Result<(), Error> {
    let sql = format!(
        "SELECT EXISTS (SELECT FROM pg_get_replication_slots() \
         WHERE slot_name = {} AND ({condition})) AS yes",
        literal(slot)
    );
    while session.row(&sql).await?.flag("yes")? {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// A replication connection through the socket.
struct Wire {
    stream: UnixStream,
}

fn lost(error: std::io::Error) -> Error {
    Error::Lost(error.to_string())
}

fn strange() -> Error {
    Error::Lost("PostgreSQL does not answer as its protocol says".to_owned())
}

impl Wire {
    async fn open(target: &Target, login: &Login) -> Result<Self, Error> {
        let path = target.socket_dir.join(format!(".s.PGSQL.{}", target.port));
        let stream = UnixStream::connect(path).await.map_err(lost)?;
        let mut wire = Self { stream };
        let mut body = PROTOCOL.to_be_bytes().to_vec();
        for text in ["user", login.user(), "replication", "true"] {
            push_text(&mut body, text);
        }
        for text in ["application_name", APPLICATION_NAME, ""] {
            push_text(&mut body, text);
        }
        wire.send(None, &body).await?;
        wire.authenticate(login).await?;
        Ok(wire)
    }

    /// Logs in with SCRAM, the only way in that our rules have (manual, section 55.3.1).
    async fn authenticate(&mut self, login: &Login) -> Result<(), Error> {
        let password = login.password().reveal().as_bytes();
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        loop {
            let (kind, body) = self.receive().await?;
            match kind {
                b'Z' => return Ok(()),
                b'R' => {}
                // Parameters, the key for cancelling, notices.
                _ => continue,
            }
            let (code, data) = body.split_first_chunk::<4>().ok_or_else(strange)?;
            match u32::from_be_bytes(*code) {
                0 => {}
                10 => {
                    let mut answer = Vec::new();
                    push_text(&mut answer, SCRAM_SHA_256);
                    let first = scram.message();
                    answer.extend_from_slice(&length(first.len())?);
                    answer.extend_from_slice(first);
                    self.send(Some(b'p'), &answer).await?;
                }
                11 => {
                    scram.update(data).map_err(lost)?;
                    let answer = scram.message().to_vec();
                    self.send(Some(b'p'), &answer).await?;
                }
                12 => scram.finish(data).map_err(lost)?,
                other => {
                    return Err(Error::Lost(format!("it asks for authentication of kind {other}")));
                }
            }
        }
    }

    /// Takes the slot, and begins to stream.
    async fn start(&mut self, slot: &str, from: Lsn) -> Result<(), Error> {
        let mut body = Vec::new();
        // Names of slots have small letters, digits and underscores only.
        push_text(&mut body, &format!("START_REPLICATION SLOT {slot} PHYSICAL {from}"));
        self.send(Some(b'Q'), &body).await?;
        loop {
            match self.receive().await?.0 {
                b'W' => return Ok(()),
                b'N' | b'S' => {}
                _ => return Err(strange()),
            }
        }
    }

    /// Hot standby feedback of a standby that needs nothing. It tells no position.
    async fn feedback_without_xmin(&mut self) -> Result<(), Error> {
        let mut body = vec![b'h'];
        // The time of sending, then xmin and catalog_xmin, each with an epoch.
        body.extend_from_slice(&[0; 8 + 4 * 4]);
        self.send(Some(b'd'), &body).await
    }

    async fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<(), Error> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend_from_slice(&length(body.len().saturating_add(4))?);
        message.extend_from_slice(body);
        self.stream.write_all(&message).await.map_err(lost)
    }

    /// The next message: its kind and its body. One that reports an error is an error.
    async fn receive(&mut self) -> Result<(u8, Vec<u8>), Error> {
        let kind = self.stream.read_u8().await.map_err(lost)?;
        let length = self.stream.read_u32().await.map_err(lost)?;
        let length = length.checked_sub(4).filter(|n| *n <= MESSAGE_BYTES_MAX);
        let mut body = vec![0; length.ok_or_else(strange)? as usize];
        self.stream.read_exact(&mut body).await.map_err(lost)?;
        if kind == b'E' { Err(server_error(&body)) } else { Ok((kind, body)) }
    }
}

fn push_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(text.as_bytes());
    body.push(0);
}

fn length(bytes: usize) -> Result<[u8; 4], Error> {
    i32::try_from(bytes).map(i32::to_be_bytes).map_err(|_| strange())
}

/// What an ErrorResponse says (manual, section 55.8).
fn server_error(body: &[u8]) -> Error {
    let field = |wanted: u8| {
        let mut fields = body.split(|b| *b == 0).filter_map(|f| f.split_first());
        let found = fields.find(|(kind, _)| **kind == wanted).map(|(_, text)| text);
        String::from_utf8_lossy(found.unwrap_or_default()).into_owned()
    };
    Error::Server { code: field(b'C'), message: field(b'M') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read() {
        let body = b"SERROR\0C55006\0Mreplication slot \"x\" is active\0\0";
        let Error::Server { code, message } = server_error(body) else { panic!("an error") };
        assert_eq!(
            (code.as_str(), message.as_str()),
            ("55006", "replication slot \"x\" is active")
        );
        assert!(matches!(server_error(b""), Error::Server { .. }));
        assert!(matches!(server_error(b"\0\0\xff\0"), Error::Server { .. }));
    }
}
