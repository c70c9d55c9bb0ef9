//! The operation that a line names, from its attributes and its declared types.

use super::attributes::Attributes;
use super::cursor::Cursor;
use super::fault::Fault;
use crate::ir::{
    Attention, AttentionBackward, Binary, Collective, Contract, DType, Dropout, EmptyRow, Graph, Op,
    ParseScoresError, Partial, Reduction, RegionKind, Scores, Strategy, Type, Unary, Windows,
};
use crate::layout::LayoutKind;
use crate::mask::{Mask, ParseMaskError, Tile};
use std::sync::Arc;

impl<'a> Attributes<'a> {
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
            "reduce" => self.reduce()?,
            "conv" => Op::Conv {
                windows: self.windows()?,
                groups: self.optional("groups", Cursor::natural)?.unwrap_or(1),
            },
            "pool" => self.pool()?,
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
            "scatter_nd" => self.scatter_nd()?,
            "cumsum" => Op::CumSum {
                axis: self.natural("axis")?,
                exclusive: self.flag("exclusive"),
                reverse: self.flag("reverse"),
            },
            "topk" => self.topk()?,
            "opaque" => Op::Opaque(Arc::new(self.opaque(types)?)),
            "attention" => Op::Attention(Box::new(self.attention()?)),
            "attention_backward" => {
                let wrt = self.optional("wrt", |c| c.naturals("a list such as `[3,4]`"))?.unwrap_or_default();
                Op::AttentionBackward(Box::new(AttentionBackward { attention: self.attention()?, wrt }))
            }
            "chunk" => Op::Chunk { of: self.rows("of")?, rows: self.rows("rows")? },
            "sendrecv_start" => self.send_receive(declared()?.clone())?,
            "all_gather_start" => self.all_gather(declared()?.clone())?,
            "all_to_all_start" => self.all_to_all(declared()?.clone())?,
            "wait" => Op::Wait,
            "attn_partial" => Op::Partial(Box::new(Partial {
                q_rows: self.rows("q")?,
                k_rows: self.rows("k")?,
                tile: self.word("tile", &[Tile::Full, Tile::Partial], |t| t.name())?,
                v_head_dim: self.natural("dv")?,
                attention: Arc::new(self.attention()?),
            })),
            "merge" => Op::Merge { a: self.rows("a")?, b: self.rows("b")? },
            "finish" => self.finish(declared()?.dtype)?,
            "call" => {
                let (number, workspace) = (self.natural("number")?, self.natural("workspace")?);
                Op::Call { number, results: types.to_vec(), workspace }
            }
            "unshard" => {
                let (outer, inner) = self.outer_inner()?;
                Op::Unshard { axis: self.natural("axis")?, outer, inner, rows: self.row_lists("rows")? }
            }
            "all_reduce" => self.all_reduce(declared()?.dtype)?,
            "segment" | "island" => self.region(region)?,
            name => match (Unary::from_name(name), Binary::from_name(name)) {
                (Some(u), _) => Op::Unary(u),
                (_, Some(b)) => Op::Binary(b),
                _ => {
                    let title = "expected an operation, such as `add` or `reshape`";
                    return Err(Fault::new(self.at, title, format!("there is no `{name}`")));
                }
            },
        };
        self.all_taken()?;
        Ok(op)
    }

    fn reduce(&mut self) -> Result<Op, Fault> {
        let kind = Reduction::ALL.iter().copied().find(|k| self.flag(k.name()));
        let kind = kind.ok_or_else(|| self.missing("one of sum, mean, max, min, prod"))?;
        Ok(Op::Reduce { kind, axes: self.list("axes")?, keep: self.flag("keep") })
    }

    fn all_reduce(&mut self, dtype: DType) -> Result<Op, Fault> {
        let kinds = [Reduction::Sum, Reduction::Max, Reduction::Min];
        let kind = kinds.into_iter().find(|k| self.flag(k.name()));
        let kind = kind.ok_or_else(|| self.missing("one of sum, max, min"))?;
        Ok(Op::AllReduce { kind, ranks: self.natural("ranks")?, dtype })
    }

    fn pool(&mut self) -> Result<Op, Fault> {
        let kind = [Reduction::Max, Reduction::Mean].into_iter().find(|k| self.flag(k.name()));
        let kind = kind.ok_or_else(|| self.missing("one of max, mean"))?;
        Ok(Op::Pool { kind, kernel: self.list("kernel")?, windows: self.windows()? })
    }

    fn scatter_nd(&mut self) -> Result<Op, Fault> {
        let ways = [Binary::Add, Binary::Mul, Binary::Min, Binary::Max];
        let mut named = ways.into_iter().filter(|how| self.flag(how.name()));
        let how = named.next();
        if named.next().is_some() {
            return Err(self.missing("at most one of add, mul, min, max"));
        }
        Ok(Op::ScatterNd { how })
    }

    fn topk(&mut self) -> Result<Op, Fault> {
        let (largest, smallest) = (self.flag("largest"), self.flag("smallest"));
        if largest == smallest {
            return Err(self.missing("one of largest, smallest"));
        }
        Ok(Op::TopK { axis: self.natural("axis")?, k: self.natural("k")?, largest })
    }

    fn send_receive(&mut self, ty: Type) -> Result<Op, Fault> {
        let group = self.natural("group")?;
        let to = self.optional("to", Cursor::natural)?;
        let from = self.optional("from", Cursor::natural)?;
        Ok(Op::Start(Box::new(Collective::SendRecv { group, to, from, rows: self.rows("rows")? }), ty))
    }

    fn all_gather(&mut self, ty: Type) -> Result<Op, Fault> {
        let group = self.natural("group")?;
        Ok(Op::Start(Box::new(Collective::AllGather { group, rows: self.row_lists("rows")? }), ty))
    }

    fn all_to_all(&mut self, ty: Type) -> Result<Op, Fault> {
        let (group, to) = (self.natural("group")?, self.list("to")?);
        let axis = self.optional("axis", Cursor::natural)?.unwrap_or(2);
        Ok(Op::Start(Box::new(Collective::AllToAll { group, to, axis, rows: self.row_lists("rows")? }), ty))
    }

    fn finish(&mut self, dtype: DType) -> Result<Op, Fault> {
        let (of, rows) = (self.rows("of")?, self.rows("rows")?);
        Ok(Op::Finish { of, rows, dtype, empty_row: self.empty_row()?, lse: self.flag("lse") })
    }

    fn region(&mut self, graph: Option<Arc<Graph>>) -> Result<Op, Fault> {
        let kind = if self.op == "segment" {
            RegionKind::Segment
        } else {
            RegionKind::Island {
                strategy: self.word("strategy", &Strategy::ALL, |s| s.name())?,
                layout: self.word("layout", &LayoutKind::NAMED, |k| k.name())?,
            }
        };
        let graph = graph.ok_or_else(|| self.missing("a graph"))?;
        Ok(Op::Region(kind, graph))
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
        let short = self.usual()?;
        Ok(Attention {
            scores: short.map_or_else(|| self.required("scores", scores), Ok)?,
            sinks: self.optional("sinks", Cursor::natural)?,
            dropout: self.dropout()?,
            acc: self.word("acc", &[DType::F32, DType::F64], |t| t.name())?,
            empty_row: self.empty_row()?,
            lse: self.flag("lse"),
            stats: self.flag("stats"),
        })
    }

    /// `dropout=0.1, seed=3`, and whether batch entries or heads have one mask.
    fn dropout(&mut self) -> Result<Option<Dropout>, Fault> {
        let Some(ratio) = self.optional("dropout", |c| c.number::<f64>("a number"))? else { return Ok(None) };
        let seed = self.natural("seed")?;
        let (same_batch, same_heads) = (self.flag("same_batch"), self.flag("same_heads"));
        Ok(Some(Dropout { ratio, seed, same_batch, same_heads }))
    }

    /// The usual order in short: `scale=` and `mask=`, with `softcap=` and `bias=`. It is read, and never printed.
    fn usual(&mut self) -> Result<Option<Scores>, Fault> {
        let number = |c: &mut Cursor<'a>| c.number::<f64>("a number");
        let Some(scale) = self.optional("scale", number)? else { return Ok(None) };
        let mask = self.required("mask", mask)?;
        let softcap = self.optional("softcap", number)?.unwrap_or(0.0);
        let bias = self.optional("bias", Cursor::natural)?;
        Ok(Some(Scores::usual(scale, softcap, bias, mask)))
    }
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
    let (at, text) = (c.pos, c.rest());
    c.pos += text.len();
    let wanted = "expected a mask, such as `causal(0) & tensor(4)`";
    text.parse().map_err(|e: ParseMaskError| Fault::new(at..at + text.len(), wanted, e.to_string()))
}

fn scores(c: &mut Cursor<'_>) -> Result<Scores, Fault> {
    let text = c.rest();
    let wanted = "the steps of the scores, such as `[factor 0.25 | add 3 | fill -inf unless causal(0)]`";
    let found = |at| Fault::new(at, format!("expected {wanted}"), "found this");
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let inside = inside.ok_or_else(|| found(c.pos..c.pos + text.len()))?;
    let begin = c.pos + 1;
    let fault = |e: ParseScoresError| {
        // A step that is not there is shown as the place where it should stand.
        let at = begin + e.at.start..begin + e.at.end.max(e.at.start + 1);
        Fault::new(at, e.to_string(), "")
    };
    let scores = inside.parse().map_err(fault)?;
    c.pos += text.len();
    Ok(scores)
}
