//! The imports of one source file.

#[derive(Clone)]
pub(crate) struct Import {
    /// Segments from the root.
    pub(crate) path: Vec<String>,
    pub(crate) name: String,
    /// `pub use` makes a name available elsewhere; it is no dependency of this file.
    pub(crate) is_reexport: bool,
    pub(crate) is_statement: bool,
}

/// The paths that begin with `crate`, `super` or `self`, outside of comments and tests.
pub(crate) fn imports_of(text: &str, module: &[String]) -> Vec<Import> {
    let text = without_tests_and_comments(text);
    let mut imports = Vec::new();
    let mut rest = String::new();
    let mut left = text.as_str();
    while let Some(at) = find_statement(left) {
        let (before, statement) = left.split_at(at);
        rest.push_str(before);
        let end = statement.find(';').unwrap_or(statement.len());
        let is_reexport = before.trim_end().ends_with(['b', ')']) && {
            let word = before
                .trim_end()
                .rsplit(char::is_whitespace)
                .next()
                .unwrap_or_default();
            word.starts_with("pub")
        };
        let list = statement[..end]
            .trim_start_matches("use ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        for (path, name) in expand(&list) {
            imports.extend(absolute(&path, module).map(|path| Import {
                path,
                name,
                is_reexport,
                is_statement: true,
            }));
        }
        left = &statement[end..];
    }
    rest.push_str(left);
    imports.extend(inline_paths(&rest, module));
    imports
}

fn without_tests_and_comments(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| match line.trim_start().starts_with("//") {
            true => "",
            false => line.split(" // ").next().unwrap_or_default(),
        });
    let text = lines.collect::<Vec<_>>().join("\n");
    // Tests end their file.
    let end = text.find("\nmod tests {").unwrap_or(text.len());
    text[..end].to_owned()
}

/// The position of the next `use` statement.
fn find_statement(text: &str) -> Option<usize> {
    let starts = text.match_indices("use ").map(|(at, _)| at);
    let mut starts = starts.filter(|at| {
        let before = text[..*at].trim_end_matches(' ');
        before.is_empty()
            || before.ends_with(['\n', ';', '{', '}'])
            || before.ends_with("pub")
            || before.ends_with(')')
    });
    starts.next()
}

/// `a::{b, c::D as E}` as `(a::b, b)` and `(a::c::D, E)`.
fn expand(list: &str) -> Vec<(Vec<String>, String)> {
    let list = list.trim();
    let Some(open) = list.find('{') else {
        let (path, name) = list
            .split_once(" as ")
            .map_or((list, None), |(path, name)| (path, Some(name)));
        let mut path: Vec<_> = path
            .split("::")
            .map(|part| part.trim().to_owned())
            .collect();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = name.map_or_else(
            || path.last().cloned().unwrap_or_default(),
            |name| name.trim().to_owned(),
        );
        return vec![(path, name)];
    };
    let prefix: Vec<_> = list[..open]
        .split("::")
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect();
    let inner = list[open + 1..].trim_end().trim_end_matches('}');
    let mut members = vec![String::new()];
    let mut depth = 0;
    for letter in inner.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                members.push(String::new());
                continue;
            }
            _ => {}
        }
        members.last_mut().expect("one at least").push(letter);
    }
    let members = members.iter().filter(|member| !member.trim().is_empty());
    let expanded = members.flat_map(|member| {
        // A nested list may have lost its brace to the outer one.
        let open = member
            .matches('{')
            .count()
            .saturating_sub(member.matches('}').count());
        expand(&format!("{member}{}", "}".repeat(open)))
    });
    let whole = expanded.map(|(path, name)| {
        if path == ["self"] {
            return (prefix.clone(), prefix.last().cloned().unwrap_or_default());
        }
        (prefix.iter().cloned().chain(path).collect(), name)
    });
    whole.collect()
}

fn inline_paths(text: &str, module: &[String]) -> Vec<Import> {
    let mut imports = Vec::new();
    for root in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|letter| letter.is_alphanumeric() || matches!(letter, '_' | ':'))
            {
                continue;
            }
            let end = text[at..]
                .find(|letter: char| !(letter.is_alphanumeric() || matches!(letter, '_' | ':')));
            let path = &text[at..end.map_or(text.len(), |end| at + end)];
            let path: Vec<_> = path
                .split("::")
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect();
            let name = path.last().cloned().unwrap_or_default();
            // `pub(in crate::backend)` and `pub(super)` import nothing.
            if text[..at].ends_with("(in ") {
                continue;
            }
            imports.extend(absolute(&path, module).map(|path| Import {
                path,
                name,
                is_reexport: false,
                is_statement: false,
            }));
        }
    }
    imports
}

/// A path from the root of the crate; none of another crate.
fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut base = module.to_vec();
    let mut parts = path.iter();
    match parts.next().map(String::as_str) {
        Some("crate") => base.clear(),
        Some("self") => {}
        Some("super") => {
            base.pop();
        }
        _ => return None,
    }
    for part in parts {
        if part == "super" {
            base.pop();
        } else if part != "*" {
            base.push(part.clone());
        }
    }
    Some(base)
}
