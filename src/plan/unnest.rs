//! `FROM t, UNNEST(t.items) AS i`: an array column joined to its row.
//!
//! The planner meets UNNEST as a lateral relation of its own; it becomes an [`UnnestRelation`] leaf,
//! and [`attach`] turns the join of a row with that leaf into an [`UnnestRows`] node over the row.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion_common::tree_node::{Transformed, TreeNode};
use datafusion_common::{DFSchema, DFSchemaRef, JoinType, Result, TableReference, plan_err};
use datafusion_expr::planner::{
    PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning,
};
use datafusion_expr::{
    Expr, ExprSchemable, Extension, Filter, Join, LogicalPlan, LogicalPlanBuilder, SubqueryAlias,
    UserDefinedLogicalNodeCore,
};
use datafusion_sql::sqlparser::ast::{TableAlias, TableFactor};

use super::functions::json_elements;

/// The column that WITH ORDINALITY adds, unless it is given another name.
const ORDINALITY: &str = "ordinality";

/// Plans `UNNEST(expression)` in FROM.
#[derive(Debug)]
pub struct UnnestPlanner;

impl RelationPlanner for UnnestPlanner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let TableFactor::UNNEST { alias, mut array_exprs, with_offset, with_ordinality, .. } =
            relation
        else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        if with_offset {
            return plan_err!("UNNEST … WITH OFFSET is not supported: WITH ORDINALITY is");
        }
        let (Some(array), true) = (array_exprs.pop(), array_exprs.is_empty()) else {
            return plan_err!("UNNEST takes one array");
        };
        let mut array = context.sql_expr_to_logical_expr(array, &DFSchema::empty())?;
        if array.get_type(&DFSchema::empty())?.is_string() {
            array = json_elements(array);
        }
        let name = alias.as_ref().map(|a| context.normalize_ident(a.name.clone()));
        let element_name = name.unwrap_or_else(|| "unnest".to_string());
        let node = UnnestRelation::new(array, &element_name, with_ordinality)?;
        let alias = alias.or_else(|| Some(unnamed_alias()));
        let plan = LogicalPlan::Extension(Extension { node: Arc::new(node) });
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

fn unnamed_alias() -> TableAlias {
    TableAlias {
        explicit: true,
        name: datafusion_sql::sqlparser::ast::Ident::new("unnest"),
        columns: Vec::new(),
        at: None,
    }
}

/// The columns that unnesting an array of this type gives: a struct's members, or the element.
fn element_fields(array: &DataType, name: &str) -> Result<Vec<Field>> {
    let (DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)) =
        array
    else {
        return plan_err!("UNNEST takes an array, found {array}");
    };
    Ok(match item.data_type() {
        DataType::Struct(members) => {
            members.iter().map(|m| m.as_ref().clone().with_nullable(true)).collect()
        }
        _ => vec![item.as_ref().clone().with_name(name).with_nullable(true)],
    })
}

/// The elements of one outer row's array: a relation that is not yet joined to that row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnnestRelation {
    pub array: Expr,
    ordinality: bool,
    schema: DFSchemaRef,
}

impl UnnestRelation {
    fn new(array: Expr, element_name: &str, ordinality: bool) -> Result<Self> {
        let data_type = array.get_type(&DFSchema::empty())?;
        let mut fields = element_fields(&data_type, element_name)?;
        if ordinality {
            fields.push(Field::new(ORDINALITY, DataType::Int64, true));
        }
        let schema = DFSchema::from_unqualified_fields(fields.into(), Default::default())?;
        Ok(UnnestRelation { array, ordinality, schema: Arc::new(schema) })
    }
}

impl UnnestRelation {
    /// The elements beside the rows of `input`, whose expression `array` gives them.
    pub fn of(&self, input: LogicalPlan, array: Expr, outer: bool) -> Result<UnnestRows> {
        UnnestRows::new(input, array, outer, self.ordinality, Arc::clone(&self.schema))
    }
}

