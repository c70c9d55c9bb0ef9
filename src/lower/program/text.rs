//! Prints a program, for people: it is never parsed.

use super::args::{
    AttentionArg, FinishArg, KernelScoring, LeafArg, PackArg, QArg, Scoring, SeenKeys, Strided,
};
use super::bytes::{Address, Base, Runs};
use super::types::{Action, Argument, Grid, Group, Kernel, Launch, Program, Target};
use crate::lower::Helper;
use std::fmt::{self, Write};

/// Programs, and behind them the text of each of their kernels, once.
pub fn with_kernels(programs: &[Program]) -> String {
    let mut out: String = programs.iter().map(Program::to_string).collect();
    let mut told: Vec<&Kernel> = vec![];
    for kernel in programs.iter().flat_map(|p| &p.kernels) {
        if told.contains(&kernel) {
            continue;
        }
        told.push(kernel);
        let text = match kernel {
            Kernel::Cpu(_) => continue,
            Kernel::Attention(key) => crate::lower::text(key),
            Kernel::Helper(helper, _) => helper.text(),
        };
        let _ = write!(out, "\n// ---- kernel {kernel}\n\n{text}");
    }
    out
}

/// Columns are of one width whatever stands in others, so that a line changes only where what it says does.
impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match self.target {
            Target::Cpu => "cpu",
            Target::Cuda(arch) => arch.name(),
        };
        writeln!(f, "program {:?} rank {} of {} for {target} {{", self.name, self.rank, self.ranks)?;
        write!(f, "  arena {}", self.arena_bytes)?;
        for (what, regions) in [("scratch", &self.scratch), ("zeroed", &self.zeroed)] {
            for (region, stream) in regions.iter().zip(&self.streams).filter(|(r, _)| r.bytes > 0) {
                write!(f, "  {what} {stream} {}..{}", region.offset, region.offset + region.bytes)?;
            }
        }
        let tables =
            if self.tables.is_empty() { String::new() } else { format!("  tables {}", self.tables.len()) };
        writeln!(f, "{tables}")?;
        for (i, kernel) in self.kernels.iter().enumerate() {
            writeln!(f, "  kernel k{i} {kernel}")?;
        }
        for op in &self.ops {
            let step = format!("#{}", op.step);
            let stream = self.streams.get(op.stream).map_or("?", String::as_str).replace(' ', ".");
            let stream = stream.escape_debug().to_string();
            write!(f, "  {step:<4} {stream:<7} {:<6} ", op.action.name())?;
            match &op.action {
                Action::Launch(launch) => self.launch(f, launch)?,
                Action::Copy(copy) => write!(f, "{} to {}", copy.from, copy.to)?,
                Action::Record(event) | Action::Wait(event) => write!(f, "e{event}")?,
                Action::Group(group) => write!(f, "{group}")?,
            }
            f.write_char('\n')?;
        }
        f.write_str("}\n")
    }
}

impl Program {
    fn launch(&self, f: &mut fmt::Formatter<'_>, launch: &Launch) -> fmt::Result {
        write!(f, "k{:<3} grid {:<9} ", launch.kernel, launch.grid.to_string())?;
        match &launch.argument {
            Argument::Attention(arg) => attention(f, arg),
            Argument::Merge(arg) => {
                let from = |a: Option<Address>| a.map_or("none".to_owned(), |a| a.to_string());
                write!(
                    f,
                    "rows {} dv {} of {} and {} to {}",
                    arg.rows,
                    arg.dv,
                    from(arg.a),
                    from(arg.b),
                    arg.to
                )
            }
            Argument::Finish(arg) => finish(f, arg),
            Argument::Pack(arg) => pack(f, arg),
        }
    }
}

fn attention(f: &mut fmt::Formatter<'_>, arg: &AttentionArg) -> fmt::Result {
    write!(f, "b {} h {}/{}", arg.batch, arg.heads, arg.kv_heads)?;
    if arg.group * arg.kv_heads != arg.heads || arg.head_shift != 0 {
        write!(f, " group {} from {}", arg.group, arg.head_shift)?;
    }
    write!(f, " d {}/{}", arg.dk, arg.dv)?;
    let flags = [(arg.carry_in, " carry_in"), (arg.cast_out, " cast_out")];
    flags.iter().filter(|x| x.0).try_for_each(|x| f.write_str(x.1))?;
    for (i, q) in arg.q.iter().enumerate() {
        f.write_str(if i == 0 { " q " } else { ", " })?;
        piece(f, q, true)?;
    }
    for (i, kv) in arg.kv.iter().enumerate() {
        write!(f, "{}{} k {} v {}", if i == 0 { " k " } else { ", " }, kv.rows, kv.k, kv.v)?;
    }
    match &arg.scoring {
        Scoring::Reference { tile, leaves } => {
            write!(f, " tile {}", tile.name())?;
            leaves.iter().try_for_each(|l| write!(f, " {l}"))?;
        }
        Scoring::Kernel(scoring) => scores(f, scoring)?,
    }
    arg.sinks.iter().try_for_each(|l| write!(f, " sinks {l}"))?;
    if let Some(marks) = &arg.marks {
        write!(f, " counter {}", marks.counter)?;
        marks.odd.iter().try_for_each(|odd| write!(f, " odd {odd}"))?;
    }
    Ok(())
}

