//! A client of the control API that finds the leader by itself.
//!
//! Owns the choice of whom to ask, what may be asked again, and what an error means to the caller.
//! A read is asked again until the deadline. A change is sent once: where its outcome is unknown,
//! the client asks for the operation instead. Imports `pb` only.
//!
//! It talks over real sockets only, so it uses tokio's timers and clock directly.

#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::pb::v1::control_plane_client::ControlPlaneClient;
use crate::pb::{details, v1};

/// Longest wait for a connection.
pub const CONNECT_MAX: Duration = Duration::from_secs(1);
/// Longest wait for the answer to one read; another endpoint is asked then.
const READ_MAX: Duration = Duration::from_secs(5);
/// Least share of the time that one of several endpoints gets.
const SHARE_MIN: Duration = Duration::from_millis(300);
/// Pause before the endpoints are asked once more.
const PAUSE: Duration = Duration::from_millis(200);
/// How often an operation is looked at.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);
/// Largest answer that is read, in bytes: a status of thousands of clusters.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Metadata of an error that names the leader's address.
const LEADER_HEADER: &str = "quorate-leader";

/// A connection to one node, as calls get it.
pub type Connection = ControlPlaneClient<Channel>;

/// What an endpoint answered where it did not do what was asked.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Who answered, `host:port`.
    pub endpoint: String,
    /// The gRPC code.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// The details: one for each thing that is wrong. Empty where the answer is not from a
    /// control plane of ours.
    pub infos: Vec<v1::ErrorInfo>,
}

/// An endpoint that did not answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// Who, `host:port`.
    pub endpoint: String,
    /// What happened, as a clause.
    pub why: String,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An endpoint is not `host:port`.
    #[error("{endpoint:?} is not an endpoint: host:port is wanted")]
    BadEndpoint {
        /// The text.
        endpoint: String,
    },
    /// None of the endpoints answered.
    #[error("none of these endpoints answered: {}", list(.0))]
    Unreachable(Vec<Silence>),
    /// Endpoints answered, and no leader was found before the deadline.
    #[error("no leader answered in time; {} said: {}", .0.endpoint, .0.message)]
    NoLeader(Refusal),
    /// It was refused. Nothing was changed.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// A change was sent, and nobody could tell whether it happens.
    #[error("the outcome is unknown: {why}")]
    UnknownOutcome {
        /// What happened.
        why: String,
    },
}

fn list(silent: &[Silence]) -> String {
    let each: Vec<String> = silent.iter().map(|s| format!("{} ({})", s.endpoint, s.why)).collect();
    each.join(", ")
}

/// Whether a call may be made again after an unclear answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nature {
    Read,
    Change,
}

/// What to do with an error of one endpoint.
enum Next {
    /// Ask this address, the leader's.
    Follow(String),
    /// Ask another endpoint.
    Other,
    /// It is the answer.
    Stop(Error),
}

/// A client with its endpoints, its connections and the leader that it found last.
#[derive(Debug)]
pub struct Client {
    endpoints: Vec<String>,
    limit: Duration,
    patience: Duration,
    channels: BTreeMap<String, Channel>,
    leader: Option<String>,
}

impl Client {
    /// A client of the nodes at `endpoints`, each `host:port`. Each call ends within `limit`.
    pub fn new(endpoints: &[String], limit: Duration) -> Result<Self, Error> {
        for endpoint in endpoints {
            channel_to(endpoint)?;
        }
        let endpoints = endpoints.to_vec();
        let (channels, patience) = (BTreeMap::new(), limit);
        Ok(Self { endpoints, limit, patience, channels, leader: None })
    }

    /// Waits for the end of an operation for this long, not only as long as for an answer.
    pub fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// The endpoints that it was given.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Makes a call that changes nothing, where needed again and again until the deadline.
    pub async fn read<T, F, Fut>(&mut self, call: F) -> Result<T, Error>
    where
        F: FnMut(ControlPlaneClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call(Nature::Read, Instant::now() + self.limit, call).await
    }