impl PartialOrd for UnnestRelation {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.array.partial_cmp(&other.array)
    }
}

impl UserDefinedLogicalNodeCore for UnnestRelation {
    fn name(&self) -> &str {
        "UnnestRelation"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        Vec::new()
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![self.array.clone()]
    }
    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "UnnestRelation: {}", self.array)
    }
    fn with_exprs_and_inputs(&self, mut exprs: Vec<Expr>, _: Vec<LogicalPlan>) -> Result<Self> {
        match exprs.pop() {
            Some(array) => Ok(UnnestRelation { array, schema: Arc::clone(&self.schema), ..*self }),
            None => plan_err!("UNNEST lost its array"),
        }
    }
}

/// Each input row, once per element of an array of its own, followed by the element's columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnnestRows {
    pub input: LogicalPlan,
    pub array: Expr,
    /// A row whose array is empty or NULL is kept, with NULLs in place of an element.
    pub outer: bool,
    /// The element's number, from 1, stands behind its columns.
    pub ordinality: bool,
    element: DFSchemaRef,
    schema: DFSchemaRef,
}

impl UnnestRows {
    fn new(
        input: LogicalPlan,
        array: Expr,
        outer: bool,
        ordinality: bool,
        element: DFSchemaRef,
    ) -> Result<Self> {
        let schema = Arc::new(input.schema().join(&element)?);
        Ok(UnnestRows { input, array, outer, ordinality, element, schema })
    }

    /// The elements of an array of the input's columns; an element that is no struct is `name`.
    pub fn over(input: LogicalPlan, array: Expr, name: &str) -> Result<Self> {
        let fields = element_fields(&array.get_type(input.schema())?, name)?;
        let element = DFSchema::from_unqualified_fields(fields.into(), Default::default())?;
        UnnestRows::new(input, array, false, false, Arc::new(element))
    }

    /// The same over another input.
    pub fn of(&self, input: LogicalPlan, array: Expr) -> Result<UnnestRows> {
        UnnestRows::new(input, array, self.outer, self.ordinality, Arc::clone(&self.element))
    }
}

impl PartialOrd for UnnestRows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.array.partial_cmp(&other.array)
    }
}

impl UserDefinedLogicalNodeCore for UnnestRows {
    fn name(&self) -> &str {
        "Unnest"
    }
    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }
    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }
    fn expressions(&self) -> Vec<Expr> {
        vec![self.array.clone()]
    }
    fn fmt_for_explain(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Unnest: {}", self.array)
    }
    fn with_exprs_and_inputs(
        &self,
        mut exprs: Vec<Expr>,
        mut inputs: Vec<LogicalPlan>,
    ) -> Result<Self> {
        match (exprs.pop(), inputs.pop()) {
            (Some(array), Some(input)) => {
                let element = retyped(&self.element, &array.get_type(input.schema())?)?;
                UnnestRows::new(input, array, self.outer, self.ordinality, element)
            }
            _ => plan_err!("UNNEST lost its array"),
        }
    }
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let width = self.input.schema().fields().len();
        let mut needed: Vec<usize> =
            output_columns.iter().copied().filter(|i| *i < width).collect();
        for column in self.array.column_refs() {
            needed.push(self.input.schema().maybe_index_of_column(column)?);
        }
        needed.sort_unstable();
        needed.dedup();
        Some(vec![needed])
    }
}

/// The element's columns with the types that they have in an array of this type.
fn retyped(element: &DFSchemaRef, array: &DataType) -> Result<DFSchemaRef> {
    let types = element_fields(array, "")?;
    let fields = element.iter().enumerate().map(|(n, (relation, field))| {
        let field = match types.get(n) {
            Some(of) if of.data_type() != field.data_type() => {
                Arc::new(field.as_ref().clone().with_data_type(of.data_type().clone()))
            }
            _ => Arc::clone(field),
        };
        (relation.cloned(), field)
    });
    let metadata = element.metadata().clone();
    Ok(Arc::new(DFSchema::new_with_metadata(fields.collect(), metadata)?))
}

