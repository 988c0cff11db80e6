//! The table behind a view's generation, and the VIEW in front of it, as SQL.

use std::sync::Arc;

use crate::model::schema::{SqlField, SqlType};
use crate::model::view::{ViewRef, ViewSchema};

use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::options::ClickHouseOptions;
use super::types::{clickhouse_type, quote_name, quote_text};

/// The hash of the row or key, in tables whose sorting key needs one.
pub(super) const HASH_COLUMN: &str = "_row_hash";
/// How often the row occurs, in tables of views without a key.
pub(super) const MULTIPLICITY_COLUMN: &str = "_multiplicity";
/// The last tick of the flush that wrote the row.
pub(super) const VERSION_COLUMN: &str = "_version";
/// 1 in a tombstone.
pub(super) const DELETED_COLUMN: &str = "_deleted";

/// When a row came, in the table of a view's history.
pub(super) const VALID_FROM_COLUMN: &str = "valid_from";
/// When it went, or NULL.
pub(super) const VALID_TO_COLUMN: &str = "valid_to";
const VALID_FROM_TYPE: &str = "DateTime64(3, 'UTC')";
const VALID_TO_TYPE: &str = "Nullable(DateTime64(3, 'UTC'))";

/// How long a partition rests before it is merged into one part, which removes tombstones.
const CLEANUP_AGE_S: u32 = 600;

/// The name of the table of a view's generation.
pub(super) fn table_name(view: &str, generation: &str) -> String {
    format!("{view}__{generation}")
}

/// Database and table of a view's generation, quoted.
pub(super) fn table_path(internal: &str, view: &str, generation: &str) -> String {
    format!("{}.{}", quote_name(internal), quote_name(&table_name(view, generation)))
}

/// The name of the table of a generation's history.
pub(super) fn history_table_name(view: &str, generation: &str) -> String {
    format!("{view}__{generation}_history")
}

/// The public name of a view's history.
pub(super) fn history_view_name(view: &str) -> String {
    format!("{view}_history")
}

/// The comment of a view in ClickHouse: that of its query file.
pub(super) fn table_comment(schema: &ViewSchema) -> String {
    schema.comment.clone().unwrap_or_default()
}

/// The comment of a column in ClickHouse: its SQL type, and what ClickHouse's type does not show of it.
fn column_comment(column: &SqlField) -> String {
    let SqlField { sql_type, nullable, .. } = column;
    let mut comment = sql_type.to_string();
    if !nullable {
        comment += " NOT NULL";
    }
    comment += match sql_type {
        SqlType::Timestamp { with_time_zone: true, .. } => ": an instant, shown in UTC",
        SqlType::Timestamp { .. } => ": a time of no zone; UTC stands for none",
        SqlType::Interval => ": ISO 8601",
        SqlType::Bytea => ": bytes; hex() shows them",
        SqlType::Array(_) if *nullable => ": NULL is []",
        SqlType::Struct(_) if *nullable => ": NULL is all members NULL",
        _ => "",
    };
    comment
}

/// A view's table in ClickHouse.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) schema: ViewRef,
    /// The database of the public names.
    database: String,
    /// The database of the tables.
    internal: String,
    column_types: Vec<String>,
    options: ClickHouseOptions,
    sort_columns: Vec<usize>,
    /// The sorting key ends with [`HASH_COLUMN`].
    pub(super) hashed: bool,
}

impl Table {
    /// Lays out the table of this schema. Fails on a type that ClickHouse does not have.
    pub(super) fn new(schema: ViewRef, clickhouse: &ClickHouse) -> Result<Self, ClickHouseError> {
        let column_types = schema
            .columns
            .iter()
            .map(|column| {
                clickhouse_type(column).map_err(|sql_type| ClickHouseError::Type {
                    view: schema.name.clone(),
                    column: column.name.clone(),
                    sql_type: sql_type.to_string(),
                })
            })
            .collect::<Result<_, _>>()?;
        let invalid = |source| ClickHouseError::Option { view: schema.name.clone(), source };
        let options = ClickHouseOptions::of(&schema).map_err(invalid)?;
        let (sort_columns, hashed) = sorting_key(&schema, &options);
        Ok(Table {
            schema: Arc::clone(&schema),
            database: clickhouse.database().into(),
            internal: clickhouse.internal().into(),
            column_types,
            options,
            sort_columns,
            hashed,
        })
    }

