//! The backend of the server in these tests: one declared event type and one view whose rows are given.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array,
    Int64Array, ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema};
use futures::FutureExt;
use futures::future::BoxFuture;
use heliostat::internals::decode::{CatalogInUse, EventCatalog};
use heliostat::internals::http::{
    Away, Backend, ChangeFeed, ChangesError, ChangesRequest, ClickHouseStatus, DeadLetter,
    DeadLetterFilter, DeadLetters, DismissError, FileError, ReadStatus, RebuildError, Retried,
    RowsAnswer, RowsError, RowsRequest, Selection, SinkStatus, ViewPlace, ViewState, ViewStatus,
    WaitRequest, WaitTarget, Waiting,
};
use heliostat::internals::model::SinkOptions;
use heliostat::internals::model::{EventTable, SqlField, SqlType};
use heliostat::internals::model::{Head, Position};
use heliostat::internals::model::{SinkState, ViewRef, ViewSchema};
use heliostat::internals::plan::SourceFile;
use heliostat::internals::plan::plan_files;
use tokio::sync::watch;

const TABLE: &str =
    "CREATE TABLE order_placed (order_id TEXT NOT NULL, total DECIMAL(12,2) NOT NULL)
  WITH (event_type = 'OrderPlaced', fields = 'camelCase');";

/// One view, `orders`, that reads `OrderPlaced` and shows what the test says.
pub struct TestBackend {
    table: Arc<EventTable>,
    schema: ViewRef,
    /// The last event that the view shows.
    pub shown: watch::Sender<Position>,
    pub state: Mutex<ViewState>,
    pub clickhouse: Mutex<ClickHouseStatus>,
    /// How often everything was asked for.
    pub statuses: AtomicU64,
}

impl TestBackend {
    pub fn new() -> Self {
        let file = SourceFile { path: "orders.sql".into(), text: TABLE.to_string() };
        let set = plan_files(&[Arc::new(file)], "test", heliostat::internals::sink::KINDS);
        assert!(set.diagnostics.is_empty(), "{:?}", set.diagnostics);
        let columns =
            rows().schema().fields().iter().map(|f| SqlField::from_arrow(f).unwrap()).collect();
        let schema = ViewSchema {
            name: "orders".to_string(),
            generation: "0123456789abcdef".to_string(),
            columns,
            key: Some(vec![0]),
            sinks: [("clickhouse".to_string(), SinkOptions::new())].into(),
            history: false,
            comment: None,
        };
        TestBackend {
            table: Arc::clone(&set.tables[0]),
            schema: Arc::new(schema),
            shown: watch::Sender::new(0),
            state: Mutex::new(ViewState::Live),
            clickhouse: Mutex::new(ClickHouseStatus::Reachable),
            statuses: AtomicU64::new(0),
        }
    }

    /// The catalog of the declared table.
    pub fn catalog(&self) -> CatalogInUse {
        let catalog = CatalogInUse::default();
        catalog.adopt(EventCatalog { tables: vec![Arc::clone(&self.table)] });
        catalog
    }

    fn view(&self) -> ViewStatus {
        ViewStatus {
            schema: Arc::clone(&self.schema),
            state: self.state(),
            next: None,
            event_types: vec!["OrderPlaced".to_string()],
            rows: 2,
            state_bytes: 1024,
            state_file_bytes: 0,
            start: None,
            live_after_ms: None,
            snapshot: None,
            errors: 3,
            dead_letters: 4,
            position: *self.shown.borrow(),
            tick: 1_700_000_000_000,
            lag_dataflow_s: 0.25,
            lag_clickhouse_s: Some(1.5),
            lag_events: 6,
            sink: Some(SinkStatus {
                name: "clickhouse".into(),
                state: SinkState::Writing,
                position: 12,
                retries: 7,
            }),
        }
    }

    fn state(&self) -> ViewState {
        self.state.lock().unwrap().clone()
    }

    async fn wait_for(&self, position: Position, timeout: std::time::Duration) -> bool {
        let mut shown = self.shown.subscribe();
        let reached = shown.wait_for(|shown| *shown >= position);
        tokio::time::timeout(timeout, reached).await.is_ok()
    }

