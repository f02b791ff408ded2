//! Imports point downwards. The test resolves `crate::`, `super::` and `self::` paths outside of tests to the files
//! that define the imported names. It fails on an import of a higher floor and on a circle.

mod imports;

use imports::{Import, imports_of};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules of each floor, the lowest first. A module imports from its own floor without circles, and from lower
/// floors. Where a folder lies on two floors, the longest name counts.
const FLOORS: &[&[&str]] = &[
    &[
        "budget",
        "clock",
        "head",
        "message",
        "model",
        "park",
        "quota",
        "slots",
        "switch",
        "sync",
        "telemetry",
    ],
    &[
        "algorithm",
        "cost",
        "decision",
        "key",
        "partition",
        "policy",
        "wait",
    ],
    &["backend"],
    &[
        "backend/any",
        "backend/local",
        "backend/memory",
        "backend/redis",
        "backend/test_util",
    ],
    &["blocking", "limiter", "semaphore"],
    &["response"],
    &["concurrency", "drain", "limit", "middleware"],
    &["_guide", "lib", "metrics"],
];

/// The imports of one source file.
#[derive(Default)]
struct Source {
    imports: Vec<Import>,
}

/// The sources by their names: `limit/service`, `limit` for `limit/mod.rs`, and `lib`.
struct Crate {
    files: BTreeMap<String, Source>,
    by_module: BTreeMap<Vec<String>, String>,
}

type Graph = BTreeMap<String, BTreeSet<String>>;

#[test]
fn imports_point_downwards_and_form_no_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = Crate::read(&root).imports();
    let table = table();
    println!("{table}");
    let mut faults = unknown_modules(&files);
    faults.extend(upward_imports(&files));
    faults.extend(circles(&files).map(|circle| format!("circle of files: {circle}")));
    faults.extend(circles(&by_module(&files)).map(|circle| format!("circle of modules: {circle}")));
    assert!(faults.is_empty(), "{}\n", faults.join("\n"));
    let page =
        fs::read_to_string(root.join("../ARCHITECTURE.md")).expect("ARCHITECTURE.md is there");
    assert!(
        page.contains(&table),
        "ARCHITECTURE.md lacks this table:\n{table}"
    );
}

#[test]
fn public_modules_and_types_of_the_root_link_to_the_guide() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let lib = fs::read_to_string(root.join("lib.rs")).expect("lib.rs is there");
    let sources = rust_files(&root);
    let mut missing = Vec::new();
    let mut count = 0;
    let modules = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    for module in modules.filter(|module| *module != "_guide" && *module != "model") {
        let head = [format!("{module}.rs"), format!("{module}/mod.rs")]
            .iter()
            .find_map(|file| fs::read_to_string(root.join(file)).ok())
            .unwrap_or_else(|| panic!("no file of {module}"));
        count += 1;
        if !head
            .lines()
            .any(|line| line.starts_with("//!") && line.contains("_guide::"))
        {
            missing.push(module);
        }
    }
    let exports = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub use self::")?.strip_suffix(';'));
    for name in exports.flat_map(|path| {
        path.rsplit("::")
            .next()
            .unwrap_or_default()
            .split([',', '{', '}', ' '])
    }) {
        let is_item = name.starts_with(char::is_uppercase) || name.ends_with("_fn");
        if !is_item {
            continue;
        }
        count += 1;
        if !sources
            .iter()
            .any(|source| docs_of(source, name).contains("_guide::"))
        {
            missing.push(name);
        }
    }
    assert!(count > 40, "{count} modules and types");
    assert!(
        missing.is_empty(),
        "add a line such as `Guide: [..](crate::_guide::keys).` to {missing:?}"
    );
}

fn rust_files(folder: &Path) -> Vec<String> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(folder).expect("a readable folder") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            sources.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(fs::read_to_string(&path).expect("a readable file"));
        }
    }
    sources
}

