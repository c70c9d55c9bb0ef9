//! A file as modules. In: its tokens. Out: for each module what it declares, what it imports, and every path in it.

use super::tokens::{Kind, Token, closed, tokens};
use std::collections::{BTreeMap, BTreeSet};

/// A path as it is written: `["crate", "ir", "Graph"]`.
pub(crate) type Segments = Vec<String>;

/// An import by `use`.
#[derive(Clone, Debug)]
pub(crate) struct Import {
    /// The path without what it is renamed to.
    pub(crate) path: Segments,
    /// The name that it has here; `None` for a glob.
    pub(crate) name: Option<String>,
    /// Its line.
    pub(crate) line: usize,
}

/// What a module holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    /// Modules that stand in a file of their own.
    pub(crate) files: Vec<String>,
    /// Modules that are written out here.
    pub(crate) inline: BTreeMap<String, Module>,
    /// Names of the items that are declared here.
    pub(crate) items: BTreeSet<String>,
    /// Names in calls of macros among the items: they may be of items that the macro makes.
    pub(crate) made: BTreeSet<String>,
    /// Those items that stand at the root of the crate besides: exported macros.
    pub(crate) exported: BTreeSet<String>,
    /// Every `use`, re-exports and those within functions with them.
    pub(crate) imports: Vec<Import>,
    /// Every path of two names or more outside of imports, with its line.
    pub(crate) paths: Vec<(Segments, usize)>,
    /// Every name that stands alone, with the line where it is first: an import by a glob may be meant.
    pub(crate) names: BTreeMap<String, usize>,
}

impl Module {
    /// The module that is a file.
    pub(crate) fn read(text: &str) -> Module {
        let mut module = Module::default();
        module.scan(&tokens(text));
        module
    }

    /// Whether it only declares modules and re-exports.
    pub(crate) fn only_declares(&self) -> bool {
        self.items.is_empty() && self.names.is_empty() && self.paths.is_empty() && self.inline.is_empty()
    }

    /// Every path with its line, and the import if it is of one.
    pub(crate) fn every_path(&self) -> impl Iterator<Item = (&Segments, usize, Option<&Import>)> {
        let imports = self.imports.iter().map(|i| (&i.path, i.line, Some(i)));
        imports.chain(self.paths.iter().map(|(path, line)| (path, *line, None)))
    }

    fn scan(&mut self, tokens: &[Token]) {
        let mut i = 0;
        // How deep in brackets; a macro's call at the top is transparent, since items may be made in it.
        let (mut depth, mut calls) = (0usize, 0usize);
        let mut exported = false;
        while i < tokens.len() {
            let token = &tokens[i];
            let (before, after) = (i.checked_sub(1).map(|j| &tokens[j]), tokens.get(i + 1));
            let bang = before.is_some_and(|t| t.mark('!'))
                && i.checked_sub(2).is_some_and(|j| tokens[j].name().is_some_and(|n| n != "macro_rules"));
            match token.kind {
                Kind::Mark('#') if after.is_some_and(|t| t.mark('[') || t.mark('!')) => {
                    let from = if after.is_some_and(|t| t.mark('!')) { i + 2 } else { i + 1 };
                    if tokens.get(from).is_some_and(|t| t.mark('[')) {
                        let end = closed(tokens, from);
                        let attribute = &tokens[from + 1..end - 1];
                        assert!(
                            !attribute.first().is_some_and(|t| t.is("path")),
                            "#[path] is not understood"
                        );
                        exported |= attribute.first().is_some_and(|t| t.is("macro_export"));
                        // Its lone names are those of the attribute: only paths count.
                        let (mut inner, mut j) = (Module::default(), 0);
                        while j < attribute.len() {
                            j = inner.path(attribute, j);
                        }
                        self.paths.append(&mut inner.paths);
                        i = end;
                        continue;
                    }
                }
                Kind::Mark('(' | '[' | '{') if depth == 0 && bang => calls += 1,
                Kind::Mark('(' | '[' | '{') => depth += 1,
                Kind::Mark(')' | ']' | '}') if depth == 0 => calls = calls.saturating_sub(1),
                Kind::Mark(')' | ']' | '}') => depth -= 1,
                _ => {}
            }
            let name = token.name().unwrap_or("");
            let declared = after.and_then(Token::name);
            match name {
                // `pub(in crate::x)` says who sees it, and uses nothing.
                "pub" => {
                    let whom = tokens.get(i + 2).and_then(Token::name).unwrap_or("");
                    let scope = after.is_some_and(|t| t.mark('('))
                        && matches!(whom, "crate" | "self" | "super" | "in");
                    i = if scope { closed(tokens, i + 1) } else { i + 1 };
                    continue;
                }
                // What is captured, `use<'a>`, is no import.
                "use" if after.is_some_and(|t| !t.mark('<')) => {
                    let end = (i..tokens.len()).find(|&j| tokens[j].mark(';')).unwrap_or(tokens.len());
                    self.import(vec![], &tokens[i + 1..end]);
                    i = end + 1;
                    continue;
                }
                "mod" if depth == 0 && declared.is_some() => {
                    let child = declared.unwrap_or_default().to_owned();
                    if tokens.get(i + 2).is_some_and(|t| t.mark('{')) {
                        let end = closed(tokens, i + 2);
                        self.inline.entry(child).or_default().scan(&tokens[i + 3..end - 1]);
                        i = end;
                    } else {
                        self.files.push(child);
                        i += 3;
                    }
                    continue;
                }
                "fn" | "struct" | "enum" | "union" | "trait" | "type" | "const" | "static" if depth == 0 => {
                    let pointer = before.is_some_and(|t| t.mark('*'));
                    let name = match declared {
                        Some("mut") => tokens.get(i + 2).and_then(Token::name),
                        other => other,
                    };
                    self.items.extend(name.filter(|_| !pointer).map(str::to_owned));
                }
                "macro_rules" if depth == 0 && after.is_some_and(|t| t.mark('!')) => {
                    let name = tokens.get(i + 2).and_then(Token::name).unwrap_or_default().to_owned();
                    if exported {
                        self.exported.insert(name.clone());
                    }
                    self.items.insert(name);
                }
                _ => {}
            }
            if depth == 0 && calls > 0 {
                self.made.extend(token.name().map(str::to_owned));
            }
            if token.mark('}') || token.mark(';') {
                exported = false;
            }
            i = self.path(tokens, i);
        }
    }

