//! Texts of which a part is said in one way here, and in another in PostgreSQL.

const OURS: char = '\u{1}';
const THEIRS: char = '\u{2}';
const END: char = '\u{3}';

/// A text that is `ours` here and `theirs` in PostgreSQL. Both may have such parts themselves.
pub fn either(ours: &str, theirs: &str) -> String {
    format!("{OURS}{ours}{THEIRS}{theirs}{END}")
}

/// The text as Heliostat reads it.
pub fn ours(text: &str) -> String {
    side(text, true)
}

/// The text as PostgreSQL reads it.
pub fn theirs(text: &str) -> String {
    side(text, false)
}

fn side(text: &str, ours: bool) -> String {
    // For each part that is open, whether its ours is being read.
    let mut open: Vec<bool> = Vec::new();
    let mut out = String::new();
    for c in text.chars() {
        match c {
            OURS => open.push(true),
            THEIRS => {
                open.pop();
                open.push(false);
            }
            END => drop(open.pop()),
            c if open.iter().all(|part| *part == ours) => out.push(c),
            _ => {}
        }
    }
    out
}
