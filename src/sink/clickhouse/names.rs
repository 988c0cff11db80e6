//! Whether the public names are there: looked up while somebody waits for them to show a position, and every
//! second.

use std::collections::HashMap;
use std::sync::Arc;

use clickhouse::Row;
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::model::view::{ViewRef, ViewSchema};

use super::client::ClickHouse;
use super::error::ClickHouseError;
use super::table::{history_table_name, history_view_name, table_name};
use super::types::quote_text;

#[derive(Row, Deserialize)]
struct NameRow {
    name: String,
    /// The definition of a VIEW; of a table it is not needed.
    statement: String,
}

/// The names in both databases with the definitions of the VIEWs.
type Definitions = Arc<HashMap<String, String>>;

/// The public names as ClickHouse has told them last.
#[derive(Default)]
pub(super) struct PublicNames {
    /// When it was asked, and the answer.
    last: Mutex<Option<(Instant, Definitions)>>,
}

impl PublicNames {
    /// The views among these whose names are gone, or do not read from this generation's table, as of a
    /// moment after the call.
    pub(super) async fn missing(
        &self,
        clickhouse: &ClickHouse,
        views: &[ViewRef],
    ) -> Result<Vec<ViewRef>, ClickHouseError> {
        let definitions = self.ask(clickhouse).await?;
        Ok(views.iter().filter(|view| !are_there(&definitions, view)).cloned().collect())
    }

    /// Asks ClickHouse. Whoever comes while a question is under way waits for its end, and shares the next
    /// question with the others: the one under way may have been answered before.
    async fn ask(&self, clickhouse: &ClickHouse) -> Result<Definitions, ClickHouseError> {
        let wanted = Instant::now();
        let mut last = self.last.lock().await;
        if let Some((asked, definitions)) = &*last
            && *asked >= wanted
        {
            return Ok(Arc::clone(definitions));
        }
        let asked = Instant::now();
        let (names, internal) =
            (quote_text(clickhouse.database()), quote_text(clickhouse.internal()));
        let query = format!(
            "SELECT name, if(database = {names}, create_table_query, '') AS statement \
             FROM system.tables WHERE database IN ({names}, {internal})"
        );
        let rows = clickhouse.fetch::<NameRow>(&query).await?;
        let definitions = rows.into_iter().map(|row| (row.name, row.statement)).collect();
        let definitions = Arc::new(definitions);
        *last = Some((asked, Arc::clone(&definitions)));
        Ok(definitions)
    }
}

/// Whether a view's names read from the tables of its generation, which are there.
fn are_there(definitions: &HashMap<String, String>, view: &ViewSchema) -> bool {
    let reads = |name: &str, table: &str| {
        definitions.contains_key(table)
            && definitions.get(name).is_some_and(|statement| statement.contains(table))
    };
    let (name, generation) = (&view.name, &view.generation);
    reads(name, &table_name(name, generation))
        && (!view.history || reads(&history_view_name(name), &history_table_name(name, generation)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn names_are_there_where_they_read_from_tables_of_the_generation() {
        let view = ViewSchema {
            name: "v".to_string(),
            generation: "0123456789abcdef".to_string(),
            columns: Vec::new(),
            key: None,
            sinks: BTreeMap::new(),
            history: true,
            comment: None,
        };
        let table = table_name("v", &view.generation);
        let history = history_table_name("v", &view.generation);
        let all = [
            (table.clone(), String::new()),
            (history.clone(), String::new()),
            ("v".to_string(), format!("CREATE VIEW v AS SELECT x FROM i.{table} FINAL")),
            (history_view_name("v"), format!("CREATE VIEW h AS SELECT x FROM i.{history} FINAL")),
        ];
        let whole: HashMap<String, String> = all.iter().cloned().collect();
        assert!(are_there(&whole, &view));
        for (name, _) in &all {
            let mut less = whole.clone();
            less.remove(name);
            assert!(!are_there(&less, &view), "without {name}");
        }
        let mut other = whole;
        other.insert("v".to_string(), "CREATE VIEW v AS SELECT x FROM i.v__other".to_string());
        assert!(!are_there(&other, &view));
    }
}