    /// The status of a cluster, or of all where `cluster` is empty; from the leader, which has
    /// confirmed that it is.
    pub async fn status(&mut self, cluster: &str) -> Result<v1::Status, Error> {
        let request = v1::GetStatusRequest { cluster: cluster.to_owned(), linearizable: true };
        self.get_status(request).await
    }

    /// The same from any endpoint, as it knows it: also where there is no leader.
    pub async fn status_of_any(&mut self, cluster: &str) -> Result<v1::Status, Error> {
        self.leader = None;
        let request = v1::GetStatusRequest { cluster: cluster.to_owned(), linearizable: false };
        self.get_status(request).await
    }

    async fn get_status(&mut self, request: v1::GetStatusRequest) -> Result<v1::Status, Error> {
        let answer = self
            .read(|mut c| {
                let request = request.clone();
                async move { c.get_status(request).await }
            })
            .await?;
        Ok(answer.status.unwrap_or_default())
    }

    /// The newest events of a cluster, at most `limit`; from the leader, which has confirmed that
    /// it is.
    pub async fn history(
        &mut self,
        cluster: &str,
        limit: u32,
    ) -> Result<v1::HistoryResponse, Error> {
        self.get_history(cluster, limit, true).await
    }

    /// The same from any endpoint, as it knows it: newer events may be missing.
    pub async fn history_of_any(
        &mut self,
        cluster: &str,
        limit: u32,
    ) -> Result<v1::HistoryResponse, Error> {
        self.leader = None;
        self.get_history(cluster, limit, false).await
    }

    async fn get_history(
        &mut self,
        cluster: &str,
        limit: u32,
        linearizable: bool,
    ) -> Result<v1::HistoryResponse, Error> {
        let cluster = cluster.to_owned();
        let request = v1::HistoryRequest { cluster, after_event: 0, limit, linearizable };
        self.read(|mut c| {
            let request = request.clone();
            async move { c.history(request).await }
        })
        .await
    }

    /// Starts a switchover, or checks one. The operation is the answer's, or where the outcome was
    /// unclear the one that was found to have been started. `request.wait` is ignored: see
    /// [`Client::follow`].
    pub async fn switchover(
        &mut self,
        mut request: v1::SwitchoverRequest,
    ) -> Result<v1::SwitchoverResponse, Error> {
        request.wait = false;
        let kind = v1::OperationKind::Switchover;
        let same = |o: &v1::Operation| {
            o.requested_by == request.requested_by && (o.kind() == kind || o.later() == kind)
        };
        let (cluster, dry_run) = (request.cluster.clone(), request.dry_run);
        let call = |mut c: Connection, request| async move { c.switchover(request).await };
        self.start(&cluster, dry_run, &request, call, same, |found| {
            let target = found.target.clone();
            v1::SwitchoverResponse { operation: Some(found), target, problems: vec![] }
        })
        .await
    }

    /// Starts a failover by hand, or checks one: as [`Client::switchover`].
    pub async fn failover(
        &mut self,
        mut request: v1::FailoverRequest,
    ) -> Result<v1::FailoverResponse, Error> {
        request.wait = false;
        let kind = v1::OperationKind::Failover;
        let same = |o: &v1::Operation| {
            o.requested_by == request.requested_by && (o.kind() == kind || o.later() == kind)
        };
        let (cluster, dry_run) = (request.cluster.clone(), request.dry_run);
        let call = |mut c: Connection, request| async move { c.failover(request).await };
        self.start(&cluster, dry_run, &request, call, same, |found| {
            let target = found.target.clone();
            v1::FailoverResponse { operation: Some(found), target, problems: vec![] }
        })
        .await
    }

