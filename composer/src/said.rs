//! What a shard says of itself, as it may be kept and shown.
//!
//! Invariant: it is bounded, and has no character in it that a terminal obeys.

/// The most characters that are kept of what a shard says.
const CHARACTERS_MAX: usize = 1024;

/// A text of a shard's: its beginning, with control characters written out.
pub(crate) fn said(text: &str) -> String {
    let mut kept = String::with_capacity(text.len().min(CHARACTERS_MAX));
    for character in text.chars().take(CHARACTERS_MAX) {
        if character.is_control() {
            kept.extend(character.escape_default());
        } else {
            kept.push(character);
        }
    }
    if text.chars().nth(CHARACTERS_MAX).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_and_harmless() {
        assert_eq!(said("the disk is full: 100 %"), "the disk is full: 100 %");
        assert_eq!(said("\u{1b}[2Jgone\r\n\u{9b}x"), r"\u{1b}[2Jgone\r\n\u{9b}x");
        assert_eq!(said(&"ü".repeat(CHARACTERS_MAX)), "ü".repeat(CHARACTERS_MAX));
        assert_eq!(said(&"ü".repeat(1 << 20)).chars().count(), CHARACTERS_MAX + 1);
    }
}
