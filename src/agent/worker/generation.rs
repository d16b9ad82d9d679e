//! Which generation of the control plane the member obeys.

use tracing::{error, info};

use super::Worker;
use crate::agent::driver::Database;
use crate::clock::Clock;
use crate::domain::alarm::NoticeCode;
use crate::domain::generation::Generation;
use crate::runtime::Runtime;
use crate::session::Transport;

impl<RT: Runtime, T: Transport, D: Database, C: Clock> Worker<RT, T, D, C> {
    /// Whether a state of this generation is obeyed. One that is higher than any before is on disk
    /// before anything of it is done, and nothing of a lower one is ever done again.
    pub(super) async fn obeys(&mut self, generation: Generation) -> bool {
        let obeyed = self.shared.lock().record.generation;
        if generation < obeyed {
            return false;
        }
        if generation == obeyed {
            return true;
        }
        match self.record(|record| record.generation = generation).await {
            Ok(()) => {
                info!(
                    member = %self.shared.member.name, before = %obeyed, now = %generation,
                    "the control plane was recovered: a new generation is obeyed from now on"
                );
                let text = format!(
                    "generation {generation} of the control plane is obeyed from now on, and none \
                     before it"
                );
                self.shared.notice(NoticeCode::GenerationObeyed, text);
                self.shared.problem("generation", None);
                self.shared.claims.notify_one();
                true
            }
            Err(error) => {
                error!(member = %self.shared.member.name, %error, "a new generation is not obeyed yet");
                let text = format!(
                    "generation {generation} of the control plane cannot be obeyed yet, since that \
                     could not be written down: {error}"
                );
                self.shared.problem("generation", Some(text));
                false
            }
        }
    }
}
