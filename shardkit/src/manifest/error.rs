//! What is wrong with a manifest, where, and what would be right.
//!
//! Invariant: what is shown stays readable whatever the manifest holds: long texts are clipped and control characters
//! are replaced, so a hostile file can't play with the terminal.

use std::{fmt, ops::Range, path::Path, path::PathBuf};

/// A range of bytes of the manifest's text.
pub type Span = Range<usize>;

/// How much of a source line is shown, in characters.
const SNIPPET_CHARS_MAX: usize = 100;
/// How much is shown of a message that quotes the manifest, in characters.
const MESSAGE_CHARS_MAX: usize = 600;
/// A longer word is not compared with others: the comparison takes time that grows with both.
const SIMILAR_BYTES_MAX: usize = 64;

/// Why a manifest can't be used: the first thing that is wrong with it.
///
/// It shows itself as a compiler does, with the line it stands on:
///
/// ```text
/// arena.toml:12:9: component `ai` sends `world` to `rendr.world`, but there is no component `rendr`; did you mean `render`?
///    |
/// 12 | world = "rendr.world"
///    |         ^^^^^^^^^^^^^
/// ```
#[derive(Debug)]
pub struct ManifestError {
    file: PathBuf,
    what: String,
    cure: String,
    place: Option<Box<Place>>,
}

/// Where in the file, and how that line looks.
#[derive(Debug)]
struct Place {
    line: usize,
    column: usize,
    snippet: String,
    caret_from: usize,
    caret_chars: usize,
}

impl ManifestError {
    /// The manifest's file, as it was named.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The line, from 1; `None` if the trouble is with the file as a whole.
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column, from 1, in characters; `None` if the trouble is with the file as a whole.
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// What is wrong.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// What would be right.
    pub fn cure(&self) -> &str {
        &self.cure
    }

    /// An error of the file as a whole.
    pub fn of_file(file: &Path, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { file: file.to_owned(), what: what.into(), cure: cure.into(), place: None }
    }

    /// An error at a place in the text.
    pub fn of_problem(file: &Path, text: &str, problem: Problem) -> Self {
        let place = problem.span.map(|span| Box::new(Place::new(text, span)));
        Self { file: file.to_owned(), what: clip(&problem.what), cure: clip(&problem.cure), place }
    }
}

impl std::error::Error for ManifestError {}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(place) = &self.place {
            write!(f, "{}:{}:", place.line, place.column)?;
        }
        write!(f, " {}; {}", self.what, self.cure)?;
        if let Some(place) = &self.place {
            let gutter = place.line.to_string().len();
            write!(f, "\n{:gutter$} |\n{} | {}", "", place.line, place.snippet)?;
            write!(
                f,
                "\n{:gutter$} | {:from$}{:^<chars$}",
                "",
                "",
                "^",
                from = place.caret_from,
                chars = place.caret_chars
            )?;
        }
        Ok(())
    }
}

impl Place {
    fn new(text: &str, span: Span) -> Self {
        let start = char_boundary(text, span.start);
        let end = char_boundary(text, span.end.max(start));
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let line = text[line_start..line_end].trim_end_matches('\r');

        let before = text[line_start..start].chars().count();
        let marked = text[start..end.min(line_end)].chars().count();
        // A long line is shown from a little before the place.
        let skipped = if before < SNIPPET_CHARS_MAX * 3 / 4 { 0 } else { before - SNIPPET_CHARS_MAX / 2 };
        let snippet: String = line.chars().skip(skipped).take(SNIPPET_CHARS_MAX).map(printable).collect();
        let caret_from = before - skipped;
        let room = snippet.chars().count().saturating_sub(caret_from);
        Self {
            line: text[..start].matches('\n').count() + 1,
            column: before + 1,
            caret_from,
            caret_chars: marked.min(room).max(1),
            snippet,
        }
    }
}