    /// True when rows may repeat.
    pub(super) fn is_keyless(&self) -> bool {
        self.schema.key.is_none()
    }

    /// Indexes of the view's columns that are in the sorting key.
    pub(super) fn sort_columns(&self) -> &[usize] {
        &self.sort_columns
    }

    /// The table's name without its database.
    pub(super) fn name(&self) -> String {
        table_name(&self.schema.name, &self.schema.generation)
    }

    /// Database and table, quoted.
    pub(super) fn path(&self) -> String {
        table_path(&self.internal, &self.schema.name, &self.schema.generation)
    }

    /// Database and table of its history, quoted.
    pub(super) fn history_path(&self) -> String {
        let name = history_table_name(&self.schema.name, &self.schema.generation);
        format!("{}.{}", quote_name(&self.internal), quote_name(&name))
    }

    /// The columns that tell rows apart, with their types.
    fn identity_columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns = Vec::new();
        if self.hashed {
            columns.push((HASH_COLUMN, "FixedString(16)"));
        }
        if self.is_keyless() {
            columns.push((MULTIPLICITY_COLUMN, "UInt64"));
        }
        columns
    }

    /// The columns that are not the view's own, with their types.
    fn system_columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns = self.identity_columns();
        columns.extend([(VERSION_COLUMN, "UInt64"), (DELETED_COLUMN, "UInt8")]);
        columns
    }

    /// The columns that are added to the history's table.
    fn history_columns(&self) -> Vec<(&'static str, &'static str)> {
        let mut columns = self.identity_columns();
        columns.extend([
            (VALID_FROM_COLUMN, VALID_FROM_TYPE),
            (VALID_TO_COLUMN, VALID_TO_TYPE),
            (VERSION_COLUMN, "UInt64"),
        ]);
        columns
    }

    fn columns_sql(&self, system: &[(&str, &str)]) -> String {
        let own = self.schema.columns.iter().map(|c| quote_name(&c.name));
        let own = own.zip(&self.column_types).map(|(name, of)| format!("{name} {of}"));
        let system = system.iter().map(|(name, of)| format!("{} {of}", quote_name(name)));
        own.chain(system).collect::<Vec<_>>().join(", ")
    }

    fn insert_into(&self, path: &str, system: &[(&str, &str)]) -> String {
        let own = self.schema.columns.iter().map(|c| quote_name(&c.name));
        let names: Vec<String> = own.chain(system.iter().map(|(n, _)| quote_name(n))).collect();
        format!("INSERT INTO {path} ({}) FORMAT ArrowStream", names.join(", "))
    }

    fn view_over(&self, name: &str, path: &str, more: &[(&str, &str, &str)]) -> String {
        let own = self.schema.columns.iter().map(|c| quote_name(&c.name));
        let columns: Vec<String> =
            own.chain(more.iter().map(|(name, _, _)| quote_name(name))).collect();
        let own = self.schema.columns.iter().zip(&self.column_types);
        let own = own.map(|(column, of)| (&*column.name, &**of, column_comment(column)));
        let more = more.iter().map(|(name, of, comment)| (*name, *of, comment.to_string()));
        let declared = own.chain(more).map(|(name, of, comment)| {
            format!("{} {of} COMMENT {}", quote_name(name), quote_text(&comment))
        });
        let declared = declared.collect::<Vec<_>>().join(", ");
        let repeat = match self.is_keyless() {
            true => format!(" ARRAY JOIN range({MULTIPLICITY_COLUMN}) AS `_copy`"),
            false => String::new(),
        };
        format!(
            "CREATE OR REPLACE VIEW {}.{} ({declared}) DEFINER = CURRENT_USER SQL SECURITY DEFINER \
             AS SELECT {} FROM {path} FINAL{repeat} COMMENT {}",
            quote_name(&self.database),
            quote_name(name),
            columns.join(", "),
            quote_text(&table_comment(&self.schema)),
        )
    }

    /// `CREATE TABLE` for the history, if it is not there. It has no `partition_by` and `ttl`: these are
    /// meant for the rows that are there now.
    pub(super) fn create_history_sql(&self) -> String {
        let sorting: Vec<String> = [self.sorting_sql(), quote_name(VALID_FROM_COLUMN)]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = ReplacingMergeTree({VERSION_COLUMN}) \
             ORDER BY ({}) SETTINGS allow_nullable_key = 1, \
             fsync_after_insert = 1, fsync_part_directory = 1, min_rows_to_fsync_after_merge = 1",
            self.history_path(),
            self.columns_sql(&self.history_columns()),
            sorting.join(", "),
        )
    }

    /// `INSERT` of intervals by column name; data follows as an Arrow stream.
    pub(super) fn insert_history_sql(&self) -> String {
        self.insert_into(&self.history_path(), &self.history_columns())
    }

    /// The statement that puts the history's table behind its public name.
    pub(super) fn publish_history_sql(&self) -> String {
        let name = history_view_name(&self.schema.name);
        let more = [
            (VALID_FROM_COLUMN, VALID_FROM_TYPE, "when the row came, in UTC"),
            (VALID_TO_COLUMN, VALID_TO_TYPE, "when it went, in UTC; NULL: it is there"),
        ];
        self.view_over(&name, &self.history_path(), &more)
    }

    /// `CREATE TABLE`, if it is not there.
    pub(super) fn create_sql(&self) -> String {
        let partition = clause("PARTITION BY", self.options.partition_by.as_deref());
        let ttl = clause("TTL", self.options.ttl.as_deref());
        format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) \
             ENGINE = ReplacingMergeTree({VERSION_COLUMN}, {DELETED_COLUMN}){partition} \
             ORDER BY ({}){ttl} SETTINGS {}",
            self.path(),
            self.columns_sql(&self.system_columns()),
            self.sorting_sql(),
            self.settings_sql(),
        )
    }

    fn sorting_sql(&self) -> String {
        let own = self.sort_columns.iter().map(|i| quote_name(&self.schema.columns[*i].name));
        own.chain(self.hashed.then(|| quote_name(HASH_COLUMN))).collect::<Vec<_>>().join(", ")
    }

    /// An insert must be on disk before the progress that counts on it, and a merge before the
    /// parts that it replaces go; without fsync a power cut could keep the later and lose the
    /// earlier. The clean-up settings let tombstones go once a partition is merged into one part.
    fn settings_sql(&self) -> String {
        format!(
            "allow_nullable_key = 1, \
             fsync_after_insert = 1, fsync_part_directory = 1, \
             min_rows_to_fsync_after_merge = 1, \
             allow_experimental_replacing_merge_with_cleanup = 1, \
             enable_replacing_merge_with_cleanup_for_min_age_to_force_merge = 1, \
             min_age_to_force_merge_on_partition_only = 1, \
             min_age_to_force_merge_seconds = {CLEANUP_AGE_S}"
        )
    }

    /// `INSERT` by column name; data follows as an Arrow stream.
    pub(super) fn insert_sql(&self) -> String {
        self.insert_into(&self.path(), &self.system_columns())
    }

    /// The statement that puts this table behind the view's public name.
    pub(super) fn publish_sql(&self) -> String {
        self.view_over(&self.schema.name, &self.path(), &[])
    }
}

fn clause(keyword: &str, expression: Option<&str>) -> String {
    expression.map(|e| format!(" {keyword} {e}")).unwrap_or_default()
}

/// The columns of the sorting key, and whether a hash of the key ends it.
///
/// The hash stands for keys that ClickHouse would not tell apart (an array that is NULL is stored
/// as an empty one), for the whole row where there is no key, and for the empty key of a view that
/// has one row. It is the hash of the encoded row, so the encoding is part of what a generation
/// means.
fn sorting_key(schema: &ViewSchema, options: &ClickHouseOptions) -> (Vec<usize>, bool) {
    let is_flat = |i: &usize| {
        let SqlField { sql_type, .. } = &schema.columns[*i];
        !matches!(sql_type, SqlType::Array(_) | SqlType::Struct(_))
    };
    let mut columns: Vec<usize> = Vec::new();
    let key = schema.key.as_deref().unwrap_or_default();
    for index in options.order_by.iter().chain(key) {
        if is_flat(index) && !columns.contains(index) {
            columns.push(*index);
        }
    }
    (columns, key.is_empty() || !key.iter().all(is_flat))
}
