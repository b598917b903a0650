//! How deeply a manifest may nest, checked on its tokens before anything is built from it.
//!
//! Invariant: what is deeper than [`NESTING_MAX`] never becomes a tree. Trees are read, copied and dropped by functions
//! that call themselves, so a small hostile file could exhaust the stack: the parser bounds brackets and dotted keys
//! each on its own, but `{ a.b = { a.b = …` multiplies the two.

use super::error::Problem;
use toml_parser::{Source, lexer::TokenKind};

/// How many tables and lists one entry may open within each other, by brackets and by the dots of its keys.
///
/// A table's header counts as an entry too, so a `config` has at most twice as many levels: fewer than the 128 that a
/// shard can read.
pub(super) const NESTING_MAX: usize = 32;

/// Refuses a text that nests too deeply. What it counts is never less than what the parser builds; only of a text that
/// is no TOML anyway may it be more.
pub fn check_nesting(text: &str) -> Result<(), Problem> {
    // For each bracket that is open, and for the entry around them all: the dots since its last comma or line.
    let mut open: Vec<(TokenKind, usize)> = Vec::new();
    let mut outer_dots = 0;
    let mut depth = 0;
    for token in Source::new(text).lex() {
        match token.kind() {
            opening @ (TokenKind::LeftCurlyBracket | TokenKind::LeftSquareBracket) => {
                open.push((opening, 0));
                depth += 1;
            }
            TokenKind::RightCurlyBracket => depth -= close(&mut open, TokenKind::LeftCurlyBracket),
            TokenKind::RightSquareBracket => depth -= close(&mut open, TokenKind::LeftSquareBracket),
            TokenKind::Dot => {
                *dots(&mut open, &mut outer_dots) += 1;
                depth += 1;
            }
            TokenKind::Comma | TokenKind::Newline => {
                depth -= std::mem::take(dots(&mut open, &mut outer_dots));
            }
            _ => {}
        }
        if depth > NESTING_MAX {
            let what = format!("tables and lists nest more than {NESTING_MAX} deep here");
            return Err(Problem::at(&(token.span().start()..token.span().end()), what, "nest less deeply"));
        }
    }
    Ok(())
}

fn dots<'a>(open: &'a mut [(TokenKind, usize)], outer: &'a mut usize) -> &'a mut usize {
    open.last_mut().map_or(outer, |(_, dots)| dots)
}

/// Closes the innermost bracket if it is of this kind; gives how much less deep that is.
fn close(open: &mut Vec<(TokenKind, usize)>, opening: TokenKind) -> usize {
    open.pop_if(|(kind, _)| *kind == opening).map_or(0, |(_, dots)| dots + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_dots_count_together() {
        let nested = |dots: usize, brackets: usize| {
            let (from, to) = (format!("{{{}z=", "a.".repeat(dots)).repeat(brackets), "}".repeat(brackets));
            check_nesting(&format!("k = {from}1{to}"))
        };
        nested(0, NESTING_MAX).unwrap();
        nested(0, NESTING_MAX + 1).unwrap_err();
        nested(3, NESTING_MAX / 4).unwrap();
        nested(3, NESTING_MAX / 4 + 1).unwrap_err();
        nested(NESTING_MAX, 1).unwrap_err();
    }

    #[test]
    fn what_is_side_by_side_does_not_add_up() {
        check_nesting(&"a.b.c = [1.5, [2.5], { d.e = 1 }]\n".repeat(1000)).unwrap();
        check_nesting(&format!("a = [{}]", "{ b.c = [1.5] }, ".repeat(1000))).unwrap();
        check_nesting(&format!("a = [\n{}]", "1.5\n,".repeat(1000))).unwrap();
        check_nesting(&format!("a = '{}' # {}", "[{.".repeat(1000), "[{.".repeat(1000))).unwrap();
    }
}
