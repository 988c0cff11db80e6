//! One aggregate of a SELECT, taken apart: what it is computed from, and by which class of state.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::{AggregateFunctionParams, NullTreatment};
use datafusion_expr::{AggregateUDF, Expr, ExprSchemable, SortExpr, lit, when};

use super::{Result, refuse};
use crate::aggregate::{AggregateFunction, Computation, Extreme};
use crate::plan::functions;
use crate::plan::ir::OrderColumn;

/// One aggregate of the SELECT, with its arguments as columns of the prepared input.
pub struct Call {
    pub class: Class,
    pub output: Field,
    pub text: Arc<str>,
}

/// How an aggregate is kept.
pub enum Class {
    /// In an accumulator; a distinct one behind a DISTINCT. `None` for `count(*)` alone.
    Folded { function: &'static AggregateFunction, distinct: bool, input: Option<usize> },
    /// The value in the first row of the group, in this order.
    First { value: usize, order: Vec<OrderColumn> },
    /// From all rows of the group.
    General(General),
}

/// An aggregate that needs all values.
pub struct General {
    pub function: Arc<AggregateUDF>,
    pub args: Vec<Argument>,
    pub order: Vec<OrderColumn>,
    /// A column that is true for the rows that count.
    pub filter: Option<usize>,
    pub distinct: bool,
    pub ignore_nulls: bool,
}

#[derive(Clone)]
pub enum Argument {
    Column(usize),
    Constant(ScalarValue),
}

/// Where calls find their arguments.
pub struct Prepared<'a> {
    /// The expressions that become columns of the prepared input.
    pub exprs: Vec<Expr>,
    pub schema: &'a DFSchema,
    /// Number of leading expressions that are grouping keys, not arguments. A grouping set replaces them by
    /// NULL; aggregates still read their original values.
    pub apart: usize,
    /// The empty grouping set yields one group even when the input is empty; its input is a placeholder row
    /// that aggregates ignore.
    pub with_empty_group: bool,
}

