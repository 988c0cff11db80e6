//! Every limit of the server with its default, in one place. Sizes are bytes, times milliseconds.

/// The limits that a server runs with.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request body, after decompression.
    pub body_bytes_max: usize,
    /// The most events in one request.
    pub request_events_max: usize,
    /// The largest single event, its envelope included.
    pub event_bytes_max: usize,
    /// How deep the JSON of an event may nest.
    pub json_depth_max: usize,
    /// The longest event id.
    pub id_bytes_max: usize,
    /// The longest event type, source or stream name.
    pub name_bytes_max: usize,
    /// Most bytes of request bodies in memory at once, over all connections.
    pub bodies_bytes_max: usize,
    /// Most answers that read from the log at once, without those that follow it.
    pub event_streams_max: usize,
    /// Most answers that follow the log at once.
    pub event_followers_max: usize,
    /// Most change feeds that are open at once.
    pub change_feeds_max: usize,
    /// Bytes of a view's last changes that are kept for change feeds that are behind.
    pub change_bytes_max: usize,
    /// A client that takes nothing of its answer for this long is cut off.
    pub write_stall_ms_max: u64,
    /// An answer that follows the log sends an empty line when nothing has come for this long.
    pub follow_heartbeat_ms: u64,
    /// Most connections that are open at once, without those that follow the log or a view. Beyond it idle
    /// ones are closed for new ones.
    pub connections_max: usize,
    /// Most of these connections that come from one address (IPv6: one network of 64 bits).
    pub address_connections_max: usize,
    /// How long a client may take to send its request.
    pub request_read_ms_max: u64,
    /// Bytes of events that may wait for the disk; beyond it clients get 429.
    pub append_queue_bytes_max: usize,
    /// How long a request can be repeated by its `Idempotency-Key`.
    pub idempotency_key_ms: u64,
    /// The longest that `wait` and `timeout` may ask for.
    pub wait_ms_max: u64,
    /// The most rows or dead letters that one read answers with.
    pub read_rows_max: usize,
    /// Most processor time that the planning of one view may take.
    pub plan_time_ms_max: u64,
    /// Most memory that the planning of a set of query files may take, beside the stack.
    pub plan_memory_bytes_max: u64,
    /// Bytes of memory that the dead letters of all views may take; further ones are only counted.
    pub dead_letters_bytes_max: usize,
    /// Bytes that the state of one view may take, its rows included. Beyond it the view fails.
    pub view_state_bytes_max: usize,
    /// Bytes that the rows of one view may take. Beyond it the view fails.
    pub view_output_bytes_max: usize,
    /// Most rows that a join or UNNEST of a view may make of one event. Beyond it a join fails the view;
    /// UNNEST makes the event a dead letter.
    pub event_rows_max: usize,
    /// How long a view may work at one set of events, on one worker. Beyond it the view fails.
    pub view_time_ms_max: u64,
    /// A worker that does not get out of one view for this long ends the process, which sets the view
    /// aside at its next start.
    pub worker_stuck_ms_max: u64,
    /// After how many events the views' state is written into a snapshot again.
    pub snapshot_events_min: u64,
    /// How long after a snapshot the next one is taken at the earliest.
    pub snapshot_interval_ms_min: u64,
    /// How many bytes of snapshots are compared with their checksums before views go on from them, after an
    /// orderly end. The rest is compared while they go on; after any other end all of it is compared first.
    pub snapshot_checked_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            body_bytes_max: 16 << 20,
            request_events_max: 100_000,
            event_bytes_max: 1 << 20,
            json_depth_max: 64,
            id_bytes_max: 255,
            name_bytes_max: 1024,
            bodies_bytes_max: 256 << 20,
            event_streams_max: 128,
            event_followers_max: 128,
            change_feeds_max: 256,
            change_bytes_max: 16 << 20,
            write_stall_ms_max: 30_000,
            follow_heartbeat_ms: 15_000,
            connections_max: 1024,
            address_connections_max: 512,
            request_read_ms_max: 30_000,
            append_queue_bytes_max: 64 << 20,
            idempotency_key_ms: 24 * 60 * 60 * 1000,
            wait_ms_max: 60_000,
            read_rows_max: 10_000,
            plan_time_ms_max: 10_000,
            plan_memory_bytes_max: 1 << 30,
            dead_letters_bytes_max: 256 << 20,
            view_state_bytes_max: 16 << 30,
            view_output_bytes_max: 8 << 30,
            event_rows_max: 10_000_000,
            view_time_ms_max: 60_000,
            worker_stuck_ms_max: 10_000,
            snapshot_events_min: 200_000,
            snapshot_interval_ms_min: 30_000,
            snapshot_checked_bytes_max: 4 << 30,
        }
    }
}
