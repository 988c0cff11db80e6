//! Statements → the declared tables and views, each with what its options say.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion_sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, CreateView, Expr, Query, Spanned,
    SqlOption, Statement, TableConstraint, Value,
};
use datafusion_sql::sqlparser::tokenizer::Span;

use super::balance::balanced;
use super::diagnostic::{Diagnostic, Refusal, SourceFile};
use super::names;
use super::parse::ParsedStatement;
use super::types;
use super::upcast::UpcastDef;
use crate::model::schema::{
    EventTable, FieldNaming, Format, OnInvalid, SqlField, SqlType, TableColumn, TableMode,
};
use crate::model::sink::{SinkKinds, SinkOptions};

/// A declared event table.
#[derive(Debug)]
pub struct TableDef {
    pub table: Arc<EventTable>,
    pub file: Arc<SourceFile>,
    pub span: Span,
    /// The statement in canonical form: equal for equal declarations, however they are laid out.
    pub canonical: String,
}

/// A declared view, materialized or not.
#[derive(Debug)]
pub struct ViewDef {
    pub name: String,
    pub materialized: bool,
    pub options: ViewOptions,
    /// The names given in `CREATE VIEW name (a, b)`, if any.
    pub columns: Vec<String>,
    pub query: Box<Query>,
    pub file: Arc<SourceFile>,
    pub span: Span,
    /// See [`TableDef::canonical`].
    pub canonical: String,
    /// The text of the comment lines directly above it.
    pub comment: Option<String>,
}

/// The options of a materialized view. Column names are folded, not yet looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewOptions {
    pub key: Option<Vec<String>>,
    /// The sinks that the view is written to, and its options for each.
    pub sinks: BTreeMap<String, SinkOptions>,
    /// Number of iterations after which a recursion in the view fails.
    pub max_iterations: Option<u64>,
    /// From when to when each row was there is kept, too.
    pub history: bool,
}

/// Everything that the files declare, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    /// The sinks that views may have options for.
    pub sinks: SinkKinds,
    pub tables: BTreeMap<String, TableDef>,
    pub views: BTreeMap<String, ViewDef>,
    /// In the order of the files.
    pub upcasts: Vec<UpcastDef>,
}

impl Catalog {
    /// Adds a statement's table or view.
    pub fn add(&mut self, parsed: ParsedStatement) -> Result<(), Diagnostic> {
        let file = Arc::clone(&parsed.file);
        let at = parsed.at;
        self.add_statement(parsed).map_err(|refusal| {
            let at = if refusal.at.line == 0 { at } else { refusal.at };
            Refusal { at, ..refusal }.in_file(&file)
        })
    }

    fn add_statement(&mut self, parsed: ParsedStatement) -> Result<(), Refusal> {
        let canonical = parsed.statement.to_string();
        match balanced(parsed.statement) {
            Statement::CreateTable(create) => {
                let span = create.name.span();
                let table = Arc::new(event_table(&create)?);
                self.claim(&table.name, span)?;
                let def = TableDef { table, file: parsed.file, span, canonical };
                self.tables.insert(def.table.name.clone(), def);
                Ok(())
            }
            Statement::CreateView(create) => {
                let span = create.name.span();
                let name = names::relation(&create.name)?;
                self.claim(&name, span)?;
                let def = view(self.sinks, name.clone(), create, (parsed.file, canonical))?;
                self.views.insert(name, def);
                Ok(())
            }
            Statement::Insert(insert) => {
                self.upcasts.push(UpcastDef::new(insert, parsed.file, canonical)?);
                Ok(())
            }
            other => Err(Refusal::new(
                other.span(),
                "only CREATE TABLE, CREATE VIEW, CREATE MATERIALIZED VIEW and INSERT INTO … SELECT \
                 are understood here",
            )),
        }
    }

    fn claim(&self, name: &str, span: Span) -> Result<(), Refusal> {
        let earlier = self
            .tables
            .get(name)
            .map(|t| (&t.file, t.span))
            .or_else(|| self.views.get(name).map(|v| (&v.file, v.span)));
        match earlier {
            None if name == crate::model::source::EVENTS_TABLE => {
                Err(Refusal::new(span, "events is the name of the table of all events"))
            }
            None => Ok(()),
            Some((file, first)) => Err(Refusal::new(
                span,
                format!(
                    "{name} is declared twice, first at {}:{}:{}",
                    file.path.display(),
                    first.start.line,
                    first.start.column
                ),
            )),
        }
    }
}

