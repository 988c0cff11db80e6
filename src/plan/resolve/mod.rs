//! Names in the syntax tree, where PostgreSQL means something else by them than the planner does.
//!
//! * The columns that USING and NATURAL merge, and what `*` shows then (`join.rs`);
//! * aggregates in a sub-query that belong to the query around it (`grouped.rs`);
//! * the name of a relation as a value: its whole row (`whole.rs`);
//! * `c.id` in a sub-query whose own relations have a column `c`;
//! * columns of sub-queries that have no name of their own (`label.rs`);
//! * casts of one expression to several types (`casts.rs`).
//!
//! A walk that knows the columns of every relation in scope. Names that it need not change stay as they
//! are, and so do those of relations whose columns it cannot know (the elements of an array).

mod casts;
mod grouped;
mod join;
mod label;
mod whole;

use std::ops::ControlFlow;

use datafusion_common::{DataFusionError, Diagnostic, Result, Span, plan_datafusion_err};
use datafusion_sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Distinct, ExcludeSelectItem, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, OneOrManyWithParens, OrderBy,
    OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Spanned,
    TableAlias, TableAliasColumnDef, TableFactor, Value, VisitMut, VisitorMut,
    WildcardAdditionalOptions,
};
use datafusion_sql::sqlparser::tokenizer;

use super::names::fold;
use super::row_values::{MOVED, ROW};
use super::sugar::skeleton;
use super::window_tables;

pub use label::of as column_name;

/// The surroundings of the query.
pub struct Known<'a> {
    /// The columns of a table or view.
    pub columns: &'a dyn Fn(&str) -> Option<Vec<String>>,
    /// Whether a function of this name is an aggregate.
    pub is_aggregate: &'a dyn Fn(&str) -> bool,
    /// Whether the columns of the result are given names afterwards.
    pub renamed: bool,
}

/// The query with such names written out.
pub fn resolved(mut query: Query, known: &Known<'_>) -> Result<Query> {
    let mut resolver = Resolver {
        known,
        nothing: skeleton("SELECT 1")?,
        levels: Vec::new(),
        ctes: Vec::new(),
        next: 0,
        outer_aggregate: None,
    };
    let purpose = if known.renamed { Use::Within } else { Use::View };
    resolver.query(&mut query, purpose)?;
    Ok(query)
}

/// The use of a query's columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// They are the view's, under the names that the planner gives them.
    View,
    /// They are looked up by name, or not at all.
    Within,
}

/// The names of a query's columns; `None` where they are not all known.
type KnownColumns = Option<Vec<String>>;

/// A relation in FROM.
#[derive(Clone, Debug)]
struct Relation {
    name: String,
    columns: KnownColumns,
    /// An outer join may show NULLs in its place.
    padded: bool,
}

/// A column that has a name without its relation's.
#[derive(Clone, Debug)]
struct Visible {
    name: String,
    place: ColumnOrigin,
}

#[derive(Clone, Debug)]
enum ColumnOrigin {
    /// A column of the relation of this name.
    Column(String),
    /// The column that USING made of several.
    Merged(Box<Expr>),
    /// All columns of the relation of this name, which are not known, but for these.
    All(String, Vec<String>),
}

/// The clause of a query that is being walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clause {
    From,
    Where,
    GroupBy,
    /// The clauses that see groups.
    Select,
}

/// One SELECT, and what its FROM has shown so far.
#[derive(Debug)]
struct SelectLevel {
    id: usize,
    relations: Vec<Relation>,
    visible: Vec<Visible>,
    clause: Clause,
    /// Whether names of this level are to be qualified, and aggregates of it in sub-queries taken out.
    groups: bool,
    /// Aggregates of this level that stood in sub-queries.
    aggregates: Vec<Expr>,
    /// Relations that get a column which is true, and NULL where an outer join shows no row of theirs.
    marked: Vec<String>,
}

impl SelectLevel {
    fn is_opaque(&self) -> bool {
        self.visible.iter().any(|v| matches!(v.place, ColumnOrigin::All(..)))
    }

    fn has_relation(&self, name: &str) -> bool {
        self.relations.iter().any(|r| r.name == name)
    }
}