/// The last boundary between characters that is not after `at`.
fn char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// One character of the manifest as a terminal can take it: the same width, no effect.
fn printable(c: char) -> char {
    match c {
        '\t' => ' ',
        // Marks that turn the direction of the text would show a line other than it is.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    }
}

fn clip(message: &str) -> String {
    let mut clipped: String = message.chars().take(MESSAGE_CHARS_MAX).map(printable).collect();
    if clipped.len() < message.len() && clipped.chars().count() == MESSAGE_CHARS_MAX {
        clipped.push('…');
    }
    clipped
}

/// What is wrong, before the file and its text are added. `span` is `None` if no single place is to blame.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub span: Option<Span>,
    /// What is wrong.
    pub what: String,
    /// What would be right.
    pub cure: String,
}

impl Problem {
    /// Something is wrong at `span`.
    pub fn at(span: &Span, what: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { span: Some(span.clone()), what: what.into(), cure: cure.into() }
    }
}

/// The cure for a name that nothing has: the name most like it, or all that there are.
pub fn did_you_mean<'a>(name: &str, kind: &str, known: impl Iterator<Item = &'a str>) -> String {
    const LISTED_MAX: usize = 20;
    let known: Vec<&str> = known.collect();
    if let Some(similar) = most_similar(name, &known) {
        return format!("did you mean `{similar}`?");
    }
    let listed: Vec<String> = known.iter().take(LISTED_MAX).map(|name| format!("`{name}`")).collect();
    match (known.len(), listed.join(", ")) {
        (0, _) => format!("there are no {kind}s"),
        (1, only) => format!("the only {kind} is {only}"),
        (n, all) if n <= LISTED_MAX => format!("the {kind}s are {all}"),
        (n, some) => format!("the {n} {kind}s are {some} …"),
    }
}

fn most_similar<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > SIMILAR_BYTES_MAX {
        return None;
    }
    let distance = |other: &&str| strsim::damerau_levenshtein(name, other);
    // A third of the letters may be wrong; of a short word, one.
    let far = (name.chars().count() / 3).max(1);
    let candidates = known.iter().copied().filter(|other| other.len() <= SIMILAR_BYTES_MAX);
    candidates
        .map(|other| (distance(&other), other))
        .filter(|(d, _)| *d <= far)
        .min_by_key(|(d, _)| *d)
        .map(|(_, o)| o)
}

/// Puts what the TOML parser and serde say into the words of this module.
pub fn from_toml(error: &toml::de::Error) -> Problem {
    let (what, cure) = reword(error.message());
    Problem { span: error.span(), what, cure }
}

/// The texts that begin like serde's own (see `serde::de::Error`) are turned into cause and cure; the others come from
/// the parser and are about the syntax.
fn reword(message: &str) -> (String, String) {
    if let Some((key, known)) =
        message.strip_prefix("unknown field `").and_then(|rest| rest.rsplit_once("`, expected "))
    {
        if key.starts_with("$__toml") {
            return (
                "wrong type: a date".into(),
                "write a text, a number or a table, as the key asks for".into(),
            );
        }
        return (
            format!("unknown key `{key}`"),
            did_you_mean(key, "key", known.split('`').skip(1).step_by(2)),
        );
    }
    if let Some(rest) = message.strip_prefix("missing field ") {
        let key = rest.trim_matches('`');
        let cure = if key == "application" {
            "add `[application]` with a `name`".into()
        } else {
            format!("add `{key} = …`")
        };
        return (format!("the key `{key}` is missing"), cure);
    }
    if let Some((found, wanted)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.rsplit_once(", expected "))
    {
        return match (found, wanted) {
            // What `toml::Value` says of an integer beyond 64 bits.
            (_, "any valid TOML value") => {
                ("the number is too large".into(), "write one that fits 64 bits".into())
            }
            (found, wanted) => {
                (format!("wrong type: {}", in_toml(found)), format!("write {}", in_toml(wanted)))
            }
        };
    }
    let message = message.replace('\n', ", ");
    let cure = match message.as_str() {
        "duplicate key" => "name it once",
        _ => "write it as TOML 1.0 asks for (texts in quotes, one `key = value` a line)",
    };
    (format!("not valid TOML: {message}"), cure.into())
}

/// Serde's word for a kind of value, as TOML calls it.
fn in_toml(kind: &str) -> &str {
    match kind {
        "map" => "table",
        "a map" => "a table",
        "sequence" => "list",
        "a sequence" => "a list",
        other => other,
    }
}