    /// Starts a restart, or checks one: as [`Client::switchover`].
    pub async fn restart(
        &mut self,
        mut request: v1::RestartRequest,
    ) -> Result<v1::RestartResponse, Error> {
        request.wait = false;
        let kinds = [
            v1::OperationKind::Restart,
            v1::OperationKind::RestartPrimary,
            v1::OperationKind::RollingRestart,
        ];
        let same = |o: &v1::Operation| {
            o.requested_by == request.requested_by
                && o.member == request.member
                && (kinds.contains(&o.kind()) || kinds.contains(&o.later()))
        };
        let (cluster, dry_run) = (request.cluster.clone(), request.dry_run);
        let call = |mut c: Connection, request| async move { c.restart(request).await };
        self.start(&cluster, dry_run, &request, call, same, |found| v1::RestartResponse {
            operation: Some(found),
            ..Default::default()
        })
        .await
    }

    /// Has a standby copied anew, or checks that: as [`Client::switchover`].
    pub async fn reinitialise(
        &mut self,
        mut request: v1::ReinitialiseRequest,
    ) -> Result<v1::ReinitialiseResponse, Error> {
        request.wait = false;
        let same = |o: &v1::Operation| {
            o.requested_by == request.requested_by
                && o.member == request.member
                && o.kind() == v1::OperationKind::Reinitialise
        };
        let (cluster, dry_run) = (request.cluster.clone(), request.dry_run);
        let call = |mut c: Connection, request| async move { c.reinitialise(request).await };
        self.start(&cluster, dry_run, &request, call, same, |found| v1::ReinitialiseResponse {
            operation: Some(found),
            problems: vec![],
        })
        .await
    }

    /// Has members read their configuration again.
    pub async fn reload(
        &mut self,
        request: v1::ReloadRequest,
    ) -> Result<v1::ReloadResponse, Error> {
        self.ask(false, &request, |mut c, request| async move { c.reload(request).await }).await
    }

    /// Pauses a cluster.
    pub async fn pause(&mut self, request: v1::PauseRequest) -> Result<v1::PauseResponse, Error> {
        self.ask(false, &request, |mut c, request| async move { c.pause(request).await }).await
    }

    /// Ends a pause.
    pub async fn resume(
        &mut self,
        request: v1::ResumeRequest,
    ) -> Result<v1::ResumeResponse, Error> {
        self.ask(false, &request, |mut c, request| async move { c.resume(request).await }).await
    }

    /// The operations that are under way or scheduled; with `ended` also those that are over.
    pub async fn operations(
        &mut self,
        cluster: &str,
        ended: bool,
    ) -> Result<v1::ListOperationsResponse, Error> {
        let request = v1::ListOperationsRequest { cluster: cluster.to_owned(), ended };
        self.read(|mut c| {
            let request = request.clone();
            async move { c.list_operations(request).await }
        })
        .await
    }

    /// One operation; the latest for 0.
    pub async fn get_operation(&mut self, cluster: &str, id: u64) -> Result<v1::Operation, Error> {
        self.operation(cluster, id, Instant::now() + self.limit).await
    }

    /// Calls an operation off.
    pub async fn cancel(
        &mut self,
        request: v1::CancelOperationRequest,
    ) -> Result<v1::Operation, Error> {
        let answer = self
            .ask(false, &request, |mut c, request| async move { c.cancel_operation(request).await })
            .await?;
        Ok(answer.operation.unwrap_or_default())
    }

    /// Longest time that a call takes.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The nodes of the control plane.
    pub async fn list_nodes(&mut self) -> Result<v1::ListNodesResponse, Error> {
        self.read(|mut c| async move { c.list_nodes(v1::ListNodesRequest {}).await }).await
    }

    /// Adds a node, or asks again for what one that is on its way in has to know.
    pub async fn add_node(
        &mut self,
        request: v1::AddNodeRequest,
    ) -> Result<v1::AddNodeResponse, Error> {
        self.ask(false, &request, |mut c, request| async move { c.add_node(request).await }).await
    }

    /// Removes a node. The removal goes on after the answer.
    pub async fn remove_node(
        &mut self,
        request: v1::RemoveNodeRequest,
    ) -> Result<v1::RemoveNodeResponse, Error> {
        self.ask(false, &request, |mut c, request| async move { c.remove_node(request).await })
            .await
    }

