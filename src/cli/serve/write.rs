//! `heliostat write-side`, not for people: the process that has the log and HTTP.

use std::sync::Arc;

use super::super::{ENVIRONMENT, report};
use super::begin;
use super::code_of;
use super::side::{self, Parent, SideStart};
use crate::engine::{self, Tasks, WriteSide};
use crate::link::ReadSideClient;
use crate::model::alarm::Alarms;

/// The hidden command.
pub const COMMAND: &str = "write-side";

/// Serves until the parent tells to stop; the code to end with.
pub async fn serve(start: SideStart, parent: Parent) -> u8 {
    let SideStart { settings, loopback, socket, .. } = start;
    let alarms = Alarms::default();
    let config = begin::open_access(&settings, &alarms)
        .and_then(|access| begin::write_side(&settings, loopback, access));
    let config = match config {
        Ok(config) => config,
        Err(code) => return code,
    };
    let listener = match side::listener() {
        Ok(listener) => listener,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let tasks = Tasks::new(alarms.clone());
    let write = match WriteSide::open(config, tasks.clone()) {
        Ok(write) => write,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let log = write.log().clone();
    let catalog = Arc::new(write.kept_catalog());
    let backend = ReadSideClient::new(socket);
    let follow = Arc::clone(&backend).follow(log.clone(), catalog, tasks.stopping().clone());
    tasks.spawn("read side", async move {
        follow.await;
        Ok(())
    });
    let mut told = parent.alarms.clone();
    tokio::spawn(async move {
        while told.changed().await.is_ok() {
            alarms.tell(told.borrow_and_update().clone());
        }
    });
    parent.is_served();
    write.serve(listener, backend, parent.stopped()).await;
    let served = engine::end(&tasks, move || log.close()).await;
    if let Err(error) = &served {
        parent.has_failed(error).await;
    }
    code_of(served)
}
