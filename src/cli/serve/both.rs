//! Both sides in one process.

use super::begin::{self, Begun};
use super::{backups, code_of, ended};
use crate::engine::{Tasks, serve_both};
use crate::model::alarm::Alarms;

/// Serves until SIGTERM or Ctrl-C; the code to end with.
pub async fn serve(begun: Begun, alarms: Alarms) -> u8 {
    let addresses = begun.clickhouse_addresses();
    let Begun { settings, listener, loopback, access, own_clickhouse, clickhouse } = begun;
    let write = match begin::write_side(&settings, loopback, access) {
        Ok(write) => write,
        Err(code) => return code,
    };
    let mut serving = None;
    // Nobody watches how a server in one process ends.
    let read = settings.read_side(clickhouse, None);
    let address = listener.local_addr();
    let _backups = backups::begin(&settings, alarms.clone());
    let started = || serving = begin::tell(&settings, address, addresses);
    let served = serve_both(write, read, Tasks::new(alarms), listener, started, ended());
    let code = code_of(served.await);
    drop(serving);
    if let Some(own) = own_clickhouse {
        own.stop().await;
    }
    code
}
