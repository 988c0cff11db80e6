//! Looks after the views' tables in their sink, and asks for what somebody else has changed to be
//! written anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use super::supervisor::SupervisorRequest;
use crate::sink::{Inspection, Sink};

/// How often the tables are looked at.
const INTERVAL: Duration = Duration::from_secs(3);

/// Looks until told to stop.
pub async fn run(
    sink: Arc<dyn Sink>,
    registry: Arc<Registry>,
    requests: mpsc::UnboundedSender<SupervisorRequest>,
    stopping: CancellationToken,
) {
    let look = async {
        loop {
            tokio::time::sleep(INTERVAL).await;
            let generations = generations(&registry);
            let found = match sink.inspect(&generations).await {
                Ok(found) => found,
                // The sinks say so, too, and louder.
                Err(error) => {
                    tracing::debug!(%error, "the tables cannot be looked at");
                    continue;
                }
            };
            if found.is_empty() {
                continue;
            }
            let (answer, answered) = oneshot::channel();
            if requests.send(SupervisorRequest::Repair { found, answer }).is_err() {
                return;
            }
            let _ = answered.await;
        }
    };
    tokio::select! {
        () = stopping.cancelled() => {}
        () = look => {}
    }
}

fn generations(registry: &Registry) -> Vec<Inspection> {
    let views = registry.views();
    let mut generations = Vec::new();
    for view in views.views.values() {
        let names = view.serving.as_ref().filter(|_| view.building.is_none()).map(|view| view.id);
        for tracker in view.running() {
            let Some(status) = &tracker.sink else { continue };
            // Its comment may have changed since it was begun.
            let is_wanted = view.wanted.schema.generation == tracker.plan.schema.generation;
            let plan = if is_wanted { &view.wanted } else { &tracker.plan };
            generations.push(Inspection {
                schema: Arc::clone(&plan.schema),
                status: Arc::clone(status),
                has_names: names == Some(tracker.id),
            });
        }
    }
    generations
}
