//! The open connections: how many there may be, altogether and of one address, and which one makes
//! way for a new one.
//!
//! A connection is idle while no request of it is in progress, also before its first request and
//! while it sends a head. Once the places are taken, an idle connection is closed for a new one; if
//! there is none, one whose body has been awaited for a while. Connections that follow the log or a
//! view take no place: they have limits of their own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::model::limits::Limits;

/// How long a connection has to send its head before it may be closed for another address's.
const IDLE_TIME_MIN: Duration = Duration::from_millis(100);
/// How long a body may be awaited before its connection may be closed for another.
const RECEIVE_TIME_MIN: Duration = Duration::from_secs(2);
/// How often a new connection looks for a place while all are taken.
const PLACE_POLL: Duration = Duration::from_millis(20);
/// How often refused connections are logged.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The open connections of a server.
pub struct Connections {
    places_max: usize,
    per_address_max: usize,
    table: Mutex<ConnectionTable>,
    /// Notified when a place may have become free.
    freed: Notify,
}

#[derive(Default)]
struct ConnectionTable {
    entries: HashMap<u64, ConnectionEntry>,
    next_id: u64,
    /// Entries that do not follow.
    places: usize,
    /// The same by address. An address with none has no entry.
    of_address: HashMap<IpAddr, usize>,
    closed: u64,
    refused: u64,
    logged: Option<Instant>,
}

struct ConnectionEntry {
    address: IpAddr,
    requests: usize,
    /// Requests of these whose body is not complete.
    receiving: usize,
    /// Requests of these whose answer follows the log or a view.
    followers: usize,
    /// Whether a request has come.
    used: bool,
    /// When a request last began, was complete, or ended.
    since: Instant,
    evict: Arc<Notify>,
}

impl ConnectionEntry {
    fn is_idle(&self) -> bool {
        self.requests == 0
    }

    fn is_slow(&self) -> bool {
        self.requests == self.receiving && self.since.elapsed() >= RECEIVE_TIME_MIN
    }
}

/// Figures of the connections.
pub struct ConnectionFigures {
    /// Connections that are open, those that follow included.
    pub open: usize,
    /// Connections of these that follow the log or a view.
    pub following: usize,
    /// Connections closed to make way, since the start.
    pub closed: u64,
    /// Connections refused because of their address's limit, since the start.
    pub refused: u64,
}

enum ConnectionAdmission {
    Place(Place),
    Refused,
    /// All places are taken, and none can be made free now.
    Full,
}

impl ConnectionTable {
    /// Gives the place of an entry back that does not follow.
    fn give_back(&mut self, address: IpAddr) {
        self.places -= 1;
        if let Some(count) = self.of_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&address);
            }
        }
    }

    fn take_place(&mut self, address: IpAddr) {
        self.places += 1;
        *self.of_address.entry(address).or_default() += 1;
    }

    /// Closes the connection that can best be spared of those for which `may_go` holds.
    fn evict(&mut self, may_go: impl Fn(&ConnectionEntry) -> bool) -> bool {
        let candidates = self.entries.iter().filter(|(_, e)| e.followers == 0 && may_go(e));
        let rank = |entry: &ConnectionEntry| {
            let of_address = self.of_address.get(&entry.address).copied().unwrap_or_default();
            // An address with many connections misses one least.
            (entry.used, usize::MAX - of_address, entry.since)
        };
        let found = candidates.min_by_key(|(_, entry)| rank(entry)).map(|(id, _)| *id);
        let Some(entry) = found.and_then(|id| self.entries.remove(&id)) else { return false };
        self.give_back(entry.address);
        self.closed += 1;
        entry.evict.notify_one();
        true
    }
}

