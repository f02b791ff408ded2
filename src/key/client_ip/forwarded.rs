//! The field `Forwarded` (RFC 7239 §4).

use smallvec::SmallVec;

use super::element::Element;
use crate::key::text::{is_token, trim_start};

/// The elements of a line, first to last; `None` for an element without a client.
pub(super) type Elements<'a> = SmallVec<[Option<ForwardedValue<'a>>; 4]>;

/// The value of a parameter.
#[derive(Clone, Copy)]
pub(super) enum ForwardedValue<'a> {
    Token(&'a [u8]),
    /// The text between the quotes, with its escapes.
    Quoted(&'a [u8]),
}

/// Reads one line of the field; `None` after a syntax error anywhere in it.
pub(super) fn elements(line: &[u8]) -> Option<Elements<'_>> {
    let mut rest = ForwardedRest(line);
    let mut elements = Elements::new();
    loop {
        rest.skip_space();
        if rest.next_is(b',') {
            continue; // empty elements are ignored (RFC 9110 §5.6.1)
        }
        if rest.0.is_empty() {
            return Some(elements);
        }
        elements.push(rest.element()?);
        rest.skip_space();
        if !rest.next_is(b',') && !rest.0.is_empty() {
            return None;
        }
    }
}

impl ForwardedValue<'_> {
    pub(super) fn element(self) -> Element {
        match self {
            Self::Token(text) => Element::parse_node(text),
            Self::Quoted(text) if !text.contains(&b'\\') => Element::parse_node(text),
            Self::Quoted(text) => Element::parse_node(&unescaped(text)),
        }
    }
}

/// Removes the backslashes of quoted pairs.
fn unescaped(text: &[u8]) -> SmallVec<[u8; 64]> {
    let mut letters = text.iter();
    std::iter::from_fn(|| match letters.next()? {
        b'\\' => letters.next(),
        letter => Some(letter),
    })
    .copied()
    .collect()
}

/// The unread rest of a line.
struct ForwardedRest<'a>(&'a [u8]);

impl<'a> ForwardedRest<'a> {
    /// Reads `[ pair ] *( ";" [ pair ] )` with white space after `;`, and returns the value of `for`.
    fn element(&mut self) -> Option<Option<ForwardedValue<'a>>> {
        let mut client = None;
        let mut names: SmallVec<[&[u8]; 8]> = SmallVec::new();
        loop {
            if !self.0.is_empty() && !b";,".contains(&self.0[0]) {
                let (name, value) = self.pair()?;
                names.push(name);
                if name.eq_ignore_ascii_case(b"for") {
                    client = Some(value);
                }
            }
            if !self.next_is(b';') {
                break;
            }
            self.skip_space();
        }
        are_different(&mut names).then_some(client)
    }

    /// Reads `token "=" ( token / quoted-string )`.
    fn pair(&mut self) -> Option<(&'a [u8], ForwardedValue<'a>)> {
        let name = self.token()?;
        if !self.next_is(b'=') {
            return None;
        }
        let value = if self.next_is(b'"') {
            ForwardedValue::Quoted(self.until_quote()?)
        } else {
            ForwardedValue::Token(self.token()?)
        };
        Some((name, value))
    }

    fn token(&mut self) -> Option<&'a [u8]> {
        let end = self.0.iter().position(|letter| !is_token(*letter));
        let end = end.unwrap_or(self.0.len());
        (end > 0).then(|| self.take(end))
    }

    /// Reads up to the closing quote, and skips the quote. Any letter may be quoted.
    fn until_quote(&mut self) -> Option<&'a [u8]> {
        let mut end = 0;
        loop {
            match self.0.get(end)? {
                b'"' => break,
                b'\\' => {
                    self.0.get(end + 1)?;
                    end += 2;
                }
                _ => end += 1,
            }
        }
        let text = self.take(end);
        self.take(1);
        Some(text)
    }

    fn next_is(&mut self, letter: u8) -> bool {
        let is = self.0.first() == Some(&letter);
        if is {
            self.take(1);
        }
        is
    }

    fn skip_space(&mut self) {
        self.0 = trim_start(self.0);
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}

/// Returns whether all names differ. Sorts them, because a client can send very many.
fn are_different(names: &mut [&[u8]]) -> bool {
    names.sort_unstable_by(|a, b| {
        let (a, b) = (a.iter(), b.iter());
        a.map(u8::to_ascii_lowercase)
            .cmp(b.map(u8::to_ascii_lowercase))
    });
    let mut pairs = names.windows(2);
    !pairs.any(|pair| pair[0].eq_ignore_ascii_case(pair[1]))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// The elements of a line, from the left; `None` after a syntax error.
    fn read(line: &str) -> Option<Vec<Element>> {
        let element = |client: &Option<ForwardedValue<'_>>| {
            client.map_or(Element::Hidden, ForwardedValue::element)
        };
        elements(line.as_bytes()).map(|elements| elements.iter().map(element).collect())
    }

    fn address(text: &str) -> Element {
        Element::Address(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn elements_are_read_as_the_rfc_writes_them() {
        let (one, two) = (address("192.0.2.60"), address("2001:db8::17"));
        assert_eq!(
            read("for=192.0.2.60;proto=http;by=203.0.113.43"),
            Some(vec![one])
        );
        assert_eq!(
            read(
                "by=_x ,\tFOR=192.0.2.60;; proto=https;\thost=\"a,b;c=\\\"\",,for=\"[2001:db8::17]:4711\","
            ),
            Some(vec![Element::Hidden, one, two])
        );
        assert_eq!(read("for=\"192.0.\\2.60\""), Some(vec![one]));
        assert_eq!(
            read("for=\"\\_hidden\", for=\"\""),
            Some(vec![Element::Hidden, Element::Malformed])
        );
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read(" ,\t, "), Some(vec![]));
        assert_eq!(read(";, ;"), Some(vec![Element::Hidden; 2]));
        let long = "x".repeat(100);
        assert_eq!(
            read(&format!("for=\"\\_{long}\"")),
            Some(vec![Element::Hidden])
        );
    }

    #[test]
    fn malformed_header_line_is_rejected_as_a_whole() {
        for broken in [
            "for=192.0.2.60:80",
            "for=[2001:db8::17]",
            "for",
            "for=",
            "=192.0.2.60",
            "for =192.0.2.60",
            "for= 192.0.2.60",
            "for=\"192.0.2.60",
            "for=\"192.0.2.60\\\"",
            "for=\"192.0.2.60\\",
            "for=\"192.0.2.60\"x",
            "for=192.0.2.60 ;proto=x",
            "for=192.0.2.60 proto=x",
            "for=192.0.2.60;For=192.0.2.60",
            "a=1;b=2;A=3",
            "<script>",
            "for=a\"b\"",
        ] {
            assert_eq!(read(broken), None, "{broken}");
            assert_eq!(read(&format!("{broken}, for=192.0.2.60")), None, "{broken}");
        }
    }

    #[test]
    fn many_names_are_compared_quickly() {
        let pairs = |count: usize| {
            (0..count)
                .map(|index| format!("n{index:x}=0;"))
                .collect::<String>()
        };
        let start = std::time::Instant::now();
        assert_eq!(read(&pairs(8_000)).map(|elements| elements.len()), Some(1));
        assert_eq!(read(&format!("{}N0=0", pairs(8_000))), None);
        assert!(
            start.elapsed() < std::time::Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
}
