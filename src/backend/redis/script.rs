//! The scripts of `lua/`: a frame with the sections of the algorithms that it serves.
//!
//! `--# name` in the first column begins a section. `--@name` on a line of its own is a placeholder for one. Repeated
//! code is written once and inserted here, so that a script in Redis is plain code without calls between its parts.

use std::sync::OnceLock;

use super::packed_quotas::Algorithms;

/// A script and its hash, computed once.
pub(super) struct Script {
    text: String,
    hash: redis::Script,
    /// A number below [`COUNT`](Self::COUNT), different for each script.
    index: usize,
}

/// The operation of a script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScriptKind {
    /// Decisions under one quota of one algorithm: the common case, in the shortest code.
    Check,
    Several,
    Penalize,
    Refund,
    Cancel,
    Reset,
    UpTo,
    /// The block of a key, which no algorithm decides.
    Block,
}

const TASKS: usize = 8;
/// The sets of algorithms.
const SETS: usize = 1 << Algorithms::COUNT;

static SCRIPTS: [[OnceLock<Script>; SETS]; TASKS] =
    [const { [const { OnceLock::new() }; SETS] }; TASKS];

const PRELUDE: &str = include_str!("../../../lua/prelude.lua");
const SHARED: &str = include_str!("../../../lua/shared.lua");
const CHECK: &str = include_str!("../../../lua/check.lua");
const OPERATION: &str = include_str!("../../../lua/operation.lua");

/// The files of the algorithms, by the letter that their quotas begin with.
const ALGORITHMS: [(char, &str); Algorithms::COUNT] = [
    ('b', include_str!("../../../lua/token_bucket.lua")),
    ('i', include_str!("../../../lua/interval_bucket.lua")),
    ('f', include_str!("../../../lua/fixed_window.lua")),
    ('s', include_str!("../../../lua/sliding_window.lua")),
    ('l', include_str!("../../../lua/sliding_log.lua")),
    ('t', include_str!("../../../lua/total.lua")),
    ('d', include_str!("../../../lua/calendar_window.lua")),
];

impl ScriptKind {
    /// Returns the file with the functions of a quota in the frame of an operation.
    const fn members(self) -> &'static str {
        match self {
            Self::Check | Self::Several => include_str!("../../../lua/several.lua"),
            Self::Penalize => include_str!("../../../lua/penalty.lua"),
            Self::Refund => include_str!("../../../lua/refund.lua"),
            Self::Cancel => include_str!("../../../lua/cancel.lua"),
            Self::Reset => include_str!("../../../lua/reset.lua"),
            Self::UpTo => include_str!("../../../lua/up_to.lua"),
            Self::Block => include_str!("../../../lua/block.lua"),
        }
    }
}

static SEMAPHORE: OnceLock<Script> = OnceLock::new();

impl Script {
    /// The number of scripts.
    pub(super) const COUNT: usize = TASKS * SETS + 1;

    /// Returns the script of all operations on permits.
    pub(super) fn semaphore() -> &'static Self {
        SEMAPHORE.get_or_init(|| {
            let mut text = String::new();
            expand(
                &mut text,
                include_str!("../../../lua/semaphore.lua"),
                &[SHARED],
                0,
            );
            Self::new(text, TASKS * SETS)
        })
    }

    /// Returns the script of `task` for `algorithms`.
    pub(super) fn get(task: ScriptKind, algorithms: Algorithms) -> &'static Self {
        SCRIPTS[task as usize][algorithms.bits()].get_or_init(|| {
            let text = compose(task, algorithms);
            Self::new(text, task as usize * SETS + algorithms.bits())
        })
    }

    fn new(text: String, index: usize) -> Self {
        let hash = redis::Script::new(&text);
        Self { text, hash, index }
    }

    pub(super) const fn index(&self) -> usize {
        self.index
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn hash(&self) -> &str {
        self.hash.get_hash()
    }
}

fn compose(task: ScriptKind, algorithms: Algorithms) -> String {
    let chosen = ALGORITHMS
        .iter()
        .enumerate()
        .filter(|(index, _)| algorithms.has(*index))
        .map(|(_, algorithm)| *algorithm);
    let mut text = String::new();
    if task == ScriptKind::Block {
        expand(&mut text, task.members(), &[SHARED], 0);
        return text;
    }
    if task == ScriptKind::Check {
        for (_, algorithm) in chosen.take(1) {
            expand(&mut text, CHECK, &[algorithm, SHARED], 0);
        }
        return text;
    }
    let (head, rest) = OPERATION.split_once("--@each\n").unwrap_or_default();
    let (each, tail) = rest.split_once("--@end\n").unwrap_or_default();
    expand(&mut text, head, &[task.members(), SHARED], 0);
    for (letter, algorithm) in chosen {
        let each = each.replace("@letter", &letter.to_string());
        expand(&mut text, &each, &[task.members(), algorithm, SHARED], 0);
    }
    expand(&mut text, tail, &[task.members(), SHARED], 0);
    text
}

/// Appends `frame` without comments. Each placeholder becomes its section of the first file that has it.
fn expand(text: &mut String, frame: &str, files: &[&str], depth: usize) {
    for line in frame.lines() {
        let code = line.trim_start();
        if let Some(name) = code.strip_prefix("--@") {
            assert!(depth < 8, "section `{name}` contains itself");
            if name == "prelude" {
                expand(text, PRELUDE, &[], depth + 1);
                continue;
            }
            let found = files.iter().find_map(|file| section(file, name));
            let found = found.unwrap_or_else(|| panic!("no section `{name}`"));
            expand(text, found, files, depth + 1);
        } else if !code.is_empty() && !code.starts_with("--") {
            text.push_str(code);
            text.push('\n');
        }
    }
}

/// Returns the lines of `file` between the head of this section and the next.
fn section<'a>(file: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("\n--# {name}\n");
    let start = file.find(&begin)? + begin.len();
    let rest = &file[start..];
    // The next head may follow at once, without a line break in front of it.
    let end = if rest.starts_with("--# ") {
        0
    } else {
        rest.find("\n--# ").map_or(rest.len(), |end| end + 1)
    };
    Some(&rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_is_complete() {
        let tasks = [
            ScriptKind::Check,
            ScriptKind::Several,
            ScriptKind::Penalize,
            ScriptKind::Refund,
            ScriptKind::Cancel,
            ScriptKind::Reset,
            ScriptKind::UpTo,
            ScriptKind::Block,
        ];
        for task in tasks {
            for bits in 1..SETS {
                let script = Script::get(task, Algorithms::from_bits(bits));
                assert!(
                    !script.text().contains("--"),
                    "{task:?} of {bits:b} has a placeholder left"
                );
                assert!(
                    script.text().ends_with("return answers\n"),
                    "{task:?} of {bits:b}"
                );
                assert_eq!(script.hash().len(), 40);
            }
        }
    }

    #[test]
    fn scripts_never_convert_numbers_to_text_implicitly() {
        for bits in 1..SETS {
            let text = Script::get(ScriptKind::Several, Algorithms::from_bits(bits)).text();
            assert!(!text.contains(" .. ") && !text.contains("math.random"));
            assert_eq!(text.matches("'TIME'").count(), 1);
        }
    }
}
