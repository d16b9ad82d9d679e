//! The API and its client, over real connections and a fake node.

#![allow(clippy::disallowed_methods)] // tests run on tokio, over real sockets

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::fake_node::{Fake, Proposals, Served, main_cluster, member};
use quorate::api::*;
use quorate::client::{self, Client};
use quorate::domain::event::{Event, EventKind};
use quorate::domain::state::Outcome;
use quorate::domain::types::{Epoch, WallMillis};
use quorate::pb::v1::control_plane_client::ControlPlaneClient;
use quorate::pb::{details, v1};

/// Longest wait for anything in a test.
const LIMIT: Duration = Duration::from_secs(20);

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.expect("it took too long")
}

async fn api(served: &Served) -> ControlPlaneClient<Channel> {
    ControlPlaneClient::new(served.channel().await)
}

fn rules(status: &Status) -> Vec<String> {
    details::decode(status.details()).into_iter().map(|i| i.rule).collect()
}

fn to(target: &str) -> v1::SwitchoverRequest {
    let (cluster, target) = ("main".to_owned(), target.to_owned());
    v1::SwitchoverRequest { cluster, target, ..Default::default() }
}

#[tokio::test]
async fn the_leader_shows_agreed_and_observed_state() {
    let served = Served::new(Fake::leader()).await;
    let request = v1::GetStatusRequest { cluster: String::new(), linearizable: true };
    let answer = api(&served).await.get_status(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    assert!(status.from_leader && *served.fake.barriers.lock().unwrap() == 1);
    let cluster = &status.clusters[0];
    assert_eq!((cluster.epoch, cluster.primary.as_str()), (3, "a"));
    assert_eq!(cluster.lease_age_ms, Some(230));
    assert_eq!(cluster.system_id, "7300000000000000001");
    assert_eq!(cluster.syncs[0].streaming, Some(2));
    let roles: Vec<v1::MemberRole> = cluster.members.iter().map(|m| m.role()).collect();
    use v1::MemberRole::{Primary, Standby};
    assert_eq!(roles, [Primary, Standby, Standby]);
    assert_eq!(cluster.members[1].lag_bytes, Some(0));
    assert_eq!(cluster.members[2].lag_bytes, Some(1 << 20));
    assert!(cluster.members[2].streaming && cluster.members[2].synchronous);
    assert_eq!(cluster.members[2].problems, ["the disk is almost full"]);
}

#[tokio::test]
async fn an_old_report_says_unknown_and_what_it_was() {
    let served = Served::new(Fake::leader()).await;
    let mut view = LeaderView::clone(&served.fake.leader_view());
    view.now = view.now.plus(Duration::from_secs(5));
    *served.fake.view.lock().unwrap() = Arc::new(view);
    let request = v1::GetStatusRequest::default();
    let answer = api(&served).await.get_status(request).await.unwrap().into_inner();
    let status = answer.status.unwrap();
    let b = &status.clusters[0].members[1];
    assert_eq!(b.role(), v1::MemberRole::Unknown);
    assert_eq!(b.last_role(), v1::MemberRole::Standby);
    assert_eq!(b.reachability(), v1::Reachability::Silent);
    assert!(!b.streaming && b.lag_bytes.is_none());
}

#[tokio::test]
async fn a_follower_answers_what_it_may_and_names_the_leader_for_the_rest() {
    let leader = "10.1.1.1:7401".parse().unwrap();
    let served = Served::new(Fake::follower_of(Some(leader))).await;
    let mut api = api(&served).await;
    let request = v1::GetStatusRequest { cluster: "main".to_owned(), linearizable: false };
    let status = api.get_status(request).await.unwrap().into_inner().status.unwrap();
    assert!(!status.from_leader && status.clusters[0].primary == "a");
    assert_eq!(status.clusters[0].members[0].reachability(), v1::Reachability::Unknown);

    let mut refused = vec![api.switchover(to("b")).await.unwrap_err()];
    let linearizable = v1::GetStatusRequest { cluster: String::new(), linearizable: true };
    refused.push(api.get_status(linearizable).await.unwrap_err());
    let newest = v1::HistoryRequest {
        cluster: "main".to_owned(),
        after_event: 0,
        limit: 1,
        linearizable: true,
    };
    refused.push(api.history(newest).await.unwrap_err());
    let explain = v1::ExplainRequest { cluster: "main".to_owned() };
    refused.push(api.explain(explain).await.unwrap_err());
    let watch = v1::WatchStatusRequest { from_leader: true, ..Default::default() };
    refused.push(api.watch_status(watch).await.unwrap_err());
    for status in refused {
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(rules(&status), ["leader.here"]);
        assert_eq!(status.metadata().get(LEADER_HEADER).unwrap(), "10.1.1.1:7401");
    }
}

#[tokio::test]
async fn malformed_requests_name_the_field() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let field = |status: Status| {
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        details::decode(status.details())[0].field.clone()
    };
    assert_eq!(field(api.switchover(to("B'; --")).await.unwrap_err()), "target");
    let by = v1::SwitchoverRequest { requested_by: "\n".to_owned(), ..to("b") };
    assert_eq!(field(api.switchover(by).await.unwrap_err()), "requested_by");
    let long = v1::GetStatusRequest { cluster: "a".repeat(41), linearizable: false };
    assert_eq!(field(api.get_status(long).await.unwrap_err()), "cluster");
    let limit = v1::HistoryRequest {
        cluster: "main".to_owned(),
        limit: 401,
        after_event: 0,
        linearizable: false,
    };
    assert_eq!(field(api.history(limit).await.unwrap_err()), "limit");
    let absent = v1::ExplainRequest { cluster: "other".to_owned() };
    let status = api.explain(absent).await.unwrap_err();
    assert_eq!((status.code(), rules(&status)), (Code::NotFound, vec!["cluster.exists".into()]));
    assert!(status.message().contains("main"), "{status}");
    assert_eq!(*served.fake.barriers.lock().unwrap(), 1, "only the last one came so far");
}