/// Options of a `WITH (…)` clause, taken out one by one so that what is left over is unknown.
struct Options {
    values: Vec<(String, Span, Expr)>,
}

impl Options {
    fn new(options: &CreateTableOptions) -> Result<Self, Refusal> {
        let list = match options {
            CreateTableOptions::None => &[][..],
            CreateTableOptions::With(list) => list,
            CreateTableOptions::Options(list)
            | CreateTableOptions::Plain(list)
            | CreateTableOptions::TableProperties(list) => list,
        };
        let mut values = Vec::new();
        for option in list {
            match option {
                SqlOption::KeyValue { key, value } => {
                    values.push((names::fold(key), key.span, value.clone()));
                }
                other => {
                    return Err(Refusal::new(Span::empty(), format!("{other} is not an option")));
                }
            }
        }
        Ok(Options { values })
    }

    fn take(&mut self, name: &str) -> Option<(Span, Expr)> {
        let index = self.values.iter().position(|(n, _, _)| n == name)?;
        let (_, span, value) = self.values.remove(index);
        Some((span, value))
    }

    fn take_string(&mut self, name: &str) -> Result<Option<(Span, String)>, Refusal> {
        let Some((span, value)) = self.take(name) else { return Ok(None) };
        if let Expr::Value(value) = &value
            && let Value::SingleQuotedString(text) = &value.value
        {
            return Ok(Some((span, text.clone())));
        }
        Err(Refusal::new(span, format!("option {name} is a string, found {value}")))
    }

    fn take_number(&mut self, name: &str) -> Result<Option<u32>, Refusal> {
        let Some((span, value)) = self.take(name) else { return Ok(None) };
        if let Expr::Value(v) = &value
            && let Value::Number(text, _) = &v.value
            && let Ok(number) = text.parse::<u32>()
            && number >= 1
        {
            return Ok(Some(number));
        }
        Err(Refusal::new(span, format!("option {name} is a number from 1, found {value}")))
    }

    fn take_boolean(&mut self, name: &str) -> Result<Option<(Span, bool)>, Refusal> {
        let Some((span, value)) = self.take(name) else { return Ok(None) };
        match &value {
            Expr::Value(v) => match v.value {
                Value::Boolean(yes) => Ok(Some((span, yes))),
                _ => Err(Refusal::new(span, format!("option {name} is true or false"))),
            },
            _ => Err(Refusal::new(span, format!("option {name} is true or false, found {value}"))),
        }
    }

    fn finish(self, known: &str) -> Result<(), Refusal> {
        match self.values.first() {
            None => Ok(()),
            Some((name, span, _)) => Err(Refusal::new(*span, format!("unknown option {name}"))
                .with_hint(format!("known here: {known}"))),
        }
    }
}

fn event_table(create: &CreateTable) -> Result<EventTable, Refusal> {
    let name = names::relation(&create.name)?;
    let span = create.name.span();
    if create.query.is_some() {
        return Err(Refusal::new(span, "CREATE TABLE … AS is not supported")
            .with_hint("CREATE MATERIALIZED VIEW … AS keeps a query's result"));
    }
    let mut options = Options::new(&create.table_options)?;
    let naming = match options.take_string("fields")? {
        None => FieldNaming::Same,
        Some((_, text)) if text == "camelCase" => FieldNaming::CamelCase,
        Some((span, text)) => {
            return Err(Refusal::new(span, format!("fields is 'camelCase', found '{text}'")));
        }
    };
    let columns = create
        .columns
        .iter()
        .map(|column| table_column(column, naming))
        .collect::<Result<Vec<_>, _>>()?;
    refuse_repeated(&columns, create)?;
    let key = primary_key(create, &columns)?;
    let columns = require_key(columns, &key);
    let event_type = match options.take_string("event_type")? {
        Some((_, text)) if !text.is_empty() => text,
        Some((span, _)) => return Err(Refusal::new(span, "event_type is empty")),
        None => {
            return Err(Refusal::new(span, format!("table {name} names no event type"))
                .with_hint("add WITH (event_type = 'OrderPlaced'), the type of its events"));
        }
    };
    let version = options.take_number("version")?.unwrap_or(1);
    let on_invalid = match options.take_string("on_invalid")? {
        None => OnInvalid::Reject,
        Some((_, text)) if text == "reject" => OnInvalid::Reject,
        Some((_, text)) if text == "quarantine" => OnInvalid::Quarantine,
        Some((span, text)) => {
            return Err(Refusal::new(
                span,
                format!("on_invalid is 'reject' or 'quarantine', found '{text}'"),
            ));
        }
    };
    let format = match options.take_string("format")? {
        None => Format::default(),
        Some((span, text)) => {
            let known = Format::ALL.into_iter().find(|format| format.name() == text);
            known.ok_or_else(|| {
                let names = Format::ALL.map(|format| format!("'{}'", format.name()));
                let message = format!("format is {}, found '{text}'", names.join(" or "));
                Refusal::new(span, message)
            })?
        }
    };
    let mode = table_mode(&mut options, format, key, span)?;
    options.finish("event_type, version, fields, mode, delete_when, on_invalid, format")?;
    Ok(EventTable { name, event_type, version, columns, mode, on_invalid, format })
}

