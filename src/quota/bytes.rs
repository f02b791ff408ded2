//! Sizes in bytes, as quota strings write them.

use std::fmt;

use super::Unit;

/// Units of bytes, largest first.
const UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

/// Returns the bytes of a unit; names have no case.
pub(super) fn unit(name: &str) -> Option<u64> {
    let known = UNITS.iter();
    let mut known = known.filter(|(known, _)| name.eq_ignore_ascii_case(known));
    known.next().map(|(_, bytes)| *bytes)
}

/// Writes tokens in their unit: bytes by the largest unit that divides them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Size(pub(super) u64, pub(super) Unit);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(tokens, unit) = *self;
        let divides = |bytes: u64| unit == Unit::ContentBytes && tokens.is_multiple_of(bytes);
        match UNITS.iter().find(|(_, bytes)| divides(*bytes)) {
            // Every unit divides 0.
            Some(_) if tokens == 0 => f.write_str("0B"),
            Some((name, bytes)) => write!(f, "{}{name}", tokens / bytes),
            None => write!(f, "{tokens}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn size_is_written_in_the_largest_unit_that_divides_it() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (1_000, "1kB"),
            (1_024, "1KiB"),
            (1_500, "1500B"),
            (10_000_000_000, "10GB"),
            (1 << 40, "1TiB"),
            (1_048_576_000, "1000MiB"),
        ] {
            assert_eq!(Size(bytes, Unit::ContentBytes).to_string(), text);
            assert_eq!(Size(bytes, Unit::Requests).to_string(), bytes.to_string());
        }
    }

    proptest! {
        #[test]
        fn size_reads_back(count: u64, shift in 0_u32..64, unit in 0..UNITS.len()) {
            let bytes = (count >> shift).saturating_mul(UNITS[unit].1);
            let text = Size(bytes, Unit::ContentBytes).to_string();
            let end = text.find(|letter: char| !letter.is_ascii_digit()).expect("a unit");
            let (digits, name) = text.split_at(end);
            let factor = super::unit(name).expect("a known unit");
            prop_assert_eq!(digits.parse::<u64>().expect("a number").checked_mul(factor), Some(bytes));
        }
    }
}