impl Connections {
    /// No connections yet.
    pub fn new(limits: &Limits) -> Self {
        Connections {
            places_max: limits.connections_max.max(1),
            per_address_max: limits.address_connections_max.max(1),
            table: Mutex::default(),
            freed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, ConnectionTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection of this address, once there is one. `None`: the address has as
    /// many connections as it may, and none of them is idle.
    pub async fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let address = network_of(ip);
        loop {
            let freed = self.freed.notified();
            match self.try_admit(address) {
                ConnectionAdmission::Place(place) => return Some(place),
                ConnectionAdmission::Refused => return None,
                // A connection that is too young to be closed now may be old enough soon.
                ConnectionAdmission::Full => drop(timeout(PLACE_POLL, freed).await),
            }
        }
    }

    fn try_admit(self: &Arc<Self>, address: IpAddr) -> ConnectionAdmission {
        let mut table = self.lock();
        let own = table.of_address.get(&address).copied().unwrap_or_default();
        if own >= self.per_address_max
            && !table.evict(|entry| entry.address == address && entry.is_idle())
        {
            table.refused += 1;
            if table.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
                table.logged = Some(Instant::now());
                tracing::warn!(
                    %address,
                    limit = self.per_address_max,
                    "connections are refused: the address has too many (address_connections_max)"
                );
            }
            return ConnectionAdmission::Refused;
        }
        if table.places >= self.places_max
            && !table.evict(|entry| entry.is_idle() && entry.since.elapsed() >= IDLE_TIME_MIN)
            && !table.evict(ConnectionEntry::is_slow)
        {
            return ConnectionAdmission::Full;
        }
        let id = table.next_id;
        table.next_id += 1;
        let evict = Arc::new(Notify::new());
        let entry = ConnectionEntry {
            address,
            requests: 0,
            receiving: 0,
            followers: 0,
            used: false,
            since: Instant::now(),
            evict: Arc::clone(&evict),
        };
        table.entries.insert(id, entry);
        table.take_place(address);
        let connection = Connection { connections: Arc::clone(self), id };
        ConnectionAdmission::Place(Place { connection, evict })
    }

    /// Figures for metrics.
    pub fn figures(&self) -> ConnectionFigures {
        let table = self.lock();
        let open = table.entries.len();
        let following = open - table.places;
        ConnectionFigures { open, following, closed: table.closed, refused: table.refused }
    }
}

/// The unit that connections are counted by: an IPv4 address, or an IPv6 network, of which a client can use
/// any number of addresses.
fn network_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => IpAddr::V6((u128::from(ip) >> 64 << 64).into()),
        ip => ip,
    }
}

/// The place of an open connection, given back when dropped.
pub struct Place {
    connection: Connection,
    evict: Arc<Notify>,
}

impl Place {
    /// Resolves when the connection is to be closed for another one. No request is in progress then
    /// whose body is complete, and none begins any more.
    pub async fn evicted(&self) {
        self.evict.notified().await;
    }

    /// The connection, for its requests.
    pub fn connection(&self) -> Connection {
        self.connection.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Connection { connections, id } = &self.connection;
        let mut table = connections.lock();
        if let Some(entry) = table.entries.remove(id)
            && entry.followers == 0
        {
            table.give_back(entry.address);
        }
        drop(table);
        connections.freed.notify_waiters();
    }
}

/// An open connection, as its requests know it.
#[derive(Clone)]
pub struct Connection {
    connections: Arc<Connections>,
    id: u64,
}

impl Connection {
    /// Changes the entry, unless the connection is being closed.
    fn change(&self, change: impl FnOnce(&mut ConnectionEntry)) -> bool {
        let mut table = self.connections.lock();
        let Some(entry) = table.entries.get_mut(&self.id) else { return false };
        let followed = entry.followers > 0;
        change(entry);
        entry.since = Instant::now();
        let (address, follows, idle) = (entry.address, entry.followers > 0, entry.is_idle());
        match (followed, follows) {
            (false, true) => table.give_back(address),
            (true, false) => table.take_place(address),
            _ => {}
        }
        drop(table);
        if idle || follows {
            self.connections.freed.notify_waiters();
        }
        true
    }

    /// Begins a request; `None`: the connection is being closed for another one.
    pub fn begin(&self) -> Option<RequestInProgress> {
        let begun = self.change(|entry| {
            entry.requests += 1;
            entry.receiving += 1;
            entry.used = true;
        });
        begun.then(|| RequestInProgress(self.clone()))
    }

    /// Says that the answer to a request follows the log or a view, until the value is dropped.
    pub fn follow(&self) -> Follower {
        let begun = self.change(|entry| entry.followers += 1);
        Follower(begun.then(|| self.clone()))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Connection {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<Connection>().cloned();
        // A router without a server in front of it has no limits.
        Ok(connection.unwrap_or_else(|| {
            let connections = Arc::new(Connections::new(&Limits::default()));
            Connection { connections, id: 0 }
        }))
    }
}

/// A request in progress, which ends when this is dropped.
pub struct RequestInProgress(Connection);

impl RequestInProgress {
    /// Passes a request's body on, and knows when it is complete or nobody wants more of it.
    pub fn receiving<B: Body>(&self, body: B) -> ReceivingBody<B> {
        let mut body = ReceivingBody { body, connection: Some(self.0.clone()) };
        if body.body.is_end_stream() {
            body.received();
        }
        body
    }

