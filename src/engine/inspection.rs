//! Looks after the views' tables in their sink, and asks for what somebody else has changed to be
//! written anew.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::registry::Registry;
use super::supervisor::SupervisorRequest;
use crate::model::view::ViewRef;
use crate::sink::{Inspection, Sink, SinkError, Tampering};

/// How often it is looked whether the public names are there.
const NAMES_INTERVAL: Duration = Duration::from_secs(1);
/// At every so many of these the tables are looked at, too.
const NAMES_PER_TABLES: u32 = 3;

/// Looks until told to stop.
pub async fn run(
    sink: Arc<dyn Sink>,
    registry: Arc<Registry>,
    requests: mpsc::UnboundedSender<SupervisorRequest>,
    stopping: CancellationToken,
) {
    let look = async {
        for round in 1_u32.. {
            tokio::time::sleep(NAMES_INTERVAL).await;
            let generations = generations(&registry);
            let found = match round.is_multiple_of(NAMES_PER_TABLES) {
                true => sink.inspect(&generations).await,
                false => missing_names(&*sink, &generations).await,
            };
            let found = match found {
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

/// The public names that are gone. Where their table is, too, the next look at the tables tells more.
async fn missing_names(
    sink: &dyn Sink,
    generations: &[Inspection],
) -> Result<Vec<Tampering>, SinkError> {
    let published = generations.iter().filter(|of| of.has_names && of.status.is_published());
    let published: Vec<ViewRef> = published.map(|of| Arc::clone(&of.schema)).collect();
    let missing = sink.missing_names(&published).await?;
    Ok(missing.into_iter().map(Tampering::missing).collect())
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
