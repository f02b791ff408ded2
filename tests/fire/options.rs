//! The relevant options of libtest.

use crate::Scenario;

pub(crate) struct Options {
    pub(crate) list: bool,
    pub(crate) exact: bool,
    /// `--ignored`: there are no such tests.
    pub(crate) nothing: bool,
    pub(crate) names: Vec<String>,
    pub(crate) skip: Vec<String>,
}

impl Options {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> Self {
        let mut options = Self {
            list: false,
            exact: false,
            nothing: false,
            names: Vec::new(),
            skip: Vec::new(),
        };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--list" => options.list = true,
                "--exact" => options.exact = true,
                "--ignored" => options.nothing = true,
                "--skip" => options.skip.extend(args.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed"
                | "-Z" => {
                    args.next();
                }
                other => match other.strip_prefix("--skip=") {
                    Some(name) => options.skip.push(name.to_owned()),
                    None if other.starts_with('-') => {}
                    None => options.names.push(arg),
                },
            }
        }
        options
    }

    pub(crate) fn wants(&self, scenario: &Scenario) -> bool {
        let is = |name: &String| match self.exact {
            true => scenario.name == name,
            false => scenario.name.contains(name.as_str()),
        };
        let named = self.names.is_empty() || self.names.iter().any(is);
        named && !self.nothing && !self.skip.iter().any(is)
    }
}