    /// Passes the answer's body on; the request ends with it.
    pub fn answering<B>(self, body: B) -> AnsweringBody<B> {
        AnsweringBody { body, _request: self }
    }
}

impl Drop for RequestInProgress {
    fn drop(&mut self) {
        self.0.change(|entry| entry.requests -= 1);
    }
}

/// An answer that follows the log or a view.
pub struct Follower(Option<Connection>);

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.change(|entry| entry.followers -= 1);
        }
    }
}

/// The body of a request.
pub struct ReceivingBody<B> {
    body: B,
    /// `None` once it is complete.
    connection: Option<Connection>,
}

impl<B> ReceivingBody<B> {
    fn received(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.change(|entry| entry.receiving -= 1);
        }
    }
}

impl<B> Drop for ReceivingBody<B> {
    fn drop(&mut self) {
        self.received();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReceivingBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if matches!(frame, Poll::Ready(None)) || self.body.is_end_stream() {
            self.received();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer.
pub struct AnsweringBody<B> {
    body: B,
    _request: RequestInProgress,
}

impl<B: Body<Data = Bytes> + Unpin> Body for AnsweringBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(places_max: usize, per_address_max: usize) -> Arc<Connections> {
        let limits = Limits {
            connections_max: places_max,
            address_connections_max: per_address_max,
            ..Limits::default()
        };
        Arc::new(Connections::new(&limits))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn admit(connections: &Arc<Connections>, last: u8) -> Option<Place> {
        match connections.try_admit(address(last)) {
            ConnectionAdmission::Place(place) => Some(place),
            ConnectionAdmission::Refused | ConnectionAdmission::Full => None,
        }
    }

    fn is_evicted(place: &Place) -> bool {
        futures::FutureExt::now_or_never(place.evicted()).is_some()
    }

    /// A request whose body is complete.
    fn request(place: &Place) -> RequestInProgress {
        let request = place.connection().begin().unwrap();
        drop(request.receiving(String::new()));
        request
    }

    #[test]
    fn unused_connection_of_busiest_address_makes_way_first() {
        let all = connections(4, 10);
        let places = [1, 2, 2, 3].map(|last| admit(&all, last).unwrap());
        drop(request(&places[1]));
        assert!(admit(&all, 4).is_none(), "all are too young");
        std::thread::sleep(IDLE_TIME_MIN);
        let _fifth = admit(&all, 4).unwrap();
        assert_eq!(places.each_ref().map(is_evicted), [false, false, true, false]);
        assert!(places[2].connection().begin().is_none(), "no request begins on it any more");
    }

    #[test]
    fn connections_with_requests_stay_and_their_end_frees_a_place() {
        let all = connections(1, 10);
        let place = admit(&all, 1).unwrap();
        let in_progress = request(&place);
        std::thread::sleep(IDLE_TIME_MIN);
        assert!(admit(&all, 2).is_none());
        drop(in_progress);
        std::thread::sleep(IDLE_TIME_MIN);
        assert!(admit(&all, 2).is_some() && is_evicted(&place));
    }

    #[test]
    fn address_at_its_limit_gives_up_its_own_idle_connection() {
        let all = connections(100, 2);
        let other = admit(&all, 1).unwrap();
        let [first, second] = [2, 2].map(|last| admit(&all, last).unwrap());
        let _request = request(&first);
        let third = admit(&all, 2).unwrap();
        assert!(is_evicted(&second) && !is_evicted(&first) && !is_evicted(&other));
        let _request = request(&third);
        assert!(admit(&all, 2).is_none(), "none of its connections is idle");
        assert_eq!((all.figures().closed, all.figures().refused), (1, 1));
    }

    #[test]
    fn followers_take_no_place() {
        let all = connections(1, 1);
        let place = admit(&all, 1).unwrap();
        let _request = request(&place);
        let follower = place.connection().follow();
        let second = admit(&all, 1).unwrap();
        assert_eq!((all.figures().open, all.figures().following), (2, 1));
        drop((follower, second));
        assert_eq!((all.figures().open, all.figures().following), (1, 0));
        drop(place);
        assert!(all.lock().of_address.is_empty() && all.lock().places == 0);
    }

    #[test]
    fn ipv6_address_counts_as_its_network() {
        let of = |text: &str| network_of(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(of("::ffff:10.1.2.3"), "10.1.2.3");
        assert_eq!(of("::1"), "::1");
    }
}
