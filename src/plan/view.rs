//! One materialized view: its plan, its shape, and the options that its table follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion_common::DFSchema;
use datafusion_physical_expr::expressions::CastExpr;
use xxhash_rust::xxh3::xxh3_128;

use super::catalog::ViewDef;
use super::diagnostic::Unplannable;
use super::ir::{Node, Op, Plan, Scalar};
use super::lower::assert_key;
use super::names;
use crate::model::schema::{EventTable, SqlField, SqlType};
use crate::model::sink::SinkKinds;
use crate::model::source::SourceTable;
use crate::model::view::{ViewRef, ViewSchema};

/// A materialized view, ready to run.
#[derive(Clone, Debug)]
pub struct ViewPlan {
    /// Its shape from outside.
    pub schema: ViewRef,
    /// The computation of its rows.
    pub plan: Arc<Plan>,
    /// The types of the events that it reads, sorted; empty means all of them.
    pub event_types: Vec<String>,
    /// For each type that it reads as a table, the versions that are declared.
    pub versions: BTreeMap<String, BTreeSet<u32>>,
}

impl ViewPlan {
    /// Whether the view is written to the sink of this name.
    pub fn is_written_to(&self, sink: &str) -> bool {
        self.schema.sinks.contains_key(sink)
    }

    /// A number of what is computed, in which order, as hex digits: two plans of one generation that
    /// share it keep the same rows in the same arrangements.
    pub fn fingerprint(&self) -> String {
        let ViewPlan { schema, plan, .. } = self;
        format!("{:032x}", xxh3_128(format!("{:?} {plan:?}", schema.key).as_bytes()))
    }
}

/// Everything that makes a view of a plan.
pub struct Shape<'a> {
    pub def: &'a ViewDef,
    /// See [`output_columns`].
    pub columns: Vec<SqlField>,
    pub tables: &'a [Arc<EventTable>],
    pub sinks: SinkKinds,
    pub generation: String,
}

impl Shape<'_> {
    /// The plan as a view.
    pub fn of(self, plan: Plan) -> Result<ViewPlan, Unplannable> {
        let Shape { def, columns, tables, sinks, generation } = self;
        let plan = with_column_types(plan, &columns);
        let index_of = |name: &String| {
            columns.iter().position(|c| c.name == *name).ok_or_else(|| {
                let view = &def.name;
                Unplannable(format!("option key names column {name}, which {view} does not have"))
            })
        };
        let declared: Option<Vec<usize>> =
            def.options.key.as_ref().map(|k| k.iter().map(index_of).collect()).transpose()?;
        let mut key_columns = declared.iter().flatten().map(|index| &columns[*index]);
        if let Some(column) = key_columns.find(|column| column.sql_type == SqlType::Interval) {
            let name = &column.name;
            let message =
                format!("option key names {name}, an INTERVAL, of which equal ones differ");
            return Err(Unplannable(message));
        }
        let (plan, key) = match declared {
            Some(key) => (assert_key(plan, &key), Some(key)),
            None => {
                let key = inferred_key(&plan, &columns);
                (plan, key)
            }
        };
        let event_types = event_types(&plan);
        let versions = versions(&plan, tables);
        let schema = ViewSchema {
            name: def.name.clone(),
            generation,
            columns,
            key,
            sinks: def.options.sinks.clone(),
            history: def.options.history,
            comment: def.comment.clone(),
        };
        for kind in sinks.iter().filter(|kind| schema.sinks.contains_key(kind.name())) {
            kind.check(&schema).map_err(|error| Unplannable(error.to_string()))?;
        }
        Ok(ViewPlan { schema: Arc::new(schema), plan: Arc::new(plan), event_types, versions })
    }
}

/// The columns of a view, of those that its query has.
pub fn output_columns(def: &ViewDef, output: &DFSchema) -> Result<Vec<SqlField>, Unplannable> {
    let refuse = |message: String| Err(Unplannable(message));
    let fields = output.as_arrow().fields();
    if !def.columns.is_empty() && def.columns.len() != fields.len() {
        let (named, selected) = (def.columns.len(), fields.len());
        return refuse(format!("{} names {named} columns, its SELECT has {selected}", def.name));
    }
    let mut columns: Vec<SqlField> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let name = def.columns.get(index).unwrap_or(field.name()).clone();
        names::column(&name)
            .map_err(|error| Unplannable(format!("{error}: give it another name with AS")))?;
        // As in PostgreSQL, a NULL that nothing gives a type is a text.
        let text = field.as_ref().clone().with_data_type(DataType::Utf8);
        let field = if field.data_type() == &DataType::Null { &text } else { field.as_ref() };
        let mut column = SqlField::from_arrow(field).map_err(|t| {
            Unplannable(format!("column {name} has type {t}, which a view cannot have: CAST it"))
        })?;
        if columns.iter().any(|c| c.name == name) {
            return refuse(format!("two columns are named {name}: give one another name with AS"));
        }
        column.name = name;
        columns.push(column);
    }
    Ok(columns)
}

/// Casts what came out as a cousin of the column's type (a string view, an 8-bit integer).
fn with_column_types(mut plan: Plan, columns: &[SqlField]) -> Plan {
    let root = plan.root();
    let fields: Vec<_> = columns.iter().map(SqlField::to_arrow).collect();
    let schema = Arc::new(Schema::new(fields));
    let types_of = |schema: &Schema| -> Vec<DataType> {
        schema.fields().iter().map(|f| f.data_type().clone()).collect()
    };
    if types_of(&schema) == types_of(&root.schema) {
        let id = plan.root;
        plan.nodes[id].schema = schema;
        return plan;
    }
    let casts = schema
        .fields()
        .iter()
        .enumerate()
        .map(|(index, field)| {
            let column = super::lower::column(&root.schema, index);
            if root.schema.field(index).data_type() == field.data_type() {
                return column;
            }
            let cast = CastExpr::new(column.expr, field.data_type().clone(), None);
            Scalar { expr: Arc::new(cast), text: column.text }
        })
        .collect();
    let node = Node {
        op: Op::Project { input: plan.root, columns: casts },
        schema,
        keys: root.keys.clone(),
        monotonic: root.monotonic,
    };
    plan.root = plan.nodes.len();
    plan.nodes.push(node);
    plan
}

/// The shortest key that the plan has, one without NULLs if there is one.
fn inferred_key(plan: &Plan, columns: &[SqlField]) -> Option<Vec<usize>> {
    let nullable = |key: &[usize]| key.iter().filter(|c| columns[**c].nullable).count();
    plan.root().keys.iter().min_by_key(|key| (nullable(key), key.len())).cloned()
}

fn event_types(plan: &Plan) -> Vec<String> {
    let mut types = Vec::new();
    for (_, table, _) in plan.sources() {
        match table {
            SourceTable::Declared(table) => types.push(table.event_type.clone()),
            SourceTable::Events => return Vec::new(),
        }
    }
    types.sort();
    types.dedup();
    types
}

fn versions(plan: &Plan, tables: &[Arc<EventTable>]) -> BTreeMap<String, BTreeSet<u32>> {
    let mut versions: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
    for (_, source, _) in plan.sources() {
        if let SourceTable::Declared(read) = source {
            let same = tables.iter().filter(|table| table.event_type == read.event_type);
            versions.entry(read.event_type.clone()).or_default().extend(same.map(|t| t.version));
        }
    }
    versions
}
