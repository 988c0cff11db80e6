//! The plan that will run, as text.

use std::fmt::Write;

use super::ir::{
    Aggregate, DeltaPath, JoinKeys, Lookup, Node, NodeId, Op, OrderColumn, Plan, Reach, Scalar,
    WindowFunction,
};
use super::view::ViewPlan;
use crate::model::source::SourceColumn;

/// The operators of a view from its rows down to its sources, with keys, monotonicity and state.
pub fn explain(view: &ViewPlan) -> String {
    let mut text = format!("view {}\n", view.schema.name);
    let names: Vec<&str> = view.schema.columns.iter().map(|c| c.name.as_str()).collect();
    match &view.schema.key {
        Some(key) => {
            let key: Vec<&str> = key.iter().map(|i| names[*i]).collect();
            let _ = writeln!(text, "key ({})", key.join(", "));
        }
        None => text.push_str("no key: rows may repeat\n"),
    }
    if let Some(of) = view.plan.rows_of_groups(&view.schema.key_columns()) {
        let _ = writeln!(
            text,
            "its rows are not kept: they are read from the groups of #{}",
            of.groups
        );
    }
    let mut explain = Explain { plan: &view.plan, text, shown: vec![false; view.plan.nodes.len()] };
    explain.node(view.plan.root, 0);
    explain.text
}

struct Explain<'a> {
    plan: &'a Plan,
    text: String,
    shown: Vec<bool>,
}

