//! Registration of the member with the control plane.

use std::time::Duration;

use tracing::error;

use super::{REGISTER, Worker};
use crate::agent::driver::Database;
use crate::clock::Clock;
use crate::domain::doctor::CONFIGURATION_DIFFERS;
use crate::domain::observation::Data;
use crate::domain::state::ClusterState;
use crate::runtime::Runtime;
use crate::session::wire::{RegisterRequest, SessionError};
use crate::session::{Failure, Transport};

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    pub(super) async fn register(&mut self, state: Option<&ClusterState>) {
        let data = self.shared.lock().data.clone();
        let member = &self.shared.member;
        let listed = state.and_then(|s| s.members.get(&member.name)).is_some_and(|m| {
            m.address == member.address
                && m.agent_address == member.agent_address
                && m.priority == member.priority
                && m.tags == member.tags
                && m.node == self.shared.options.node
        });
        let now = self.shared.clock.now();
        if (listed && self.registered.as_ref() == Some(&data)) || now < self.register_at {
            return;
        }
        // A running primary is not held up by a control plane that is slow to answer.
        let urgent = self.shared.lock().primary_epoch().is_some();
        if urgent && listed {
            return;
        }
        self.register_at = now.plus(Duration::from_millis(300));
        let request = RegisterRequest {
            cluster: member.cluster.clone(),
            spec: member.spec.clone(),
            member: member.name.clone(),
            node: self.shared.options.node.clone(),
            address: member.address.clone(),
            agent_address: member.agent_address.clone(),
            priority: member.priority,
            tags: member.tags.clone(),
            adopt: member.adopt,
            generation: self.shared.lock().record.generation,
            system_id: match &data {
                Data::Present { system_id } => Some(*system_id),
                _ => None,
            },
        };
        let work = self.client.register(&request, REGISTER);
        // Whether it was registered is not known then: it is asked again.
        let Some(answer) = self.unless_ended(work).await else { return };
        match answer {
            Ok(reply) => {
                self.registered = Some(data);
                self.shared.problem("registration", None);
                let differences = (!reply.differences.is_empty()).then(|| {
                    format!(
                        "{CONFIGURATION_DIFFERS} from what the cluster agreed on, which holds: {}",
                        reply.differences.join(", ")
                    )
                });
                self.shared.problem("configuration", differences);
            }
            Err(Failure::Session { error: SessionError::Rejected(rejection), .. }) => {
                let text = format!("registration refused: {rejection}");
                let known = self.shared.lock().problems.get("registration") == Some(&text);
                if !known {
                    // Once: it is asked again every two seconds.
                    error!(member = %member.name, rule = rejection.rule(), %rejection, "registration refused");
                }
                self.shared.problem("registration", Some(text));
                self.register_at = now.plus(Duration::from_secs(2));
            }
            Err(failure) => {
                tracing::debug!(member = %member.name, %failure, "not registered yet");
            }
        }
    }
}
