//! The form of foreign text in messages, and examples of valid text.

use std::fmt;

/// The most characters of a text in a message.
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

/// Returns a name of 1 to 64 of `A-Z a-z 0-9 _ . -` that is close to `text`, as an example.
pub(crate) fn plain_name(text: &str) -> String {
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "_.-".contains(*letter);
    let letters = text.trim().chars().take(64);
    let name: String = letters
        .map(|letter| if is_plain(&letter) { letter } else { '-' })
        .collect();
    if name.bytes().any(|byte| byte.is_ascii_alphanumeric()) {
        name
    } else {
        "api".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn example_of_a_name_is_close_to_the_text() {
        for (text, name) in [
            ("per ip", "per-ip"),
            (" a:b{c}\n", "a-b-c-"),
            ("", "api"),
            ("é!", "api"),
            ("über", "-ber"),
        ] {
            assert_eq!(plain_name(text), name);
        }
        assert_eq!(plain_name(&"x".repeat(65)), "x".repeat(64));
    }

    #[test]
    fn long_text_is_cut_and_control_characters_are_escaped() {
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
