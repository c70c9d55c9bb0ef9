//! Who uses whom. In: the files of `src`. Out: for every two files the paths by which one uses an item that the other owns.
//!
//! A path is followed through renamed and nested imports, aliases of modules, re-exports and globs to the file that declares
//! the item. A module alone is no item: `use crate::ir;` uses nothing, `ir::Graph` uses the file that declares `Graph`.

use super::module::{Import, Module, Segments};
use std::collections::{BTreeMap, BTreeSet};

/// The files of `src`: their text by their path within it.
pub(crate) type Files = BTreeMap<String, String>;

/// The paths, with the line where each is first, by which a file uses another.
pub(crate) type Paths = BTreeMap<String, usize>;

/// Which file uses which.
#[derive(Debug, Default)]
pub(crate) struct Uses {
    /// The files that are compiled outside of tests, and the modules that they are: `find/mod.rs` is `["find"]`.
    pub(crate) files: BTreeMap<String, Segments>,
    /// By user and used.
    pub(crate) edges: BTreeMap<(String, String), Paths>,
    /// Paths that begin in the crate and of which no declaration is found, with their place.
    pub(crate) unknown: Vec<String>,
}

/// A module of a crate, by its index.
type Id = usize;

struct Node {
    file: String,
    parent: Option<Id>,
    children: BTreeMap<String, Id>,
    held: Module,
}

/// What a name stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Def {
    Module(Id),
    /// An item that this module declares.
    Item(Id),
}

struct House<'a> {
    files: &'a Files,
    nodes: Vec<Node>,
}

/// The root of the library.
const LIBRARY: Id = 0;

/// Reads the library `lib.rs` and, where there is one, the binary `main.rs`.
pub(crate) fn uses(files: &Files) -> Uses {
    let mut house = House { files, nodes: vec![] };
    for root in ["lib.rs", "main.rs"] {
        if let Some(text) = files.get(root) {
            house.load(root, None, Module::read(text));
        }
    }
    let mut out = Uses::default();
    for id in 0..house.nodes.len() {
        out.files.entry(house.nodes[id].file.clone()).or_insert_with(|| house.path(id));
        house.edges(id, &mut out);
    }
    out
}