    /// Notes the path or the lone name that begins at `i`, and gives the place behind it.
    fn path(&mut self, tokens: &[Token], i: usize) -> usize {
        let Some(first) = tokens[i].name() else { return i + 1 };
        // A field or method is no path of a module, and neither is what follows `::`, as in `<T as Trait>::Item` and `::std`.
        if i > 0 && (tokens[i - 1].mark('.') && !range(tokens, i) || tokens[i - 1].kind == Kind::Path) {
            return i + 1;
        }
        let mut segments = vec![first.to_owned()];
        let mut j = i + 1;
        while tokens.get(j).is_some_and(|t| t.kind == Kind::Path) {
            let Some(next) = tokens.get(j + 1).and_then(Token::name) else { break };
            segments.push(next.to_owned());
            j += 2;
        }
        if segments.len() > 1 {
            self.paths.push((segments, tokens[i].line));
        } else {
            self.names.entry(first.to_owned()).or_insert(tokens[i].line);
        }
        j
    }

    /// The imports of a tree such as `a::{b, c::{self, d as e}, f::*}`.
    fn import(&mut self, mut path: Segments, tree: &[Token]) {
        let mut i = 0;
        while i < tree.len() {
            match &tree[i].kind {
                Kind::Name(n) if n == "as" => break,
                Kind::Name(n) => path.push(n.clone()),
                Kind::Mark('*') => {
                    return self.imports.push(Import { path, name: None, line: tree[i].line });
                }
                Kind::Mark('{') => {
                    let end = closed(tree, i) - 1;
                    let mut from = i + 1;
                    let mut j = from;
                    while j < end {
                        if tree[j].mark(',') {
                            self.import(path.clone(), &tree[from..j]);
                            from = j + 1;
                        }
                        j = if tree[j].mark('{') { closed(tree, j) } else { j + 1 };
                    }
                    return if from < end {
                        self.import(path, &tree[from..end])
                    };
                }
                _ => {}
            }
            i += 1;
        }
        if path.len() > 1 && path.last().is_some_and(|n| n == "self") {
            path.pop();
        }
        let name = match tree.get(i + 1).and_then(Token::name) {
            Some(renamed) => Some(renamed.to_owned()),
            None => path.last().cloned(),
        };
        if let (Some(name), Some(first)) = (name, tree.first()) {
            self.imports.push(Import { path, name: Some(name), line: first.line });
        }
    }
}

/// Whether the dot before `i` is the last of `..`.
fn range(tokens: &[Token], i: usize) -> bool {
    i > 1 && tokens[i - 2].mark('.')
}
