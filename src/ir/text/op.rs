//! The attributes of every operation: printed, and parsed back. The two directions stand side by side, in one order.

use super::cursor::Cursor;
use super::fault::Fault;
use crate::ir::{
    Attention, Binary, Collective, Contract, DType, EmptyRow, Graph, Op, Partial, Reduction, RegionKind,
    Strategy, Type, Unary, Windows,
};
use crate::layout::{LayoutKind, Progression};
use crate::mask::{Fill, Mask, Tile};
use std::fmt::{Display, Write};
use std::ops::Range;
use std::sync::Arc;

/// No operation has more attributes.
const MAX_ATTRIBUTES: usize = 16;

// ---- printing

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
        self.word(format_args!("scale={:?}", a.scale));
        match a.mask.fill {
            // `Display` of a mask without terms leaves the fill out.
            fill if a.mask.terms.is_empty() && fill != Fill::NegInf => {
                self.word(format_args!("mask=none fill {fill}"));
            }
            _ => self.set("mask", &a.mask),
        }
        if a.softcap != 0.0 {
            self.word(format_args!("softcap={:?}", a.softcap));
        }
        if let Some(bias) = a.bias {
            self.set("bias", bias);
        }
        if let Some(sinks) = a.sinks {
            self.set("sinks", sinks);
        }
        self.set("acc", a.acc);
        self.set("empty", a.empty_row.name());
        self.flag("lse", a.lse);
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
pub(super) fn push_attributes(out: &mut String, op: &Op) {
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
        Op::Attention(attention) => a.attention(attention),
        Op::Chunk { of, rows } => {
            a.list("of", of);
            a.list("rows", rows);
        }
        Op::Start(c, _) => match &**c {
            Collective::SendRecv { group, to, from, rows } => {
                a.set("group", group);
                for (key, peer) in [("to", to), ("from", from)] {
                    if let Some(peer) = peer {
                        a.set(key, peer);
                    }
                }
                a.list("rows", rows);
            }
            Collective::AllGather { group, rows } => {
                a.set("group", group);
                a.lists("rows", rows);
            }
        },
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
        Op::Region(RegionKind::Island { strategy, layout }, _) => {
            a.set("strategy", strategy);
            a.set("layout", layout);
        }
        Op::Call { number, results: _, workspace } => {
            a.set("number", number);
            a.set("workspace", workspace);
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

// ---- parsing

/// Attributes as found, each to be taken by its key.
pub(super) struct Attributes<'a> {
    cursor: Cursor<'a>,
    items: Vec<Item<'a>>,
    /// The mnemonic and where it stands.
    pub(super) op: &'a str,
    /// Where the mnemonic stands.
    pub(super) at: Range<usize>,
    /// The braces, or an empty range behind the operands.
    braces: Range<usize>,
}

struct Item<'a> {
    key: &'a str,
    at: Range<usize>,
    value: Option<Range<usize>>,
    taken: bool,
}