/// The doc comment of the item `name`; empty if the source does not define it.
fn docs_of(source: &str, name: &str) -> String {
    let lines: Vec<&str> = source.lines().collect();
    let defines = |line: &str| {
        let item = ["struct ", "enum ", "trait ", "fn ", "type "];
        let rest = line.strip_prefix("pub ");
        let rest = rest.and_then(|line| item.iter().find_map(|item| line.strip_prefix(item)));
        rest.and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let Some(at) = lines.iter().position(|line| defines(line)) else {
        return String::new();
    };
    // The comment is above the item and its attributes.
    let before = lines[..at].iter().rev().take_while(|line| !line.is_empty());
    before
        .filter(|line| line.starts_with("///"))
        .copied()
        .collect()
}

#[test]
fn an_upward_import_and_a_circle_are_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*to).to_owned()).or_default();
            graph
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        graph
    };
    let upward = graph(&[("quota/parse", "limit/layer")]);
    assert_eq!(upward_imports(&upward).len(), 1);
    assert_eq!(
        upward_imports(&graph(&[("limit/layer", "quota/parse")])).len(),
        0
    );
    let circle = graph(&[
        ("key/peer", "key/header"),
        ("key/header", "key/peer"),
        ("key/peer", "head"),
    ]);
    assert_eq!(circles(&circle).count(), 1);
    assert_eq!(circles(&by_module(&circle)).count(), 0);
    let modules = graph(&[("key/peer", "cost/route"), ("cost/header", "key/header")]);
    assert_eq!(circles(&modules).count(), 0);
    assert_eq!(circles(&by_module(&modules)).count(), 1);
}

#[test]
fn paths_are_resolved_through_reexports_and_lists() {
    let mut sources = Crate {
        files: BTreeMap::new(),
        by_module: BTreeMap::new(),
    };
    let lib = "pub mod a; pub mod b; pub use self::a::Thing;";
    sources.add("lib", &[], lib);
    sources.add(
        "a",
        &["a"],
        "mod inner; pub use self::inner::{Other, Thing};",
    );
    sources.add(
        "a/inner",
        &["a", "inner"],
        "pub struct Thing; pub struct Other;",
    );
    let b = "use crate::{a::{self, Other as Renamed}, Thing};\n// use crate::a::Comment;\n\
             fn f() { crate::a::inner::g(); }\n\
             #[cfg(test)]\nmod tests {\n use crate::Nothing;\n}\n";
    sources.add("b", &["b"], b);
    let graph = sources.imports();
    let of_b: Vec<_> = graph["b"].iter().map(String::as_str).collect();
    assert_eq!(of_b, ["a", "a/inner"]);
    assert!(
        graph["a"].is_empty() && graph["lib"].is_empty(),
        "a re-export is no import"
    );
}

