//! Admission: the decision about each request of a commit. It says which of its events are new, what versions
//! they get in their streams, and whether the request is refused.
//!
//! Requests are looked at in the order in which they will stand in the log, each against the log
//! and the requests before it, so that of two that exclude each other the first one wins.

use hashbrown::HashMap;

use super::frame::KeyedRequest;
use super::index::{Digest, Digester, HashKeyed, IdEntry, Index, IndexError};
use super::{AppendError, Conflict};
use crate::model::event::{Append, NewEvent};
use crate::model::{Position, Tick};

/// Most conflicts of one request that are listed.
const CONFLICTS_MAX: usize = 100;

/// A request with the hashes of its events, which are made where the request comes from.
pub struct Hashed {
    pub append: Append,
    digests: Vec<Digest>,
    /// The hash of the request's key.
    key: Option<u128>,
    /// Events that are the same as those at these positions, though spelled in another way.
    pub same: HashMap<usize, Position>,
}

impl Hashed {
    pub fn new(append: Append, digester: &Digester) -> Self {
        let mut scratch = Vec::new();
        let digests = append.events.iter().map(|e| digester.event(e, &mut scratch)).collect();
        let key = append.key.as_ref().map(|key| digester.name(&key.key));
        Hashed { append, digests, key, same: HashMap::new() }
    }
}

/// The decision on a request.
pub enum Verdict {
    /// It is in the log once the commit is on disk, or has been before.
    Accepted(Accepted),
    Refused(AppendError),
    /// These events have the identity of those at the positions and other bytes: someone has to
    /// look whether they are the same.
    Unsure(Vec<(usize, Position)>),
}

/// A request that is accepted.
pub struct Accepted {
    /// The stream version of each event; `None` for those that are in the log already.
    pub numbers: Vec<Option<u64>>,
    /// The position of each event; `None` when all are new.
    pub positions: Option<Vec<Position>>,
    pub first_position: Position,
    pub last_position: Position,
    pub streams: Vec<(String, u64)>,
    pub repeated: bool,
}

impl Accepted {
    /// The number of events that are new.
    pub fn stored(&self) -> usize {
        self.numbers.iter().flatten().count()
    }
}

/// The requests of one commit.
pub struct Admission<'i> {
    index: &'i Index,
    now: Tick,
    /// The position of the next event that is new.
    pub next_position: Position,
    ids: HashKeyed<IdEntry>,
    heads: HashKeyed<u64>,
    requests: HashKeyed<usize>,
    /// The requests that can be repeated.
    pub keyed: Vec<KeyedRequest>,
}

/// A stream while a request is looked at.
struct Touched {
    stream: u128,
    /// The first event of the request that is of this stream.
    index: usize,
    /// The stream's version before the request; in `after` its new events are counted, too.
    before: u64,
    after: u64,
    conflict: bool,
}

impl<'i> Admission<'i> {
    /// The commit that begins at a position; `now` is about its tick.
    pub fn new(index: &'i Index, next_position: Position, now: Tick) -> Self {
        Admission {
            index,
            now,
            next_position,
            ids: HashKeyed::default(),
            heads: HashKeyed::default(),
            requests: HashKeyed::default(),
            keyed: Vec::new(),
        }
    }

    /// Decides on the next request.
    pub fn decide(&mut self, request: &Hashed) -> Result<Verdict, IndexError> {
        if let (Some(hash), Some(key)) = (request.key, &request.append.key)
            && let Some(made) = self.find_request(hash)?
        {
            if made.fingerprint != key.fingerprint {
                return Ok(Verdict::Refused(AppendError::KeyReused));
            }
            return self.repeat(request, made);
        }
        let (known, unsure) = self.known(request)?;
        if !unsure.is_empty() {
            return Ok(Verdict::Unsure(unsure));
        }
        let misfits = request.append.misfits.iter().copied();
        let misfits: Vec<usize> = misfits.filter(|index| known[*index].is_none()).collect();
        if !misfits.is_empty() {
            return Ok(Verdict::Refused(AppendError::Misfits(misfits)));
        }
        let (numbers, touched, conflicts) = self.number(request, &known)?;
        if !conflicts.is_empty() {
            return Ok(Verdict::Refused(AppendError::Conflicts(conflicts)));
        }
        let accepted = self.accept(request, &known, numbers, touched);
        if let (Some(hash), Some(key)) = (request.key, &request.append.key) {
            let (first, last) = (accepted.first_position, accepted.last_position);
            self.requests.insert(hash, self.keyed.len());
            self.keyed.push(KeyedRequest {
                key: hash,
                fingerprint: key.fingerprint,
                made_ids: request.append.made_ids,
                positions: accepted.positions.clone().unwrap_or_else(|| (first..=last).collect()),
            });
        }
        Ok(Verdict::Accepted(accepted))
    }

    fn find_request(&self, key: u128) -> Result<Option<KeyedRequest>, IndexError> {
        match self.requests.get(&key) {
            Some(at) => Ok(Some(self.keyed[*at].clone())),
            None => self.index.find_request(key, self.now),
        }
    }

    fn find_id(&self, identity: u128) -> Result<Option<IdEntry>, IndexError> {
        match self.ids.get(&identity) {
            Some(entry) => Ok(Some(*entry)),
            None => self.index.find_id(identity),
        }
    }

