//! Base64 (RFC 4648 §4) for field values.
//!
//! The crate `base64` is not in the dependency tree of the default features, and this encoder has 10 lines.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The digits of `bytes`, without padding.
pub(super) fn digits(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    bytes.chunks(3).flat_map(|chunk| {
        let byte = |index| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        let digit = move |index: usize| ALPHABET[(bits >> (18 - 6 * index)) as usize & 63];
        (0..=chunk.len()).map(digit)
    })
}

/// The padding that makes the digits of `length` bytes a multiple of four.
pub(super) fn padding(length: usize) -> &'static [u8] {
    [&b""[..], b"==", b"="][length % 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648 §10.
    #[test]
    fn the_examples_of_the_rfc() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (text, encoded) in examples {
            let padding = padding(text.len()).iter().copied();
            let bytes: Vec<u8> = digits(text.as_bytes()).chain(padding).collect();
            assert_eq!(bytes, encoded.as_bytes(), "{text}");
        }
        assert_eq!(digits(&[0xfb, 0xff]).collect::<Vec<_>>(), b"+/8");
    }
}
