//! The words of a timeline: what stands in its boxes, and how wide that is.

use super::escape::is_unsafe;
use crate::layout::Progression;
use crate::schedule::{ExchangeKind, Heads, KvPiece, Packed, Port, Schedule, StepOp, Transfer};
use std::collections::BTreeMap;

/// Lists of more items are cut.
const LISTED: usize = 12;

/// What one waits for, in few words.
pub(super) fn short(op: &StepOp) -> String {
    match op {
        StepOp::Pack { .. } => "packing".into(),
        StepOp::Exchange { group, kind, .. } => exchange_name(*kind, *group),
        StepOp::AttnPartial { .. } => "compute".into(),
        StepOp::Unpack { .. } => "unpacking".into(),
        StepOp::Merge { .. } => "merging".into(),
    }
}

pub(super) fn exchange_name(kind: ExchangeKind, group: usize) -> String {
    match kind {
        ExchangeKind::SendRecv => format!("hop {group}"),
        ExchangeKind::AllGather => format!("all-gather {group}"),
        ExchangeKind::AllToAll => format!("all-to-all {group}"),
        ExchangeKind::ReduceScatter => format!("reduce-scatter {group}"),
    }
}

/// The other ends of messages, of which there are at most `others`.
pub(super) fn peers(transfers: &[Transfer], others: usize) -> String {
    if transfers.len() > 1 && transfers.len() == others {
        return "all".into();
    }
    listed(transfers.len(), ",", transfers.iter().map(|t| t.peer.to_string()))
}

/// Finds whose keys a step reads.
pub(super) struct Owners<'a> {
    schedule: &'a Schedule,
    /// How many ranks have keys.
    holders: usize,
    /// What was found, by first and last row and step.
    found: BTreeMap<(usize, usize, usize), Option<usize>>,
}

impl<'a> Owners<'a> {
    pub(super) fn new(schedule: &'a Schedule) -> Owners<'a> {
        let holders = schedule.kv_layout.rows.iter().filter(|own| !own.is_empty()).count();
        Owners { schedule, holders, found: BTreeMap::new() }
    }

    fn of(&mut self, p: &Progression) -> Option<usize> {
        let key = (p.start, last(p), p.step);
        let owns = |o: &Progression| {
            p.start >= o.start && last(p) <= last(o) && (p.start - o.start).is_multiple_of(o.step.max(1))
        };
        let rows = &self.schedule.kv_layout.rows;
        *self.found.entry(key).or_insert_with(|| rows.iter().position(|own| own.iter().any(owns)))
    }

    /// Whose keys these are, from the longest way to say it to the shortest.
    pub(super) fn name(&mut self, rank: usize, kv: &[KvPiece]) -> [String; 4] {
        let mut ranks: Vec<usize> = kv.iter().filter_map(|p| self.of(&p.rows)).collect();
        ranks.sort_unstable();
        ranks.dedup();
        let (one, who) = match ranks.as_slice() {
            [] => return ["no keys".into(), "no keys".into(), "none".into(), "–".into()],
            [one] => (true, one.to_string()),
            many if many.len() == self.holders => return all("all ranks", "all"),
            many if many.len() + 1 == self.holders && !many.contains(&rank) => {
                return all("all others", "others");
            }
            [first, .., last] if last - first + 1 == ranks.len() => (false, format!("{first}–{last}")),
            many => (false, listed(many.len(), ",", many.iter().map(ToString::to_string))),
        };
        let plural = if one { "" } else { "s" };
        [format!("keys of rank{plural} {who}"), format!("keys of {who}"), format!("k {who}"), who]
    }
}

fn all(long: &str, brief: &str) -> [String; 4] {
    [format!("keys of {long}"), format!("keys of {brief}"), brief.into(), brief.into()]
}

fn last(p: &Progression) -> usize {
    p.start.saturating_add(p.len.saturating_sub(1).saturating_mul(p.step))
}

pub(super) fn kv_rows(kv: &[KvPiece]) -> String {
    listed(kv.len(), ", ", kv.iter().map(|p| some_rows(&p.rows)))
}

/// Rows of what is packed.
pub(super) fn packed_rows(pieces: &[Packed]) -> String {
    listed(pieces.len(), ", ", pieces.iter().map(|p| some_rows(&p.block.rows)))
}

/// What is packed, each once.
pub(super) fn packed_what(pieces: &[Packed]) -> String {
    let mut names: Vec<String> = pieces.iter().map(|p| port_name(p.block.port)).collect();
    names.dedup();
    names.sort();
    names.dedup();
    names.join(", ")
}

fn port_name(port: Port) -> String {
    match port {
        Port::Q => "queries".into(),
        Port::Kv => "keys and values".into(),
        Port::Leaf(n) => format!("argument {n}"),
        Port::Out => "results".into(),
        Port::Lse => "log-sum-exp".into(),
    }
}

/// Rows, and the heads where one piece has not all of them.
pub(super) fn queries_of(pieces: impl Iterator<Item = (Progression, Heads)>, all: usize) -> String {
    let mut rows: Vec<Progression> = vec![];
    let mut heads: Vec<Heads> = vec![];
    for (r, h) in pieces {
        if !rows.contains(&r) {
            rows.push(r);
        }
        if !heads.contains(&h) {
            heads.push(h);
        }
    }
    let rows = rows_of(&rows);
    if heads.iter().all(|h| *h == Heads::all(all)) {
        return rows;
    }
    let one = |h: &Heads| match h.len {
        0 | 1 => h.start.to_string(),
        _ => format!("{}–{}", h.start, h.end() - 1),
    };
    format!("{rows} in heads {}", listed(heads.len(), ", ", heads.iter().map(one)))
}

pub(super) fn rows_of(rows: &[Progression]) -> String {
    listed(rows.len(), ", ", rows.iter().map(some_rows))
}

fn some_rows(p: &Progression) -> String {
    match (p.len, p.step) {
        (0 | 1, _) => p.start.to_string(),
        (_, 1) => format!("{}–{}", p.start, last(p)),
        (_, step) => format!("{}–{} by {step}", p.start, last(p)),
    }
}

/// The items, or the first of them and how many there are.
fn listed(count: usize, between: &str, items: impl Iterator<Item = String>) -> String {
    let shown: Vec<String> = items.take(if count > LISTED { LISTED / 2 } else { LISTED }).collect();
    match count {
        0 => "none".into(),
        n if n > LISTED => format!("{}{between}… ({n} in all)", shown.join(between)),
        _ => shown.join(between),
    }
}

/// About how wide a text is in Helvetica or a face like it, in pixels.
pub(super) fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | ' ' | ',' | '.' | ':' | '/' | 't' | 'f' => 0.28,
        '(' | ')' | 'r' => 0.34,
        'm' | 'w' | 'W' | 'M' => 0.85,
        '→' | '←' | '…' => 1.0,
        'A'..='Z' => 0.7,
        _ => 0.57,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// The text, cut to a width in pixels.
pub(super) fn fit(text: &str, most: f64, size: f64) -> String {
    if width(text, size) <= most {
        return text.to_owned();
    }
    let mut cut = String::new();
    for c in text.chars() {
        if width(&cut, size) + 2.0 * size > most {
            break;
        }
        cut.push(c);
    }
    cut.push('…');
    cut
}

/// Text for XML: its five special characters, and no character that XML forbids.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(c),
            c if is_unsafe(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
