//! One aggregate of a SELECT, taken apart: what it is computed from, and by which class of state.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion_common::{DFSchema, ScalarValue};
use datafusion_expr::expr::{AggregateFunctionParams, NullTreatment};
use datafusion_expr::{AggregateUDF, Expr, ExprSchemable, SortExpr, lit, when};

use super::{Result, refuse};
use crate::plan::ir::{AggregateFunction, OrderColumn};

/// One aggregate of the SELECT, with its arguments as columns of the prepared input.
pub struct Call {
    pub class: Class,
    pub output: Field,
    pub text: Arc<str>,
}

/// How an aggregate is kept.
pub enum Class {
    /// In an accumulator; a distinct one behind a DISTINCT. `None` for `count(*)` alone.
    Folded { function: AggregateFunction, distinct: bool, input: Option<usize> },
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
    /// How many of the expressions, the first ones, are not for arguments: grouping sets put NULLs in
    /// their place, and aggregates see the values all the same.
    pub apart: usize,
    /// There is a group even without rows: it is given a row of NULLs, which no aggregate may count.
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
        let class = match (folded(function.name()), params.args.as_slice()) {
            (Some(function), [argument]) => self.folded(function, argument, params)?,
            _ => self.of_rows(function, params)?,
        };
        Ok(Call { class, output, text })
    }

    fn folded(
        &mut self,
        function: AggregateFunction,
        argument: &Expr,
        params: &AggregateFunctionParams,
    ) -> Result<Class> {
        let argument = match argument {
            // The average of integers, which the planner casts to floats, is their exact sum over
            // their count: it shares its state with the sum.
            Expr::Cast(cast)
                if function == AggregateFunction::Avg
                    && cast.expr.get_type(self.schema).is_ok_and(|t| t.is_integer()) =>
            {
                cast.expr.as_ref().clone()
            }
            other => other.clone(),
        };
        let constant = matches!(&argument, Expr::Literal(value, _) if !value.is_null());
        let counts_rows = function == AggregateFunction::Count && constant && !params.distinct;
        let distinct = params.distinct;
        if counts_rows && params.filter.is_none() && !self.with_empty_group {
            return Ok(Class::Folded { function, distinct, input: None });
        }
        let argument = if counts_rows { lit(1_i64) } else { argument };
        let argument = match &params.filter {
            Some(filter) => when(filter.as_ref().clone(), argument).end()?,
            None => argument,
        };
        let data_type = argument.get_type(self.schema)?;
        let adds = matches!(
            function,
            AggregateFunction::Sum | AggregateFunction::Avg | AggregateFunction::Variance { .. }
        );
        if adds && !data_type.is_numeric() && !data_type.is_null() {
            return refuse(format!("sums and averages of {data_type} are not supported"));
        }
        let extreme = matches!(function, AggregateFunction::Min | AggregateFunction::Max);
        if extreme && data_type.is_nested() {
            return Ok(self.nested_extreme(argument, function == AggregateFunction::Max));
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

    fn of_rows(
        &mut self,
        function: &Arc<AggregateUDF>,
        params: &AggregateFunctionParams,
    ) -> Result<Class> {
        let ignore_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let order = self.order(&params.order_by);
        let whole_group = params.filter.is_none() && !self.with_empty_group && !ignore_nulls;
        if let (name @ ("first_value" | "last_value"), true, [argument]) =
            (function.name(), whole_group, params.args.as_slice())
        {
            let value = self.column(argument.clone());
            if name == "first_value" {
                return Ok(Class::First { value, order });
            }
            let mut order: Vec<OrderColumn> = order.into_iter().map(reversed).collect();
            // Ties go by the whole row, whose last is asked for.
            order.push(OrderColumn { column: value, descending: true, nulls_first: false });
            return Ok(Class::First { value, order });
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

/// The aggregates that an accumulator can hold.
fn folded(name: &str) -> Option<AggregateFunction> {
    Some(match name {
        "count" => AggregateFunction::Count,
        "sum" => AggregateFunction::Sum,
        "avg" => AggregateFunction::Avg,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "bool_and" => AggregateFunction::BoolAnd,
        "bool_or" => AggregateFunction::BoolOr,
        "stddev" => AggregateFunction::Variance { sample: true, root: true },
        "stddev_pop" => AggregateFunction::Variance { sample: false, root: true },
        "var" => AggregateFunction::Variance { sample: true, root: false },
        "var_pop" => AggregateFunction::Variance { sample: false, root: false },
        _ => return None,
    })
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