fn table_mode(
    options: &mut Options,
    format: Format,
    key: Vec<usize>,
    span: Span,
) -> Result<TableMode, Refusal> {
    let mode = options.take_string("mode")?;
    let delete_when = options.take_string("delete_when")?;
    let stateful = format.tells_deletion();
    let named = format!("format '{}'", format.name());
    match mode.as_ref().map(|(at, text)| (at, text.as_str())) {
        Some((at, "append")) if stateful => {
            Err(Refusal::new(*at, format!("{named} carries state, so it has no mode 'append'"))
                .with_hint("leave mode out: change events insert, update and delete"))
        }
        None | Some((_, "append")) if !stateful => match delete_when {
            Some((at, _)) => Err(Refusal::new(at, "delete_when needs mode = 'upsert'")),
            None => Ok(TableMode::Append),
        },
        None | Some((_, "upsert")) => match delete_when {
            _ if key.is_empty() => {
                let what = if stateful { named.as_str() } else { "mode 'upsert'" };
                Err(Refusal::new(span, format!("{what} needs a key"))
                    .with_hint("add PRIMARY KEY (…) to the columns"))
            }
            Some((at, _)) if stateful => Err(Refusal::new(
                at,
                format!("{named} tells what is deleted, so it has no delete_when"),
            )),
            delete_when => {
                Ok(TableMode::Upsert { key, delete_when: delete_when.map(|(_, text)| text) })
            }
        },
        Some((at, other)) => {
            Err(Refusal::new(*at, format!("mode is 'append' or 'upsert', found '{other}'")))
        }
    }
}

fn table_column(column: &ColumnDef, naming: FieldNaming) -> Result<TableColumn, Refusal> {
    let span = column.name.span;
    let name = names::fold(&column.name);
    names::column(&name).map_err(|error| Refusal::new(span, error.to_string()))?;
    let sql_type = types::sql_type(&column.data_type)
        .map_err(|error| Refusal::new(span, error.to_string()))?;
    let mut nullable = true;
    for option in &column.options {
        match &option.option {
            ColumnOption::NotNull | ColumnOption::PrimaryKey(_) => nullable = false,
            ColumnOption::Null => {}
            other => {
                return Err(Refusal::new(span, format!("{other} is not supported on a column")));
            }
        }
    }
    Ok(TableColumn { field: SqlField::new(name, sql_type, nullable), naming })
}

fn refuse_repeated(columns: &[TableColumn], create: &CreateTable) -> Result<(), Refusal> {
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|c| c.field.name == column.field.name) {
            let span = create.columns[index].name.span;
            return Err(Refusal::new(span, format!("column {} twice", column.field.name)));
        }
    }
    Ok(())
}