struct Resolver<'a> {
    known: &'a Known<'a>,
    /// Stands for a sub-query that is taken out.
    nothing: Query,
    /// The SELECTs around, the innermost last.
    levels: Vec<SelectLevel>,
    ctes: Vec<(String, KnownColumns)>,
    /// The next level's number.
    next: usize,
    /// The level whose aggregate was found in a sub-query.
    outer_aggregate: Option<usize>,
}

/// An identifier that means exactly this name.
fn quoted(name: &str) -> Ident {
    Ident::with_quote('"', name)
}

fn qualified(relation: &str, column: &str) -> Expr {
    Expr::CompoundIdentifier(vec![quoted(relation), quoted(column)])
}

fn refusal(at: tokenizer::Span, message: String) -> DataFusionError {
    let diagnostic = Diagnostic::new_error(message.clone(), Span::try_from_sqlparser_span(at));
    plan_datafusion_err!("{message}"; diagnostic = diagnostic)
}

impl Resolver<'_> {
    fn query(&mut self, query: &mut Query, purpose: Use) -> Result<KnownColumns> {
        let known_ctes = self.ctes.len();
        if let Some(with) = &mut query.with {
            let recursive = with.recursive;
            for cte in &mut with.cte_tables {
                let name = fold(&cte.alias.name);
                if recursive {
                    let names = self.first_names(&cte.query)?;
                    self.ctes.push((name.clone(), renamed(names, &cte.alias)));
                }
                let names = self.query(&mut cte.query, Use::Within)?;
                self.ctes.push((name, renamed(names, &cte.alias)));
            }
        }
        let order_by = &mut query.order_by;
        let names = match query.body.as_mut() {
            SetExpr::Select(select) => self.select(select, Some(order_by), purpose)?,
            body => self.set_expr(body, purpose)?,
        };
        self.ctes.truncate(known_ctes);
        Ok(names)
    }

    /// The names of a recursive query's columns, which its first term gives.
    fn first_names(&mut self, query: &Query) -> Result<KnownColumns> {
        let mut body = query.body.as_ref();
        while let SetExpr::SetOperation { left, .. } = body {
            body = left;
        }
        let mut first = Query { body: Box::new(body.clone()), ..query.clone() };
        first.order_by = None;
        let found = self.outer_aggregate;
        let names = self.query(&mut first, Use::Within);
        self.outer_aggregate = found;
        names
    }

    fn set_expr(&mut self, body: &mut SetExpr, purpose: Use) -> Result<KnownColumns> {
        match body {
            SetExpr::Select(select) => self.select(select, None, purpose),
            SetExpr::Query(query) => self.query(query, purpose),
            SetExpr::SetOperation { left, right, .. } => {
                let names = self.set_expr(left, purpose)?;
                self.set_expr(right, Use::Within)?;
                Ok(names)
            }
            SetExpr::Values(values) => {
                let width = values.rows.first().map_or(0, |row| row.len());
                self.walk(values)?;
                Ok(Some((1..=width).map(|n| format!("column{n}")).collect()))
            }
            _ => Ok(None),
        }
    }

    fn select(
        &mut self,
        select: &mut Select,
        mut order_by: Option<&mut Option<OrderBy>>,
        purpose: Use,
    ) -> Result<KnownColumns> {
        let before = (select.clone(), order_by.as_deref().cloned());
        let around = self.outer_aggregate.take();
        let (names, level) = self.select_once(select, order_by.as_deref_mut(), purpose, false)?;
        let found = self.outer_aggregate.take();
        match found {
            Some(depth) if depth == self.levels.len() => {
                drop(level);
                *select = before.0;
                if let (Some(now), Some(before)) = (order_by.as_deref_mut(), before.1) {
                    *now = before;
                }
                let (names, level) =
                    self.select_once(select, order_by.as_deref_mut(), purpose, true)?;
                self.outer_aggregate = self.outer_aggregate.max(around);
                let order_by = order_by.and_then(Option::as_mut);
                grouped::on_top(select, order_by, level, self.known.is_aggregate)?;
                Ok(names)
            }
            other => {
                self.outer_aggregate = other.max(around);
                Ok(names)
            }
        }
    }

    fn select_once(
        &mut self,
        select: &mut Select,
        mut order_by: Option<&mut Option<OrderBy>>,
        purpose: Use,
        groups: bool,
    ) -> Result<(KnownColumns, SelectLevel)> {
        let id = self.next;
        self.next += 1;
        let (relations, visible) = (Vec::new(), Vec::new());
        let (aggregates, marked) = (Vec::new(), Vec::new());
        let clause = Clause::From;
        self.levels.push(SelectLevel {
            id,
            relations,
            visible,
            clause,
            groups,
            aggregates,
            marked,
        });
        for table in &mut select.from {
            let shown = self.table_with_joins(table)?;
            self.top().visible.extend(shown);
        }
        if groups || self.top().visible.iter().any(|v| matches!(v.place, ColumnOrigin::Merged(_))) {
            self.expand_wildcards(&mut select.projection)?;
        }
        self.check_shadowing()?;
        self.top().clause = Clause::Where;
        self.walk(&mut select.selection)?;
        self.top().clause = Clause::Select;
        self.items(&mut select.projection)?;
        let names = self.item_names(&select.projection);
        self.top().clause = Clause::GroupBy;
        if let GroupByExpr::Expressions(keys, _) = &mut select.group_by {
            self.walk(keys)?;
        }
        self.top().clause = Clause::Select;
        self.walk(&mut select.having)?;
        self.walk(&mut select.qualify)?;
        if let Some(Distinct::On(keys)) = &mut select.distinct {
            let items = &select.projection;
            keys.iter_mut().for_each(|key| write_out_result(key, items));
            if let Some(OrderByKind::Expressions(sorts)) =
                order_by.as_deref_mut().and_then(Option::as_mut).map(|order| &mut order.kind)
            {
                sorts.iter_mut().for_each(|sort| write_out_result(&mut sort.expr, items));
            }
        }
        self.walk(&mut select.distinct)?;
        self.walk(&mut select.named_window)?;
        if let Some(Some(order_by)) = order_by.as_deref_mut() {
            self.order(order_by, names.as_deref())?;
        }
        let sorts = order_by.and_then(Option::as_mut);
        casts::apart(select, sorts, self.known.is_aggregate)?;
        label::columns(&mut select.projection, purpose, self.top());
        let names = self.item_names(&select.projection);
        let Some(level) = self.levels.pop() else { unreachable!("the level was pushed above") };
        for relation in &level.marked {
            whole::mark(select, relation)?;
        }
        Ok((names, level))
    }

    fn top(&mut self) -> &mut SelectLevel {
        match self.levels.last_mut() {
            Some(level) => level,
            None => unreachable!("there is a level while a SELECT is walked"),
        }
    }

    /// ORDER BY: a name alone is a column of the result first.
    fn order(&mut self, order_by: &mut OrderBy, names: Option<&[String]>) -> Result<()> {
        let OrderByKind::Expressions(sorts) = &mut order_by.kind else { return Ok(()) };
        for sort in sorts {
            let is_result = match &sort.expr {
                Expr::Identifier(name) => names.is_some_and(|names| names.contains(&fold(name))),
                _ => false,
            };
            if !is_result {
                self.walk(&mut sort.expr)?;
            }
        }
        Ok(())
    }

    fn items(&mut self, items: &mut [SelectItem]) -> Result<()> {
        for item in items {
            if let SelectItem::UnnamedExpr(expr) = item {
                let name = match &*expr {
                    Expr::Identifier(name) => Some(name.clone()),
                    _ => None,
                };
                self.walk(expr)?;
                // An expression that stands for a name keeps the name.
                if let Some(alias) = name
                    && !matches!(expr, Expr::Identifier(_))
                    && !matches!(&*expr, Expr::CompoundIdentifier(parts)
                        if parts.last().is_some_and(|last| fold(last) == fold(&alias)))
                {
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
                }
            } else {
                self.walk(item)?;
            }
        }
        Ok(())
    }

    fn item_names(&mut self, items: &[SelectItem]) -> KnownColumns {
        let mut names = Vec::new();
        for item in items {
            match item {
                SelectItem::ExprWithAlias { alias, .. } => names.push(fold(alias)),
                SelectItem::UnnamedExpr(expr) => names.push(label::of(expr)),
                SelectItem::Wildcard(options) if is_plain(options) => {
                    let level = self.levels.last()?;
                    if level.is_opaque() {
                        return None;
                    }
                    names.extend(level.visible.iter().map(|v| v.name.clone()));
                }
                SelectItem::QualifiedWildcard(
                    SelectItemQualifiedWildcardKind::ObjectName(name),
                    options,
                ) if is_plain(options) => {
                    let name = name.0.last().and_then(|part| part.as_ident()).map(fold)?;
                    let relations = &self.levels.last()?.relations;
                    names.extend(relations.iter().find(|r| r.name == name)?.columns.clone()?);
                }
                _ => return None,
            }
        }
        Some(names)
    }

    /// The columns of `*` one by one.
    fn expand_wildcards(&mut self, items: &mut Vec<SelectItem>) -> Result<()> {
        let mut out = Vec::new();
        for item in std::mem::take(items) {
            let SelectItem::Wildcard(options) = item else {
                out.push(item);
                continue;
            };
            let Some(left_out) = excluded(&options) else {
                let at = options.wildcard_token.0.span;
                let message = "* with REPLACE, RENAME or ILIKE over USING is not supported";
                return Err(refusal(at, message.to_string()));
            };
            for column in &self.top().visible {
                if left_out.contains(&column.name) {
                    continue;
                }
                out.push(match &column.place {
                    ColumnOrigin::Column(relation) => {
                        SelectItem::UnnamedExpr(qualified(relation, &column.name))
                    }
                    ColumnOrigin::Merged(expr) => SelectItem::ExprWithAlias {
                        expr: expr.as_ref().clone(),
                        alias: quoted(&column.name),
                    },
                    ColumnOrigin::All(relation, merged) => all_but(relation, merged),
                });
            }
        }
        *items = out;
        Ok(())
    }

    /// A name that is written out with its relation must not meet another relation of that name.
    fn check_shadowing(&mut self) -> Result<()> {
        let Some((top, around)) = self.levels.split_last() else { return Ok(()) };
        for level in around.iter().filter(|level| level.groups) {
            if let Some(relation) = top.relations.iter().find(|r| level.has_relation(&r.name)) {
                let name = &relation.name;
                let message = format!(
                    "{name} names a relation of this query and one of the query around it, whose \
                     aggregates stand in this one: give one another name with AS"
                );
                return Err(plan_datafusion_err!("{message}"));
            }
        }
        Ok(())
    }

    /// Changes the names in something that holds expressions, sub-queries included.
    fn walk(&mut self, node: &mut impl VisitMut) -> Result<()> {
        let mut walk = ClauseWalk {
            resolver: self,
            aside: Vec::new(),
            taken: Vec::new(),
            parameters: Vec::new(),
        };
        match node.visit(&mut walk) {
            ControlFlow::Break(error) => Err(error),
            ControlFlow::Continue(()) => Ok(()),
        }
    }

    fn relation_columns(&self, name: &str) -> KnownColumns {
        match self.ctes.iter().rev().find(|(cte, _)| cte == name) {
            Some((_, names)) => names.clone(),
            None => (self.known.columns)(name),
        }
    }

    fn add(&mut self, name: String, columns: KnownColumns) -> Vec<Visible> {
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
    fn factor(&mut self, factor: &mut TableFactor) -> Result<Vec<Visible>> {
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

    fn function_arguments(&mut self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::Table { args: Some(args), .. } => self.walk(&mut args.args),
            TableFactor::Function { args, .. } => self.walk(args),
            _ => Ok(()),
        }
    }

    /// The expression that a name without a relation's stands for; `None` if it need not be written out.
    fn unqualified(&mut self, ident: &Ident) -> Result<Option<Expr>> {
        let name = fold(ident);
        for (depth, level) in self.levels.iter().enumerate().rev() {
            let found: Vec<&Visible> = level.visible.iter().filter(|v| v.name == name).collect();
            match found.as_slice() {
                [] if level.is_opaque() => return Ok(None),
                [] => {}
                [Visible { place: ColumnOrigin::Column(relation), .. }] => {
                    let expr = || qualified(relation, &name);
                    return Ok((level.groups && !relation.is_empty()).then(expr));
                }
                [Visible { place: ColumnOrigin::Merged(expr), .. }] => {
                    self.check_reach(depth, expr, ident)?;
                    return Ok(Some(expr.as_ref().clone()));
                }
                several => {
                    if several.iter().any(|v| matches!(v.place, ColumnOrigin::Merged(_))) {
                        let message = format!("column reference {name} is ambiguous");
                        return Err(refusal(ident.span, message));
                    }
                    return Ok(None);
                }
            }
        }
        self.whole_row(ident)
    }

    /// The columns of the relation whose whole row an expression is.
    fn columns_of_row(&self, expr: &Expr) -> Option<Vec<Expr>> {
        let Expr::Identifier(ident) = expr else { return None };
        let name = fold(ident);
        let is_column =
            |level: &SelectLevel| level.is_opaque() || level.visible.iter().any(|v| v.name == name);
        if self.levels.iter().any(is_column) {
            return None;
        }
        let mut relations = self.levels.iter().rev().flat_map(|level| &level.relations);
        let relation = relations.find(|relation| relation.name == name)?;
        let columns = relation.columns.as_ref()?;
        Some(columns.iter().map(|column| qualified(&relation.name, column)).collect())
    }

    /// The row of the relation of this name as one value, if there is one.
    fn whole_row(&mut self, ident: &Ident) -> Result<Option<Expr>> {
        let name = fold(ident);
        for level in self.levels.iter_mut().rev() {
            let Some(relation) = level.relations.iter().find(|r| r.name == name) else { continue };
            if relation.padded && !level.marked.contains(&name) {
                level.marked.push(name.clone());
            }
            return whole::row(relation, ident).map(Some);
        }
        Ok(None)
    }

    /// A merged column of a query further out is written out with relations of that query.
    fn check_reach(&self, depth: usize, expr: &Expr, at: &Ident) -> Result<()> {
        for name in relations_in(expr) {
            if self.levels[depth + 1..].iter().any(|level| level.has_relation(&name)) {
                let message = format!(
                    "{at} is merged of columns of {name}, which names another relation here: give \
                     it another name with AS"
                );
                return Err(refusal(at.span, message));
            }
        }
        Ok(())
    }

    /// `c.id`, where a query between here and the relation `c` has a column `c`: the planner would take
    /// it for a member of that column.
    fn reached(&self, parts: &[Ident]) -> Option<Expr> {
        let [relation, column] = parts else { return None };
        let name = fold(relation);
        let depth = self.levels.iter().rposition(|level| level.has_relation(&name))?;
        // One name is written in one way, to be found among the keys that are grouped by.
        if self.levels[depth].groups {
            return Some(qualified(&name, &fold(column)));
        }
        let hidden = self.levels[depth + 1..]
            .iter()
            .any(|level| level.is_opaque() || level.visible.iter().any(|v| v.name == name));
        hidden.then(|| {
            // The planner looks a name of three parts up as a relation's column alone.
            let mut longer = vec![quoted("__outer")];
            longer.extend(parts.iter().cloned());
            Expr::CompoundIdentifier(longer)
        })
    }

    /// The level that the columns in an aggregate's arguments belong to, where it is one further out.
    fn level_of_aggregate(&self, function: &Function) -> Option<usize> {
        let innermost = self.levels.len().checked_sub(1)?;
        let mut names = ColumnNames { found: Vec::new(), nested: false };
        let mut function = function.clone();
        let _ = function.visit(&mut names);
        if names.nested {
            return None;
        }
        let mut deepest = None;
        for parts in &names.found {
            let at = match parts.as_slice() {
                [] => return None,
                [column] => {
                    let name = fold(column);
                    self.levels.iter().rposition(|level| {
                        level.is_opaque() || level.visible.iter().any(|v| v.name == name)
                    })?
                }
                [relation, ..] => {
                    let name = fold(relation);
                    self.levels.iter().rposition(|level| {
                        level.has_relation(&name) || level.visible.iter().any(|v| v.name == name)
                    })?
                }
            };
            deepest = deepest.max(Some(at));
        }
        deepest.filter(|depth| *depth < innermost)
    }

    /// An aggregate of a query further out: `None` where it belongs to the query that it stands in.
    fn outer_aggregate(&mut self, function: &Function) -> Result<Option<Expr>> {
        let name = function.name.to_string().to_lowercase();
        if function.over.is_some() || !(self.known.is_aggregate)(&name) {
            return Ok(None);
        }
        let Some(depth) = self.level_of_aggregate(function) else { return Ok(None) };
        self.aggregate_of(depth, function)
    }

    /// The column that an aggregate of the level at this depth becomes, once its groups are taken out.
    fn aggregate_of(&mut self, depth: usize, function: &Function) -> Result<Option<Expr>> {
        let clause = match self.levels[depth].clause {
            Clause::Select => None,
            Clause::From => Some("FROM"),
            Clause::Where => Some("WHERE"),
            Clause::GroupBy => Some("GROUP BY"),
        };
        if let Some(clause) = clause {
            let message = format!(
                "{function} belongs to the query around, in whose {clause} no aggregate may stand"
            );
            return Err(refusal(function.name.span(), message));
        }
        if !self.levels[depth].groups {
            self.outer_aggregate = self.outer_aggregate.max(Some(depth));
            return Ok(None);
        }
        // Its arguments are those of the query that it belongs to.
        let inner = self.levels.split_off(depth + 1);
        let mut expr = Expr::Function(function.clone());
        let walked = self.walk_arguments(&mut expr);
        let level = &mut self.levels[depth];
        let known = level.aggregates.iter().position(|aggregate| *aggregate == expr);
        let index = known.unwrap_or_else(|| {
            level.aggregates.push(expr);
            level.aggregates.len() - 1
        });
        let column = qualified(&grouped::relation(level.id), &grouped::aggregate(index));
        self.levels.extend(inner);
        walked.map(|()| Some(column))
    }

    /// An expression that was moved into a sub-query: its aggregates belong to the query around that.
    fn moved(&mut self, mut expr: Expr) -> Result<Expr> {
        let inner = self.levels.pop();
        let mut aggregates = Aggregates { resolver: self, error: None };
        let _ = expr.visit(&mut aggregates);
        let result = match aggregates.error {
            Some(error) => Err(error),
            None => self.walk(&mut expr),
        };
        self.levels.extend(inner);
        result.map(|()| Expr::Nested(Box::new(expr)))
    }

    fn walk_arguments(&mut self, expr: &mut Expr) -> Result<()> {
        let Expr::Function(function) = expr else { return Ok(()) };
        self.walk(&mut function.args)?;
        self.walk(&mut function.filter)?;
        self.walk(&mut function.within_group)
    }
}

