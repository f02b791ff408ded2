//! Text from outside, as messages show it.

use std::fmt;

/// The most characters of a text that a message shows.
const MOST: usize = 60;

/// Writes the text in quotes, with control characters escaped. A long text is cut and ends with `..`.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MOST) {
            Some((end, _)) => write!(f, "{:?}..", &self.0[..end]),
            None => write!(f, "{:?}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_and_a_control_character_is_escaped() {
        assert_eq!(Quoted("a'b\"\n\u{1b}").to_string(), r#""a'b\"\n\u{1b}""#);
        assert_eq!(
            Quoted(&"é".repeat(MOST)).to_string(),
            format!("{:?}", "é".repeat(MOST))
        );
        let long = "é".repeat(MOST + 1);
        assert_eq!(
            Quoted(&long).to_string(),
            format!("{:?}..", "é".repeat(MOST))
        );
    }
}