/// Attaches every unnested array to the row that it belongs to.
pub fn attach(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.transform_up_with_subqueries(attach_one)?.data;
    Ok(plan.transform_up_with_subqueries(attach_to_nothing)?.data)
}

/// An array that refers to no row is unnested once.
fn attach_to_nothing(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Extension(extension) = &plan
        && let Some(relation) = extension.node.as_any().downcast_ref::<UnnestRelation>()
        && !relation.array.contains_outer()
    {
        let one = LogicalPlanBuilder::empty(true).build()?;
        let rows = relation.of(one, relation.array.clone(), false)?;
        return Ok(Transformed::yes(LogicalPlan::Extension(Extension { node: Arc::new(rows) })));
    }
    Ok(Transformed::no(plan))
}

fn attach_one(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    match plan {
        // A condition on the elements: the array is a sub-query for each row, or stands alone.
        LogicalPlan::Join(join)
            if join.join_type != JoinType::Inner
                && !(join.join_type == JoinType::Left
                    && join.filter.as_ref().is_none_or(is_true)
                    && join.on.is_empty()) =>
        {
            Ok(Transformed::no(LogicalPlan::Join(join)))
        }
        LogicalPlan::Join(join) => match unnested(&join.right, None) {
            Some((relation, element)) => attach_join(join, relation, element).map(Transformed::yes),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    }
}

/// The array and the element's columns, when `plan` is an unnested array under its alias.
fn unnested(
    plan: &LogicalPlan,
    alias: Option<&TableReference>,
) -> Option<(UnnestRelation, DFSchemaRef)> {
    match plan {
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias: name, schema, .. }) => {
            let (array, element) = unnested(input, alias.or(Some(name)))?;
            // Column aliases rename through a projection inside; the outermost schema has the names.
            let same_width = element.fields().len() == schema.fields().len();
            same_width.then(|| (array, Arc::clone(schema)))
        }
        LogicalPlan::Subquery(subquery) => unnested(&subquery.subquery, alias),
        LogicalPlan::Projection(projection) => {
            let (array, _) = unnested(&projection.input, alias)?;
            Some((array, Arc::clone(&projection.schema)))
        }
        LogicalPlan::Extension(extension) => {
            let node = extension.node.as_any().downcast_ref::<UnnestRelation>()?;
            Some((node.clone(), Arc::clone(&node.schema)))
        }
        _ => None,
    }
}

fn attach_join(join: Join, relation: UnnestRelation, element: DFSchemaRef) -> Result<LogicalPlan> {
    let outer = match join.join_type {
        JoinType::Inner => false,
        JoinType::Left => true,
        other => return plan_err!("{other} JOIN UNNEST is not supported"),
    };
    // A column that the row beside it does not have belongs to a query further out.
    let array = relation
        .array
        .transform(|expr| match expr {
            Expr::OuterReferenceColumn(_, column) if join.left.schema().has_column(&column) => {
                Ok(Transformed::yes(Expr::Column(column)))
            }
            other => Ok(Transformed::no(other)),
        })?
        .data;
    let left = Arc::unwrap_or_clone(join.left);
    let node = UnnestRows::new(left, array, outer, relation.ordinality, element)?;
    let rows = LogicalPlan::Extension(Extension { node: Arc::new(node) });
    let conditions = join
        .on
        .into_iter()
        .map(|(left, right)| left.eq(right))
        .chain(join.filter.filter(|f| !is_true(f)))
        .reduce(Expr::and);
    match conditions {
        Some(condition) if !outer => {
            Ok(LogicalPlan::Filter(Filter::try_new(condition, Arc::new(rows))?))
        }
        _ => Ok(rows),
    }
}

fn is_true(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(datafusion_common::ScalarValue::Boolean(Some(true)), _))
}
