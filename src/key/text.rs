//! What the extractors read of text.

/// Without white space at both ends.
pub(super) fn trim(text: &[u8]) -> &[u8] {
    let mut text = trim_start(text);
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

pub(super) fn trim_start(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    text
}

/// With what is escaped as `%41` decoded, and `plus` for a `+`; a `%` that nothing follows stands for itself.
pub(super) fn decoded(text: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (letter, after) = rest.split_first()?;
        rest = after;
        Some(match letter {
            b'+' => plus,
            b'%' => match after {
                [high, low, after @ ..] => match (digit(*high), digit(*low)) {
                    (Some(high), Some(low)) => {
                        rest = after;
                        high << 4 | low
                    }
                    _ => b'%',
                },
                _ => b'%',
            },
            letter => *letter,
        })
    })
}

fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        b'A'..=b'F' => Some(letter - b'A' + 10),
        _ => None,
    }
}

/// Whether a letter may be in a token (RFC 9110 §5.6.2).
pub(super) const fn is_token(letter: u8) -> bool {
    letter.is_ascii_alphanumeric()
        || matches!(
            letter,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}
