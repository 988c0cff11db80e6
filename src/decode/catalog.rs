//! The declared tables as data, and the check of events against them before they are accepted.
//!
//! The read side plans the query files and offers the catalog that they declare; ingest adopts it
//! before the views of the same files begin, and keeps it while the read side is away.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::{Validator, Violation};
use crate::model::event::NewEvent;
use crate::model::schema::{EventTable, OnInvalid};

/// The declarations of a set of query files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EventCatalog {
    /// The event tables.
    pub tables: Vec<Arc<EventTable>>,
}

/// A part of an event's `data` that does not fit its declared schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Index of the event.
    pub index: usize,
    /// The violation; its pointer leads into `data`.
    pub violation: Violation,
}

/// Takes over the catalog of a set of query files.
pub trait CatalogReceiver: Send + Sync {
    /// Asks for a catalog to be adopted in place of the one before.
    fn offer(&self, catalog: EventCatalog);

    /// Resolves once the last one that was offered is in use.
    fn adopted(&self) -> BoxFuture<'_, ()>;
}

/// The catalog by which ingest checks events. Clones share it.
#[derive(Clone, Default)]
pub struct CatalogInUse(Arc<RwLock<Option<Arc<ValidatorPool>>>>);

impl CatalogInUse {
    /// Checks by this catalog from now on.
    pub fn adopt(&self, catalog: EventCatalog) {
        let pool = Arc::new(ValidatorPool { tables: catalog.tables, idle: Mutex::default() });
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(pool);
    }

    fn pool(&self) -> Option<Arc<ValidatorPool>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// False until the first catalog is adopted: nobody knows what fits.
    pub fn exists(&self) -> bool {
        self.pool().is_some()
    }

    /// The parts of these events that do not fit the schemas declared for their type and version, in
    /// the order of the events. Stops at about `misfits_max`. Events that nothing declares fit, and so
    /// do those of tables that quarantine. `None` where there is no catalog yet.
    ///
    /// For a request of more than a few events it is called on a thread that may compute for a while.
    pub fn validate(&self, events: &[NewEvent], misfits_max: usize) -> Option<Vec<Misfit>> {
        let check = |validators: &mut Validators| {
            let mut misfits = Vec::new();
            for (index, event) in events.iter().enumerate() {
                for (table, validator) in &mut *validators {
                    if table.event_type != event.event_type || table.version != event.version {
                        continue;
                    }
                    for violation in validator.check(&event.data) {
                        misfits.push(Misfit { index, violation });
                    }
                }
                if misfits.len() >= misfits_max {
                    break;
                }
            }
            misfits
        };
        Some(self.pool()?.with(check))
    }
}

impl CatalogReceiver for CatalogInUse {
    fn offer(&self, catalog: EventCatalog) {
        self.adopt(catalog);
    }

    fn adopted(&self) -> BoxFuture<'_, ()> {
        std::future::ready(()).boxed()
    }
}

/// Validators of a set of tables that are not in use just now.
struct ValidatorPool {
    tables: Vec<Arc<EventTable>>,
    idle: Mutex<Vec<Validators>>,
}

/// A validator per table that refuses what does not fit.
type Validators = Vec<(Arc<EventTable>, Validator)>;

impl ValidatorPool {
    /// Calls `check` with validators of its own.
    fn with<T>(&self, check: impl FnOnce(&mut Validators) -> T) -> T {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut validators = taken.unwrap_or_else(|| {
            let strict = self.tables.iter().filter(|table| table.on_invalid == OnInvalid::Reject);
            strict.map(|table| (Arc::clone(table), Validator::new(table))).collect()
        });
        let result = check(&mut validators);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(validators);
        result
    }
}
