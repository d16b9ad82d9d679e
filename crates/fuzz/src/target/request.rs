//! The control API: any request on any state is answered, or refused with a reason.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt;
use prost::Message;
use tokio::sync::watch;
use tonic::{Code, Request, Response, Status};

use crate::api::{Api, ClusterView, ControllerInfo, LeaderView, Leadership, ProposeError, Source};
use crate::domain::apply::Position;
use crate::domain::observation::Observations;
use crate::domain::types::{BootTime, WallMillis};
use crate::domain::{Command, ControlState, Reply};
use crate::input::Input;
use crate::pb::v1::control_plane_server::ControlPlane;
use crate::pb::{details, v1};
use crate::run::block_on;
use crate::{generate, judge, states};

/// Messages of a stream that are looked at.
const MESSAGES_MAX: usize = 2;

/// A state, reports, and who is asked; then the method and its request.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let state = states::state(input.byte());
    let now = BootTime::from_nanos(1_000_000_000_000);
    let mut observations = Observations::default();
    if let Some(cluster) = state.clusters.get(&states::main()) {
        observations.note_state(cluster, now);
        for number in 0..input.below(6) {
            let member = generate::member(&mut input);
            let report = generate::report(&mut input, cluster, &member, number as u64);
            observations.record(member, report, now);
        }
    }
    let lease_age = input.option(|i| std::time::Duration::from_millis(i.number(100)));
    let clusters = state
        .clusters
        .keys()
        .map(|name| {
            let observations = observations.clone();
            let (findings, catalogue) = (Vec::new(), None);
            (name.clone(), ClusterView { observations, findings, lease_age, catalogue })
        })
        .collect();
    let (applied, _) = watch::channel((7, Arc::new(state)));
    let node = Node {
        view: Arc::new(LeaderView { now, clusters }),
        leads: !input.stray(),
        applied: Mutex::new(applied),
    };
    let (shutdown, stop) = watch::channel(false);
    let api = Api::new(Arc::new(node), stop);
    let method = input.byte();
    let body = input.rest();
    block_on(ask(&api, method, body));
    drop(shutdown);
}

async fn ask(api: &Api, method: u8, body: &[u8]) {
    match method % 11 {
        8 => answer(api.get_spec(request(body)).await),
        9 => answer(api.update_spec(request(body)).await),
        10 => answer(api.spec_history(request(body)).await),
        0 => answer(api.get_status(request(body)).await),
        1 => answer(api.switchover(request(body)).await),
        2 => answer(api.failover(request(body)).await),
        3 => answer(api.get_operation(request(body)).await),
        4 => answer(api.history(request(body)).await),
        5 => answer(api.explain(request(body)).await),
        6 => answer(api.get_connection(request(body)).await),
        _ => match api.watch_status(request(body)).await {
            Err(status) => refusal(&status),
            Ok(stream) => {
                let mut stream = stream.into_inner().take(MESSAGES_MAX);
                while let Some(message) = stream.next().await {
                    answer(message.map(Response::new));
                }
            }
        },
    }
}

/// What cannot be read is refused before it comes here: its readable part is enough.
fn request<T: Message + Default>(body: &[u8]) -> Request<T> {
    let mut message = T::default();
    let _ = message.merge(body);
    Request::new(message)
}

fn answer<T>(answer: Result<Response<T>, Status>)
where
    T: Message + Default + PartialEq + std::fmt::Debug + serde::Serialize,
{
    match answer {
        Err(status) => refusal(&status),
        Ok(response) => {
            let message = response.into_inner();
            let again = T::decode(message.encode_to_vec().as_slice()).expect("it can be read");
            assert_eq!(message, again);
            serde_json::to_vec(&message).expect("it can be written as JSON");
        }
    }
}

/// A refusal says what is wrong, by a rule that programs know, and has a code of its own.
fn refusal(status: &Status) {
    assert!(!status.message().is_empty(), "{status:?}");
    assert!(status.message().len() < 4096, "{status:?}");
    assert!(!matches!(status.code(), Code::Unknown | Code::Internal | Code::Ok), "{status:?}");
    let infos: Vec<v1::ErrorInfo> = details::decode(status.details());
    assert!(!infos.is_empty() && infos.iter().all(|i| !i.rule.is_empty()), "{status:?}");
    // It fits into the headers of an HTTP response.
    let response = status.clone().into_http::<Vec<u8>>();
    let bytes: usize = response.headers().values().map(|v| v.len()).sum();
    assert!(bytes < 16 * 1024, "{bytes} bytes of headers: {status:?}");
}

/// A node that applies what is proposed to it.
struct Node {
    view: Arc<LeaderView>,
    leads: bool,
    applied: Mutex<watch::Sender<(u64, Arc<ControlState>)>>,
}

impl Node {
    fn state(&self) -> watch::Receiver<(u64, Arc<ControlState>)> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).subscribe()
    }
}

#[tonic::async_trait]
impl Source for Node {
    fn control_plane(&self) -> &str {
        "demo"
    }

    fn node_name(&self) -> &str {
        "n1"
    }

    fn node_id(&self) -> u64 {
        1
    }

    fn applied(&self) -> Arc<ControlState> {
        self.state().borrow().1.clone()
    }

    fn applied_watch(&self) -> watch::Receiver<(u64, Arc<ControlState>)> {
        self.state()
    }

    fn leadership(&self) -> Leadership {
        Leadership { is_leader: self.leads, established: true, leader: None, term: 1 }
    }

    fn leader_view(&self) -> Arc<LeaderView> {
        self.view.clone()
    }

    fn controllers(&self) -> Vec<ControllerInfo> {
        Vec::new()
    }

    async fn propose(&self, command: Command) -> Result<Reply, ProposeError> {
        let sender = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = ControlState::clone(&sender.borrow().1);
        let reply = judge::step(&mut state, Position { term: 1, index: 8 }, &command);
        sender.send_replace((8, Arc::new(state)));
        Ok(reply)
    }

    async fn read_barrier(&self) -> Result<(), ProposeError> {
        if self.leads { Ok(()) } else { Err(ProposeError::NotLeader { leader: None }) }
    }

    fn wall(&self) -> WallMillis {
        states::REACHED
    }
}