impl Explain<'_> {
    fn node(&mut self, id: NodeId, depth: usize) {
        let node = &self.plan.nodes[id];
        let indent = "  ".repeat(depth);
        if self.shown[id] && !node.op.inputs().is_empty() {
            let _ = writeln!(self.text, "{indent}#{id} (shown above)");
            return;
        }
        self.shown[id] = true;
        let _ = writeln!(self.text, "{indent}#{id} {}{}", self.operator(node), facts(node));
        for input in node.op.inputs() {
            self.node(input, depth + 1);
        }
    }

    fn columns(&self, input: NodeId, columns: &[usize]) -> String {
        let schema = &self.plan.nodes[input].schema;
        let names: Vec<&str> = columns.iter().map(|c| schema.field(*c).name().as_str()).collect();
        names.join(", ")
    }

    fn operator(&self, node: &Node) -> String {
        match &node.op {
            Op::Source { table, columns } => {
                let names: Vec<String> = columns.iter().map(|c| column_name(table, *c)).collect();
                format!("Source {} [{}]", table.name(), names.join(", "))
            }
            Op::Constant { rows } => format!("Constant {} rows", rows.num_rows()),
            Op::Filter { conditions, .. } => format!("Filter {}", scalars(conditions, " AND ")),
            Op::Temporal { condition, .. } => {
                format!("Temporal {} (state: changes to come)", condition.text)
            }
            Op::Project { columns, .. } => format!("Project [{}]", scalars(columns, ", ")),
            Op::Unnest { array, outer, ordinality, .. } => {
                let outer = if *outer { " (outer)" } else { "" };
                let numbered = if *ordinality { " with ordinality" } else { "" };
                format!("Unnest {}{numbered}{outer}", array.text)
            }
            Op::Join { left, right, on } => {
                format!("Join {} (state: both inputs)", self.on(*left, *right, on))
            }
            Op::DeltaJoin { inputs, paths } => {
                let lookup = |l: &Lookup| {
                    format!("{} by [{}]", l.input + 1, self.columns(inputs[l.input], &l.on.right))
                };
                let path = |(number, path): (usize, &DeltaPath)| {
                    let lookups: Vec<String> = path.lookups.iter().map(lookup).collect();
                    format!("{} finds {}", number + 1, lookups.join(", "))
                };
                let paths: Vec<String> = paths.iter().enumerate().map(path).collect();
                format!("DeltaJoin {} (state: the inputs)", paths.join("; "))
            }
            Op::SemiJoin { left, right, on, anti } => {
                let name = if *anti { "AntiJoin" } else { "SemiJoin" };
                format!("{name} {} (state: both inputs)", self.on(*left, *right, on))
            }
            Op::Nearest { left, right, on, at, order, strict, outer } => {
                let name = if *outer { "NearestOrNone" } else { "Nearest" };
                let strict = if *strict { ", not the same" } else { "" };
                format!(
                    "{name} {} to {} order [{}]{strict} (state: both inputs)",
                    self.on(*left, *right, on),
                    self.columns(*left, &[*at]),
                    self.order(*right, order)
                )
            }
            Op::Reduce { input, key, aggregates } if aggregates.is_empty() => {
                format!("Distinct [{}] (state: one count per row)", self.columns(*input, key))
            }
            Op::Reduce { input, key, aggregates } => {
                let list: Vec<String> = aggregates.iter().map(describe).collect();
                let key = self.columns(*input, key);
                format!(
                    "Reduce by [{key}] [{}] (state: one accumulator per group)",
                    list.join(", ")
                )
            }
            Op::TopK { input, key, order, offset, limit } => {
                let limit = limit.map_or("all".to_string(), |l| l.to_string());
                let (key, order) = (self.columns(*input, key), self.order(*input, order));
                format!(
                    "TopK by [{key}] order [{order}] offset {offset} limit {limit} (state: the input)"
                )
            }
            Op::First { input, key, order, limit, numbered } => {
                let (key, order) = (self.columns(*input, key), self.order(*input, order));
                let numbered = if *numbered { " with their numbers" } else { "" };
                format!("First {limit}{numbered} by [{key}] order [{order}] (state: its rows)")
            }
            Op::Recompute { input, key, order, aggregates } => {
                let (key, order) = (self.columns(*input, key), self.order(*input, order));
                format!(
                    "Recompute by [{key}] order [{order}] {aggregates:?} (state: the input; a change costs its group)"
                )
            }
            Op::Window { input, key, order, functions } => {
                let (key, order) = (self.columns(*input, key), self.order(*input, order));
                let whole = |f: &WindowFunction| matches!(f.reach, Reach::Partition);
                let growing = |f: &WindowFunction| matches!(f.reach, Reach::Before { .. });
                let cost = match functions {
                    all if all.iter().any(whole) => "its partition",
                    some if some.iter().any(growing) => "what is behind it",
                    _ => "what is near it",
                };
                format!(
                    "Window by [{key}] order [{order}] {functions:?} (state: the input; a change costs {cost})"
                )
            }
            Op::AssertKey { input, key } => {
                format!("AssertKey [{}] (state: the input)", self.columns(*input, key))
            }
            Op::Given { index: 0 } => "Rows so far".to_string(),
            Op::Given { index } => format!("Outer {index}"),
            Op::Recursion { step, distinct, iterations_max, name, .. } => {
                let union = if *distinct { "UNION" } else { "UNION ALL" };
                let mut inner = Explain {
                    plan: step,
                    text: String::new(),
                    shown: vec![false; step.nodes.len()],
                };
                inner.node(step.root, 0);
                format!(
                    "Recursion {name} {union}, at most {iterations_max} iterations (state: its rows and inputs) of\n    | {}\n   ",
                    inner.text.trim_end().replace('\n', "\n    | ")
                )
            }
            Op::Union { .. } => "Union".to_string(),
        }
    }

    fn on(&self, left: NodeId, right: NodeId, on: &JoinKeys) -> String {
        let nulls = if on.nulls_equal { ", NULL = NULL" } else { "" };
        let (l, r) = (self.columns(left, &on.left), self.columns(right, &on.right));
        format!("on [{l}] = [{r}]{nulls}")
    }

    fn order(&self, input: NodeId, order: &[OrderColumn]) -> String {
        let parts: Vec<String> = order
            .iter()
            .map(|o| {
                let name = self.columns(input, &[o.column]);
                let direction = if o.descending { "desc" } else { "asc" };
                let nulls = if o.nulls_first { "nulls first" } else { "nulls last" };
                format!("{name} {direction} {nulls}")
            })
            .collect();
        parts.join(", ")
    }
}

fn column_name(table: &crate::model::source::SourceTable, column: SourceColumn) -> String {
    table.field(column).name
}

fn scalars(list: &[Scalar], separator: &str) -> String {
    list.iter().map(|s| s.text.as_ref()).collect::<Vec<_>>().join(separator)
}

fn describe(aggregate: &Aggregate) -> String {
    format!("{}: {}", aggregate.text, aggregate.function.explain)
}

fn facts(node: &Node) -> String {
    let mut facts = String::new();
    if node.monotonic {
        facts.push_str(" monotonic");
    }
    for key in &node.keys {
        let names: Vec<&str> = key.iter().map(|c| node.schema.field(*c).name().as_str()).collect();
        let _ = write!(facts, " key({})", names.join(", "));
    }
    facts
}
