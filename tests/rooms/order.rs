//! What is wrong with an order of rooms. In: who uses whom, and the order in which rooms may use each other. Out: every circle
//! and every use against the order, in words.
//!
//! A room is a module with what stands below it; there are rooms within rooms. A circle between files makes rooms that cannot
//! be read one after the other, however the files are named; a circle between rooms may be one where no file is in a circle.

use super::module::Segments;
use super::uses::{Files, Paths, Uses, uses};
use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The words before the order in the documentation of `lib.rs`.
const ORDER: &str = "//! Order of use: ";

/// How many paths of a use are shown.
const SHOWN: usize = 5;

/// Everything that is wrong with a house in which `check` may use these files of other rooms.
pub(crate) fn faults(files: &Files, check_may_use: &[&str]) -> Vec<String> {
    let used = uses(files);
    let mut out: Vec<String> =
        used.unknown.iter().map(|place| format!("no declaration is found of what {place} names")).collect();
    out.extend(file_circles(&used));
    out.extend(room_circles(&used));
    out.extend(against_order(&used, files.get("lib.rs").map_or("", String::as_str)));
    out.extend(check_alone(&used, check_may_use));
    out
}

/// Edges with the uses that make them.
type Edges<'a> = BTreeMap<(&'a str, &'a str), Vec<String>>;

/// A use in words.
fn word((from, to): (&String, &String), paths: &Paths) -> String {
    let mut lines: Vec<_> = paths.iter().map(|(path, line)| (*line, path)).collect();
    lines.sort();
    let shown: Vec<&str> = lines.iter().take(SHOWN).map(|(_, path)| path.as_str()).collect();
    let more = match lines.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    format!("{from}:{} uses {to}: {}{more}", lines[0].0, shown.join(", "))
}

fn file_circles(used: &Uses) -> Vec<String> {
    let mut edges = Edges::new();
    for ((from, to), paths) in &used.edges {
        edges.insert((from, to), vec![word((from, to), paths)]);
    }
    circles(&edges).into_iter().map(|(all, way)| format!("circle between files {all}{way}")).collect()
}

fn room_circles(used: &Uses) -> Vec<String> {
    let mut rooms: BTreeSet<&[String]> = BTreeSet::new();
    for path in used.files.values() {
        rooms.extend((0..path.len()).map(|n| &path[..n]));
    }
    let mut out = vec![];
    for room in rooms {
        let child = |file: &String| {
            let path = &used.files[file];
            (path.len() > room.len() && path.starts_with(room)).then(|| path[room.len()].as_str())
        };
        let mut edges = Edges::new();
        for ((from, to), paths) in &used.edges {
            if let (Some(a), Some(b)) = (child(from), child(to))
                && a != b
            {
                edges.entry((a, b)).or_default().push(word((from, to), paths));
            }
        }
        let name = if room.is_empty() { "the house".to_owned() } else { room.join("/") };
        let single = |rooms: &str| {
            rooms.split(", ").all(|r| used.files.keys().filter(|f| child(f) == Some(r)).count() == 1)
        };
        // One of rooms that are single files is among those of files.
        let all = circles(&edges).into_iter().filter(|(all, _)| !single(all));
        out.extend(all.map(|(all, way)| format!("circle between rooms of {name}: {all}{way}")));
    }
    out
}

/// Every group in circles: its members, and the uses that make its shortest circle.
fn circles(edges: &Edges) -> Vec<(String, String)> {
    let mut graph: DiGraph<&str, ()> = DiGraph::new();
    let mut nodes: BTreeMap<&str, NodeIndex> = BTreeMap::new();
    for &(a, b) in edges.keys() {
        let [a, b] = [a, b].map(|n| *nodes.entry(n).or_insert_with(|| graph.add_node(n)));
        graph.add_edge(a, b, ());
    }
    let mut out = vec![];
    for group in kosaraju_scc(&graph).into_iter().filter(|g| g.len() > 1) {
        let mut group: Vec<&str> = group.into_iter().map(|n| graph[n]).collect();
        group.sort_unstable();
        let ways = group.iter().filter_map(|&from| back(edges, from));
        let shortest = ways.min_by_key(Vec::len).unwrap_or_default();
        let mut way = String::new();
        for pair in shortest.windows(2) {
            for line in &edges[&(pair[0], pair[1])] {
                way += &format!("\n    {line}");
            }
        }
        out.push((group.join(", "), way));
    }
    out.sort();
    out
}

/// The shortest way from a node back to it.
fn back<'a>(edges: &Edges<'a>, from: &'a str) -> Option<Vec<&'a str>> {
    let mut before: BTreeMap<&str, &str> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        for &(_, to) in edges.keys().filter(|(a, _)| *a == at) {
            if !before.contains_key(to) {
                before.insert(to, at);
                queue.push_back(to);
            }
        }
    }
    let mut way = vec![from, *before.get(from)?];
    while way.last() != Some(&from) {
        way.push(before[way[way.len() - 1]]);
    }
    way.reverse();
    Some(way)
}

/// The rooms in the order that the documentation of the library states.
pub(crate) fn order(library: &str) -> Vec<String> {
    let Some(from) = library.find(ORDER) else { return vec![] };
    let mut text = String::new();
    // It may go on in further lines, and ends with a full stop.
    for line in library[from + ORDER.len()..].lines() {
        text += line.trim_start_matches("//!");
    }
    let text = text.split('.').next().unwrap_or_default();
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn against_order(used: &Uses, library: &str) -> Vec<String> {
    let order = order(library);
    if order.is_empty() {
        return vec![format!("lib.rs has no line that begins with {ORDER:?}")];
    }
    let room = |path: &Segments| path.first().cloned();
    let rooms: BTreeSet<String> = used.files.values().filter_map(room).collect();
    let mut out = vec![];
    for name in &order {
        if !rooms.contains(name) {
            out.push(format!("the order of lib.rs names {name}, and there is no such room"));
        }
    }
    for name in &rooms {
        if !order.contains(name) {
            out.push(format!("the order of lib.rs does not name the room {name}"));
        }
    }
    let place = |file: &String| {
        let room = room(&used.files[file])?;
        order.iter().position(|r| *r == room)
    };
    for ((from, to), paths) in &used.edges {
        if let (Some(a), Some(b)) = (place(from), place(to))
            && a < b
        {
            let (user, later) = (&order[a], &order[b]);
            out.push(format!("{user} uses {later}, a later room: {}", word((from, to), paths)));
        }
    }
    out
}

fn check_alone(used: &Uses, may_use: &[&str]) -> Vec<String> {
    let of_check = |file: &str| file.starts_with("check/");
    let uses: Vec<_> = used.edges.iter().filter(|((from, to), _)| of_check(from) && !of_check(to)).collect();
    let mut out = vec![];
    for ((from, to), paths) in &uses {
        if !may_use.contains(&to.as_str()) {
            out.push(format!("check may not use {to}: {}", word((from, to), paths)));
        }
    }
    let unused = may_use.iter().filter(|f| !uses.iter().any(|((_, to), _)| to == *f));
    out.extend(unused.map(|f| format!("check may use {f}, and does not: take it off the list")));
    out
}
