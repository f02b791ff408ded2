/// Appends `text` in double quotes, with `"` and `\` escaped.
///
/// `text` is printable ASCII, as the names of policies and quotas are. So the result is a JSON string (RFC 8259 §7) and
/// a string of structured fields (RFC 9651 §4.1.6).
pub(super) fn push_quoted(text: &str, out: &mut String) {
    debug_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}