impl<'a> Attributes<'a> {
    /// Reads `{…}` if it stands here. Values are found by their brackets, and read when they are taken.
    pub(super) fn read(c: &mut Cursor<'a>, op: &'a str, at: Range<usize>) -> Result<Attributes<'a>, Fault> {
        c.spaces();
        let start = c.pos;
        let mut out = Attributes { cursor: c.clone(), items: Vec::new(), op, at, braces: start..start };
        if c.eat(b'{') {
            if op == "contract" {
                // Axis letters, with a comma of their own.
                let from = c.pos;
                c.run(|b| b != b'}' && b != b'\n');
                out.items.push(Item { key: "axes", at: from..c.pos, value: Some(from..c.pos), taken: false });
                c.expect(b'}', "axes such as `{bij,bjk->bik}`")?;
            } else {
                c.list(b'}', |c| out.item(c))?;
            }
            out.braces = start..c.pos;
        }
        Ok(out)
    }

    fn item(&mut self, c: &mut Cursor<'a>) -> Result<(), Fault> {
        let start = c.pos;
        let key = c.word();
        let at = start..c.pos;
        if key.is_empty() {
            return Err(c.expected("an attribute such as `axis=1`"));
        }
        if self.items.iter().any(|i| i.key == key) {
            return Err(Fault::new(at, "expected each attribute once", "stands here again"));
        }
        if self.items.len() == MAX_ATTRIBUTES {
            return Err(Fault::new(
                at,
                format!("expected at most {MAX_ATTRIBUTES} attributes"),
                "found more",
            ));
        }
        let value = if c.eat(b'=') { Some(skip_value(c)?) } else { None };
        self.items.push(Item { key, at, value, taken: false });
        Ok(())
    }

    fn flag(&mut self, key: &str) -> bool {
        let item = self.items.iter_mut().find(|i| i.key == key && i.value.is_none());
        item.map(|i| i.taken = true).is_some()
    }

    /// The value of `key` as `read` reads it, or `None` if it is not given.
    fn optional<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let Some(item) = self.items.iter_mut().find(|i| i.key == key) else { return Ok(None) };
        item.taken = true;
        let Some(value) = item.value.clone() else {
            return Err(Fault::new(item.at.clone(), format!("expected a value: `{key}=…`"), "has none"));
        };
        let mut c = self.cursor.part(value);
        let out = read(&mut c)?;
        c.blank();
        if c.at_end() { Ok(Some(out)) } else { Err(c.expected("`,` or `}`")) }
    }

    fn required<T>(
        &mut self,
        key: &str,
        read: impl FnOnce(&mut Cursor<'a>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        match self.optional(key, read)? {
            Some(x) => Ok(x),
            None => Err(self.missing(&format!("the attribute `{key}` of {}", self.op))),
        }
    }

    fn missing(&self, what: &str) -> Fault {
        let empty = self.braces.is_empty();
        let at = if empty { self.at.clone() } else { self.braces.clone() };
        Fault::new(
            at,
            format!("expected {what}"),
            if empty { "has no attributes" } else { "not among these" },
        )
    }

    fn natural(&mut self, key: &str) -> Result<usize, Fault> {
        self.required(key, Cursor::natural)
    }

    fn list(&mut self, key: &str) -> Result<Vec<usize>, Fault> {
        self.required(key, |c| c.naturals("a list such as `[0,1]`"))
    }

    fn rows(&mut self, key: &str) -> Result<Vec<Progression>, Fault> {
        self.required(key, Cursor::rows)
    }

    fn row_lists(&mut self, key: &str) -> Result<Vec<Vec<Progression>>, Fault> {
        self.required(key, |c| {
            let mut out = Vec::new();
            c.expect(b'[', "the rows of each rank, such as `[[0:4],[4:4]]`")?;
            c.list(b']', |c| {
                out.push(c.rows()?);
                Ok(())
            })?;
            Ok(out)
        })
    }

    /// One of a set of words, named in the error.
    fn word<T>(&mut self, key: &str, all: &[T], name: impl Fn(&T) -> &'static str) -> Result<T, Fault>
    where
        T: Copy,
    {
        self.required(key, |c| {
            c.spaces();
            let start = c.pos;
            let word = c.word();
            all.iter().copied().find(|x| name(x) == word).ok_or_else(|| {
                c.pos = start;
                let names: Vec<&str> = all.iter().map(&name).collect();
                c.expected(&format!("one of {}", names.join(", ")))
            })
        })
    }

    fn outer_inner(&mut self) -> Result<(usize, usize), Fault> {
        let mut one = |key| Ok(self.optional(key, Cursor::natural)?.unwrap_or(1));
        Ok((one("outer")?, one("inner")?))
    }

    fn empty_row(&mut self) -> Result<EmptyRow, Fault> {
        self.word("empty", &[EmptyRow::Zero, EmptyRow::Nan], |e| e.name())
    }

    fn windows(&mut self) -> Result<Windows, Fault> {
        Ok(Windows {
            strides: self.list("strides")?,
            dilations: self.list("dilations")?,
            low: self.list("low")?,
            high: self.list("high")?,
        })
    }

    fn attention(&mut self) -> Result<Attention, Fault> {
        let number = |c: &mut Cursor<'a>| c.number::<f64>("a number");
        Ok(Attention {
            scale: self.required("scale", number)?,
            mask: self.required("mask", mask)?,
            softcap: self.optional("softcap", number)?.unwrap_or(0.0),
            bias: self.optional("bias", Cursor::natural)?,
            sinks: self.optional("sinks", Cursor::natural)?,
            acc: self.word("acc", &[DType::F32, DType::F64], |t| t.name())?,
            empty_row: self.empty_row()?,
            lse: self.flag("lse"),
        })
    }

    /// The operation, from its attributes and its declared result types (and, of a region, its graph).
    pub(super) fn op(mut self, types: &[Type], region: Option<Arc<Graph>>) -> Result<Op, Fault> {
        let at = self.at.clone();
        let declared =
            || types.first().ok_or_else(|| Fault::new(at.clone(), "expected a result", "gives none here"));
        let shape = || declared().map(|t| t.shape.clone());
        let op = match self.op {
            "iota" => Op::Iota { ty: declared()?.clone(), axis: self.natural("axis")? },
            "select" => Op::Select,
            "cast" => Op::Cast(declared()?.dtype),
            "contract" => Op::Contract(self.required("axes", contract)?),
            "reduce" => {
                let kind = Reduction::ALL.iter().copied().find(|k| self.flag(k.name()));
                let kind = kind.ok_or_else(|| self.missing("one of sum, mean, max, min, prod"))?;
                Op::Reduce { kind, axes: self.list("axes")?, keep: self.flag("keep") }
            }
            "conv" => Op::Conv {
                windows: self.windows()?,
                groups: self.optional("groups", Cursor::natural)?.unwrap_or(1),
            },
            "pool" => {
                let kind = [Reduction::Max, Reduction::Mean].into_iter().find(|k| self.flag(k.name()));
                let kind = kind.ok_or_else(|| self.missing("one of max, mean"))?;
                Op::Pool { kind, kernel: self.list("kernel")?, windows: self.windows()? }
            }
            "softmax" => Op::Softmax { axis: self.natural("axis")? },
            "reshape" => Op::Reshape(shape()?),
            "permute" => Op::Permute(self.list("perm")?),
            "broadcast" => Op::Broadcast(shape()?),
            "slice" => Op::Slice {
                axis: self.natural("axis")?,
                start: self.natural("start")?,
                len: self.natural("len")?,
                step: self.optional("step", |c| c.number("a whole number"))?.unwrap_or(1),
            },
            "rows" => {
                let (outer, inner) = self.outer_inner()?;
                Op::Rows { axis: self.natural("axis")?, outer, inner, rows: self.rows("rows")? }
            }
            "concat" => Op::Concat { axis: self.natural("axis")? },
            "pad" => Op::Pad { low: self.list("low")?, high: self.list("high")? },
            "gather" => Op::Gather { axis: self.natural("axis")? },
            "gather_nd" => Op::GatherNd { batch: self.natural("batch")? },
            "scatter_nd" => {
                let ways = [Binary::Add, Binary::Mul, Binary::Min, Binary::Max];
                let mut named = ways.into_iter().filter(|how| self.flag(how.name()));
                let how = named.next();
                if named.next().is_some() {
                    return Err(self.missing("at most one of add, mul, min, max"));
                }
                Op::ScatterNd { how }
            }
            "cumsum" => Op::CumSum {
                axis: self.natural("axis")?,
                exclusive: self.flag("exclusive"),
                reverse: self.flag("reverse"),
            },
            "topk" => {
                let (largest, smallest) = (self.flag("largest"), self.flag("smallest"));
                if largest == smallest {
                    return Err(self.missing("one of largest, smallest"));
                }
                Op::TopK { axis: self.natural("axis")?, k: self.natural("k")?, largest }
            }
            "attention" => Op::Attention(Box::new(self.attention()?)),
            "chunk" => Op::Chunk { of: self.rows("of")?, rows: self.rows("rows")? },
            "sendrecv_start" => {
                let ty = declared()?.clone();
                let group = self.natural("group")?;
                let to = self.optional("to", Cursor::natural)?;
                let from = self.optional("from", Cursor::natural)?;
                Op::Start(Box::new(Collective::SendRecv { group, to, from, rows: self.rows("rows")? }), ty)
            }
            "all_gather_start" => {
                let ty = declared()?.clone();
                let group = self.natural("group")?;
                Op::Start(Box::new(Collective::AllGather { group, rows: self.row_lists("rows")? }), ty)
            }
            "wait" => Op::Wait,
            "attn_partial" => Op::Partial(Box::new(Partial {
                q_rows: self.rows("q")?,
                k_rows: self.rows("k")?,
                tile: self.word("tile", &[Tile::Full, Tile::Partial], |t| t.name())?,
                v_head_dim: self.natural("dv")?,
                attention: Arc::new(self.attention()?),
            })),
            "merge" => Op::Merge { a: self.rows("a")?, b: self.rows("b")? },
            "finish" => {
                let dtype = declared()?.dtype;
                let (of, rows) = (self.rows("of")?, self.rows("rows")?);
                Op::Finish { of, rows, dtype, empty_row: self.empty_row()?, lse: self.flag("lse") }
            }
            "call" => {
                let (number, workspace) = (self.natural("number")?, self.natural("workspace")?);
                Op::Call { number, results: types.to_vec(), workspace }
            }
            "unshard" => {
                let (outer, inner) = self.outer_inner()?;
                Op::Unshard { axis: self.natural("axis")?, outer, inner, rows: self.row_lists("rows")? }
            }
            "segment" | "island" => {
                let kind = if self.op == "segment" {
                    RegionKind::Segment
                } else {
                    RegionKind::Island {
                        strategy: self.word("strategy", &Strategy::ALL, |s| s.name())?,
                        layout: self.word("layout", &LayoutKind::NAMED, |k| k.name())?,
                    }
                };
                let graph = region.ok_or_else(|| self.missing("a graph"))?;
                Op::Region(kind, graph)
            }
            name => match (Unary::from_name(name), Binary::from_name(name)) {
                (Some(u), _) => Op::Unary(u),
                (_, Some(b)) => Op::Binary(b),
                _ => {
                    let title = "expected an operation, such as `add` or `reshape`";
                    return Err(Fault::new(self.at, title, format!("there is no `{name}`")));
                }
            },
        };
        match self.items.iter().find(|i| !i.taken) {
            None => Ok(op),
            Some(i) => {
                let title = format!("expected an attribute of {}", self.op);
                Err(Fault::new(i.at.clone(), title, "is none, or not in this form"))
            }
        }
    }
}