    async fn answer(&self, request: RowsRequest) -> Result<RowsAnswer, RowsError> {
        let RowsRequest { view, filters, min_position, timeout, limit, cursor } = request;
        if view != self.schema.name {
            return Err(RowsError::NotFound { view });
        }
        if self.state() != ViewState::Live {
            return Err(RowsError::NotLive { view, state: self.state() });
        }
        let mut batch = rows();
        for (column, value) in filters {
            let Some(index) = self.schema.columns.iter().position(|c| c.name == column) else {
                let columns = "id, limit, …".to_string();
                return Err(RowsError::UnknownColumn { view, column, columns });
            };
            let sql_type = self.schema.columns[index].sql_type.to_string();
            let wanted: i32 =
                value.parse().map_err(|_| RowsError::BadValue { column, value, sql_type })?;
            let numbers = batch.column(index).as_any().downcast_ref::<Int32Array>().unwrap();
            let keep: BooleanArray = numbers.iter().map(|n| Some(n == Some(wanted))).collect();
            batch = arrow::compute::filter_record_batch(&batch, &keep).unwrap();
        }
        if !self.wait_for(min_position, timeout).await {
            let reached = *self.shown.borrow();
            return Err(RowsError::Timeout { position: min_position, reached });
        }
        let start = match cursor {
            None => 0,
            Some(text) => text
                .parse::<usize>()
                .map_err(|error| RowsError::BadCursor { reason: error.to_string() })?,
        };
        let end = (start + limit).min(batch.num_rows());
        let cursor = (end < batch.num_rows()).then(|| end.to_string());
        let (schema, position) = (Arc::clone(&self.schema), *self.shown.borrow());
        let batches = vec![batch.slice(start, end - start)];
        Ok(RowsAnswer { tick: 1_700_000_000_000, position, schema, batches, cursor })
    }
}

impl Backend for TestBackend {
    fn away(&self) -> Option<Away> {
        None
    }

    fn status(&self) -> BoxFuture<'_, Result<ReadStatus, Away>> {
        self.statuses.fetch_add(1, Ordering::Relaxed);
        let message = "2:8: there is no table nothing".to_string();
        let status = ReadStatus {
            views: vec![self.view()],
            failed_files: vec![FileError { file: "queries/broken.sql".to_string(), message }],
            clickhouse: self.clickhouse.lock().unwrap().clone(),
            alarms: Vec::new(),
            resident_bytes: None,
        };
        std::future::ready(Ok(status)).boxed()
    }

    fn places(&self, views: Vec<String>) -> BoxFuture<'_, Result<Vec<Option<ViewPlace>>, Away>> {
        let complete = Head { position: *self.shown.borrow(), tick: 1_700_000_000_000 };
        let place = ViewPlace { complete, written: None };
        let places = views.iter().map(|view| (*view == self.schema.name).then_some(place));
        std::future::ready(Ok(places.collect())).boxed()
    }

    fn rows(&self, request: RowsRequest) -> BoxFuture<'_, Result<RowsAnswer, RowsError>> {
        self.answer(request).boxed()
    }

    fn wait(&self, request: WaitRequest) -> BoxFuture<'_, Result<Vec<Waiting>, Away>> {
        async move {
            let named = request.views.is_some();
            let reads = request.event_types.iter().any(|t| t == "OrderPlaced");
            let waiting = || vec![Waiting { view: "orders".to_string(), state: self.state() }];
            Ok(match self.state() {
                ViewState::Live if reads => {
                    // ClickHouse has the view here, and never shows anything new.
                    let reached = match request.target {
                        WaitTarget::ClickHouse => request.position == 0,
                        WaitTarget::Views => self.wait_for(request.position, request.timeout).await,
                    };
                    if reached { Vec::new() } else { waiting() }
                }
                ViewState::Live => Vec::new(),
                _ if named => waiting(),
                _ => Vec::new(),
            })
        }
        .boxed()
    }

    fn changes(
        &self,
        request: ChangesRequest,
    ) -> BoxFuture<'_, Result<Box<dyn ChangeFeed>, ChangesError>> {
        // Feeds are tried with the real ones, in `tests/changes.rs`.
        std::future::ready(Err(ChangesError::NotFound { view: request.view })).boxed()
    }

    fn rebuild(&self, view: String) -> BoxFuture<'_, Result<String, RebuildError>> {
        let result = match view.as_str() {
            "orders" => Ok("0123456789abcdef".to_string()),
            _ => Err(RebuildError::NotFound { view }),
        };
        std::future::ready(result).boxed()
    }

    fn dead_letters(
        &self,
        filter: DeadLetterFilter,
    ) -> BoxFuture<'_, Result<Option<DeadLetters>, Away>> {
        let letter = DeadLetter {
            view: Some("orders".to_string()),
            event_type: Some("OrderPlaced".to_string()),
            position: Some(17),
            positions: vec![17],
            expression: "total / quantity".to_string(),
            reason: "division by zero".to_string(),
            count: 5,
            sample: None,
        };
        if filter.cursor.as_deref().is_some_and(|cursor| cursor != "next") {
            return std::future::ready(Ok(None)).boxed();
        }
        let fits = selects(&filter.selection)
            && filter.reason.as_ref().is_none_or(|text| letter.reason.contains(text));
        let letters = Vec::from_iter(fits.then_some(letter));
        std::future::ready(Ok(Some(DeadLetters {
            letters,
            cursor: None,
            unread_through: Some(17),
        })))
        .boxed()
    }

    fn dismiss(&self, selection: Selection) -> BoxFuture<'_, Result<u64, DismissError>> {
        std::future::ready(Ok(if selects(&selection) { 5 } else { 0 })).boxed()
    }

    fn retry(&self, selection: Selection) -> BoxFuture<'_, Result<Retried, Away>> {
        let retried = if selects(&selection) { 5 } else { 0 };
        std::future::ready(Ok(Retried { retried, failed: retried / 2 })).boxed()
    }
}

