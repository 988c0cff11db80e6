//! The relations of FROM, and the columns that they show.

use datafusion_common::Result;
use datafusion_sql::sqlparser::ast::{TableAlias, TableAliasColumnDef, TableFactor};

use super::{ColumnOrigin, KnownColumns, Relation, Resolver, Use, Visible, quoted};
use crate::plan::names::fold;
use crate::plan::row_values::ROW;
use crate::plan::window_tables;

impl Resolver<'_> {
    pub(super) fn relation_columns(&self, name: &str) -> KnownColumns {
        match self.ctes.iter().rev().find(|(cte, _)| cte == name) {
            Some((_, names)) => names.clone(),
            None => (self.known.columns)(name),
        }
    }

    pub(super) fn add(&mut self, name: String, columns: KnownColumns) -> Vec<Visible> {
        let shown = match &columns {
            Some(columns) => {
                let column = |column: &String| Visible {
                    name: column.clone(),
                    place: ColumnOrigin::Column(name.clone()),
                };
                columns.iter().map(column).collect()
            }
            None => {
                let place = ColumnOrigin::All(name.clone(), Vec::new());
                vec![Visible { name: String::new(), place }]
            }
        };
        self.top().relations.push(Relation { name, columns, padded: false });
        shown
    }

    /// A relation in FROM, and the columns that it shows.
    pub(super) fn factor(&mut self, factor: &mut TableFactor) -> Result<Vec<Visible>> {
        match factor {
            TableFactor::Table { name, args: None, alias, .. } => {
                let own = name.0.last().and_then(|part| part.as_ident()).map(fold);
                let own = own.unwrap_or_default();
                let columns = self.relation_columns(&own);
                let (name, columns) = match alias {
                    Some(alias) => (fold(&alias.name), all_renamed(columns, alias)),
                    None => (own, columns),
                };
                Ok(self.add(name, columns))
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let names = if *lateral {
                    self.query(subquery, Use::Within)?
                } else {
                    let level = self.levels.pop();
                    let names = self.query(subquery, Use::Within);
                    self.levels.extend(level);
                    names?
                };
                match alias {
                    Some(alias) => {
                        let columns = all_renamed(names, alias);
                        Ok(self.add(fold(&alias.name), columns))
                    }
                    None => Ok(self.add(String::new(), None)),
                }
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } => {
                self.table_with_joins(table_with_joins)
            }
            TableFactor::NestedJoin { table_with_joins, alias: Some(alias) } => {
                let alias = alias.clone();
                let before = self.top().relations.len();
                let shown = self.table_with_joins(table_with_joins)?;
                if alias.name.value.starts_with("__") {
                    // Two sides of a set operation, whose columns are those of the first.
                    let first = self.top().relations.get(before).cloned();
                    self.top().relations.truncate(before);
                    let columns = first.and_then(|relation| relation.columns);
                    return Ok(self.add(fold(&alias.name), columns));
                }
                self.nested_join(factor, alias, before, shown)
            }
            TableFactor::UNNEST { alias, array_exprs, .. } => {
                self.walk(array_exprs)?;
                let name = alias.as_ref().map_or("unnest".to_string(), |a| fold(&a.name));
                let columns = alias.as_ref().and_then(listed);
                Ok(self.add(name, columns))
            }
            other => {
                if window_tables::table_of(other).is_none() {
                    self.function_arguments(other)?;
                }
                let (name, alias) = match &*other {
                    TableFactor::Table { name, alias, .. }
                    | TableFactor::Function { name, alias, .. } => {
                        let own = name.0.last().and_then(|part| part.as_ident()).map(fold);
                        let table = window_tables::table_of(other).map(fold);
                        (table.or(own).unwrap_or_default(), alias)
                    }
                    _ => return Ok(self.add(String::new(), None)),
                };
                let name = alias.as_ref().map_or(name, |alias| fold(&alias.name));
                let table = window_tables::table_of(other).map(fold);
                let columns = match (table, alias) {
                    (Some(table), alias) => {
                        let columns = self.relation_columns(&table).map(|mut columns| {
                            columns.extend(window_tables::COLUMNS.map(str::to_string));
                            columns
                        });
                        match alias {
                            Some(alias) => renamed(columns, alias),
                            None => columns,
                        }
                    }
                    (None, alias) => alias.as_ref().and_then(listed),
                };
                Ok(self.add(name, columns))
            }
        }
    }

    pub(super) fn function_arguments(&mut self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::Table { args: Some(args), .. } => self.walk(&mut args.args),
            TableFactor::Function { args, .. } => self.walk(args),
            _ => Ok(()),
        }
    }
}

/// The columns under the names that an alias lists, which may be fewer.
pub(super) fn renamed(columns: KnownColumns, alias: &TableAlias) -> KnownColumns {
    let given = alias.columns.iter().map(|column| fold(&column.name));
    let columns = columns?;
    let rest = columns.into_iter().skip(alias.columns.len());
    Some(given.chain(rest).collect())
}

/// The same, with names for all columns where the alias has names for the first ones.
fn all_renamed(columns: KnownColumns, alias: &mut TableAlias) -> KnownColumns {
    let columns = renamed(columns, alias)?;
    // As many columns as a row has are compared with it, no more.
    if !alias.columns.is_empty() && alias.name.value != ROW {
        let rest = columns.iter().skip(alias.columns.len());
        let rest = rest.map(|name| TableAliasColumnDef { name: quoted(name), data_type: None });
        alias.columns.extend(rest.collect::<Vec<_>>());
    }
    Some(columns)
}

fn listed(alias: &TableAlias) -> KnownColumns {
    let names: Vec<String> = alias.columns.iter().map(|column| fold(&column.name)).collect();
    (!names.is_empty()).then_some(names)
}
