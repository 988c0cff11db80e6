//! Generations: a view whose rows or table change has another one, and is built anew beside the one
//! before.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::Xxh3;

use super::catalog::{Catalog, ViewDef};
use super::logical;
use super::semantics::{self, Changes};
use crate::model::schema::SqlField;

/// Everything that a view's generation depends on.
pub struct GenerationSubject<'a> {
    pub catalog: &'a Catalog,
    pub log_id: &'a str,
    pub def: &'a ViewDef,
    /// The view's columns: the same text may come to give other types.
    pub columns: &'a [SqlField],
}

impl GenerationSubject<'_> {
    /// The hash of everything that decides the view's rows and table, as hex digits.
    pub fn generation(&self, changed: Changes<'_>) -> String {
        let GenerationSubject { catalog, log_id, def, columns } = self;
        let mut parts = BTreeSet::new();
        let mut types = BTreeSet::new();
        let mut queries = Vec::new();
        let mut todo = vec![def.name.clone()];
        while let Some(name) = todo.pop() {
            if let Some(view) = catalog.views.get(&name) {
                if parts.insert(view.canonical.clone()) {
                    queries.push(&*view.query);
                    todo.extend(logical::relations_of(&view.query));
                }
            } else if let Some(table) = catalog.tables.get(&name) {
                parts.insert(table.canonical.clone());
                parts.extend(semantics::of_table(&table.table).map(str::to_string));
                types.insert(table.table.event_type.as_str());
                for upcast in catalog.upcasts.iter().filter(|u| u.target == name) {
                    parts.insert(upcast.canonical.clone());
                    queries.push(&*upcast.query);
                    todo.push(upcast.source.clone());
                }
            }
        }
        // Which versions are declared decides which events are missing.
        parts.extend(types.iter().map(|event_type| self.declared_versions(event_type)));
        parts.extend(semantics::versions(queries.into_iter(), changed));
        let mut hash = Xxh3::new();
        hash.update(&semantics::ENGINE.to_le_bytes());
        let mut add = |part: &str| {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        };
        [log_id, def.name.as_str()].into_iter().for_each(&mut add);
        parts.iter().map(String::as_str).for_each(&mut add);
        columns.iter().map(column_text).for_each(|text| add(&text));
        format!("{:016x}", hash.digest())
    }

    fn declared_versions(&self, event_type: &str) -> String {
        let tables = self.catalog.tables.values().map(|def| &def.table);
        let of_type = tables.filter(|table| table.event_type == event_type);
        let versions: BTreeSet<u32> = of_type.map(|table| table.version).collect();
        format!("{event_type} {versions:?}")
    }
}

fn column_text(column: &SqlField) -> String {
    let SqlField { name, sql_type, nullable } = column;
    format!("{name} {sql_type}{}", if *nullable { "" } else { " NOT NULL" })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::schema::SqlType;
    use crate::plan::diagnostic::SourceFile;
    use crate::plan::parse;
    use crate::plan::step::Steps;

    const FILE: &str = "\
CREATE TABLE t (k INT, s TEXT, at TIMESTAMP) WITH (event_type = 'T');
CREATE MATERIALIZED VIEW uses AS SELECT to_char(at, 'YYYY') AS y FROM t;
CREATE VIEW inner_uses AS SELECT k FROM t WHERE k IN (SELECT CASE WHEN to_char(at, 'YYYY') = '2026' THEN k END FROM t);
CREATE MATERIALIZED VIEW reads_one_that_uses AS SELECT k + 1 AS k FROM inner_uses;
CREATE MATERIALIZED VIEW has_a_case AS SELECT CASE WHEN k > 1 THEN k ELSE 0 END AS k FROM t;
CREATE MATERIALIZED VIEW has_a_union AS SELECT k FROM t UNION SELECT k + 1 FROM t;
CREATE MATERIALIZED VIEW uses_neither AS SELECT to_date(s, 'YYYY') AS d, 'to_char' AS n FROM t;
";

    fn catalog() -> Catalog {
        let mut catalog = Catalog::default();
        let file = Arc::new(SourceFile { path: "a.sql".into(), text: FILE.to_string() });
        let wrong = parse::declare_file(&file, &Steps::new(&[], &|_| {}), &mut catalog);
        assert!(wrong.is_empty(), "{wrong:?}");
        catalog
    }

    fn generation(catalog: &Catalog, view: &str, columns: &[SqlField], c: Changes<'_>) -> String {
        let def = &catalog.views[view];
        GenerationSubject { catalog, log_id: "log", def, columns }.generation(c)
    }

    fn generations(catalog: &Catalog, changed: Changes<'_>) -> BTreeMap<String, String> {
        let of = |view: &String| (view.clone(), generation(catalog, view, &[], changed));
        catalog.views.keys().map(of).collect()
    }

    /// The views that have another generation after a change of these numbers.
    fn changed(before: Changes<'_>, after: Changes<'_>) -> Vec<String> {
        let catalog = catalog();
        let (before, after) = (generations(&catalog, before), generations(&catalog, after));
        before.into_iter().filter(|(view, old)| after[view] != *old).map(|(view, _)| view).collect()
    }

    #[test]
    fn raised_number_of_a_function_changes_the_views_that_use_it_and_no_others() {
        let raised = changed(&[("to_char", 1), ("mean", 1)], &[("to_char", 2), ("mean", 1)]);
        assert_eq!(raised, ["inner_uses", "reads_one_that_uses", "uses"]);
        assert_eq!(changed(&[], &[("to_char", 1)]), raised);
        assert!(changed(&[("mean", 1)], &[("mean", 2)]).is_empty());
    }

    #[test]
    fn raised_number_of_a_construct_changes_the_views_that_have_it_and_no_others() {
        let with_case = ["has_a_case", "inner_uses", "reads_one_that_uses"];
        assert_eq!(changed(&[], &[("case", 1)]), with_case);
        assert_eq!(changed(&[("union", 1)], &[("union", 2)]), ["has_a_union"]);
    }

    #[test]
    fn other_names_types_and_nullability_of_columns_change_the_generation() {
        let catalog = catalog();
        let of = |column: SqlField| generation(&catalog, "uses", &[column], &[]);
        let text = of(SqlField::new("y", SqlType::Text, true));
        assert_eq!(text, of(SqlField::new("y", SqlType::Text, true)));
        assert_ne!(text, of(SqlField::new("x", SqlType::Text, true)));
        assert_ne!(text, of(SqlField::new("y", SqlType::Json, true)));
        assert_ne!(text, of(SqlField::new("y", SqlType::Text, false)));
    }
}