#[tokio::test]
async fn an_oversized_message_is_refused() {
    let served = Served::new(Fake::leader()).await;
    let cluster = "a".repeat(REQUEST_BYTES_MAX + 1);
    let request = v1::GetStatusRequest { cluster, linearizable: false };
    let status = api(&served).await.get_status(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
}

#[tokio::test]
async fn another_control_plane_is_refused_and_none_is_accepted() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let named = |name: &'static str| {
        let mut request = Request::new(v1::GetStatusRequest::default());
        request.metadata_mut().insert(CONTROL_PLANE_HEADER, name.parse().unwrap());
        request
    };
    assert!(api.get_status(v1::GetStatusRequest::default()).await.is_ok());
    assert!(api.get_status(named("demo")).await.is_ok());
    let status = api.get_status(named("prod")).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(rules(&status), ["control-plane.same"]);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let before = served.fake.cluster();
    let dry = |target: &str| v1::SwitchoverRequest { dry_run: true, ..to(target) };
    let answer = api.switchover(dry("b")).await.unwrap().into_inner();
    assert_eq!((answer.target.as_str(), answer.operation, answer.problems), ("b", None, vec![]));
    let answer = api.switchover(dry("a")).await.unwrap().into_inner();
    assert_eq!(answer.problems[0].rule, "switchover.target-is-standby");
    let failover =
        v1::FailoverRequest { cluster: "main".into(), dry_run: true, ..Default::default() };
    let answer = api.failover(failover).await.unwrap().into_inner();
    assert_eq!(answer.problems[0].rule, "failover.primary-gone");
    assert_eq!(served.fake.cluster(), before);
}

#[tokio::test]
async fn checks_stand_before_the_proposal_and_rejections_after_it() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let status = api.switchover(to("a")).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(rules(&status), ["switchover.target-is-standby"]);
    assert_eq!(api.switchover(to("zz")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(served.fake.cluster().next_operation, 1);

    *served.fake.proposals.lock().unwrap() = Proposals::Unavailable;
    let status = api.switchover(to("b")).await.unwrap_err();
    assert_eq!(
        (status.code(), rules(&status)),
        (Code::Unavailable, vec!["leader.available".into()])
    );

    *served.fake.proposals.lock().unwrap() = Proposals::Apply;
    let begun = api.switchover(to("b")).await.unwrap().into_inner().operation.unwrap();
    assert_eq!((begun.id, begun.state()), (1, v1::OperationState::Running));
    assert_eq!((begun.requested_by.as_str(), begun.target.as_str()), ("api", "b"));
    let status = api.switchover(to("c")).await.unwrap_err();
    assert_eq!(rules(&status), ["operation.one-at-a-time"]);
}

fn finish(fake: &Fake, outcome: Outcome) {
    use quorate::domain::Command;
    use quorate::domain::command::Change;
    let operation = fake.cluster().operation.unwrap().id;
    let change = Change::FinishOperation { operation, outcome };
    let command = Command { cluster: main_cluster(), at: WallMillis(9), change };
    let mut state = quorate::domain::ControlState::clone(&fake.applied());
    let position = quorate::domain::apply::Position { term: 7, index: 9 };
    quorate::domain::apply(&mut state, position, &command);
    fake.change(|c| *c = state.clusters[&main_cluster()].clone());
}

#[tokio::test]
async fn waiting_ends_with_the_operation() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let request = v1::SwitchoverRequest { wait: true, timeout_ms: 60_000, ..to("b") };
    let mut waiting = api.clone();
    let answer = tokio::spawn(async move { waiting.switchover(request).await });
    let mut applied = served.fake.applied_watch();
    let begun = |s: &(u64, Arc<quorate::domain::ControlState>)| {
        s.1.clusters[&main_cluster()].operation.is_some()
    };
    drop(within(applied.wait_for(begun)).await.unwrap());
    finish(&served.fake, Outcome::Done { primary: member("b") });
    let done = within(answer).await.unwrap().unwrap().into_inner().operation.unwrap();
    assert_eq!((done.state(), done.primary.as_str()), (v1::OperationState::Done, "b"));

    let by_number = |operation| v1::GetOperationRequest { cluster: "main".into(), operation };
    for id in [0, 1] {
        let found = api.get_operation(by_number(id)).await.unwrap().into_inner();
        assert_eq!(found.operation, Some(done.clone()));
    }
    let status = api.get_operation(by_number(7)).await.unwrap_err();
    assert_eq!((status.code(), rules(&status)), (Code::NotFound, vec!["operation.exists".into()]));

    // One that does not end is answered as running.
    let request = v1::SwitchoverRequest { wait: true, timeout_ms: 1, ..to("b") };
    let answer = within(api.switchover(request)).await.unwrap().into_inner();
    assert_eq!(answer.operation.unwrap().state(), v1::OperationState::Running);
}