    /// Changes a specification, or checks a change. Where the outcome was unclear it is looked for:
    /// a change is made for one revision, so it cannot be made twice.
    pub async fn update_spec(
        &mut self,
        request: v1::UpdateSpecRequest,
    ) -> Result<v1::UpdateSpecResponse, Error> {
        let call = |mut c: Connection, request| async move { c.update_spec(request).await };
        let result = self.ask(request.dry_run, &request, call).await;
        let Err(Error::UnknownOutcome { why }) = result else { return result };
        let asked = v1::GetSpecRequest {
            cluster: request.cluster.clone(),
            revision: request.expect_revision + 1,
        };
        let found = self
            .read(|mut c| {
                let asked = asked.clone();
                async move { c.get_spec(asked).await }
            })
            .await;
        match found {
            Ok(found) if found.spec == request.spec => {
                Ok(v1::UpdateSpecResponse { revision: found.revision, changes: Vec::new() })
            }
            // Not to find it proves nothing: it may still happen.
            _ => Err(Error::UnknownOutcome { why }),
        }
    }

    /// Waits for the end of an operation, whoever leads meanwhile. At the deadline it returns what
    /// was known last, which then is still running.
    pub async fn follow(&mut self, begun: v1::Operation) -> Result<v1::Operation, Error> {
        self.follow_to(begun, None::<fn(&v1::Operation)>).await
    }

    /// The same, and tells how far it is, whenever it has looked.
    pub async fn follow_with(
        &mut self,
        begun: v1::Operation,
        seen: impl FnMut(&v1::Operation),
    ) -> Result<v1::Operation, Error> {
        self.follow_to(begun, Some(seen)).await
    }

    async fn follow_to(
        &mut self,
        begun: v1::Operation,
        mut seen: Option<impl FnMut(&v1::Operation)>,
    ) -> Result<v1::Operation, Error> {
        let end = Instant::now() + self.patience;
        let goes_on = |o: &v1::Operation| {
            matches!(o.state(), v1::OperationState::Running | v1::OperationState::Scheduled)
        };
        let mut known = begun;
        while goes_on(&known) && Instant::now() < end {
            let look = end.min(Instant::now() + self.limit);
            match self.operation(&known.cluster, known.id, look).await {
                Ok(operation) => known = operation,
                // The leader of the moment may be gone: that is what an operation can do.
                Err(Error::NoLeader(_) | Error::Unreachable(_)) => {}
                Err(error) => return Err(error),
            }
            if goes_on(&known) {
                sleep(FOLLOW_EVERY).await;
                if let Some(seen) = &mut seen {
                    seen(&known);
                }
            }
        }
        Ok(known)
    }

    async fn operation(
        &mut self,
        cluster: &str,
        id: u64,
        end: Instant,
    ) -> Result<v1::Operation, Error> {
        let request = v1::GetOperationRequest { cluster: cluster.to_owned(), operation: id };
        let answer = self
            .call(Nature::Read, end, |mut c| {
                let request = request.clone();
                async move { c.get_operation(request).await }
            })
            .await?;
        Ok(answer.operation.unwrap_or_default())
    }

    async fn last_operation(&mut self, cluster: &str) -> Result<u64, Error> {
        let status = self.status(cluster).await?;
        Ok(status.clusters.first().map_or(0, |c| c.last_operation))
    }

    /// Looks for an operation that was started by a change with an unclear answer: a newer one that
    /// is the `same`. Not to find one proves nothing, so that is unknown, too.
    async fn find_started(
        &mut self,
        cluster: &str,
        before: u64,
        same: impl Fn(&v1::Operation) -> bool,
        why: String,
    ) -> Result<v1::Operation, Error> {
        let end = Instant::now() + self.limit;
        while Instant::now() < end {
            let known = self.operations(cluster, true).await.unwrap_or_default();
            match known.operations.into_iter().find(|o| o.id > before && same(o)) {
                Some(operation) => return Ok(operation),
                None => sleep(PAUSE).await,
            }
        }
        Err(Error::UnknownOutcome { why })
    }

