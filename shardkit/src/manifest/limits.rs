//! The limits that values have, each with one way to say that it is passed.

use super::at::At;
use super::error::{Problem, Span};
use super::quantity;
use super::raw::{Amount, Whole};
use crate::application::NAME_BYTES_MAX;

/// The application's or a component's name, or a port's: short, and safe in file names and logs.
pub fn check_name(name: &At<String>, kind: &str) -> Result<(), Problem> {
    let text = &name.value;
    let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if text.len() > NAME_BYTES_MAX {
        let what = format!("the {kind}'s name is {} bytes long", text.len());
        return Err(Problem::at(&name.span, what, format!("use at most {NAME_BYTES_MAX}")));
    }
    if !text.starts_with(|c: char| c.is_ascii_lowercase()) || !text.chars().all(letters) {
        let what = format!(
            "`{text}` can't be the name of {} {kind}",
            if kind == "application" { "an" } else { "a" }
        );
        return Err(Problem::at(
            &name.span,
            what,
            "use lower-case letters, digits, `-` and `_`, beginning with a letter",
        ));
    }
    Ok(())
}

/// No more than `max` of something; `span` is the last one.
pub fn check_count(span: &Span, count: usize, max: usize, what: &str) -> Result<(), Problem> {
    if count <= max {
        return Ok(());
    }
    Err(Problem::at(span, format!("there are {count} {what}"), format!("use at most {max}")))
}

/// A whole number from `min` to `max`.
pub fn whole(raw: &At<Whole>, key: &str, min: u64, max: u64) -> Result<u64, Problem> {
    let value = raw.value.0;
    u64::try_from(value).ok().filter(|value| (min..=max).contains(value)).ok_or_else(|| {
        Problem::at(
            &raw.span,
            format!("`{key}` is {value}"),
            format!("use a whole number from {min} to {max}"),
        )
    })
}

/// An amount in one of `units`; `cure` says how to write one.
pub fn amount(raw: &At<Amount>, key: &str, units: &[(&str, u64)], cure: &str) -> Result<u64, Problem> {
    let (amount, shown) = match &raw.value {
        Amount::Number(number) => (u64::try_from(*number).ok(), number.to_string()),
        Amount::Text(text) => (quantity::parse(text, units), format!("{text:?}")),
    };
    amount.ok_or_else(|| Problem::at(&raw.span, format!("`{key}` can't be {shown}"), format!("write {cure}")))
}

/// A size.
pub fn bytes(raw: &At<Amount>, key: &str) -> Result<u64, Problem> {
    amount(
        raw,
        key,
        quantity::BYTES,
        "a number of bytes, or a text like \"64MiB\" (B, KiB, MiB, GiB, TiB, kB, MB, GB, TB)",
    )
}

/// A size from `min` to `max` bytes.
pub(super) fn bytes_between(raw: &At<Amount>, key: &str, min: u32, max: u32) -> Result<u32, Problem> {
    let bytes = bytes(raw, key)?;
    u32::try_from(bytes).ok().filter(|bytes| (min..=max).contains(bytes)).ok_or_else(|| {
        let [bytes, min, max] = [bytes, min.into(), max.into()].map(quantity::show_bytes);
        Problem::at(&raw.span, format!("`{key}` is {bytes}"), format!("use between {min} and {max}"))
    })
}