#[tokio::test]
async fn a_status_watch_sends_changes_and_heartbeats_and_ends_with_the_node() {
    let served = Served::new(Fake::leader()).await;
    let request = v1::WatchStatusRequest { heartbeat_ms: 500, ..Default::default() };
    let mut stream = api(&served).await.watch_status(request).await.unwrap().into_inner();
    let first = within(stream.message()).await.unwrap().unwrap();
    assert!(!first.heartbeat && first.status.unwrap().clusters[0].primary == "a");
    assert!(within(stream.message()).await.unwrap().unwrap().heartbeat);
    served.fake.change(|c| c.epoch = Epoch(4));
    let changed = async {
        loop {
            let message = stream.message().await.unwrap().unwrap();
            if !message.heartbeat {
                return message.status.unwrap().clusters[0].epoch;
            }
        }
    };
    assert_eq!(within(changed).await, 4);
    served.shutdown.send_replace(true);
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                other => return other.unwrap_err(),
            }
        }
    };
    assert_eq!(within(end).await.code(), Code::Unavailable);
    drop(stream);
    within(served.ended()).await;
}

#[tokio::test]
async fn history_pages_and_follows() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let page = |after_event, limit| v1::HistoryRequest {
        cluster: "main".into(),
        after_event,
        limit,
        linearizable: false,
    };
    let ids = |a: v1::HistoryResponse| a.events.iter().map(|e| e.id).collect::<Vec<_>>();
    let newest = api.history(page(0, 2)).await.unwrap().into_inner();
    assert_eq!((newest.oldest_event, ids(newest)), (1, vec![4, 5]));
    assert_eq!(ids(api.history(page(1, 2)).await.unwrap().into_inner()), [2, 3]);

    let request = v1::WatchHistoryRequest { cluster: "main".into(), after_event: 4 };
    let mut stream = api.watch_history(request).await.unwrap().into_inner();
    let first = within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert_eq!((first.id, first.text.as_str()), (5, "a is open for writes"));
    served.fake.change(|c| {
        let kind = EventKind::StopProven { closed: Epoch(3), member: member("a") };
        c.history.push_back(Event::new(6, WallMillis(6), Epoch(3), kind));
    });
    let next = within(stream.message()).await.unwrap().unwrap().event.unwrap();
    assert_eq!(next.id, 6);
    assert!(matches!(next.kind, Some(v1::event::Kind::StopProven(_))));
}

