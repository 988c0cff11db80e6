//! Both sides in one process.

use super::super::{DONE, ENVIRONMENT, report};
use super::begin::{self, Begun};
use super::ended;
use crate::engine::{Tasks, WriteSideConfig, serve_both};
use crate::model::alarm::Alarms;

/// Serves until SIGTERM or Ctrl-C; the code to end with.
pub async fn serve(begun: Begun, alarms: Alarms) -> u8 {
    let Begun { settings, listener, loopback, own_clickhouse, clickhouse } = begun;
    let (gate, tls) = match (begin::gate(&settings, loopback, &alarms), begin::tls(&settings)) {
        (Ok(gate), Ok(tls)) => (gate, tls),
        (Err(code), _) | (_, Err(code)) => return code,
    };
    let url = clickhouse.as_ref().map(|clickhouse| clickhouse.url.clone());
    let mut serving = None;
    let write = WriteSideConfig {
        data_dir: settings.data_dir.clone(),
        limits: settings.limits.clone(),
        gate,
        tls,
    };
    let read = settings.read_side(clickhouse);
    let address = listener.local_addr();
    let started = || serving = begin::tell(&settings, address, url);
    let served = serve_both(write, read, Tasks::new(alarms), listener, started, ended());
    let code = match served.await {
        Ok(()) => DONE,
        Err(error) => {
            report(&error);
            ENVIRONMENT
        }
    };
    drop(serving);
    if let Some(own) = own_clickhouse {
        own.stop().await;
    }
    code
}