fn primary_key(create: &CreateTable, columns: &[TableColumn]) -> Result<Vec<usize>, Refusal> {
    let mut key = Vec::new();
    for (index, column) in create.columns.iter().enumerate() {
        if column.options.iter().any(|o| matches!(o.option, ColumnOption::PrimaryKey(_))) {
            key.push(index);
        }
    }
    for constraint in &create.constraints {
        let TableConstraint::PrimaryKey(primary) = constraint else {
            return Err(Refusal::new(
                constraint.span(),
                format!("{constraint} is not supported: only PRIMARY KEY is"),
            ));
        };
        for part in &primary.columns {
            let Expr::Identifier(ident) = &part.column.expr else {
                return Err(Refusal::new(part.column.span(), "a key consists of columns"));
            };
            let name = names::fold(ident);
            let index = columns.iter().position(|c| c.field.name == name).ok_or_else(|| {
                Refusal::new(ident.span, format!("there is no column {name} for the key"))
            })?;
            if !key.contains(&index) {
                key.push(index);
            }
        }
    }
    match key.iter().map(|index| &columns[*index].field).find(|f| f.sql_type == SqlType::Interval) {
        None => Ok(key),
        Some(field) => {
            let message =
                format!("{} is an INTERVAL, of which equal ones differ: no key", field.name);
            Err(Refusal::new(create.name.span(), message)
                .with_hint("TEXT tells them apart, CAST(… AS INTERVAL) in views compares them"))
        }
    }
}

/// A key's columns are never NULL.
fn require_key(mut columns: Vec<TableColumn>, key: &[usize]) -> Vec<TableColumn> {
    for &index in key {
        columns[index].field.nullable = false;
    }
    columns
}

fn view(
    sinks: SinkKinds,
    name: String,
    create: CreateView,
    (file, canonical): (Arc<SourceFile>, String),
) -> Result<ViewDef, Refusal> {
    let span = create.name.span();
    let mut given = Options::new(&create.options)?;
    let options = if create.materialized {
        view_options(sinks, &mut given, span)?
    } else {
        ViewOptions::default()
    };
    if create.materialized {
        let mut known = vec!["key", "max_iterations", "history"];
        for kind in sinks {
            known.push(kind.name());
            known.extend(kind.options());
        }
        given.finish(&known.join(", "))?;
    } else {
        given.finish("none: a plain view is a building block; MATERIALIZED ones have options")?;
    }
    let columns = create.columns.iter().map(|c| names::fold(&c.name)).collect();
    let comment = comment_above(&file.text, span.start.line);
    Ok(ViewDef {
        name,
        materialized: create.materialized,
        options,
        columns,
        query: create.query,
        file,
        span,
        canonical,
        comment,
    })
}

/// The text of the lines of comment directly above a statement whose name is in this line, from 1.
fn comment_above(text: &str, line: u64) -> Option<String> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let name_line = usize::try_from(line).ok()?.min(lines.len());
    let begins =
        |line: &&str| line.get(..6).is_some_and(|word| word.eq_ignore_ascii_case("create"));
    // The name may be in a line of its own.
    let statement = lines[..name_line].iter().rposition(begins)?;
    let above = lines[..statement].iter().rev().map_while(|line| line.strip_prefix("--"));
    let mut comment: Vec<&str> = above.map(|line| line.trim_start_matches('-').trim()).collect();
    comment.reverse();
    let comment = comment.join("\n").trim().to_string();
    (!comment.is_empty()).then_some(comment)
}

fn view_options(kinds: SinkKinds, given: &mut Options, span: Span) -> Result<ViewOptions, Refusal> {
    let columns_of = |text: String| -> Vec<String> {
        text.split(',').map(|c| c.trim().to_string()).filter(|c| !c.is_empty()).collect()
    };
    let mut sinks = BTreeMap::new();
    for kind in kinds {
        let mut options = SinkOptions::new();
        for name in kind.options() {
            if let Some((_, text)) = given.take_string(name)? {
                options.insert(name.to_string(), text);
            }
        }
        if given.take_boolean(kind.name())?.is_none_or(|(_, yes)| yes) {
            sinks.insert(kind.name().to_string(), options);
        }
    }
    let options = ViewOptions {
        key: given.take_string("key")?.map(|(_, text)| columns_of(text)),
        sinks,
        max_iterations: given.take_number("max_iterations")?.map(u64::from),
        history: given.take_boolean("history")?.is_some_and(|(_, yes)| yes),
    };
    if options.history && options.sinks.is_empty() {
        return Err(Refusal::new(span, "history is kept in ClickHouse, which the view is not"));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comment_is_what_stands_directly_above() {
        let text = "-- far\n\n-- Orders of a day.\n--   As they are paid.\nCREATE MATERIALIZED VIEW a AS\n\
                    SELECT 1;\ncreate view\n  b AS SELECT 2;";
        assert_eq!(comment_above(text, 5).unwrap(), "Orders of a day.\nAs they are paid.");
        assert_eq!(comment_above(text, 8), None);
        assert_eq!(comment_above("CREATE VIEW a", 1), None);
    }
}