impl Crate {
    fn read(root: &Path) -> Self {
        let mut sources = Self {
            files: BTreeMap::new(),
            by_module: BTreeMap::new(),
        };
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of sources") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    sources.read_file(root, &path);
                }
            }
        }
        assert!(sources.files.len() > 50, "the sources are read");
        sources
    }

    fn read_file(&mut self, root: &Path, path: &Path) {
        let relative: PathBuf = path
            .strip_prefix(root)
            .expect("below the root")
            .with_extension("");
        let mut segments: Vec<_> = relative
            .iter()
            .map(|part| part.to_str().expect("UTF-8"))
            .collect();
        // Files of tests alone.
        if matches!(segments.last(), Some(&("tests" | "vectors"))) {
            return;
        }
        if segments.last() == Some(&"mod") {
            segments.pop();
        }
        let name = segments.join("/");
        let module = if name == "lib" { Vec::new() } else { segments };
        self.add(&name, &module, &fs::read_to_string(path).expect("a source"));
    }

    fn add(&mut self, name: &str, module: &[&str], text: &str) {
        let module: Vec<_> = module.iter().map(|part| (*part).to_owned()).collect();
        let imports = imports_of(text, &module);
        self.by_module.insert(module.clone(), name.to_owned());
        self.files.insert(name.to_owned(), Source { imports });
    }

    /// The imports of each file, as files.
    fn imports(&self) -> Graph {
        let mut graph = Graph::new();
        for (name, source) in &self.files {
            let targets = source.imports.iter().filter(|import| !import.is_reexport);
            let targets = targets.filter_map(|import| self.resolve(&import.path, 0));
            graph.insert(
                name.clone(),
                targets.filter(|target| target != name).collect(),
            );
        }
        graph
    }

    /// The file that defines the item of a path.
    fn resolve(&self, path: &[String], depth: usize) -> Option<String> {
        let mut module = Vec::new();
        for segment in path {
            let mut deeper = module.clone();
            deeper.push(segment.clone());
            if self.by_module.contains_key(&deeper) {
                module = deeper;
                continue;
            }
            let here = &self.files[self.by_module.get(&module)?];
            let reexport = here
                .imports
                .iter()
                .find(|import| import.is_statement && import.name == *segment);
            return match reexport {
                Some(import) if depth < 8 => self.resolve(&import.path, depth + 1),
                _ => Some(self.by_module[&module].clone()),
            };
        }
        self.by_module.get(&module).cloned()
    }
}

/// The module of a file, and its floor: the longest name that fits.
fn floor(file: &str) -> Option<(usize, &'static str)> {
    let names = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, names)| names.iter().map(move |name| (floor, *name)));
    let fits = |name: &str| {
        file == name
            || file
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    names
        .filter(|(_, name)| fits(name))
        .max_by_key(|(_, name)| name.len())
}

fn unknown_modules(files: &Graph) -> Vec<String> {
    let unknown = files.keys().filter(|file| floor(file).is_none());
    unknown
        .map(|file| format!("src/{file}.rs is on no floor: add its module to FLOORS"))
        .collect()
}

fn upward_imports(files: &Graph) -> Vec<String> {
    let mut faults = Vec::new();
    for (from, to) in files
        .iter()
        .flat_map(|(from, targets)| targets.iter().map(move |to| (from, to)))
    {
        if let (Some((low, _)), Some((high, _))) = (floor(from), floor(to))
            && low < high
        {
            faults.push(format!(
                "upward import: {from} (floor {low}) imports from {to} (floor {high})"
            ));
        }
    }
    faults
}

fn by_module(files: &Graph) -> Graph {
    let mut modules = Graph::new();
    let module =
        |file: &str| floor(file).map_or_else(|| file.to_owned(), |(_, name)| name.to_owned());
    for (from, targets) in files {
        let entry = modules.entry(module(from)).or_default();
        entry.extend(
            targets
                .iter()
                .map(|to| module(to))
                .filter(|to| *to != module(from)),
        );
    }
    modules
}

/// The sets of nodes that reach each other, each as a text.
fn circles(graph: &Graph) -> impl Iterator<Item = String> {
    let reach: BTreeMap<_, _> = graph
        .keys()
        .map(|node| (node, reachable(graph, node)))
        .collect();
    let mut circles = BTreeSet::new();
    for (node, reached) in &reach {
        let both = |other: &&String| reach.get(*other).is_some_and(|back| back.contains(*node));
        let circle: BTreeSet<_> = reached.iter().filter(both).cloned().collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles
        .into_iter()
        .map(|circle| circle.into_iter().collect::<Vec<_>>().join(", "))
}

fn reachable(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(node) = open.pop() {
        for next in graph.get(&node).into_iter().flatten() {
            if reached.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    reached
}

/// The floors as they stand in ARCHITECTURE.md, the highest first.
fn table() -> String {
    let mut table = String::from("| floor | modules |\n|---|---|\n");
    for (floor, modules) in FLOORS.iter().enumerate().rev() {
        let modules: Vec<_> = modules.iter().map(|module| format!("`{module}`")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(table, "| {floor} | {} |", modules.join(", "));
    }
    table
}