    /// Starts an operation by a request, or checks one. Where the outcome was unclear the operation is
    /// looked for that is the `same`, and `found` makes the answer of it.
    async fn start<R: Clone, T, F, Fut>(
        &mut self,
        cluster: &str,
        dry_run: bool,
        request: &R,
        call: F,
        same: impl Fn(&v1::Operation) -> bool,
        found: impl FnOnce(v1::Operation) -> T,
    ) -> Result<T, Error>
    where
        F: FnMut(Connection, R) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let before = self.last_operation(cluster).await?;
        match self.ask(dry_run, request, call).await {
            Err(Error::UnknownOutcome { why }) => {
                Ok(found(self.find_started(cluster, before, same, why).await?))
            }
            other => other,
        }
    }

    /// Makes a call with a request: one that only checks may be made again, a change is sent once.
    ///
    /// # Errors
    /// [`Error::UnknownOutcome`] where a change was sent and not answered clearly.
    pub async fn ask<R: Clone, T, F, Fut>(
        &mut self,
        dry_run: bool,
        request: &R,
        mut call: F,
    ) -> Result<T, Error>
    where
        F: FnMut(Connection, R) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.send(dry_run, |c| call(c, request.clone())).await
    }

    /// Sends a request for a change: once, unless it is a dry run, which changes nothing.
    async fn send<T, F, Fut>(&mut self, dry_run: bool, call: F) -> Result<T, Error>
    where
        F: FnMut(ControlPlaneClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let nature = if dry_run { Nature::Read } else { Nature::Change };
        self.call(nature, Instant::now() + self.limit, call).await
    }

    async fn call<T, F, Fut>(
        &mut self,
        nature: Nature,
        end: Instant,
        mut call: F,
    ) -> Result<T, Error>
    where
        F: FnMut(ControlPlaneClient<Channel>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        loop {
            let mut silent = Vec::new();
            let mut refusal = None;
            let mut asked: Vec<String> = Vec::new();
            let mut to_ask: Vec<String> = self.endpoints.iter().rev().cloned().collect();
            to_ask.extend(self.leader.clone());
            while let Some(endpoint) = to_ask.pop() {
                if asked.contains(&endpoint) {
                    continue;
                }
                asked.push(endpoint.clone());
                // One that accepts and never answers must leave time for the others.
                let now = Instant::now();
                let left = u32::try_from(to_ask.len()).unwrap_or(u32::MAX).saturating_add(2);
                let share = (end.saturating_duration_since(now) / left).max(SHARE_MIN);
                let fair = match nature {
                    Nature::Read => end.min(now + share),
                    Nature::Change => end,
                };
                let client = match self.connect(&endpoint, fair).await {
                    Ok(client) => client,
                    Err(silence) => {
                        silent.push(silence);
                        continue;
                    }
                };
                let until = match nature {
                    Nature::Read => fair.min(Instant::now() + READ_MAX),
                    Nature::Change => end,
                };
                let status = match timeout_at(until, call(client)).await {
                    Ok(Ok(answer)) => {
                        self.leader = Some(endpoint);
                        return Ok(answer.into_inner());
                    }
                    Ok(Err(status)) => status,
                    Err(_) => Status::deadline_exceeded("it did not answer in time"),
                };
                match self.judge(nature, &endpoint, &status) {
                    Next::Follow(leader) => {
                        refusal = Some(refused(&endpoint, &status));
                        to_ask.push(leader);
                    }
                    Next::Other if details::decode(status.details()).is_empty() => {
                        let why = status.message().to_owned();
                        silent.push(Silence { endpoint, why });
                    }
                    Next::Other => refusal = Some(refused(&endpoint, &status)),
                    Next::Stop(error) => return Err(error),
                }
            }
            // What was the leader may be gone: ask everybody the next time.
            self.leader = None;
            let Some(refusal) = refusal else { return Err(Error::Unreachable(silent)) };
            if Instant::now() + PAUSE >= end {
                return Err(Error::NoLeader(refusal));
            }
            sleep(PAUSE).await;
        }
    }

    async fn connect(
        &mut self,
        endpoint: &str,
        end: Instant,
    ) -> Result<ControlPlaneClient<Channel>, Silence> {
        let silence = |why: &str| Silence { endpoint: endpoint.to_owned(), why: why.to_owned() };
        let channel = match self.channels.get(endpoint) {
            Some(channel) => channel.clone(),
            None => {
                let to = channel_to(endpoint).map_err(|_| silence("not an address"))?;
                let until = end.min(Instant::now() + CONNECT_MAX);
                match timeout_at(until, to.connect()).await {
                    Ok(Ok(channel)) => channel,
                    Ok(Err(error)) => return Err(silence(&root_cause(&error))),
                    Err(_) => return Err(silence("no connection in time")),
                }
            }
        };
        self.channels.insert(endpoint.to_owned(), channel.clone());
        Ok(ControlPlaneClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
    }

    /// What an error means for the call. An error without our details comes from the connection,
    /// or from something between: a change may have happened then.
    fn judge(&mut self, nature: Nature, endpoint: &str, status: &Status) -> Next {
        let refusal = refused(endpoint, status);
        let Some(info) = refusal.infos.first() else {
            self.channels.remove(endpoint);
            let why = format!("{endpoint}: {}", root_cause(status));
            return match (nature, status.code()) {
                (_, Code::Unimplemented) => Next::Stop(Error::Refused(refusal)),
                (Nature::Read, _) => Next::Other,
                (Nature::Change, _) => Next::Stop(Error::UnknownOutcome { why }),
            };
        };
        match info.rule.as_str() {
            "leader.here" => match leader_of(status, info) {
                Some(leader) => Next::Follow(leader),
                None => Next::Other,
            },
            "leader.available" | "node.serving" => Next::Other,
            "outcome.known" => match nature {
                Nature::Read => Next::Other,
                Nature::Change => {
                    Next::Stop(Error::UnknownOutcome { why: status.message().to_owned() })
                }
            },
            _ => Next::Stop(Error::Refused(refusal)),
        }
    }
}

