//! Functions on the text of header fields and queries.

use percent_encoding::percent_decode;

/// Removes white space at both ends.
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

/// Decodes `%41`, and replaces `+` by `plus`. A `%` without two hexadecimal digits stands for itself.
pub(super) fn decoded(text: &[u8], plus: u8) -> impl Iterator<Item = u8> {
    // An escape never spans a `+`, so the pieces between them can be decoded one by one.
    let pieces = text.split(|letter| *letter == b'+').enumerate();
    pieces.flat_map(move |(index, piece)| {
        let plus = (index > 0).then_some(plus);
        plus.into_iter().chain(percent_decode(piece))
    })
}

/// Returns whether a letter may be in a token (RFC 9110 §5.6.2).
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