/// Whether the only dead letter is meant.
fn selects(selection: &Selection) -> bool {
    selection.view.as_deref().is_none_or(|view| view == "orders")
        && selection.from.is_none_or(|from| from <= 17)
        && selection.to.is_none_or(|to| to >= 17)
}

/// Two rows with a column of every kind that JSON has a choice for.
fn rows() -> RecordBatch {
    let day_us: i64 = 86_400_000_000;
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        Some(vec![]),
    ]);
    let member = Arc::new(Field::new("a", DataType::Int32, true));
    let structs = StructArray::from(vec![(
        member,
        Arc::new(Int32Array::from(vec![Some(5), None])) as ArrayRef,
    )]);
    let sql = |name: &str, sql_type: SqlType| SqlField::new(name, sql_type, true).to_arrow();
    let columns: Vec<(Field, ArrayRef)> = vec![
        (sql("id", SqlType::Int), Arc::new(Int32Array::from(vec![1, 2]))),
        (sql("limit", SqlType::Int), Arc::new(Int32Array::from(vec![10, 20]))),
        (sql("big", SqlType::BigInt), Arc::new(Int64Array::from(vec![i64::MAX, -1]))),
        (
            sql("total", SqlType::Decimal { precision: 12, scale: 2 }),
            Arc::new(
                Decimal128Array::from(vec![Some(-5), None])
                    .with_precision_and_scale(12, 2)
                    .unwrap(),
            ),
        ),
        (sql("ratio", SqlType::Double), Arc::new(Float64Array::from(vec![0.1, f64::NAN]))),
        (sql("text", SqlType::Text), Arc::new(StringArray::from(vec!["ä\"\n", ""]))),
        (sql("json", SqlType::Json), Arc::new(StringArray::from(vec!["{\"x\": [1]}", "oops"]))),
        (sql("bytes", SqlType::Bytea), Arc::new(BinaryArray::from(vec![&[0, 255][..], b""]))),
        (sql("day", SqlType::Date), Arc::new(Date32Array::from(vec![0, -1]))),
        (
            sql("at", SqlType::Timestamp { precision: 4, with_time_zone: false }),
            Arc::new(TimestampMicrosecondArray::from(vec![day_us + 123_400, -1])),
        ),
        (Field::new("list", DataType::List(item), true), Arc::new(list)),
        (Field::new("nested", structs.data_type_owned(), true), Arc::new(structs)),
    ];
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap()
}

trait OwnedType {
    fn data_type_owned(&self) -> DataType;
}

impl OwnedType for StructArray {
    fn data_type_owned(&self) -> DataType {
        arrow::array::Array::data_type(self).clone()
    }
}
