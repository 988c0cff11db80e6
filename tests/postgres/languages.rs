//! The languages inside of values: patterns, formats, and texts that are read as a type.

use std::fmt::Write as _;

use heliostat::internals::model::NewEvent;

use super::answers::{Question, Theirs, event_of, ours, theirs};
use super::common_postgres::Postgres;
use super::compare::{Reasons, compare_list, differences, is_of_type, note_reasons, untold};
use super::entries::{Entry, Kind};
use super::{cells, corpora};

/// The table of the corpora's texts, there.
fn inputs_of_theirs(inputs: &[corpora::Input]) -> String {
    let mut script =
        String::from("CREATE UNLOGGED TABLE inputs (i integer, corpus text, t text);\n");
    for (i, input) in inputs.iter().enumerate() {
        let text = input.text.replace('\'', "''");
        let _ = writeln!(script, "INSERT INTO inputs VALUES ({i}, '{}', '{text}');", input.corpus);
    }
    script
}

/// The same as events.
fn inputs_as_events(inputs: &[corpora::Input]) -> Vec<NewEvent> {
    let event = |(i, input): (usize, &corpora::Input)| {
        let data = serde_json::json!({"i": i, "corpus": input.corpus, "t": input.text});
        event_of("inputs", i, &data)
    };
    inputs.iter().enumerate().map(event).collect()
}

/// The texts and patterns of `corpora.rs` mean the same as in PostgreSQL; or they are refused by `check`, where the
/// pattern is a constant (`refused_patterns.txt`); or some rows fail here for which PostgreSQL has a value
/// (`failing_patterns.txt`). `different_patterns.txt` is what still has another value.
#[test]
fn every_language_of_its_own_is_as_in_postgres() {
    let wanted = std::env::var("HELIOSTAT_ENTRIES").unwrap_or_default();
    let postgres = Postgres::start();
    let inputs = corpora::inputs();
    let mut corpora = corpora::all();
    corpora.retain(|corpus| corpus.expressions[0].contains(&wanted));
    let mut questions = Vec::new();
    let mut entries = Vec::new();
    for (entry, corpus) in corpora.iter().enumerate() {
        let of = |input: &corpora::Input| input.corpus == corpus.inputs;
        let (first, last) =
            (inputs.iter().position(of).unwrap(), inputs.iter().rposition(of).unwrap());
        entries.push(Entry {
            kind: Kind::Construct,
            title: corpus.expressions[0].clone(),
            name: String::new(),
            arguments: Vec::new(),
            result: corpus.result.to_string(),
            returns_set: false,
        });
        questions.extend(corpus.expressions.iter().map(|expression| {
            let query = format!(
                "SELECT i, 0 AS o, {expression} AS v FROM inputs WHERE corpus = '{}'",
                corpus.inputs
            );
            let (theirs, ours) = (query.clone(), query);
            Question { entry, shown: expression.clone(), theirs, ours, range: (first, last) }
        }));
    }
    let theirs = theirs(&postgres, &inputs_of_theirs(&inputs), &questions);
    // What PostgreSQL takes for no SQL asks nothing.
    let asked = questions
        .iter()
        .zip(&theirs)
        .filter_map(|(question, theirs)| theirs.as_ref().ok().map(|theirs| (question, theirs)));
    let asked: Vec<(&Question, &Theirs)> = asked.collect();
    let declarations = "CREATE TABLE inputs (i INT NOT NULL, corpus TEXT NOT NULL, t TEXT NOT NULL) \
                        WITH (event_type = 'inputs');";
    let only: Vec<&Question> = asked.iter().map(|(question, _)| *question).collect();
    let ours = ours(declarations.to_string(), inputs_as_events(&inputs), &only);
    let (mut wrong, mut refused) = (Vec::new(), Vec::new());
    let (mut fails, mut different) = (Vec::new(), Vec::new());
    let (mut compared, mut reasons) = (0, Reasons::new());
    for ((question, theirs), ours) in asked.iter().zip(&ours) {
        let entry = &entries[question.entry];
        match ours {
            Err(message) => refused.push(format!(
                "{}: {}",
                question.shown,
                message.lines().next().unwrap_or_default()
            )),
            Ok(ours) => {
                compared += theirs.cells.len();
                if !is_of_type(&ours.sql_type, &entry.result) {
                    wrong.push(format!("    {} is {}", question.shown, ours.sql_type));
                }
                let told = differences(question, entry, theirs, &ours.cells);
                if let Some(told) = told {
                    // A value in the place of another one is wrong; an error in the place of one is listed.
                    let silent = theirs.cells.iter().any(|(key, cell)| {
                        let ours = ours.cells.get(key);
                        ours.is_some_and(|ours| !cells::equal(ours, cell, &entry.result, false))
                    });
                    match silent {
                        true => {
                            different.push(question.shown.clone());
                            println!("{}", with_inputs(&told, &inputs));
                        }
                        false => fails.push(question.shown.clone()),
                    }
                }
                wrong.extend(untold(question, entry, &theirs.cells, ours));
                note_reasons(theirs, ours, &mut reasons);
            }
        }
    }
    println!(
        "{} expressions, {} asked, {} refused, {compared} cells",
        questions.len(),
        asked.len(),
        refused.len()
    );
    if wanted.is_empty() {
        compare_list("refused_patterns.txt", &refused, &mut wrong);
        compare_list("failing_patterns.txt", &fails, &mut wrong);
        compare_list("different_patterns.txt", &different, &mut wrong);
    }
    for (reason, classes) in &reasons {
        if classes.len() > 1 && !reason.contains("is not supported") {
            wrong.push(format!("{reason}: {classes:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} problems\n{}", wrong.len(), wrong.join("\n"));
}

/// Differences with the texts of their rows.
fn with_inputs(told: &str, inputs: &[corpora::Input]) -> String {
    let line =
        |line: &str| match line.trim().strip_prefix("row ").and_then(|rest| rest.split_once(':')) {
            Some((row, rest)) => {
                format!("      {:?}:{rest}", inputs[row.parse::<usize>().unwrap()].text)
            }
            None => line.to_string(),
        };
    told.lines().map(line).collect::<Vec<_>>().join("\n")
}
