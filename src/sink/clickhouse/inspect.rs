//! Finds out whether somebody else has changed the tables: dropped, emptied, altered or written to.
//!
//! Three questions to ClickHouse's own tables, whatever the number of views. They cannot see every
//! forged value; they see a table or VIEW that is gone, made anew or altered, a mutation (`ALTER …
//! UPDATE`, `DELETE`), fewer rows than the view has, and an insert that the sink did not make.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clickhouse::Row;
use serde::Deserialize;

use crate::model::view::ViewRef;
use crate::sink::{Inspection, Tampering, ViewSinkStatus};

use super::catalog::GENERATIONS_TABLE;
use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::options::{NAME, TTL};
use super::progress::{PROGRESS_TABLE, PROGRESS_VIEW};
use super::table::{history_table_name, history_view_name, table_comment, table_name};
use super::types::quote_text;

/// The last inspection, to compare the next one with.
#[derive(Default)]
pub struct Inspector {
    tables: HashMap<String, SeenTable>,
    /// By name: the generation that each public VIEW reads from, and its definition.
    views: HashMap<String, (String, String)>,
}

/// A table or VIEW as ClickHouse describes it.
#[derive(Clone, PartialEq, Eq)]
struct Definition {
    uuid: String,
    statement: String,
    comment: String,
}

struct SeenTable {
    definition: Definition,
    /// The number of the last block inserted, and how many inserts the sink had begun then; `None`
    /// while one was on its way.
    last_insert: Option<(i64, u64)>,
}

#[derive(Row, Deserialize)]
struct TableRow {
    database: String,
    name: String,
    uuid: String,
    statement: String,
    comment: String,
}

#[derive(Row, Deserialize)]
struct PartsRow {
    table: String,
    rows: u64,
    block: i64,
}

#[derive(Row, Deserialize)]
struct MutationsRow {
    table: String,
    command: String,
}

/// The answers of ClickHouse.
struct InspectionAnswers {
    /// The public VIEWs.
    names: HashMap<String, Definition>,
    /// The tables behind them.
    tables: HashMap<String, Definition>,
    /// Rows in active parts, replaced ones included, and the last block's number.
    parts: HashMap<String, (u64, i64)>,
    mutations: HashMap<String, String>,
}

/// The sink's own record at one moment.
struct Moment {
    rows: i64,
    inserts: u64,
    is_inserting: bool,
    is_published: bool,
}

impl Moment {
    fn of(status: &ViewSinkStatus) -> Self {
        // Before the number: an insert that begins in between is seen in one of them.
        let is_inserting = status.is_inserting.load(Ordering::SeqCst);
        Moment {
            is_inserting,
            is_published: status.is_published(),
            rows: status.rows.load(Ordering::SeqCst),
            inserts: status.inserts.load(Ordering::SeqCst),
        }
    }
}

impl Inspector {
    /// Compares the tables of these generations with what was written to them.
    pub async fn inspect(
        &mut self,
        clickhouse: &ClickHouse,
        generations: &[Inspection],
    ) -> Result<Vec<Tampering>, ClickHouseError> {
        let before: Vec<Moment> = generations.iter().map(|g| Moment::of(&g.status)).collect();
        let found = InspectionAnswers::ask(clickhouse).await?;
        let (database, internal) = (clickhouse.database(), clickhouse.internal());
        for (database, table, all, is_derived) in [
            (internal, PROGRESS_TABLE, &found.tables, false),
            (internal, GENERATIONS_TABLE, &found.tables, false),
            (database, PROGRESS_VIEW, &found.names, true),
        ] {
            if !all.contains_key(table) {
                self.tables.clear();
                self.views.clear();
                let what = match all.is_empty() {
                    true => format!("database {database} is gone"),
                    false => format!("{database}.{table} is gone"),
                };
                return Ok(vec![Tampering::State { what, is_derived }]);
            }
        }
        let mut tampered = Vec::new();
        for (generation, before) in generations.iter().zip(&before) {
            let schema = &generation.schema;
            if let Some(what) = self.table(&found, generation, before) {
                let (view, generation) = (schema.name.clone(), schema.generation.clone());
                tampered.push(Tampering::Rows { view, generation, what });
            } else if generation.has_names
                && before.is_published
                && let Some(tampering) = self.names(&found, schema)
            {
                tampered.push(tampering);
            }
        }
        let tables = |g: &Inspection| table_name(&g.schema.name, &g.schema.generation);
        let known: Vec<String> = generations.iter().map(tables).collect();
        self.tables.retain(|name, _| known.contains(name));
        Ok(tampered)
    }

