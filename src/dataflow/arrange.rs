//! The choice of traces: how arranged rows and accumulators are laid out and exchanged.
//!
//! Keys compare by hash first and then by bytes, which is quick and needs no decoding. Nothing
//! outside this module names a spine.

use differential_dataflow::operators::arrange::arrangement::arrange_core;
use differential_dataflow::operators::arrange::{Arranged, TraceAgent};
use differential_dataflow::trace::implementations::ord_neu::{
    OrdKeyBatcher, OrdKeySpine, OrdValBatcher, OrdValSpine,
};
use serde::{Deserialize, Serialize};
use timely::dataflow::Stream;
use timely::dataflow::channels::pact::{Exchange, Pipeline};
use timely::dataflow::operators::vec::Broadcast;
use xxhash_rust::xxh3::xxh3_64;

use crate::aggregate::Accumulator;
use crate::model::Tick;
use crate::model::multiplicity::Multiplicity;
use crate::model::row::Row;

/// A row to group or match by.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    hash: u64,
    /// The encoded key columns.
    pub row: Row,
}

impl Key {
    /// The key of these bytes.
    #[inline]
    pub fn new(bytes: &[u8]) -> Self {
        Key { hash: xxh3_64(bytes), row: Row::from_slice(bytes) }
    }

    /// The hash of the bytes, the same on every worker and in every run.
    #[inline]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The key of these bytes, whose hash is known.
    #[inline]
    pub fn with_hash(hash: u64, bytes: &[u8]) -> Self {
        Key { hash, row: Row::from_slice(bytes) }
    }
}

/// A change of a row under its key.
pub type KeyedUpdate = ((Key, Row), Tick, Multiplicity);
/// A change of a group.
pub type GroupUpdate = ((Key, ()), Tick, Accumulator);

/// Rows by key.
pub type RowTrace = TraceAgent<OrdValSpine<Key, Row, Tick, Multiplicity>>;
/// Groups by key.
pub type GroupTrace = TraceAgent<OrdKeySpine<Key, Tick, Accumulator>>;

/// On which worker a row is arranged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Placement {
    /// On that of its key.
    ByKey,
    /// On any one: rows that share one key are spread over all workers.
    Spread,
    /// On each of them.
    Everywhere,
}

/// Sends rows to the worker of their key and arranges them there.
pub fn arrange_rows<'scope>(
    stream: Stream<'scope, Tick, Vec<KeyedUpdate>>,
    name: &str,
) -> Arranged<'scope, RowTrace> {
    arrange_placed(stream, name, Placement::ByKey)
}

/// Sends rows to their workers and arranges them there.
pub fn arrange_placed<'scope>(
    stream: Stream<'scope, Tick, Vec<KeyedUpdate>>,
    name: &str,
    placement: Placement,
) -> Arranged<'scope, RowTrace> {
    type Batcher = OrdValBatcher<Key, Row, Tick, Multiplicity>;
    match placement {
        Placement::ByKey => {
            let exchange = Exchange::new(|update: &KeyedUpdate| update.0.0.hash);
            arrange_core::<_, _, Batcher, _>(stream, exchange, name, OrdValBatcher::new)
        }
        Placement::Spread => {
            let exchange = Exchange::new(|update: &KeyedUpdate| xxh3_64(&update.0.1));
            arrange_core::<_, _, Batcher, _>(stream, exchange, name, OrdValBatcher::new)
        }
        Placement::Everywhere => {
            let stream = stream.broadcast();
            arrange_core::<_, _, Batcher, _>(stream, Pipeline, name, OrdValBatcher::new)
        }
    }
}

/// Sends groups to the worker of their key and arranges them there.
pub fn arrange_groups<'scope>(
    stream: Stream<'scope, Tick, Vec<GroupUpdate>>,
    name: &str,
) -> Arranged<'scope, GroupTrace> {
    let exchange = Exchange::new(|update: &GroupUpdate| update.0.0.hash);
    arrange_core::<_, _, OrdKeyBatcher<Key, Tick, Accumulator>, _>(
        stream,
        exchange,
        name,
        OrdKeyBatcher::new,
    )
}
