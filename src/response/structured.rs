//! Parses the structured fields (RFC 9651 §4.2) of rate limits: lists and dictionaries of items. A field with an inner
//! list does not parse, because no format has one.

/// The value of an item or of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    Integer(i64),
    String,
    Other,
}

impl Value {
    pub(super) fn count(self) -> Option<u64> {
        match self {
            Self::Integer(number) => u64::try_from(number).ok(),
            _ => None,
        }
    }
}

/// Whether a line is a list with at least one member, and `accepts` returns true for each. `accepts` gets an item and
/// the value of one parameter.
pub(super) fn is_list(
    line: &[u8],
    parameter: &[u8],
    mut accepts: impl FnMut(Value, Option<Value>) -> bool,
) -> bool {
    members(line, |rest| {
        let value = rest.bare_item()?;
        let value_of = rest.parameters(parameter)?;
        accepts(value, value_of).then_some(())
    })
}

/// Whether a line is a dictionary with at least one member. `see` gets the key and the value of each member.
pub(super) fn is_dictionary(line: &[u8], mut see: impl FnMut(&[u8], Value)) -> bool {
    members(line, |rest| {
        let key = rest.key()?;
        let value = if rest.takes(b'=') {
            rest.bare_item()?
        } else {
            Value::Other // a Boolean that is true
        };
        rest.parameters(b"")?;
        see(key, value);
        Some(())
    })
}

fn members<'a>(line: &'a [u8], mut member: impl FnMut(&mut Rest<'a>) -> Option<()>) -> bool {
    let mut rest = Rest(trim(line, b" "));
    let mut whole = || {
        loop {
            member(&mut rest)?;
            rest.skip(b" \t");
            if rest.0.is_empty() {
                return Some(());
            }
            rest.expect(b',')?;
            rest.skip(b" \t");
            // After a trailing comma, `member` fails because nothing is left.
        }
    };
    whole().is_some()
}

fn trim<'a>(mut text: &'a [u8], spaces: &[u8]) -> &'a [u8] {
    while let [first, rest @ ..] = text
        && spaces.contains(first)
    {
        text = rest;
    }
    while let [rest @ .., last] = text
        && spaces.contains(last)
    {
        text = rest;
    }
    text
}

/// The unread part of a line.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn takes(&mut self, byte: u8) -> bool {
        match self.0 {
            [first, rest @ ..] if *first == byte => {
                self.0 = rest;
                true
            }
            _ => false,
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.takes(byte).then_some(())
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.while_in(|byte| bytes.contains(&byte));
    }

    /// Reads the longest prefix of bytes of this kind.
    fn while_in(&mut self, is: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.0.iter().position(|byte| !is(*byte));
        let (start, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        start
    }

    /// §4.2.3.3
    fn key(&mut self) -> Option<&'a [u8]> {
        if !matches!(self.0.first()?, b'a'..=b'z' | b'*') {
            return None;
        }
        Some(
            self.while_in(
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
            ),
        )
    }

    /// §4.2.3.2: the value of the parameter `wanted`. Its last instance counts.
    fn parameters(&mut self, wanted: &[u8]) -> Option<Option<Value>> {
        let mut found = None;
        while self.takes(b';') {
            self.skip(b" ");
            let key = self.key()?;
            let value = if self.takes(b'=') {
                self.bare_item()?
            } else {
                Value::Other
            };
            if key == wanted {
                found = Some(value);
            }
        }
        Some(found)
    }

    /// §4.2.3.1
    fn bare_item(&mut self) -> Option<Value> {
        match self.0.first()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.string(),
            b'*' | b'A'..=b'Z' | b'a'..=b'z' => {
                self.while_in(is_token);
                Some(Value::Other)
            }
            b':' => self.byte_sequence(),
            b'?' => {
                self.next();
                matches!(self.next()?, b'0' | b'1').then_some(Value::Other)
            }
            b'@' => {
                self.next();
                match self.number()? {
                    Value::Integer(_) => Some(Value::Other),
                    _ => None,
                }
            }
            b'%' => self.display_string(),
            _ => None,
        }
    }

    /// §4.2.4: an integer has at most 15 digits. A decimal has at most 12 before the point and 1 to 3 after it.
    fn number(&mut self) -> Option<Value> {
        let is_negative = self.takes(b'-');
        let digits = self.while_in(|byte| byte.is_ascii_digit());
        if digits.is_empty() || digits.len() > 15 {
            return None;
        }
        if self.takes(b'.') {
            let fraction = self.while_in(|byte| byte.is_ascii_digit());
            let fits = digits.len() <= 12 && (1..=3).contains(&fraction.len());
            return fits.then_some(Value::Other);
        }
        let number = digits
            .iter()
            .fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        Some(Value::Integer(if is_negative { -number } else { number }))
    }

    /// §4.2.5
    fn string(&mut self) -> Option<Value> {
        self.expect(b'"')?;
        loop {
            match self.next()? {
                b'"' => return Some(Value::String),
                b'\\' => matches!(self.next()?, b'"' | b'\\').then_some(())?,
                b' '..=b'~' => {}
                _ => return None,
            }
        }
    }

    /// §4.2.7, with or without its padding.
    fn byte_sequence(&mut self) -> Option<Value> {
        self.expect(b':')?;
        let digits =
            self.while_in(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
        let padding = self.while_in(|byte| byte == b'=');
        self.expect(b':')?;
        let fits = match digits.len() % 4 {
            0 => padding.is_empty(),
            1 => false,
            2 => matches!(padding.len(), 0 | 2),
            _ => matches!(padding.len(), 0 | 1),
        };
        fits.then_some(Value::Other)
    }

    /// §4.2.10: UTF-8, with lower-case escapes for all but printable ASCII.
    fn display_string(&mut self) -> Option<Value> {
        self.expect(b'%')?;
        self.expect(b'"')?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'%' => {
                    let (high, low) = (digit(self.next()?)?, digit(self.next()?)?);
                    text.push(high << 4 | low);
                }
                byte @ b' '..=b'~' => text.push(byte),
                _ => return None,
            }
        }
        std::str::from_utf8(&text).is_ok().then_some(Value::Other)
    }
}

