//! `GET /v1/dead-letters`: what failed, and why.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use serde::Serialize;

use super::AppState;
use super::backend::{DeadLetter, DeadLetterFilter};
use super::params::Params;
use super::problem::Problem;
use crate::model::Position;

/// How many are listed when the client does not say.
const LIMIT_DEFAULT: usize = 1000;

/// The answer.
#[derive(Serialize)]
pub struct DeadLetters {
    dead_letters: Vec<Letter>,
}

/// One dead letter on the wire.
#[derive(Serialize)]
struct Letter {
    view: Option<String>,
    r#type: Option<String>,
    position: Option<Position>,
    expression: String,
    reason: String,
    count: u64,
    sample: Option<String>,
}

pub async fn list(State(state): State<AppState>, uri: Uri) -> Result<Json<DeadLetters>, Problem> {
    let mut params = Params::of(&uri)?;
    let filter = DeadLetterFilter {
        view: params.text("view")?,
        event_type: params.text("type")?,
        from: params.number_if_given("from")?,
        to: params.number_if_given("to")?,
        limit: params.limit(LIMIT_DEFAULT, state.limits.read_rows_max)?,
    };
    params.finish()?;
    let dead_letters = state.backend.dead_letters(&filter).into_iter().map(Letter::from).collect();
    Ok(Json(DeadLetters { dead_letters }))
}

impl From<DeadLetter> for Letter {
    fn from(letter: DeadLetter) -> Self {
        let DeadLetter { view, event_type, position, expression, reason, count, sample } = letter;
        Letter { view, r#type: event_type, position, expression, reason, count, sample }
    }
}