fn leader_of(status: &Status, info: &v1::ErrorInfo) -> Option<String> {
    let header = status.metadata().get(LEADER_HEADER).and_then(|v| v.to_str().ok());
    let address = header.unwrap_or(&info.leader_address);
    channel_to(address).ok().map(|_| address.to_owned())
}

fn refused(endpoint: &str, status: &Status) -> Refusal {
    Refusal {
        endpoint: endpoint.to_owned(),
        code: status.code(),
        message: status.message().to_owned(),
        infos: details::decode(status.details()),
    }
}

/// A connection that is not made yet. Keep-alive finds out about a node that is gone while an
/// answer is waited for.
fn channel_to(endpoint: &str) -> Result<Endpoint, Error> {
    let bad = || Error::BadEndpoint { endpoint: endpoint.to_owned() };
    let (host, port) = endpoint.rsplit_once(':').ok_or_else(bad)?;
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    let to = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|_| bad())?;
    Ok(to
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(3))
        .tcp_nodelay(true))
}

/// The innermost reason, which is the one that says something: "connection refused".
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "no connection in time".to_owned(),
        _ => match error.downcast_ref::<Status>() {
            Some(status) if error.source().is_none() => status.message().to_owned(),
            _ => cause.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_checked() {
        for good in ["127.0.0.1:7401", "[::1]:7401", "db-1.example.org:1"] {
            assert!(channel_to(good).is_ok(), "{good}");
        }
        for bad in ["", "a", ":1", "a:", "a:99999", "a b:1", "http://a:1", "a/b:1", "ä:1"] {
            assert!(channel_to(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn everybody_silent_is_said_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let mut client =
            Client::new(std::slice::from_ref(&address), Duration::from_secs(60)).unwrap();
        let Err(Error::Unreachable(silent)) = client.status("").await else { panic!() };
        assert_eq!(silent, [Silence { endpoint: address, why: "connection refused".to_owned() }]);
    }
}