fn piece(f: &mut fmt::Formatter<'_>, q: &QArg, queries: bool) -> fmt::Result {
    write!(f, "{}", q.rows)?;
    if queries {
        write!(f, " {}", q.q)?;
    }
    q.carry.iter().try_for_each(|c| write!(f, " carry {c}"))?;
    q.out.iter().try_for_each(|o| write!(f, " out {o}"))?;
    q.lse.iter().try_for_each(|l| write!(f, " lse {l}"))
}

fn scores(f: &mut fmt::Formatter<'_>, s: &KernelScoring) -> fmt::Result {
    write!(f, " scale {}", s.scale)?;
    if s.softcap > 0.0 {
        write!(f, " softcap {}", s.softcap)?;
    }
    s.bias.iter().try_for_each(|l| write!(f, " bias {l}"))?;
    s.mask.iter().try_for_each(|l| write!(f, " mask {l}"))?;
    if s.fill != 0.0 {
        write!(f, " fill {}", s.fill)?;
    }
    seen(f, &s.seen)?;
    for step in &s.steps {
        write!(f, " | {}", step.number)?;
        seen(f, &step.seen)?;
        step.leaves.iter().try_for_each(|l| write!(f, " {l}"))?;
    }
    Ok(())
}

fn seen(f: &mut fmt::Formatter<'_>, seen: &SeenKeys) -> fmt::Result {
    if seen.window != [None, None] {
        let end = |x: Option<i32>| x.map_or(String::new(), |x| x.to_string());
        write!(f, " window {}..{}", end(seen.window[0]), end(seen.window[1]))?;
    }
    let Some(table) = &seen.table else { return Ok(()) };
    write!(f, " table {}..{}", table.first, table.first + 2 * table.len)?;
    if table.entry_rows > 0 { write!(f, " by {} an entry", table.entry_rows) } else { Ok(()) }
}

fn finish(f: &mut fmt::Formatter<'_>, arg: &FinishArg) -> fmt::Result {
    write!(f, "b {} h {} dv {}{} q ", arg.batch, arg.heads, arg.dv, if arg.keep { " keep" } else { "" })?;
    piece(f, &arg.rows, false)?;
    arg.sinks.iter().try_for_each(|l| write!(f, " sinks {l}"))
}

fn pack(f: &mut fmt::Formatter<'_>, arg: &PackArg) -> fmt::Result {
    for (i, [from, to]) in arg.copies.iter().enumerate() {
        write!(f, "{}{from} to {to}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kernel::Cpu(work) => write!(f, "cpu {}", work.name()),
            Kernel::Attention(key) => write!(f, "{} {key}", key.entry()),
            Kernel::Helper(Helper::Merge | Helper::Paced, work) => f.write_str(work.name()),
            Kernel::Helper(Helper::Pack { copy }, work) => write!(f, "{} copies of {copy}", work.name()),
            Kernel::Helper(Helper::Cast { element, sinks }, work) => {
                let sinks = match sinks {
                    crate::lower::Operand::None => "",
                    crate::lower::Operand::F32 => ", sinks f32",
                    crate::lower::Operand::Element => ", sinks as q",
                };
                write!(f, "{} {}{sinks}", work.name(), element.name())
            }
        }
    }
}

/// `12`, or `12<=1` where there are no more blocks than so many a multiprocessor, and `12<=1 leaves 4` where that is of all but four.
impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.blocks)?;
        self.most.map_or(Ok(()), |most| write!(f, "<={most}"))?;
        if self.leaves > 0 { write!(f, " leaves {}", self.leaves) } else { Ok(()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.base {
            Base::Arena => f.write_str("arena")?,
            Base::Argument(0) => f.write_char('q')?,
            Base::Argument(1) => f.write_char('k')?,
            Base::Argument(2) => f.write_char('v')?,
            Base::Argument(n) => write!(f, "leaf{n}")?,
            Base::Out => f.write_str("out")?,
            Base::Lse => f.write_str("lse")?,
            Base::Scratch(_) => f.write_str("scratch")?,
            Base::Zeroed(_) => f.write_str("zeroed")?,
        }
        write!(f, "+{}", self.offset)
    }
}

/// `arena+512[96]`; of several runs `k+0[4x64/256]`: four of 64 bytes, 256 apart.
impl fmt::Display for Runs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => write!(f, "{}[{}]", self.at, self.bytes),
            n => write!(f, "{}[{n}x{}/{}]", self.at, self.bytes, self.stride),
        }
    }
}

/// `q+0/16x4`: 16 rows a head, 4 heads a batch entry.
impl fmt::Display for Strided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}x{}", self.at, self.head_rows, self.batch_heads)
    }
}

impl fmt::Display for LeafArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [b, h, r, k] = self.strides;
        write!(
            f,
            "{} {}({b},{h},{r},{k}){}",
            self.at,
            self.dtype,
            if self.local_rows { " local" } else { "" }
        )
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{}", self.group)?;
        self.sms.map_or(Ok(()), |sms| write!(f, " sms {sms}"))?;
        for (word, messages) in [("to", &self.sends), ("from", &self.recvs)] {
            for m in messages {
                write!(f, " {word} {} ", m.peer)?;
                for (i, part) in m.parts.iter().enumerate() {
                    write!(f, "{}{part}", if i == 0 { "" } else { "+" })?;
                }
            }
        }
        Ok(())
    }
}
