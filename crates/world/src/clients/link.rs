//! One connection, from the client's side.
//!
//! Owns how long a client waits, and what it concludes where nothing comes.

use std::time::Duration;

use openraft_rt::AsyncRuntime as _;

use super::PORT;
use super::wire::{Answer, Request, Role};
use crate::exec::{MachineId, SimRuntime};
use crate::net::{self, Connection};

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoAnswer {
    /// The connection has ended. What was sent may have been done.
    Ended,
    /// Nothing came in time. What was sent may have been done, or be done later.
    InTime,
}

/// An open session.
pub(super) struct Link {
    connection: Connection,
}

impl Link {
    /// Connects and opens a session; says what the server is. `patience` is for both.
    pub(super) async fn open(
        machine: MachineId,
        rude: bool,
        patience: Duration,
    ) -> Result<(Self, Role), String> {
        let connection =
            net::connect(machine, PORT, patience).await.map_err(|refused| refused.to_string())?;
        let link = Self { connection };
        match link.ask(&Request::Hello { rude }, patience).await {
            Ok(Answer::Role(role)) => Ok((link, role)),
            Ok(Answer::Refused(why)) => Err(why),
            Ok(_) => Err("a strange answer".to_owned()),
            Err(NoAnswer::Ended) => Err("the connection has ended".to_owned()),
            Err(NoAnswer::InTime) => Err("no answer in time".to_owned()),
        }
    }

    /// Sends a request, and waits for its answer.
    pub(super) async fn ask(
        &self,
        request: &Request,
        patience: Duration,
    ) -> Result<Answer, NoAnswer> {
        self.connection.send(request.bytes()).map_err(|_| NoAnswer::Ended)?;
        self.answer(patience).await
    }

    /// Waits on.
    pub(super) async fn answer(&self, patience: Duration) -> Result<Answer, NoAnswer> {
        match SimRuntime::timeout(patience, self.connection.receive()).await {
            Ok(Ok(bytes)) => Answer::parse(&bytes).ok_or(NoAnswer::Ended),
            Ok(Err(_)) => Err(NoAnswer::Ended),
            Err(_) => Err(NoAnswer::InTime),
        }
    }

    /// Asks the server to cancel what this session does.
    pub(super) fn cancel(&self) {
        // Where the connection has ended there is nothing to cancel.
        let _ = self.connection.send(Request::Cancel.bytes());
    }

    /// Whether the server has ended it, as far as is known here.
    pub(super) fn is_closed(&self) -> bool {
        self.connection.is_closed()
    }
}
