//! Prints a schedule.

use super::chars::{bare, unsafe_to_show};
use crate::ir::Dropout;
use crate::layout::{Layout, Progression};
use crate::schedule::{
    AttentionFacts, Block, Heads, KvPiece, Mesh, Packed, Place, Port, RankProgram, SLOTS, Schedule, Slot,
    Step, StepOp, Stream, Transfer, View,
};
use std::collections::HashSet;
use std::fmt::{self, Write};

/// Layouts longer than this take several lines.
const WIDE: usize = 100;
/// Reasons stand behind operations of this width.
const OP_WIDTH: usize = 64;

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule {} {}", quoted(&self.name), self.strategy)?;
        if self.strategy.is_ring() || self.slots != SLOTS {
            write!(f, " slots {}", self.slots)?;
        }
        if !self.mesh.is_flat(self.ranks.len()) {
            let axes = self.mesh.axes.iter().map(|a| format!("{} {}", name(&a.name), a.size));
            write!(f, " mesh {}", list(axes, " x ", "none"))?;
        }
        f.write_str(" {\n")?;
        attention(f, &self.attention)?;
        layout(f, "q_layout ", &self.q_layout)?;
        layout(f, "kv_layout", &self.kv_layout)?;
        for (r, rank) in self.ranks.iter().enumerate() {
            program(f, self, r, rank)?;
        }
        f.write_str("}\n")
    }
}

fn attention(f: &mut fmt::Formatter<'_>, a: &AttentionFacts) -> fmt::Result {
    let s = &a.sizes;
    let t = a.dtype;
    write!(f, "  attention q {t}[{},{},{},{}]", s.batch, s.q_heads, s.q_len, s.head_dim)?;
    write!(f, " k {t}[{},{},{},{}]", s.batch, s.kv_heads, s.kv_len, s.head_dim)?;
    write!(f, " v {t}[{},{},{},{}]", s.batch, s.kv_heads, s.kv_len, s.v_head_dim)?;
    write!(f, " acc {}", a.acc)?;
    if let Some(sinks) = a.sinks {
        write!(f, " sinks {sinks}")?;
    }
    if let Some(Dropout { ratio, seed, same_batch, same_heads }) = a.dropout {
        write!(f, " dropout {ratio:?} seed {seed}")?;
        let flags = [(same_batch, " same_batch"), (same_heads, " same_heads")];
        flags.into_iter().filter(|flag| flag.0).try_for_each(|flag| f.write_str(flag.1))?;
    }
    writeln!(f, " empty {}{}", a.empty_row.name(), if a.lse { " lse" } else { "" })?;
    writeln!(f, "  scores {}", a.scores)?;
    for (i, leaf) in a.leaves.iter().enumerate() {
        let [b, h, q, k] = leaf.shape;
        let own = if leaf.by_query_rows { " by_query_rows" } else { "" };
        writeln!(f, "  leaf {} {}[{b},{h},{q},{k}]{own}", i + 3, leaf.dtype)?;
    }
    Ok(())
}

/// One line if it is short, else one line for every eight ranks.
fn layout(f: &mut fmt::Formatter<'_>, key: &str, layout: &Layout) -> fmt::Result {
    let owned: Vec<String> = layout
        .rows
        .iter()
        .map(|rows| {
            let rows: Vec<String> = rows.iter().map(Progression::to_string).collect();
            if rows.is_empty() { "-".to_owned() } else { rows.join(" ") }
        })
        .collect();
    write!(f, "  {key} {} {} {{", layout.kind, layout.length)?;
    if owned.iter().map(|o| o.len() + 3).sum::<usize>() <= WIDE {
        return writeln!(f, " {}{}}}", owned.join(" | "), if owned.is_empty() { "" } else { " " });
    }
    for (i, line) in owned.chunks(8).enumerate() {
        write!(f, "{}\n    {}", if i > 0 { " |" } else { "" }, line.join(" | "))?;
    }
    f.write_str("\n  }\n")
}

/// Columns are of one width whatever stands in others, so that a line changes only where what it says does.
fn program(f: &mut fmt::Formatter<'_>, s: &Schedule, rank: usize, program: &RankProgram) -> fmt::Result {
    writeln!(f, "\n  rank {rank} arena {} {{", program.arena_bytes)?;
    let names: Vec<String> = program.slots.iter().map(|s| name(&s.name)).collect();
    for (slot, name) in program.slots.iter().zip(&names) {
        writeln!(f, "    slot {name} {}..{}", slot.offset, end(slot.offset, slot.bytes))?;
    }
    let writer = Writer { facts: &s.attention, names: slot_names(&program.slots, names) };
    // As wide as the longest name of a stream that there is.
    let width = s.mesh.streams().map(|stream| stream_name(&s.mesh, stream).len()).max().unwrap_or(0);
    for (i, step) in program.steps.iter().enumerate() {
        let number = format!("#{i}");
        let records = step.records.map_or(String::new(), |e| format!("record e{e}"));
        let events = list([waits(step), records].into_iter().filter(|e| !e.is_empty()), " ", "");
        let (stream, op) = (stream_name(&s.mesh, step.stream), writer.op(&step.op));
        write!(f, "    {number:<4} {stream:<width$} {events:<15} ")?;
        match step.reason.as_str() {
            "" => writeln!(f, "{op}")?,
            reason => writeln!(f, "{op:<OP_WIDTH$}  // {}", escape(reason, true))?,
        }
    }
    f.write_str("  }\n")
}

