//! Amounts with a unit: `"64MiB"`, `"1Gbit/s"`, or a plain whole number in the base unit.

/// Units of bytes, for [`parse`].
pub const BYTES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Units of what goes to and from disks, in bytes a second.
pub(super) const BYTES_PER_S: &[(&str, u64)] = &[
    ("B/s", 1),
    ("KiB/s", 1 << 10),
    ("MiB/s", 1 << 20),
    ("GiB/s", 1 << 30),
    ("TiB/s", 1 << 40),
    ("kB/s", 1_000),
    ("MB/s", 1_000_000),
    ("GB/s", 1_000_000_000),
    ("TB/s", 1_000_000_000_000),
];

/// Units of bandwidth, in bits a second.
pub const BITS_PER_S: &[(&str, u64)] = &[
    ("bit/s", 1),
    ("kbit/s", 1_000),
    ("Mbit/s", 1_000_000),
    ("Gbit/s", 1_000_000_000),
    ("Tbit/s", 1_000_000_000_000),
];

/// The amount that `text` names in one of `units`; `None` if it is malformed or larger than a `u64` can hold.
pub fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size as a person writes it: the largest binary unit that divides it.
pub fn show_bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.iter().find(|(_, shift)| bytes > 0 && bytes.trailing_zeros() >= *shift);
    fits.map_or_else(|| format!("{bytes} B"), |(name, shift)| format!("{} {name}", bytes >> shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_digits_and_a_unit_and_nothing_else() {
        for (text, bytes) in [
            ("0B", 0),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("1GB", 1_000_000_000),
            ("16777215TiB", 16_777_215 << 40),
        ] {
            assert_eq!(parse(text, BYTES), Some(bytes), "{text}");
        }
        for text in [
            "",
            "64",
            "KiB",
            "-1KiB",
            "+1KiB",
            "1.5MiB",
            "64kib",
            "64KiB ",
            " 64KiB",
            "16777216TiB",
            "٣KiB",
            "1\tB",
        ] {
            assert_eq!(parse(text, BYTES), None, "{text}");
        }
        assert_eq!(parse("10Gbit/s", BITS_PER_S), Some(10_000_000_000));
    }

    #[test]
    fn a_size_is_shown_in_the_unit_that_divides_it() {
        for (bytes, text) in
            [(0, "0 B"), (1000, "1000 B"), (4096, "4 KiB"), (64 << 20, "64 MiB"), (3 << 40, "3 TiB")]
        {
            assert_eq!(show_bytes(bytes), text);
        }
    }
}
