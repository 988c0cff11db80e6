//! Views of which each row follows from one group that is kept anyway: their rows need not be kept, too.

use super::ir::{NodeId, Op, Plan};
use super::lower::column_index;

/// The way from kept groups to a view's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowsOfGroups {
    /// The node that keeps the groups.
    pub groups: NodeId,
    /// The nodes that make rows of them, one row of each group or none, in that order.
    pub steps: Vec<NodeId>,
}

impl Plan {
    /// How rows by `key` follow from groups by the same columns, if they do: the root, or what it projects, is an
    /// aggregation, DISTINCT or the latest rows of a table.
    ///
    /// No row of most groups would make reads look at all of them for a few rows. So nothing may be filtered but
    /// deleted rows of a table.
    pub fn rows_of_groups(&self, key: &[usize]) -> Option<RowsOfGroups> {
        let (mut node, mut key) = (self.root, key.to_vec());
        let (mut steps, mut filters) = (Vec::new(), 0);
        loop {
            let (group_key, filters_max) = match &self.nodes[node].op {
                Op::Filter { input, .. } => {
                    steps.push(node);
                    filters += 1;
                    node = *input;
                    continue;
                }
                Op::Project { input, columns } => {
                    let column = |at: &usize| column_index(&columns[*at]);
                    key = key.iter().map(column).collect::<Option<_>>()?;
                    steps.push(node);
                    node = *input;
                    continue;
                }
                Op::Reduce { key, .. } => ((0..key.len()).collect(), 0),
                Op::First { key, limit: 1, numbered: false, .. } => {
                    let scan = self.scan(node);
                    let deletes = scan.is_some_and(|scan| scan.kept.table.tells_deletion());
                    (key.clone(), usize::from(deletes))
                }
                _ => return None,
            };
            steps.reverse();
            let rows = RowsOfGroups { groups: node, steps };
            return (key == group_key && filters <= filters_max).then_some(rows);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use crate::plan::diagnostic::SourceFile;
    use crate::plan::ir::Op;
    use crate::plan::plan_files;

    const TABLES: &str = "
        CREATE TABLE t (k BIGINT NOT NULL, g INT, x BIGINT) WITH (event_type = 't');
        CREATE TABLE u (k BIGINT NOT NULL, x BIGINT, gone BOOLEAN, PRIMARY KEY (k))
          WITH (event_type = 'u', mode = 'upsert', delete_when = 'gone');
    ";

    /// The operator whose groups the rows of a view are read from.
    fn groups(query: &str) -> Option<&'static str> {
        let text = format!("{TABLES} CREATE MATERIALIZED VIEW v AS {query};");
        let file = SourceFile { path: PathBuf::from("v.sql"), text };
        let set = plan_files(&[Arc::new(file)], "log", &[]);
        assert!(set.diagnostics.is_empty(), "{:?}", set.diagnostics);
        let view = &set.views[0];
        let rows_of = view.plan.rows_of_groups(&view.schema.key_columns())?;
        match &view.plan.nodes[rows_of.groups].op {
            Op::Reduce { .. } => Some("Reduce"),
            Op::First { .. } => Some("First"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn rows_that_follow_from_one_group_each() {
        for (query, expected) in [
            ("SELECT k, sum(x) AS s FROM t GROUP BY k", Some("Reduce")),
            ("SELECT k, g, count(*) AS n FROM t GROUP BY k, g", Some("Reduce")),
            ("SELECT k, sum(x) / 2 AS h FROM t GROUP BY k", Some("Reduce")),
            ("SELECT k, g + 1 AS h, count(*) AS n FROM t GROUP BY k, g + 1", Some("Reduce")),
            ("SELECT DISTINCT g, k FROM t", Some("Reduce")),
            ("SELECT k, x FROM u", Some("First")),
            ("SELECT k, x + 1 AS y FROM u", Some("First")),
            // A row has another key than its group, or is of several of them.
            ("SELECT -k AS k, count(*) AS n FROM t GROUP BY k", None),
            ("SELECT g, n FROM (SELECT k, g, count(*) AS n FROM t GROUP BY k, g) q", None),
            ("SELECT k, sum(x) AS s FROM t GROUP BY k UNION ALL SELECT k, x FROM u", None),
            ("SELECT k, array_agg(x ORDER BY x) AS xs FROM t GROUP BY k", None),
            ("SELECT x FROM t", None),
            // Of most groups there may be no row.
            ("SELECT k, sum(x) AS s FROM t GROUP BY k HAVING count(*) > 1", None),
            ("SELECT k, x FROM u WHERE x > 3", None),
        ] {
            assert_eq!(groups(query), expected, "{query}");
        }
    }
}
