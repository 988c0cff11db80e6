//! Rows that ClickHouse cannot hold, on their way to the dead letters.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Map, Value};

use crate::model::view::{Update, ViewRef};
use crate::sink::{RejectHandler, SinkReject};

use super::encode::RowDecoder;
use super::range::{find_unholdable, is_limited};

/// Takes the rows that ClickHouse cannot hold out of a view's changes.
pub(super) struct ValueLimits {
    view: ViewRef,
    decoder: RowDecoder,
    handler: RejectHandler,
}

impl ValueLimits {
    /// `None` where every value of the view's columns can be held.
    pub(super) fn new(view: &ViewRef, handler: RejectHandler) -> Result<Option<Self>, ArrowError> {
        if !view.columns.iter().any(|column| is_limited(&column.sql_type)) {
            return Ok(None);
        }
        let decoder = RowDecoder::new(view)?;
        Ok(Some(ValueLimits { view: Arc::clone(view), decoder, handler }))
    }

    /// Removes and reports such rows.
    pub(super) fn filter(&self, updates: &mut Vec<Update>) -> Result<(), ArrowError> {
        let columns = self.decoder.decode(updates.iter().map(|u| (&u.key, &u.value)))?;
        let mut reasons: Vec<(usize, String)> = Vec::new();
        for (field, column) in self.view.columns.iter().zip(&columns) {
            find_unholdable(field, column, &mut |row, reason| reasons.push((row, reason)));
        }
        if reasons.is_empty() {
            return Ok(());
        }
        reasons.sort_by_key(|(row, _)| *row);
        reasons.dedup_by_key(|(row, _)| *row);
        for (row, reason) in &reasons {
            let (view, text) = (Arc::clone(&self.view), self.row_text(&columns, *row));
            let diff = updates[*row].diff;
            (self.handler)(SinkReject { view, row: text, reason: reason.clone(), diff });
        }
        let mut bad = reasons.iter().map(|(row, _)| *row).peekable();
        let mut index = 0;
        updates.retain(|_| {
            let keep = bad.next_if_eq(&index).is_none();
            index += 1;
            keep
        });
        Ok(())
    }

    fn row_text(&self, columns: &[ArrayRef], row: usize) -> String {
        let options = FormatOptions::default().with_display_error(true);
        let members = self.view.columns.iter().zip(columns).map(|(field, column)| {
            let text = match ArrayFormatter::try_new(column.as_ref(), &options) {
                _ if column.is_null(row) => Value::Null,
                Ok(formatter) => Value::String(formatter.value(row).to_string()),
                Err(error) => Value::String(error.to_string()),
            };
            (field.name.clone(), text)
        });
        Value::Object(members.collect::<Map<_, _>>()).to_string()
    }
}
