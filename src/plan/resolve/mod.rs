//! Names in the syntax tree, where PostgreSQL means something else by them than the planner does.
//!
//! * The columns that USING and NATURAL merge, and what `*` shows then (`join.rs`);
//! * aggregates in a sub-query that belong to the query around it (`aggregates.rs`, `grouped.rs`);
//! * the name of a relation as a value: its whole row (`whole.rs`);
//! * `c.id` in a sub-query whose own relations have a column `c`;
//! * columns of sub-queries that have no name of their own (`label.rs`);
//! * casts of one expression to several types (`casts.rs`).
//!
//! A walk that knows the columns of every relation in scope (`relations.rs`, `items.rs`, `clause.rs`). Names
//! that it need not change stay as they are, and so do those of relations whose columns it cannot know (the
//! elements of an array).

mod aggregates;
mod casts;
mod clause;
mod columns;
mod grouped;
mod items;
mod join;
mod label;
mod relations;
mod whole;

use datafusion_common::{DataFusionError, Diagnostic, Result, Span, plan_datafusion_err};
use datafusion_sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SetExpr,
};
use datafusion_sql::sqlparser::tokenizer;

use super::names::fold;
use super::sugar::skeleton;
use columns::relations_in;
use items::write_out_result;
use relations::renamed;

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
}
