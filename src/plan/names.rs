//! The names that tables, views and columns may have.

use datafusion_sql::sqlparser::ast::{Ident, ObjectName, Spanned};

use super::diagnostic::{Refusal, Unplannable};

/// The longest name of a table or view.
const NAME_CHARS_MAX: usize = 63;

/// The name that an identifier means: as written in quotes, in lower case without.
pub fn fold(ident: &Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_lowercase(),
    }
}

/// The name of a table or view, when it is one that may be given.
pub fn relation(name: &ObjectName) -> Result<String, Refusal> {
    let ident = match name.0.as_slice() {
        [part] => part.as_ident(),
        _ => None,
    };
    let Some(ident) = ident else {
        return Err(Refusal::new(name.span(), format!("{name} is not a plain name"))
            .with_hint("tables and views have no schema or database before their name"));
    };
    let folded = fold(ident);
    let mut chars = folded.chars();
    let well_formed = chars.next().is_some_and(|c| c.is_ascii_lowercase())
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && folded.len() <= NAME_CHARS_MAX
        && !folded.contains("__");
    if well_formed {
        Ok(folded)
    } else {
        Err(Refusal::new(name.span(), format!("{name} cannot be the name of a table or view"))
            .with_hint(
                "lower-case letters, digits and single underscores, a letter first, at most 63",
            ))
    }
}

/// The name of a column that a user declares or a view gives.
pub fn column(name: &str) -> Result<(), Unplannable> {
    if name.starts_with('_') {
        let message = format!("column {name} begins with _, which is kept for system columns");
        Err(Unplannable(message))
    } else {
        Ok(())
    }
}