#[tokio::test]
async fn watches_are_bounded_and_given_back() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let request = || v1::WatchHistoryRequest { cluster: "main".into(), after_event: 0 };
    let mut streams = Vec::new();
    // More than one connection: HTTP/2 bounds the streams of each.
    let mut more = Vec::new();
    for _ in 0..4 {
        more.push(ControlPlaneClient::new(served.channel().await));
    }
    for i in 0..WATCHES_MAX {
        streams.push(within(more[i % 4].watch_history(request())).await.unwrap());
    }
    let status = within(api.watch_history(request())).await.unwrap_err();
    assert_eq!(
        (status.code(), rules(&status)),
        (Code::ResourceExhausted, vec!["watch.bound".into()])
    );
    streams.clear();
    let again = async {
        while api.watch_history(request()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(again).await;
}

#[tokio::test]
async fn explain_and_connection() {
    let served = Served::new(Fake::leader()).await;
    let mut api = api(&served).await;
    let request = v1::ExplainRequest { cluster: "main".to_owned() };
    let answer = api.explain(request).await.unwrap().into_inner();
    assert_eq!(answer.summary, "a is primary in epoch 3, open for writes");
    assert_eq!((answer.findings[0].rule.as_str(), answer.findings[0].epoch), ("member.problem", 3));
    assert_eq!(answer.findings[0].member, "c");

    served.fake.change(|c| c.tenure.as_mut().unwrap().member = member("b"));
    let request = v1::GetConnectionRequest { cluster: "main".to_owned() };
    let hosts = api.get_connection(request).await.unwrap().into_inner().hosts;
    let order: Vec<&str> = hosts.iter().map(|h| h.member.as_str()).collect();
    assert_eq!(order, ["b", "a", "c"]);
    assert_eq!((hosts[0].host.as_str(), hosts[0].port, hosts[0].primary), ("10.0.0.2", 5432, true));
}

#[tokio::test]
async fn health_serves_until_the_shutdown() {
    let served = Served::new(Fake::leader()).await;
    let mut health = HealthClient::new(served.channel().await);
    use tonic_health::pb::health_check_response::ServingStatus;
    for service in ["", "quorate.v1.ControlPlane"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    let other = HealthCheckRequest { service: "other".to_owned() };
    assert_eq!(health.check(other).await.unwrap_err().code(), Code::NotFound);
    let all = HealthCheckRequest { service: String::new() };
    let mut watch = health.watch(all).await.unwrap().into_inner();
    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::Serving);
    served.shutdown.send_replace(true);
    assert_eq!(within(watch.message()).await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(within(watch.message()).await.unwrap().is_none());
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let served = Served::new(Fake::leader()).await;
    let mut reflection = ServerReflectionClient::new(served.channel().await);
    let ask = |request| tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let requests = tokio_stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("quorate.v1.ControlPlane".to_owned())),
    ]);
    let mut answers = reflection.server_reflection_info(requests).await.unwrap().into_inner();
    let mut next = async || within(answers.message()).await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = next().await else { panic!() };
    let names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
    for name in ["quorate.v1.ControlPlane", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
    }
    assert!(matches!(next().await, Some(MessageResponse::FileDescriptorResponse(_))));
}

#[tokio::test]
async fn the_client_follows_to_the_leader() {
    let leader = Served::new(Fake::leader()).await;
    let follower = Served::new(Fake::follower_of(Some(leader.address))).await;
    let mut client = Client::new(&[follower.address.to_string()], LIMIT).unwrap();
    assert!(client.status("main").await.unwrap().from_leader);
    let begun = client.switchover(to("b")).await.unwrap().operation.unwrap();
    finish(&leader.fake, Outcome::Failed { why: "it was given up".to_owned() });
    let ended = within(client.follow(begun)).await.unwrap();
    assert_eq!(ended.failure, "it was given up");
}

#[tokio::test]
async fn the_client_finds_an_operation_whose_start_was_unclear() {
    let leader = Served::new(Fake::leader()).await;
    *leader.fake.proposals.lock().unwrap() = Proposals::Unclear;
    let mut client = Client::new(&[leader.address.to_string()], LIMIT).unwrap();
    let request = v1::SwitchoverRequest { requested_by: "me".to_owned(), ..to("b") };
    let found = within(client.switchover(request)).await.unwrap().operation.unwrap();
    assert_eq!((found.id, found.requested_by.as_str()), (1, "me"));
    assert_eq!(leader.fake.cluster().next_operation, 2, "it was proposed once");
}

#[tokio::test]
async fn the_client_says_where_there_is_no_leader_and_passes_refusals_on() {
    let lone = Served::new(Fake::follower_of(None)).await;
    let short = Duration::from_secs(2);
    let mut client = Client::new(&[lone.address.to_string()], short).unwrap();
    assert!(matches!(within(client.status("")).await, Err(client::Error::NoLeader(_))));
    assert!(!client.status_of_any("").await.unwrap().from_leader);

    let leader = Served::new(Fake::leader()).await;
    let endpoints = [lone.address.to_string(), leader.address.to_string()];
    let mut client = Client::new(&endpoints, LIMIT).unwrap();
    let Err(client::Error::Refused(refusal)) = client.switchover(to("a")).await else { panic!() };
    assert_eq!(refusal.infos[0].rule, "switchover.target-is-standby");
}