    fn stream_version(&self, stream: u128) -> Result<u64, IndexError> {
        match self.heads.get(&stream) {
            Some(version) => Ok(*version),
            None => self.index.stream_version(stream),
        }
    }

    /// The answer to a request that was made before.
    fn repeat(&self, request: &Hashed, made: KeyedRequest) -> Result<Verdict, IndexError> {
        let known: Vec<Option<Position>> = made.positions.iter().copied().map(Some).collect();
        let (_, touched, _) = self.number(request, &known)?;
        Ok(Verdict::Accepted(Accepted {
            numbers: vec![None; request.append.events.len()],
            first_position: made.positions.iter().copied().min().unwrap_or_default(),
            last_position: made.positions.iter().copied().max().unwrap_or_default(),
            positions: Some(made.positions),
            streams: streams(&request.append.events, &touched),
            repeated: true,
        }))
    }

    /// The positions of the events that are in the log already, and those that may be.
    fn known(
        &self,
        request: &Hashed,
    ) -> Result<(Vec<Option<Position>>, Vec<(usize, Position)>), IndexError> {
        let mut known = vec![None; request.digests.len()];
        let mut unsure = Vec::new();
        for (index, digest) in request.digests.iter().enumerate() {
            let Some(entry) = self.find_id(digest.identity)? else { continue };
            known[index] = Some(entry.position);
            let same = entry.content == digest.content
                || request.same.get(&index) == Some(&entry.position);
            if !same {
                unsure.push((index, entry.position));
            }
        }
        Ok((known, unsure))
    }

    /// The versions of the new events in their streams, the streams, and the expected versions that are
    /// wrong.
    fn number(
        &self,
        request: &Hashed,
        known: &[Option<Position>],
    ) -> Result<(Vec<Option<u64>>, Vec<Touched>, Vec<Conflict>), IndexError> {
        let mut places: HashKeyed<usize> = HashKeyed::default();
        let mut touched: Vec<Touched> = Vec::new();
        let (mut numbers, mut conflicts) = (Vec::with_capacity(known.len()), Vec::new());
        let mut expected = request.append.expected_versions.iter().copied().peekable();
        for (index, digest) in request.digests.iter().enumerate() {
            let expected = expected.next_if(|(at, _)| *at == index).map(|(_, version)| version);
            let is_new = known[index].is_none();
            let Some(stream) = digest.stream else {
                numbers.push(is_new.then_some(0));
                continue;
            };
            let place = match places.get(&stream) {
                Some(place) => *place,
                None => {
                    let before = self.stream_version(stream)?;
                    let (after, conflict) = (before, false);
                    touched.push(Touched { stream, index, before, after, conflict });
                    places.insert(stream, touched.len() - 1);
                    touched.len() - 1
                }
            };
            let touched = &mut touched[place];
            if !is_new {
                numbers.push(None);
                continue;
            }
            if let Some(expected) = expected
                && expected != touched.after
                && !touched.conflict
            {
                // Only the first wrong version of a stream is listed: later ones would be wrong for the same
                // reason.
                touched.conflict = true;
                if conflicts.len() < CONFLICTS_MAX {
                    let (current, earlier) = (touched.before, touched.after - touched.before);
                    conflicts.push(Conflict::Version { index, expected, current, earlier });
                }
            }
            touched.after += 1;
            numbers.push(Some(touched.after));
        }
        Ok((numbers, touched, conflicts))
    }

    fn accept(
        &mut self,
        request: &Hashed,
        known: &[Option<Position>],
        numbers: Vec<Option<u64>>,
        touched: Vec<Touched>,
    ) -> Accepted {
        let start = self.next_position;
        let mut positions = Vec::with_capacity(known.len());
        for (digest, known) in request.digests.iter().zip(known) {
            positions.push(known.unwrap_or(self.next_position));
            if known.is_none() {
                let entry = IdEntry { position: self.next_position, content: digest.content };
                let before = self.ids.insert(digest.identity, entry);
                assert!(before.is_none(), "a request holds each identity once");
                self.next_position += 1;
            }
        }
        for stream in touched.iter().filter(|stream| stream.after > stream.before) {
            self.heads.insert(stream.stream, stream.after);
        }
        let all_new = self.next_position - start == positions.len() as u64;
        Accepted {
            numbers,
            first_position: positions.iter().copied().min().unwrap_or_default(),
            last_position: positions.iter().copied().max().unwrap_or_default(),
            positions: (!all_new).then_some(positions),
            streams: streams(&request.append.events, &touched),
            repeated: false,
        }
    }

    /// The hashes, positions and stream versions of a request's events that are new.
    pub fn indexed<'a>(
        request: &'a Hashed,
        accepted: &'a Accepted,
        first: Position,
    ) -> impl Iterator<Item = (Digest, Position, u64)> + 'a {
        let numbered = request.digests.iter().zip(&accepted.numbers);
        let new = numbered.filter_map(|(digest, number)| number.map(|number| (*digest, number)));
        (first..).zip(new).map(|(position, (digest, number))| (digest, position, number))
    }
}

fn streams(events: &[NewEvent], touched: &[Touched]) -> Vec<(String, u64)> {
    let name = |index: usize| events[index].stream.clone().unwrap_or_default();
    touched.iter().map(|stream| (name(stream.index), stream.after)).collect()
}