    /// Tampering with a generation's table.
    fn table(
        &mut self,
        found: &InspectionAnswers,
        of: &Inspection,
        before: &Moment,
    ) -> Option<String> {
        let Inspection { schema, status, .. } = of;
        let name = table_name(&schema.name, &schema.generation);
        let after = Moment::of(status);
        let Some(definition) = found.tables.get(&name) else {
            return Some(format!("table {name} is gone"));
        };
        if schema.history {
            let history = history_table_name(&schema.name, &schema.generation);
            if !found.tables.contains_key(&history) {
                return Some(format!("table {history} is gone"));
            }
            if let Some(command) = found.mutations.get(&history) {
                return Some(format!("the rows of table {history} were changed: {command}"));
            }
        }
        if status.is_tampered.load(Ordering::Relaxed) {
            let error = status.state().error().unwrap_or("a write was refused").to_string();
            return Some(format!("table {name} was altered: {error}"));
        }
        if let Some(command) = found.mutations.get(&name) {
            return Some(format!("the rows of table {name} were changed: {command}"));
        }
        let (rows, block) = found.parts.get(&name).copied().unwrap_or((0, 0));
        let last_insert = (!before.is_inserting).then_some((block, before.inserts));
        let seen = SeenTable { definition: definition.clone(), last_insert };
        let seen = self.tables.insert(name.clone(), seen);
        if seen.as_ref().is_some_and(|seen| seen.definition != *definition) {
            return Some(format!("table {name} was made anew or altered"));
        }
        let foreign = seen.and_then(|seen| seen.last_insert).is_some_and(|(last, inserts)| {
            !after.is_inserting && after.inserts == inserts && block > last
        });
        if foreign {
            return Some(format!("somebody else wrote to table {name}"));
        }
        let least = before.rows.min(after.rows).max(0);
        let least = match (schema.sinks.get(NAME).and_then(|options| options.get(TTL)), &schema.key)
        {
            (Some(_), _) => 0,
            (None, Some(_)) => least,
            // Equal rows are one row there.
            (None, None) => least.min(1),
        };
        (i64::try_from(rows).unwrap_or(i64::MAX) < least)
            .then(|| format!("table {name} has {rows} rows, and the view {least}"))
    }

    /// Tampering with a generation's public names.
    fn names(&mut self, found: &InspectionAnswers, schema: &ViewRef) -> Option<Tampering> {
        let view = Arc::clone(schema);
        let history = schema.history.then(|| history_view_name(&schema.name));
        for name in [Some(schema.name.clone()), history].into_iter().flatten() {
            let Some(Definition { statement, comment, .. }) = found.names.get(&name) else {
                self.views.remove(&name);
                return Some(Tampering::Name { view, what: format!("VIEW {name} is gone") });
            };
            let seen = (schema.generation.clone(), statement.clone());
            let before = self.views.insert(name.clone(), seen.clone());
            let is_altered = before.is_some_and(|before| before.0 == seen.0 && before != seen);
            if is_altered || !statement.contains(&schema.generation) {
                self.views.remove(&name);
                return Some(Tampering::Name { view, what: format!("VIEW {name} was altered") });
            }
            if *comment != table_comment(schema) {
                self.views.remove(&name);
                return Some(Tampering::Comment { view });
            }
        }
        None
    }
}

impl InspectionAnswers {
    async fn ask(clickhouse: &ClickHouse) -> Result<Self, ClickHouseError> {
        let names = quote_text(clickhouse.database());
        let database = quote_text(clickhouse.internal());
        let tables = clickhouse
            .fetch::<TableRow>(&format!(
                "SELECT database, name, toString(uuid) AS uuid, create_table_query AS statement, \
                 comment \
                 FROM system.tables WHERE database IN ({names}, {database})"
            ))
            .await?;
        let parts = clickhouse
            .fetch::<PartsRow>(&format!(
                "SELECT table, sum(rows) AS rows, max(max_block_number) AS block \
                 FROM system.parts WHERE active AND database = {database} GROUP BY table"
            ))
            .await?;
        let mutations = clickhouse
            .fetch::<MutationsRow>(&format!(
                "SELECT table, any(command) AS command FROM system.mutations \
                 WHERE database = {database} GROUP BY table"
            ))
            .await?;
        let definition = |row: TableRow| {
            let TableRow { name, uuid, statement, comment, .. } = row;
            (name, Definition { uuid, statement, comment })
        };
        let is_public = |row: &TableRow| row.database == clickhouse.database();
        let (names, tables): (Vec<_>, Vec<_>) = tables.into_iter().partition(is_public);
        Ok(InspectionAnswers {
            names: names.into_iter().map(definition).collect(),
            tables: tables.into_iter().map(definition).collect(),
            parts: parts.into_iter().map(|row| (row.table, (row.rows, row.block))).collect(),
            mutations: mutations.into_iter().map(|row| (row.table, row.command)).collect(),
        })
    }
}