impl House<'_> {
    fn load(&mut self, file: &str, parent: Option<Id>, held: Module) -> Id {
        let id = self.nodes.len();
        let (inline, in_files) = (held.inline.clone(), held.files.clone());
        self.nodes.push(Node { file: file.to_owned(), parent, children: BTreeMap::new(), held });
        for (name, module) in inline {
            let child = self.load(file, Some(id), module);
            self.nodes[id].children.insert(name, child);
        }
        // Modules in files within an inline module stand in a folder of its name: this house has none.
        let folder = match file.rsplit_once('/') {
            _ if matches!(file, "lib.rs" | "main.rs") => String::new(),
            Some((folder, "mod.rs")) => format!("{folder}/"),
            _ => format!("{}/", file.trim_end_matches(".rs")),
        };
        for name in in_files {
            let candidates = [format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")];
            let found = candidates.iter().find_map(|f| self.files.get(f).map(|text| (f, text)));
            let Some((file, text)) = found else { panic!("{file} declares {name}, which has no file") };
            let child = self.load(file, Some(id), Module::read(text));
            self.nodes[id].children.insert(name, child);
        }
        id
    }

    /// The path of a module's file from the root of its crate.
    fn path(&self, id: Id) -> Segments {
        let Some(parent) = self.nodes[id].parent else { return vec![] };
        let mut path = self.path(parent);
        if self.nodes[id].file != self.nodes[parent].file {
            let own = self.nodes[parent].children.iter().find(|(_, child)| **child == id);
            path.extend(own.map(|(name, _)| name.clone()));
        }
        path
    }

    fn root(&self, id: Id) -> Id {
        self.nodes[id].parent.map_or(id, |parent| self.root(parent))
    }

    /// What a name stands for in a module; nothing if it comes from outside of the crate.
    fn lookup(&self, id: Id, name: &str, seen: &mut BTreeSet<(Id, String)>) -> BTreeSet<Def> {
        if !seen.insert((id, name.to_owned())) {
            return BTreeSet::new();
        }
        let node = &self.nodes[id];
        let mut found: BTreeSet<Def> = node.children.get(name).map(|&c| Def::Module(c)).into_iter().collect();
        if node.held.items.contains(name) {
            found.insert(Def::Item(id));
        }
        for import in node.held.imports.iter().filter(|i| i.name.as_deref() == Some(name)) {
            found.extend(self.resolve(id, &import.path, seen).unwrap_or_default());
        }
        if node.parent.is_none() {
            let exported = (0..self.nodes.len()).filter(|&m| self.root(m) == id);
            found.extend(exported.filter(|&m| self.nodes[m].held.exported.contains(name)).map(Def::Item));
        }
        if found.is_empty() && node.held.made.contains(name) {
            found.insert(Def::Item(id));
        }
        if found.is_empty() {
            for glob in node.held.imports.iter().filter(|i| i.name.is_none()) {
                for def in self.resolve(id, &glob.path, seen).unwrap_or_default() {
                    if let Def::Module(m) = def {
                        found.extend(self.lookup(m, name, seen));
                    }
                }
            }
        }
        found
    }

    /// What a path stands for, seen from a module; `None` if it does not begin in the crate.
    fn resolve(&self, id: Id, path: &[String], seen: &mut BTreeSet<(Id, String)>) -> Option<BTreeSet<Def>> {
        let mut i = 1;
        let mut at = match path.first()?.as_str() {
            "crate" => BTreeSet::from([Def::Module(self.root(id))]),
            "self" => BTreeSet::from([Def::Module(id)]),
            "super" => {
                let mut up = self.nodes[id].parent?;
                while path.get(i).is_some_and(|s| s == "super") {
                    (up, i) = (self.nodes[up].parent?, i + 1);
                }
                BTreeSet::from([Def::Module(up)])
            }
            "annulus" if self.root(id) != LIBRARY => BTreeSet::from([Def::Module(LIBRARY)]),
            name => self.lookup(id, name, seen),
        };
        if at.is_empty() {
            return None;
        }
        for segment in &path[i..] {
            // A name may be a module and a function: only the module has something within.
            if at.iter().any(|d| matches!(d, Def::Module(_))) {
                at.retain(|d| matches!(d, Def::Module(_)));
            }
            let mut next = BTreeSet::new();
            for def in at {
                match def {
                    Def::Module(m) => next.extend(self.lookup(m, segment, seen)),
                    Def::Item(_) => drop(next.insert(def)),
                }
            }
            at = next;
        }
        Some(at)
    }

    /// Every use that a module makes of other files.
    fn edges(&self, id: Id, out: &mut Uses) {
        let held = &self.nodes[id].held;
        for (path, line, import) in held.every_path() {
            let Some(mut defs) = self.resolve(id, path, &mut BTreeSet::new()) else { continue };
            if defs.is_empty() {
                out.unknown.push(format!("{}:{line}: {}", self.nodes[id].file, path.join("::")));
            }
            // Where the name that is imported is a module and an item, the item is used only if the name stands alone.
            let module = defs.iter().any(|d| matches!(d, Def::Module(_)));
            let name = import.and_then(|i| i.name.as_ref());
            if module && name.is_some_and(|n| !held.names.contains_key(n) && !held.only_declares()) {
                defs.clear();
            }
            self.note(id, &defs, path, line, out);
        }
        for glob in held.imports.iter().filter(|i| i.name.is_none()) {
            self.glob(id, glob, out);
        }
    }

    /// What comes by a glob is what has its name here.
    fn glob(&self, id: Id, glob: &Import, out: &mut Uses) {
        let held = &self.nodes[id].held;
        let named = held.paths.iter().map(|(p, line)| (&p[0], *line));
        let named: Vec<_> = named.chain(held.names.iter().map(|(n, line)| (n, *line))).collect();
        for def in self.resolve(id, &glob.path, &mut BTreeSet::new()).unwrap_or_default() {
            let Def::Module(m) = def else { continue };
            for &(name, line) in &named {
                let own =
                    held.items.contains(name) || held.imports.iter().any(|i| i.name.as_ref() == Some(name));
                if !own {
                    let defs = self.lookup(m, name, &mut BTreeSet::new());
                    let path = [&glob.path[..], std::slice::from_ref(name)].concat();
                    self.note(id, &defs, &path, line, out);
                }
            }
        }
    }

    fn note(&self, id: Id, defs: &BTreeSet<Def>, path: &[String], line: usize, out: &mut Uses) {
        let from = &self.nodes[id].file;
        for def in defs {
            let Def::Item(owner) = *def else { continue };
            let to = &self.nodes[owner].file;
            // A file that only re-exports what stands below it makes no use of it.
            let below = to.starts_with(from.trim_end_matches("mod.rs")) || self.nodes[id].parent.is_none();
            let passes_on = self.nodes[id].held.only_declares() && below;
            if from != to && !passes_on {
                let paths = out.edges.entry((from.clone(), to.clone())).or_default();
                paths.entry(path.join("::")).or_insert(line);
            }
        }
    }
}