/// `compute`; `comm`, and of a mesh of several axes `comm.node`.
fn stream_name(mesh: &Mesh, stream: Stream) -> String {
    match (stream, mesh.axes.as_slice()) {
        (Stream::Compute, _) => "compute".to_owned(),
        (Stream::Comm(0), [_]) => "comm".to_owned(),
        (Stream::Comm(n), axes) => match axes.get(n) {
            Some(axis) if axes.iter().position(|a| a.name == axis.name) == Some(n) => {
                format!("comm.{}", name(&axis.name))
            }
            _ => format!("comm.%{n}"),
        },
    }
}

fn waits(step: &Step) -> String {
    let events: Vec<String> = step.waits.iter().map(|e| format!("e{e}")).collect();
    if events.is_empty() { String::new() } else { format!("wait {}", events.join(",")) }
}

/// The end of a range, computed so that no sum overflows.
fn end(start: usize, bytes: usize) -> String {
    (start as u128 + bytes as u128).to_string()
}

/// The first slot of a name keeps it; another of the same name goes by its number.
fn slot_names(slots: &[Slot], mut names: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    for (i, slot) in slots.iter().enumerate() {
        if !seen.insert(slot.name.as_str()) {
            names[i] = format!("%{i}");
        }
    }
    names
}

/// Writes the operations of one rank.
struct Writer<'a> {
    facts: &'a AttentionFacts,
    /// How slots are written in views.
    names: Vec<String>,
}

impl Writer<'_> {
    fn view(&self, v: View) -> String {
        let name = self.names.get(v.slot).cloned().unwrap_or_else(|| format!("%{}", v.slot));
        format!("{name}[{}..{}]", v.start, end(v.start, v.bytes))
    }

    fn views(&self, views: &[View]) -> String {
        list(views.iter().map(|&v| self.view(v)), "+", "none")
    }

    /// Rows, and heads where they are not all.
    fn part(&self, port: Port, rows: &Progression, heads: Heads) -> String {
        match heads == self.facts.heads_of(port) {
            true => rows.to_string(),
            false => format!("{rows} h{}..{}", heads.start, end(heads.start, heads.len)),
        }
    }

    fn block(&self, b: &Block) -> String {
        format!("{} {}", b.port, self.part(b.port, &b.rows, b.heads))
    }

    fn kv(&self, pieces: &[KvPiece]) -> String {
        let piece = |p: &KvPiece| {
            let at = p.at.map_or(String::new(), |at| format!("@{}", self.view(at)));
            self.part(Port::Kv, &p.rows, p.heads) + &at
        };
        list(pieces.iter().map(piece), ", ", "none")
    }

    fn packed(&self, pieces: &[Packed]) -> String {
        list(pieces.iter().map(|p| format!("{}@{}", self.block(&p.block), self.view(p.at))), ", ", "none")
    }

    fn transfers(&self, out: &mut String, word: &str, transfers: &[Transfer]) {
        for t in transfers {
            let parts = t.parts.iter().map(|p| match p {
                Place::Arena(view) => self.view(*view),
                Place::Own(block) => self.block(block),
            });
            // Writing to a string does not fail.
            let _ = write!(out, " {word} {} {}", t.peer, list(parts, "+", "none"));
        }
    }

    /// Where carries and results lie.
    fn ends(&self, carry: Option<View>, out: &[View]) -> String {
        let carry = carry.map_or(String::new(), |v| format!(" carry {}", self.view(v)));
        carry + &if out.is_empty() { String::new() } else { format!(" out {}", self.views(out)) }
    }

    fn op(&self, op: &StepOp) -> String {
        match op {
            StepOp::Pack { pieces } => format!("pack {}", self.packed(pieces)),
            StepOp::Unpack { pieces } => format!("unpack {}", self.packed(pieces)),
            StepOp::Exchange { group, kind, sms, sends, recvs } => {
                let mut out = format!("{} g{group}", kind.name());
                out += &sms.map_or(String::new(), |sms| format!(" sms {sms}"));
                self.transfers(&mut out, "to", sends);
                self.transfers(&mut out, "from", recvs);
                out
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
                let q = q.iter().map(|p| {
                    let at = if p.at.is_empty() { String::new() } else { format!("@{}", self.views(&p.at)) };
                    self.part(Port::Q, &p.rows, p.heads) + &at + &self.ends(p.carry, &p.out)
                });
                let flags = flags(*carry_in, *sinks_here, *cast_out);
                format!("attn_partial {}{flags} q {} k {}", tile.name(), list(q, ", ", "none"), self.kv(kv))
            }
            StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
                let q = q.iter().map(|p| {
                    let part = self.part(Port::Q, &p.rows, p.heads);
                    format!("{part} of {}{}", self.views(&p.partials), self.ends(p.carry, &p.out))
                });
                format!("merge{} q {}", flags(*carry_in, *sinks_here, *cast_out), list(q, ", ", "none"))
            }
        }
    }
}

fn flags(carry_in: bool, sinks_here: bool, cast_out: bool) -> String {
    let words = [(carry_in, " carry_in"), (sinks_here, " sinks_here"), (cast_out, " cast_out")];
    words.into_iter().filter(|w| w.0).map(|w| w.1).collect()
}

fn list(items: impl Iterator<Item = String>, separator: &str, none: &str) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { none.to_owned() } else { items.join(separator) }
}

fn name(name: &str) -> String {
    if bare(name) { name.to_owned() } else { quoted(name) }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", escape(text, false).replace('"', "\\\""))
}

/// Escapes what must not be shown as it is; `ends` also the blanks at both ends, which an editor may drop.
fn escape(text: &str, ends: bool) -> String {
    let (first, last) = (0, text.char_indices().next_back().map_or(0, |(i, _)| i));
    let mut out = String::with_capacity(text.len());
    for (i, c) in text.char_indices() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if unsafe_to_show(c) || (ends && c.is_whitespace() && (i == first || i == last)) => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}
