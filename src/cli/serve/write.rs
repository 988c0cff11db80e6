//! `heliostat write-side`, not for people: the process that has the log and HTTP.

use std::sync::Arc;

use super::super::{DONE, ENVIRONMENT, report};
use super::begin;
use super::side::{self, Parent, SideStart};
use crate::engine::{self, Tasks, WriteSide, WriteSideConfig};
use crate::link::ReadSideClient;
use crate::model::alarm::Alarms;

/// The hidden command.
pub const COMMAND: &str = "write-side";

/// Serves until the parent tells to stop; the code to end with.
pub async fn serve() -> u8 {
    let (start, parent) = match Parent::meet().await {
        Ok(met) => met,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let SideStart { settings, loopback, socket, .. } = start;
    let alarms = Alarms::default();
    let (gate, tls) = match (begin::gate(&settings, loopback, &alarms), begin::tls(&settings)) {
        (Ok(gate), Ok(tls)) => (gate, tls),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let listener = match side::listener() {
        Ok(listener) => listener,
        Err(error) => {
            report(&error);
            return ENVIRONMENT;
        }
    };
    let tasks = Tasks::new(alarms.clone());
    let (data_dir, limits) = (settings.data_dir, settings.limits);
    let config = WriteSideConfig { data_dir, limits, gate, tls };
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
    match engine::end(&tasks, move || log.close()).await {
        Ok(()) => DONE,
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    }
}