const fn digit(letter: u8) -> Option<u8> {
    match letter {
        b'0'..=b'9' => Some(letter - b'0'),
        b'a'..=b'f' => Some(letter - b'a' + 10),
        _ => None,
    }
}

/// §4.2.6, after the first letter.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
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
                | b':'
                | b'/'
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sfv::{BareItem, Dictionary, List, ListEntry, Parser};

    use super::*;

    fn value(item: &BareItem) -> Value {
        match item {
            BareItem::Integer(number) => Value::Integer((*number).into()),
            BareItem::String(_) => Value::String,
            _ => Value::Other,
        }
    }

    fn ours_of_list(line: &[u8]) -> Option<Vec<(Value, Option<Value>)>> {
        let mut members = Vec::new();
        let parses = is_list(line, b"q", |value, parameter| {
            members.push((value, parameter));
            true
        });
        parses.then_some(members)
    }

    fn theirs_of_list(line: &[u8]) -> Option<Vec<(Value, Option<Value>)>> {
        let list: List = Parser::new(line).parse().ok()?;
        let members = list.iter().map(|entry| match entry {
            ListEntry::Item(item) => {
                let parameter = item.params.get("q").map(value);
                Some((value(&item.bare_item), parameter))
            }
            ListEntry::InnerList(_) => None,
        });
        let members: Vec<_> = members.collect::<Option<_>>()?;
        (!members.is_empty()).then_some(members)
    }

    /// The last instance of a key counts, at the place of the first one.
    fn ours_of_dictionary(line: &[u8]) -> Option<Vec<(String, Value)>> {
        let mut members: Vec<(String, Value)> = Vec::new();
        let parses = is_dictionary(line, |key, value| {
            let key = String::from_utf8(key.to_vec()).expect("ASCII");
            match members.iter_mut().find(|(known, _)| *known == key) {
                Some(known) => known.1 = value,
                None => members.push((key, value)),
            }
        });
        members.sort_by(|a, b| a.0.cmp(&b.0));
        parses.then_some(members)
    }

    fn theirs_of_dictionary(line: &[u8]) -> Option<Vec<(String, Value)>> {
        let dictionary: Dictionary = Parser::new(line).parse().ok()?;
        let members = dictionary.iter().map(|(key, entry)| match entry {
            ListEntry::Item(item) => Some((key.as_str().to_owned(), value(&item.bare_item))),
            ListEntry::InnerList(_) => None,
        });
        let mut members: Vec<_> = members.collect::<Option<_>>()?;
        members.sort_by(|a, b| a.0.cmp(&b.0));
        (!members.is_empty()).then_some(members)
    }

    #[test]
    fn lines_are_read_as_an_independent_parser_reads_them() {
        for line in [
            r#""burst";q=100;w=60, "daily";q=1000;w=86400"#,
            r#""peruser";q=65535;qu="content-bytes";w=10;pk=:sdfjLJUOUH==:"#,
            "100;w=60, 10;w=1",
            r#""a\"b\\";q=1;q=2"#,
            "  \"a\"; q=1 ,\t\"b\"  ",
            "a;q, *t/:;q=?1, ?0, 1.5, -3;q=-4, @17, %\"f%c3%bc\", :YQ:, :YQ==:",
            "limit=100, remaining=50, reset=5",
            "limit=1, limit=2, a, b;c=3",
            "",
            ",",
            "1,",
            ",1",
            "1 2",
            "\"a",
            "\"\u{e9}\"",
            "(1 2)",
            "1234567890123456",
            "123456789012345",
            "1234567890123.1",
            "1.1234",
            "1.",
            "-",
            "?2",
            "@1.0",
            "%\"%C3\"",
            "%\"%c3\"",
            ":a:",
            "\"a\";Q=1",
            "\"a\"\t;q=1",
        ] {
            let bytes = line.as_bytes();
            assert_eq!(ours_of_list(bytes), theirs_of_list(bytes), "{line}");
            assert_eq!(
                ours_of_dictionary(bytes),
                theirs_of_dictionary(bytes),
                "{line}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read_as_an_independent_parser_reads_it(
            line in r#"((["a\\bq1=;, \t*:?@%.()-]){0,12}|("[a\\]{0,2}"|[0-9]{1,16}|q|:[aA=]{0,4}:|[?@%]"?[a-f0-9]{0,2}"?)((;|; )[qwQ](=[0-9"?1.]{1,4})?){0,2}(, ?)?){0,3}"#
        ) {
            let bytes = line.as_bytes();
            // Parsers differ in whether they accept truncated padding.
            prop_assume!(!line.contains('='.to_string().repeat(2).as_str()) && !line.contains("=:"));
            prop_assert_eq!(ours_of_list(bytes), theirs_of_list(bytes));
            prop_assert_eq!(ours_of_dictionary(bytes), theirs_of_dictionary(bytes));
        }
    }
}
