//! Prints the attributes of every operation, in the order in which [`op`](super::op) reads them.

use super::form::Form;
use super::opaque::push_opaque;
use crate::ir::{Attention, Collective, Op, RegionKind, Strategy, Windows};
use crate::layout::{LayoutKind, Progression};
use std::fmt::{Display, Write};

/// Attributes in braces; none at all where there is none.
struct Braces<'a> {
    out: &'a mut String,
    any: bool,
}

impl Braces<'_> {
    fn word(&mut self, word: impl Display) {
        self.out.push_str(if self.any { ", " } else { " {" });
        self.any = true;
        let _ = write!(self.out, "{word}");
    }

    fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.word(key);
        }
    }

    fn set(&mut self, key: &str, value: impl Display) {
        self.word(format_args!("{key}={value}"));
    }

    fn set_unless<T: Display + PartialEq>(&mut self, key: &str, value: T, usual: T) {
        if value != usual {
            self.set(key, value);
        }
    }

    fn list<T: Display>(&mut self, key: &str, items: &[T]) {
        self.word(format_args!("{key}="));
        push_list(self.out, items);
    }

    fn lists(&mut self, key: &str, items: &[Vec<Progression>]) {
        self.word(format_args!("{key}=["));
        for (i, rows) in items.iter().enumerate() {
            self.out.push_str(if i > 0 { "," } else { "" });
            push_list(self.out, rows);
        }
        self.out.push(']');
    }

    fn windows(&mut self, w: &Windows) {
        self.list("strides", &w.strides);
        self.list("dilations", &w.dilations);
        self.list("low", &w.low);
        self.list("high", &w.high);
    }

    fn attention(&mut self, a: &Attention) {
        self.word(format_args!("scores=[{}]", a.scores));
        if let Some(sinks) = a.sinks {
            self.set("sinks", sinks);
        }
        if let Some(dropout) = a.dropout {
            self.set("dropout", format_args!("{:?}", dropout.ratio));
            self.set("seed", dropout.seed);
            self.flag("same_batch", dropout.same_batch);
            self.flag("same_heads", dropout.same_heads);
        }
        self.set("acc", a.acc);
        self.set("empty", a.empty_row.name());
        self.flag("lse", a.lse);
        self.flag("stats", a.stats);
    }

    fn collective(&mut self, c: &Collective) {
        match c {
            Collective::SendRecv { group, to, from, rows } => {
                self.set("group", group);
                for (key, peer) in [("to", to), ("from", from)] {
                    if let Some(peer) = peer {
                        self.set(key, peer);
                    }
                }
                self.list("rows", rows);
            }
            Collective::AllGather { group, rows } => {
                self.set("group", group);
                self.lists("rows", rows);
            }
            Collective::AllToAll { group, to, axis, rows } => {
                self.set("group", group);
                self.list("to", to);
                self.set_unless("axis", *axis, 2);
                self.lists("rows", rows);
            }
        }
    }

    fn island(&mut self, strategy: Strategy, layout: LayoutKind) {
        self.set("strategy", strategy);
        self.set("layout", layout);
    }
}

fn push_list<T: Display>(out: &mut String, items: &[T]) {
    out.push('[');
    for (i, x) in items.iter().enumerate() {
        let _ = write!(out, "{}{x}", if i > 0 { "," } else { "" });
    }
    out.push(']');
}

/// Prints ` {…}`, or nothing where the operation has no attribute, or all of them are usual.
pub(super) fn push_attributes(out: &mut String, op: &Op, form: Form) {
    let mut a = Braces { out, any: false };
    match op {
        Op::Input(_) | Op::Constant(_) => {}
        Op::Unary(_) | Op::Binary(_) | Op::Select | Op::Wait => {}
        // Their declared type says it.
        Op::Cast(_) | Op::Reshape(_) | Op::Broadcast(_) => {}
        Op::Iota { ty: _, axis } | Op::Softmax { axis } | Op::Concat { axis } | Op::Gather { axis } => {
            a.set("axis", axis);
        }
        Op::Contract(c) => a.word(format_args!("{},{}->{}", c.lhs, c.rhs, c.out)),
        Op::Reduce { kind, axes, keep } => {
            a.word(kind.name());
            a.list("axes", axes);
            a.flag("keep", *keep);
        }
        Op::Conv { windows, groups } => {
            a.windows(windows);
            a.set_unless("groups", *groups, 1);
        }
        Op::Pool { kind, kernel, windows } => {
            a.word(kind.name());
            a.list("kernel", kernel);
            a.windows(windows);
        }
        Op::Permute(perm) => a.list("perm", perm),
        Op::Slice { axis, start, len, step } => {
            a.set("axis", axis);
            a.set("start", start);
            a.set("len", len);
            a.set_unless("step", *step, 1);
        }
        Op::Rows { axis, outer, inner, rows } => {
            a.set("axis", axis);
            a.set_unless("outer", *outer, 1);
            a.set_unless("inner", *inner, 1);
            a.list("rows", rows);
        }
        Op::Pad { low, high } => {
            a.list("low", low);
            a.list("high", high);
        }
        Op::GatherNd { batch } => a.set("batch", batch),
        Op::ScatterNd { how } => how.iter().for_each(|how| a.word(how.name())),
        Op::CumSum { axis, exclusive, reverse } => {
            a.set("axis", axis);
            a.flag("exclusive", *exclusive);
            a.flag("reverse", *reverse);
        }
        Op::TopK { axis, k, largest } => {
            a.set("axis", axis);
            a.set("k", k);
            a.word(if *largest { "largest" } else { "smallest" });
        }
        Op::Opaque(o) => {
            a.word("");
            push_opaque(a.out, o, form);
        }
        Op::Attention(attention) => a.attention(attention),
        Op::AttentionBackward(backward) => {
            a.attention(&backward.attention);
            if !backward.wrt.is_empty() {
                a.list("wrt", &backward.wrt);
            }
        }
        Op::Chunk { of, rows } => {
            a.list("of", of);
            a.list("rows", rows);
        }
        Op::Start(c, _) => a.collective(c),
        Op::Partial(p) => {
            a.list("q", &p.q_rows);
            a.list("k", &p.k_rows);
            a.set("tile", p.tile.name());
            a.set("dv", p.v_head_dim);
            a.attention(&p.attention);
        }
        Op::Merge { a: left, b: right } => {
            a.list("a", left);
            a.list("b", right);
        }
        Op::Finish { of, rows, dtype: _, empty_row, lse } => {
            a.list("of", of);
            a.list("rows", rows);
            a.set("empty", empty_row.name());
            a.flag("lse", *lse);
        }
        Op::Region(RegionKind::Segment, _) => {}
        Op::Region(RegionKind::Island { strategy, layout }, _) => a.island(*strategy, *layout),
        Op::Call { number, results: _, workspace } => {
            a.set("number", number);
            a.set("workspace", workspace);
        }
        Op::AllReduce { kind, ranks, dtype: _ } => {
            a.flag(kind.name(), true);
            a.set("ranks", ranks);
        }
        Op::Unshard { axis, outer, inner, rows } => {
            a.set("axis", axis);
            a.set_unless("outer", *outer, 1);
            a.set_unless("inner", *inner, 1);
            a.lists("rows", rows);
        }
    }
    if a.any {
        a.out.push('}');
    }
}
