//! Parses schedules: by hand, without recursion, and with memory in proportion to the text.

use super::chars::bare;
use super::cursor::{Parsed, Parser, render};
use super::error::ParseScheduleError;
use super::parse_step::Names;
use crate::ir::{AttentionSizes, DType, Dropout, EmptyRow, ParseScoresError, Scores, Strategy};
use crate::layout::{Layout, LayoutKind, Progression};
use crate::mask::{Mask, ParseMaskError};
use crate::schedule::{
    AttentionFacts, Leaf, Mesh, MeshAxis, RankProgram, SLOTS, Schedule, Slot, Step, Stream,
};
use std::collections::HashMap;

/// Parses the text of one or more schedules, as their `Display` prints them.
///
/// # Errors
/// With the line and a caret.
pub fn parse(text: &str) -> Result<Vec<Schedule>, ParseScheduleError> {
    let mut parser = Parser { text, at: 0 };
    parser.file().map_err(|fault| ParseScheduleError { rendered: render(text, &fault) })
}

impl Parser<'_> {
    fn file(&mut self) -> Parsed<Vec<Schedule>> {
        let mut schedules = Vec::new();
        self.space();
        while schedules.is_empty() || !self.rest().is_empty() {
            schedules.push(self.schedule()?);
            self.space();
        }
        Ok(schedules)
    }

    fn schedule(&mut self) -> Parsed<Schedule> {
        self.word("schedule")?;
        let name = self.quoted()?;
        let strategy = self.named(&format!("one of {}", Strategy::names()), Strategy::from_name)?;
        let slots = if self.eat_word("slots") { self.number()? } else { SLOTS };
        let mesh = if self.eat_word("mesh") { Some(self.mesh()?) } else { None };
        self.sign("{")?;
        self.space();
        let attention = self.attention()?;
        let q_layout = self.layout("q_layout")?;
        let kv_layout = self.layout("kv_layout")?;
        let mut ranks = Vec::new();
        while !self.eat("}") {
            ranks.push(self.rank(ranks.len(), &attention, mesh.as_ref())?);
            self.space();
        }
        let mesh = mesh.unwrap_or_else(|| Mesh::flat(ranks.len()));
        Ok(Schedule { name, strategy, mesh, slots, attention, q_layout, kv_layout, ranks })
    }

    fn mesh(&mut self) -> Parsed<Mesh> {
        let mut axes = Vec::new();
        loop {
            let name = self.name("the name of an axis")?;
            axes.push(MeshAxis { name, size: self.number()? });
            if !self.eat_word("x") {
                return Ok(Mesh { axes });
            }
        }
    }

    pub(super) fn name(&mut self, what: &str) -> Parsed<String> {
        self.blanks();
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        self.named(what, |w| bare(w).then(|| w.to_owned()))
    }

    fn attention(&mut self) -> Parsed<AttentionFacts> {
        self.word("attention")?;
        let (dtype, [batch, q_heads, q_len, head_dim]) = self.operand("q")?;
        self.blanks();
        let begin = self.at;
        let (k_type, k) = self.operand("k")?;
        let [_, kv_heads, kv_len, _] = k;
        if (k_type, [k[0], k[3]]) != (dtype, [batch, head_dim]) {
            return self.fault(begin, "k must have the type, batch and head size of q");
        }
        self.blanks();
        let begin = self.at;
        let (v_type, v) = self.operand("v")?;
        let v_head_dim = v[3];
        if v_type != dtype || v[..3] != k[..3] {
            return self.fault(begin, "v must have the type, batch, heads and rows of k");
        }
        self.word("acc")?;
        let acc = self.dtype()?;
        // The usual order in short, which is read and never printed.
        let short = if self.eat_word("scale") {
            let scale = self.float()?;
            let softcap = if self.eat_word("softcap") { self.float()? } else { 0.0 };
            let bias = if self.eat_word("bias") { Some(self.number()?) } else { None };
            Some((scale, softcap, bias))
        } else {
            None
        };
        let sinks = if self.eat_word("sinks") { Some(self.number()?) } else { None };
        let dropout = if self.eat_word("dropout") {
            let ratio = self.float()?;
            self.word("seed")?;
            let seed = self.number()?;
            let (same_batch, same_heads) = (self.eat_word("same_batch"), self.eat_word("same_heads"));
            Some(Dropout { ratio, seed, same_batch, same_heads })
        } else {
            None
        };
        self.word("empty")?;
        let empty_row = self.named("`zero` or `nan`", |w| {
            [EmptyRow::Zero, EmptyRow::Nan].into_iter().find(|e| e.name() == w)
        })?;
        let lse = self.eat_word("lse");
        self.space();
        let scores = if let Some((scale, softcap, bias)) = short {
            self.word("mask")?;
            Scores::usual(scale, softcap, bias, self.mask()?)
        } else {
            self.word("scores")?;
            self.scores()?
        };
        let mut leaves = Vec::new();
        self.space();
        while self.eat_word("leaf") {
            self.ordinal(leaves.len() + 3, "leaf")?;
            let (dtype, shape) = self.typed()?;
            leaves.push(Leaf { dtype, shape, by_query_rows: self.eat_word("by_query_rows") });
            self.space();
        }
        let sizes = AttentionSizes { batch, q_heads, kv_heads, q_len, kv_len, head_dim, v_head_dim };
        Ok(AttentionFacts { sizes, dtype, acc, scores, sinks, dropout, empty_row, lse, leaves })
    }

    fn operand(&mut self, name: &str) -> Parsed<(DType, [usize; 4])> {
        self.word(name)?;
        self.typed()
    }

    fn dtype(&mut self) -> Parsed<DType> {
        self.named("an element type", DType::from_name)
    }

    /// A type of four axes: `f32[1,4,32,16]`.
    fn typed(&mut self) -> Parsed<(DType, [usize; 4])> {
        let dtype = self.dtype()?;
        let mut shape = [0; 4];
        for (i, extent) in shape.iter_mut().enumerate() {
            self.sign(if i == 0 { "[" } else { "," })?;
            *extent = self.number()?;
        }
        self.sign("]")?;
        Ok((dtype, shape))
    }

    fn mask(&mut self) -> Parsed<Mask> {
        let (begin, text) = self.rest_of_line();
        text.parse().or_else(|e: ParseMaskError| self.fault(begin, e.to_string()))
    }

    fn scores(&mut self) -> Parsed<Scores> {
        let (begin, text) = self.rest_of_line();
        text.parse().or_else(|e: ParseScoresError| {
            self.at = begin + e.at.end;
            self.fault(begin + e.at.start, e.to_string())
        })
    }

    /// The rest of the line, up to a comment, and where it begins.
    fn rest_of_line(&mut self) -> (usize, &str) {
        self.blanks();
        let line = self.line();
        let text = line.find("//").map_or(line, |i| &line[..i]).trim_end();
        let begin = self.at;
        self.at += text.len();
        (begin, text)
    }

    fn layout(&mut self, key: &str) -> Parsed<Layout> {
        self.space();
        self.word(key)?;
        let kind = self.named("a kind of layout", LayoutKind::from_name)?;
        let length = self.number()?;
        self.sign("{")?;
        self.space();
        let mut rows = Vec::new();
        if !self.eat("}") {
            loop {
                let mut owned = Vec::new();
                self.space();
                if !self.eat("-") {
                    owned.push(self.progression()?);
                    self.space();
                    while self.rest().starts_with(|c: char| c.is_ascii_digit()) {
                        owned.push(self.progression()?);
                        self.space();
                    }
                }
                rows.push(owned);
                self.space();
                if self.eat("}") {
                    break;
                }
                if !self.eat("|") {
                    return self.want("rows, `|` before the next rank, or `}`");
                }
            }
        }
        self.space();
        Ok(Layout { kind, length, rows })
    }

    /// `start:len` or `start:len:step`.
    pub(super) fn progression(&mut self) -> Parsed<Progression> {
        let start = self.number()?;
        self.sign(":")?;
        let len = self.number()?;
        let step = if self.eat(":") { self.number()? } else { 1 };
        Ok(Progression { start, len, step })
    }

    fn rank(&mut self, number: usize, facts: &AttentionFacts, mesh: Option<&Mesh>) -> Parsed<RankProgram> {
        if !self.eat_word("rank") {
            return self.want("`rank` or `}`");
        }
        self.ordinal(number, "rank")?;
        self.word("arena")?;
        let mut program = RankProgram { arena_bytes: self.number()?, ..RankProgram::default() };
        self.sign("{")?;
        self.space();
        let mut slots = HashMap::new();
        while self.eat_word("slot") {
            let name = self.name("the name of a slot")?;
            let (offset, bytes) = self.range()?;
            slots.entry(name.clone()).or_insert(program.slots.len());
            program.slots.push(Slot { name, offset, bytes });
            self.space();
        }
        while self.eat("#") {
            self.ordinal(program.steps.len(), "step")?;
            program.steps.push(self.step(&Names { facts, slots: &slots }, mesh)?);
            self.space();
        }
        if !self.eat("}") {
            return self.want("`slot`, `#` or `}`");
        }
        Ok(program)
    }

    /// `start..end` as start and length.
    pub(super) fn range(&mut self) -> Parsed<(usize, usize)> {
        self.blanks();
        let begin = self.at;
        let start = self.number()?;
        self.sign("..")?;
        let end = self.wide()?;
        match end.checked_sub(start as u128).map(usize::try_from) {
            Some(Ok(bytes)) => Ok((start, bytes)),
            Some(Err(_)) => self.fault(begin, "the range is too long"),
            None => self.fault(begin, "the range ends before it starts"),
        }
    }

    fn step(&mut self, names: &Names<'_>, mesh: Option<&Mesh>) -> Parsed<Step> {
        let stream = self.stream(mesh)?;
        let mut waits = Vec::new();
        if self.eat_word("wait") {
            waits.push(self.event()?);
            while self.eat(",") {
                waits.push(self.event()?);
            }
        }
        let records = if self.eat_word("record") { Some(self.event()?) } else { None };
        let op = self.op(names)?;
        let reason = self.reason()?;
        Ok(Step { stream, waits, records, op, reason })
    }

    /// `compute`, `comm`, or `comm.` and an axis of the mesh.
    fn stream(&mut self, mesh: Option<&Mesh>) -> Parsed<Stream> {
        let axes = mesh.map_or(&[][..], |m| m.axes.as_slice());
        if self.eat("comm.%") {
            return Ok(Stream::Comm(self.number()?));
        }
        if self.rest().starts_with("comm.\"") {
            self.at += "comm.".len();
            let begin = self.at;
            let name = self.quoted()?;
            return match axes.iter().position(|a| a.name == name) {
                Some(axis) => Ok(Stream::Comm(axis)),
                None => self.fault(begin, "the mesh has no axis of that name"),
            };
        }
        let of_axis = |w: &str| axes.iter().position(|a| w.strip_prefix("comm.") == Some(&a.name));
        let find = |w: &str| match w {
            "compute" => Some(Stream::Compute),
            "comm" if axes.len() <= 1 => Some(Stream::Comm(0)),
            _ => of_axis(w).map(Stream::Comm),
        };
        let comm: Vec<String> = axes.iter().map(|a| format!("`comm.{}`", a.name)).collect();
        let comm = if axes.len() <= 1 { "`comm`".to_owned() } else { comm.join(" or ") };
        self.named(&format!("`compute` or {comm}"), find)
    }

    fn event(&mut self) -> Parsed<usize> {
        self.blanks();
        if !self.rest().starts_with('e') {
            return self.want("an event like e0");
        }
        self.at += 1;
        self.number()
    }

    /// What stands behind a step, up to the end of its line.
    fn reason(&mut self) -> Parsed<String> {
        self.blanks();
        let line = self.line();
        if line.is_empty() {
            return Ok(String::new());
        }
        let Some(reason) = line.strip_prefix("//") else {
            return self.want("the end of the line or `// a reason`");
        };
        let reason = reason.strip_prefix(' ').unwrap_or(reason);
        let begin = self.at + line.len() - reason.len();
        self.at += line.len();
        self.unescape(reason.trim_end(), begin)
    }
}
