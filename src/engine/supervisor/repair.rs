//! Mends what somebody else, or damage, has done to views that run.

use super::RunningViews;
use crate::engine::registry::View;
use crate::model::alarm::Part;
use crate::model::view::ViewSchema;
use crate::sink::Tampering;
use crate::snapshot::ViewIdentity;

impl RunningViews {
    /// Builds a view from the log whose snapshot is found to be damaged after it has gone on from it.
    pub(super) async fn replay(&mut self, damaged: &ViewIdentity, what: &str) {
        let views = self.supervisor.registry.views();
        let view = views.views.get(&damaged.name);
        // A generation that is replaced, or gone, takes the damage with it.
        if view.is_none_or(|view| view.wanted.schema.generation != damaged.generation) {
            return;
        }
        let message = format!("its snapshot, which it has gone on from: {what}");
        self.supervisor.tasks.alarms().raise(Part::View, &damaged.name, message);
        if let Err(error) = self.rebuild(&damaged.name).await {
            tracing::error!(view = damaged.name, %error, "the view cannot be built from the log");
        }
    }

    /// Mends tables that somebody else has dropped or changed: VIEWs are made anew, and views whose
    /// rows cannot be relied on are written anew from the log, beside what is there.
    pub(super) async fn repair(&mut self, found: Vec<Tampering>) {
        let Some(sink) = self.sink.clone() else { return };
        let views = self.supervisor.registry.views();
        for tampering in found {
            match tampering {
                Tampering::State { what, is_derived } => {
                    tracing::error!(
                        "somebody else has changed ClickHouse: {what}; it is made anew"
                    );
                    if let Err(error) = sink.prepare().await {
                        tracing::warn!(%error, "it cannot be made anew yet; it is repeated");
                        return;
                    }
                    let written = views.views.iter().filter(|(_, view)| view.has_sink());
                    for (name, _) in written.filter(|_| !is_derived) {
                        self.write_anew(name, &what);
                    }
                }
                Tampering::Rows { view, generation, what } => {
                    // A generation that is about to be replaced is mended by that.
                    let is_wanted = |view: &View| view.wanted.schema.generation == generation;
                    if views.views.get(&view).is_some_and(is_wanted) {
                        self.write_anew(&view, &what);
                    }
                }
                Tampering::Comment { view } => {
                    if !views.views.get(&view.name).is_some_and(|now| has_name(now, &view)) {
                        continue;
                    }
                    tracing::info!(view = view.name, "the view has another comment now");
                    if let Err(error) = sink.republish(&view).await {
                        tracing::warn!(view = view.name, %error, "its comment cannot be changed yet; it is repeated");
                    }
                }
                Tampering::Name { view, what } => {
                    if !views.views.get(&view.name).is_some_and(|now| has_name(now, &view)) {
                        continue;
                    }
                    tracing::error!(
                        view = view.name,
                        "somebody else has changed ClickHouse: {what}; it is made anew"
                    );
                    let alarms = self.supervisor.tasks.alarms();
                    match sink.republish(&view).await {
                        Ok(()) => alarms.clear(Part::View, &view.name),
                        Err(error) => {
                            let message = format!("{what}, and cannot be made anew yet: {error}");
                            alarms.raise(Part::View, &view.name, message);
                        }
                    }
                }
            }
        }
        self.begin_missing(false).await;
    }

    /// Wants a view written anew since its table was changed by somebody else.
    fn write_anew(&mut self, view: &str, what: &str) {
        let message = format!("{what}, by somebody else: the view is written anew from the log");
        self.supervisor.tasks.alarms().raise(Part::View, view, message);
        if let Err(error) = self.next_generation(view) {
            tracing::error!(view, %error, "the view cannot be written anew");
        }
    }
}

/// Whether a view's public names are those of this generation.
fn has_name(now: &View, of: &ViewSchema) -> bool {
    let serving = now.serving.as_ref().map(|tracker| &tracker.plan.schema.generation);
    now.building.is_none() && serving == Some(&of.generation)
}