fn is_comparison(op: &BinaryOperator) -> bool {
    use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq)
}

fn relations_in(expr: &Expr) -> Vec<String> {
    let mut names = ColumnNames { found: Vec::new(), nested: false };
    let _ = expr.clone().visit(&mut names);
    let relations = names.found.iter().filter(|parts| parts.len() > 1);
    relations.filter_map(|parts| parts.first().map(fold)).collect()
}

/// All columns of a relation but for some.
fn all_but(relation: &str, left_out: &[String]) -> SelectItem {
    let names = left_out.iter().map(|name| quoted(name).into()).collect();
    let exclude = (!left_out.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
    SelectItem::QualifiedWildcard(
        SelectItemQualifiedWildcardKind::ObjectName(vec![quoted(relation)].into()),
        WildcardAdditionalOptions { opt_exclude: exclude, ..Default::default() },
    )
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    excluded(options).is_some_and(|names| names.is_empty())
}

/// The columns that a `*` leaves out; `None` where it does more than that.
fn excluded(options: &WildcardAdditionalOptions) -> Option<Vec<String>> {
    if options.opt_ilike.is_some()
        || options.opt_replace.is_some()
        || options.opt_rename.is_some()
        || options.opt_alias.is_some()
    {
        return None;
    }
    let mut names = Vec::new();
    if let Some(except) = &options.opt_except {
        names.push(fold(&except.first_element));
        names.extend(except.additional_elements.iter().map(fold));
    }
    let objects = match &options.opt_exclude {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names.iter().collect(),
    };
    for object in objects {
        names.push(object.0.last().and_then(|part| part.as_ident()).map(fold)?);
    }
    Some(names)
}

/// The columns under the names that an alias lists, which may be fewer.
fn renamed(columns: KnownColumns, alias: &TableAlias) -> KnownColumns {
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

/// Takes out the aggregates in an expression that was moved into a sub-query.
struct Aggregates<'r, 'a> {
    resolver: &'r mut Resolver<'a>,
    error: Option<DataFusionError>,
}

impl VisitorMut for Aggregates<'_, '_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Function(function) = &*expr else { return ControlFlow::Continue(()) };
        let name = function.name.to_string().to_lowercase();
        let Some(innermost) = self.resolver.levels.len().checked_sub(1) else {
            return ControlFlow::Continue(());
        };
        if function.over.is_some() || !(self.resolver.known.is_aggregate)(&name) {
            return ControlFlow::Continue(());
        }
        let depth = self.resolver.level_of_aggregate(function).unwrap_or(innermost);
        match self.resolver.aggregate_of(depth, &function.clone()) {
            Ok(Some(column)) => *expr = column,
            Ok(None) => {}
            Err(error) => {
                self.error = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// The names of columns in an expression.
struct ColumnNames {
    found: Vec<Vec<Ident>>,
    /// There is a sub-query in it.
    nested: bool,
}

impl VisitorMut for ColumnNames {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.nested = true;
        ControlFlow::Break(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        match expr {
            Expr::Identifier(name) => self.found.push(vec![name.clone()]),
            Expr::CompoundIdentifier(parts) => self.found.push(parts.clone()),
            // `t.c['a']`: neither part of `t.c` is a name by itself.
            Expr::CompoundFieldAccess { root, access_chain } => {
                if let Expr::Identifier(relation) = root.as_ref()
                    && let Some(AccessExpr::Dot(dotted)) = access_chain.first_mut()
                    && let Expr::Identifier(column) = &*dotted
                {
                    self.found.push(vec![relation.clone(), column.clone()]);
                    *dotted = Expr::value(Value::Null);
                    **root = Expr::value(Value::Null);
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Stands in the place of an expression that is walked by itself.
const ASIDE: &str = "__aside";

/// Walks the expressions of a clause.
struct ClauseWalk<'r, 'a> {
    resolver: &'r mut Resolver<'a>,
    /// Expressions that are walked by themselves, while [`ASIDE`] stands in their place.
    aside: Vec<Expr>,
    /// Sub-queries that are resolved, while nothing stands in their place.
    taken: Vec<Query>,
    /// The parameters of the functions around.
    parameters: Vec<Vec<String>>,
}

impl ClauseWalk<'_, '_> {
    fn replacement(&mut self, expr: &mut Expr) -> Result<Option<Expr>> {
        match expr {
            Expr::Identifier(name) => {
                let folded = fold(name);
                if self.parameters.iter().flatten().any(|p| *p == folded) {
                    return Ok(None);
                }
                self.resolver.unqualified(name)
            }
            Expr::CompoundIdentifier(parts) => Ok(self.resolver.reached(parts)),
            Expr::IsNull(row) | Expr::IsNotNull(row) => {
                let Some(columns) = self.resolver.columns_of_row(row) else { return Ok(None) };
                let is_null = matches!(expr, Expr::IsNull(_));
                let tests = columns.into_iter().map(|column| match is_null {
                    true => Expr::IsNull(Box::new(column)),
                    false => Expr::IsNotNull(Box::new(column)),
                });
                let and = |left, right| Expr::BinaryOp {
                    left: Box::new(left),
                    op: BinaryOperator::And,
                    right: Box::new(right),
                };
                Ok(tests.reduce(and).map(|tests| Expr::Nested(Box::new(tests))))
            }
            Expr::BinaryOp { left, op, right } if is_comparison(op) => {
                self.refuse_rows(left, right)?;
                Ok(None)
            }
            Expr::IsDistinctFrom(left, right) | Expr::IsNotDistinctFrom(left, right) => {
                self.refuse_rows(left, right)?;
                Ok(None)
            }
            Expr::CompoundFieldAccess { root, access_chain } => {
                // `t.c['a']`: neither part of `t.c` is a name by itself.
                let dotted = matches!(access_chain.first(), Some(AccessExpr::Dot(_)));
                if !(dotted && matches!(root.as_ref(), Expr::Identifier(_))) {
                    self.resolver.walk(root)?;
                }
                for access in access_chain {
                    if let AccessExpr::Subscript(subscript) = access {
                        self.resolver.walk(subscript)?;
                    }
                }
                self.aside.push(expr.clone());
                Ok(Some(Expr::Identifier(Ident::new(ASIDE))))
            }
            Expr::Function(function) if function.name.to_string() == MOVED => {
                let FunctionArguments::List(list) = &mut function.args else { return Ok(None) };
                let Some(FunctionArg::Unnamed(FunctionArgExpr::Expr(moved))) = list.args.pop()
                else {
                    return Ok(None);
                };
                self.resolver.moved(moved).map(Some)
            }
            Expr::Function(function) => {
                if let Some(column) = self.resolver.outer_aggregate(function)? {
                    return Ok(Some(column));
                }
                self.whole_rows(function)?;
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// Whole rows are values that nothing is compared with.
    fn refuse_rows(&self, left: &Expr, right: &Expr) -> Result<()> {
        for side in [left, right] {
            if self.resolver.columns_of_row(side).is_some() {
                let message = format!(
                    "{side} is a whole row, which is compared with nothing: name its columns"
                );
                return Err(refusal(side.span(), message));
            }
        }
        Ok(())
    }

    /// `f(t.*)` is `f(t)`.
    fn whole_rows(&mut self, function: &mut Function) -> Result<()> {
        let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
        for argument in &mut list.args {
            let FunctionArg::Unnamed(FunctionArgExpr::QualifiedWildcard(name)) = &*argument else {
                continue;
            };
            let Some(ident) = name.0.last().and_then(|part| part.as_ident()).cloned() else {
                continue;
            };
            if let Some(row) = self.resolver.whole_row(&ident)? {
                *argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(row));
            }
        }
        Ok(())
    }
}

impl VisitorMut for ClauseWalk<'_, '_> {
    type Break = DataFusionError;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        let nothing = self.resolver.nothing.clone();
        let mut taken = std::mem::replace(query, nothing);
        let result = self.resolver.query(&mut taken, Use::Within);
        self.taken.push(taken);
        match result {
            Ok(_) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_query(&mut self, query: &mut Query) -> ControlFlow<DataFusionError> {
        if let Some(taken) = self.taken.pop() {
            *query = taken;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        if let Expr::Lambda(lambda) = expr {
            let names = match &lambda.params {
                OneOrManyWithParens::One(parameter) => vec![fold(&parameter.name)],
                OneOrManyWithParens::Many(parameters) => {
                    parameters.iter().map(|p| fold(&p.name)).collect()
                }
            };
            self.parameters.push(names);
        }
        match self.replacement(expr) {
            Ok(None) => ControlFlow::Continue(()),
            Ok(Some(replacement)) => {
                *expr = replacement;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<DataFusionError> {
        match expr {
            Expr::Lambda(_) => {
                self.parameters.pop();
            }
            Expr::Identifier(name) if name.value == ASIDE => {
                if let Some(aside) = self.aside.pop() {
                    *expr = aside;
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// In DISTINCT ON and its ORDER BY a name alone is a column of the result first: it becomes what that is.
fn write_out_result(key: &mut Expr, items: &[SelectItem]) {
    let Expr::Identifier(name) = key else { return };
    let mut results = items.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { expr, alias } if fold(alias) == fold(name) => Some(expr),
        _ => None,
    });
    if let (Some(expr), None) = (results.next(), results.next())
        // A number would be a place in the list.
        && !matches!(expr, Expr::Value(_))
    {
        *key = expr.clone();
    }
}
