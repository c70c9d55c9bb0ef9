//! Prints a schedule.

use super::chars::{bare, unsafe_to_show};
use crate::layout::{Layout, Progression};
use crate::schedule::{
    AttentionFacts, KvPiece, RankProgram, SLOTS, Schedule, Slot, Step, StepOp, Stream, Transfer, View,
};
use std::collections::HashSet;
use std::fmt::{self, Write};

/// Operations longer than this do not widen the column before the reasons.
const WIDE: usize = 100;

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "schedule {} {}", quoted(&self.name), self.strategy)?;
        if self.strategy.is_ring() || self.slots != SLOTS {
            write!(f, " slots {}", self.slots)?;
        }
        f.write_str(" {\n")?;
        attention(f, &self.attention)?;
        layout(f, "q_layout ", &self.q_layout)?;
        layout(f, "kv_layout", &self.kv_layout)?;
        for (r, rank) in self.ranks.iter().enumerate() {
            program(f, r, rank)?;
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

fn program(f: &mut fmt::Formatter<'_>, rank: usize, program: &RankProgram) -> fmt::Result {
    writeln!(f, "\n  rank {rank} arena {} {{", program.arena_bytes)?;
    // Width of the last number of a rank's steps, names and so on: columns are aligned within the rank.
    let names: Vec<String> = program.slots.iter().map(|s| name(&s.name)).collect();
    let ends: Vec<String> = program.slots.iter().map(|s| end(s.offset, s.bytes)).collect();
    let (name_width, end_width) = (width(&names), width(&ends));
    for ((slot, name), end) in program.slots.iter().zip(&names).zip(&ends) {
        writeln!(f, "    slot {name:name_width$} {:>end_width$}..{end}", slot.offset)?;
    }
    let slots = SlotNames::new(&program.slots, names);
    let numbers: Vec<String> = (0..program.steps.len()).map(|i| format!("#{i}")).collect();
    let waits: Vec<String> = program.steps.iter().map(waits).collect();
    let records: Vec<String> =
        program.steps.iter().map(|s| s.records.map_or(String::new(), |e| format!("record e{e}"))).collect();
    let ops: Vec<String> = program.steps.iter().map(|s| slots.op(&s.op)).collect();
    let stream_width = Stream::ALL.map(|s| s.name().len()).into_iter().max().unwrap_or(0);
    let wide = ops.iter().map(|o| o.chars().count()).filter(|&w| w <= WIDE).max().unwrap_or(0);
    let widths = [width(&numbers), width(&waits), width(&records)];
    for (i, step) in program.steps.iter().enumerate() {
        let [number_width, wait_width, record_width] = widths;
        write!(f, "    {:number_width$} {:stream_width$} ", numbers[i], step.stream.name())?;
        for (column, width) in [(&waits[i], wait_width), (&records[i], record_width)] {
            if width > 0 {
                write!(f, " {column:width$}")?;
            }
        }
        if step.reason.is_empty() {
            writeln!(f, "  {}", ops[i])?;
        } else {
            writeln!(f, "  {:wide$}  // {}", ops[i], escape(&step.reason, true))?;
        }
    }
    f.write_str("  }\n")
}

fn width(column: &[String]) -> usize {
    column.iter().map(|c| c.chars().count()).max().unwrap_or(0)
}

fn waits(step: &Step) -> String {
    let events: Vec<String> = step.waits.iter().map(|e| format!("e{e}")).collect();
    if events.is_empty() { String::new() } else { format!("wait {}", events.join(",")) }
}

/// The end of a range, computed so that no sum overflows.
fn end(start: usize, bytes: usize) -> String {
    (start as u128 + bytes as u128).to_string()
}

/// How the slots of one rank are written in views.
struct SlotNames {
    names: Vec<String>,
}

impl SlotNames {
    /// The first slot of a name keeps it; another of the same name goes by its number.
    fn new(slots: &[Slot], mut names: Vec<String>) -> SlotNames {
        let mut seen = HashSet::new();
        for (i, slot) in slots.iter().enumerate() {
            if !seen.insert(slot.name.as_str()) {
                names[i] = format!("%{i}");
            }
        }
        SlotNames { names }
    }

    fn view(&self, v: View) -> String {
        let name = self.names.get(v.slot).cloned().unwrap_or_else(|| format!("%{}", v.slot));
        format!("{name}[{}..{}]", v.start, end(v.start, v.bytes))
    }

    fn kv(&self, pieces: &[KvPiece]) -> String {
        list(pieces.iter().map(|p| format!("{}@{}", p.rows, self.view(p.at))), ", ")
    }

    fn transfers(&self, out: &mut String, word: &str, transfers: &[Transfer]) {
        for t in transfers {
            let views = list(t.views.iter().map(|&v| self.view(v)), "+");
            // Writing to a string does not fail.
            let _ = write!(out, " {word} {} {views}", t.peer);
        }
    }

    fn op(&self, op: &StepOp) -> String {
        match op {
            StepOp::Pack { pieces } => format!("pack {}", self.kv(pieces)),
            StepOp::Exchange { group, kind, sends, recvs } => {
                let mut out = format!("{} g{group}", kind.name());
                self.transfers(&mut out, "to", sends);
                self.transfers(&mut out, "from", recvs);
                out
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
                let q = q.iter().map(|p| match p.carry {
                    Some(at) => format!("{}@{}", p.rows, self.view(at)),
                    None => p.rows.to_string(),
                });
                let flag = |on: bool, word: &'static str| if on { word } else { "" };
                format!(
                    "attn_partial {}{}{}{} q {} k {}",
                    tile.name(),
                    flag(*carry_in, " carry_in"),
                    flag(*sinks_here, " sinks_here"),
                    flag(*cast_out, " cast_out"),
                    list(q, ", "),
                    self.kv(kv)
                )
            }
        }
    }
}

fn list(items: impl Iterator<Item = String>, separator: &str) -> String {
    let items: Vec<String> = items.collect();
    if items.is_empty() { "none".to_owned() } else { items.join(separator) }
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