impl Prepared<'_> {
    fn column(&mut self, expr: Expr) -> usize {
        match self.exprs[self.apart..].iter().position(|e| *e == expr) {
            Some(known) => self.apart + known,
            None => {
                self.exprs.push(expr);
                self.exprs.len() - 1
            }
        }
    }

    /// Takes a call apart.
    pub fn call(&mut self, expr: &Expr, output: Field) -> Result<Call> {
        let aggregate = match expr {
            Expr::Alias(alias) => return self.call(&alias.expr, output),
            Expr::AggregateFunction(aggregate) => aggregate,
            other => return refuse(format!("{other} is not an aggregate")),
        };
        let text = expr.human_display().to_string().into();
        let (function, params) = (&aggregate.func, &aggregate.params);
        let class = match (Computation::of(function.name()), params.args.as_slice()) {
            (Computation::Folded(function), [y, x]) if function.pairs => {
                self.folded(function, &functions::pair(y.clone(), x.clone()), params)?
            }
            (Computation::Folded(function), [argument]) => {
                self.folded(function, argument, params)?
            }
            (computation, _) => self.of_rows(function, &computation, params)?,
        };
        Ok(Call { class, output, text })
    }

    fn folded(
        &mut self,
        function: &'static AggregateFunction,
        argument: &Expr,
        params: &AggregateFunctionParams,
    ) -> Result<Class> {
        let argument = argument.clone();
        let constant = matches!(&argument, Expr::Literal(value, _) if !value.is_null());
        let counts_rows = function.counts_rows && constant && !params.distinct;
        let distinct = params.distinct;
        if counts_rows && params.filter.is_none() && !self.with_empty_group {
            return Ok(Class::Folded { function, distinct, input: None });
        }
        let argument = if counts_rows { lit(1_i64) } else { argument };
        let argument = match &params.filter {
            Some(filter) => when(filter.as_ref().clone(), argument).end()?,
            None => argument,
        };
        if let Some(extreme) = function.extreme {
            let data_type = argument.get_type(self.schema)?;
            if data_type.is_nested() {
                return Ok(self.nested_extreme(argument, extreme == Extreme::Greatest));
            }
            if matches!(data_type, DataType::Interval(_)) {
                return Ok(self.extreme_interval(argument, extreme == Extreme::Greatest));
            }
        }
        Ok(Class::Folded { function, distinct, input: Some(self.column(argument)) })
    }

    /// The least or greatest array or struct: NULL inside is greater than all else, while NULL itself is
    /// no value.
    fn nested_extreme(&mut self, argument: Expr, greatest: bool) -> Class {
        let missing = self.column(argument.clone().is_null());
        let value = self.column(argument);
        let by = |column: usize, descending: bool| OrderColumn {
            column,
            descending,
            nulls_first: descending,
        };
        Class::First { value, order: vec![by(missing, false), by(value, greatest)] }
    }

    /// The least or greatest interval by length; of equal ones the first as they are written.
    fn extreme_interval(&mut self, argument: Expr, greatest: bool) -> Class {
        let length = self.column(functions::interval_order(argument.clone()));
        let value = self.column(argument);
        let order = vec![
            OrderColumn { column: length, descending: greatest, nulls_first: false },
            OrderColumn { column: value, descending: greatest, nulls_first: false },
        ];
        Class::First { value, order }
    }

    fn of_rows(
        &mut self,
        function: &Arc<AggregateUDF>,
        computation: &Computation,
        params: &AggregateFunctionParams,
    ) -> Result<Class> {
        let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let order = self.order(&params.order_by);
        let whole_group = params.filter.is_none() && !self.with_empty_group && !ignore_nulls;
        match (computation, params.args.as_slice()) {
            (Computation::FirstRow, [argument]) if whole_group => {
                let value = self.column(argument.clone());
                return Ok(Class::First { value, order });
            }
            (Computation::LastRow, [argument]) if whole_group => {
                let value = self.column(argument.clone());
                let mut order: Vec<OrderColumn> = order.into_iter().map(reversed).collect();
                // Ties go by the whole row, whose last is asked for.
                order.push(OrderColumn { column: value, descending: true, nulls_first: false });
                return Ok(Class::First { value, order });
            }
            _ => {}
        }
        let mut args = Vec::new();
        for argument in &params.args {
            args.push(match argument {
                Expr::Literal(value, _) => Argument::Constant(value.clone()),
                other => Argument::Column(self.column(other.clone())),
            });
        }
        let filter = match &params.filter {
            Some(filter) => Some(self.column(filter.as_ref().clone())),
            None if self.with_empty_group => Some(self.column(lit(true))),
            None => None,
        };
        let (function, distinct) = (Arc::clone(function), params.distinct);
        Ok(Class::General(General { function, args, order, filter, distinct, ignore_nulls }))
    }

    fn order(&mut self, sort: &[SortExpr]) -> Vec<OrderColumn> {
        let column = |s: &SortExpr| OrderColumn {
            column: self.column(s.expr.clone()),
            descending: !s.asc,
            nulls_first: s.nulls_first,
        };
        sort.iter().map(column).collect()
    }
}

fn reversed(order: OrderColumn) -> OrderColumn {
    OrderColumn { descending: !order.descending, nulls_first: !order.nulls_first, ..order }
}

impl Call {
    /// The column that a folded aggregate is of; `None` for `count(*)`.
    pub fn folded_input(&self) -> Option<usize> {
        match &self.class {
            Class::Folded { input, .. } => *input,
            _ => None,
        }
    }

    /// The call, when it needs all values.
    pub fn general(&self) -> Option<&General> {
        match &self.class {
            Class::General(general) => Some(general),
            _ => None,
        }
    }

    /// Moves the columns from `from` on by `by`.
    pub fn shift(&mut self, from: usize, by: usize) {
        let moved = |column: &mut usize| {
            if *column >= from {
                *column += by;
            }
        };
        match &mut self.class {
            Class::Folded { input, .. } => input.iter_mut().for_each(moved),
            Class::First { value, order } => {
                moved(value);
                order.iter_mut().for_each(|o| moved(&mut o.column));
            }
            Class::General(general) => {
                for argument in &mut general.args {
                    if let Argument::Column(column) = argument {
                        moved(column);
                    }
                }
                general.order.iter_mut().for_each(|o| moved(&mut o.column));
                general.filter.iter_mut().for_each(moved);
            }
        }
    }
}