/// Passes a value: up to the comma or brace that is in no bracket, parenthesis or string.
fn skip_value(c: &mut Cursor<'_>) -> Result<Range<usize>, Fault> {
    let start = c.pos;
    let mut depth = 0usize;
    loop {
        match c.peek() {
            None | Some(b'\n') if depth == 0 => break,
            None => return Err(c.expected("a closing bracket")),
            Some(b',' | b'}') if depth == 0 => break,
            Some(b'"') => {
                c.string("a string")?;
                continue;
            }
            Some(b'(' | b'[') => depth += 1,
            Some(b')' | b']') => depth = depth.saturating_sub(1),
            Some(_) => {}
        }
        // Bytes of a longer character are passed one by one and end on a delimiter, which is ASCII.
        c.pos += 1;
    }
    Ok(start..c.pos)
}

fn contract(c: &mut Cursor<'_>) -> Result<Contract, Fault> {
    let wanted = "axes such as `{bij,bjk->bik}`";
    let mut axes = |end: &str| {
        c.spaces();
        let letters = c.run(|b| b.is_ascii_alphabetic());
        c.spaces();
        if !c.rest().starts_with(end) {
            return Err(c.expected(wanted));
        }
        c.pos += end.len();
        Ok(letters.to_owned())
    };
    Ok(Contract { lhs: axes(",")?, rhs: axes("->")?, out: axes("")? })
}

fn mask(c: &mut Cursor<'_>) -> Result<Mask, Fault> {
    let text = c.rest();
    let wanted = "a mask: none, or causal(offset), window(left,right,offset), segments(starts;offset), \
                  prefix(length;offset), keys(start,end), batch(terms;terms) and tensor(operand) joined by &, with a finite fill as `fill add(-10000.0)` or `fill replace(-10000.0)`";
    let mask = text
        .parse()
        .map_err(|_| Fault::new(c.pos..c.pos + text.len(), format!("expected {wanted}"), "found this"))?;
    c.pos += text.len();
    Ok(mask)
}
