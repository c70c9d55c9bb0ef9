//! Writes the island graph of one rank.

mod deal;
mod home;
mod travel;

use super::error::RingError;
use super::outline::{Act, KeyRows, Outline};
use super::plan::Plan;
use super::sight::Piece;
use super::site::Site;
use crate::ir::infer::{infer, union};
use crate::ir::{Attention, Collective, Graph, Op, OpId, Partial, ScoreStep, Strategy, Type, Value, ValueId};
use crate::layout::{Progression, row_count};
use crate::mask::Tile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The island graph of `rank` for the attention `op` of the program, for tests.
#[cfg(test)]
pub(crate) fn island(
    program: &crate::shard::Program,
    op: OpId,
    strategy: Strategy,
    rank: usize,
) -> Result<Graph, RingError> {
    Plan::new(program, op, strategy)?.island(rank)
}

impl Plan<'_> {
    /// The island graph of a rank.
    ///
    /// # Errors
    /// If there is no such rank.
    pub fn island(&self, rank: usize) -> Result<Graph, RingError> {
        if rank >= self.site.ranks() {
            return Err(self.site.refuse(format!("there is no rank {rank} of {}", self.site.ranks())));
        }
        graph(self, rank)
    }
}

/// The island graph of `rank`.
fn graph(plan: &Plan<'_>, rank: usize) -> Result<Graph, RingError> {
    let outline = plan.outline(rank);
    let mut b = Builder::new(&plan.site, rank);
    for (i, act) in outline.acts.iter().enumerate() {
        match *act {
            Act::Pack(cut) => {
                let cut = outline.rows(cut).to_vec();
                let value = b.add(Op::Concat { axis: 3 }, &[b.k, b.v], "kv.local")?;
                b.own = Some(Held { value, rows: cut });
            }
            Act::Hop { group, of, sent, to, arriving, from, .. } => {
                let rows = outline.rows(arriving).to_vec();
                let ty = plan.site.packed(row_count(&rows));
                let collective = Collective::SendRecv { group, to, from, rows: rows.clone() };
                b.start(group, (of, outline.rows(sent)), collective, ty, &format!("hop{group}"))?;
                let arrives = if rows.is_empty() { "sent" } else { "kv.hop" };
                b.begun.push((group, format!("{arrives}{group}"), rows));
            }
            Act::Gather { group, sent } => {
                let rows = plan.stages[group - 1].clone();
                let all = rows.concat();
                let staged = plan.strategy == Strategy::AllGatherStaged;
                let name = |once: &str, staged_as: &str| {
                    if staged { format!("{staged_as}{group}") } else { once.to_owned() }
                };
                let ty = plan.site.packed(row_count(&all));
                let collective = Collective::AllGather { group, rows };
                b.start(
                    group,
                    (KeyRows::Own, outline.rows(sent)),
                    collective,
                    ty,
                    &name("gather", "gather"),
                )?;
                // What is held has the rank's own rows besides those that are computed on.
                b.begun.push((group, name("kv.all", "kv.stage"), all));
            }
            Act::Queries { leg, group } => b.queries(plan, rank, (leg, group))?,
            Act::Guest { leg, q, keys, tile } => {
                b.guest((plan, rank), leg, outline.guests(q), outline.rows(keys).to_vec(), tile)?;
            }
            Act::Partials { leg, group } => b.partials_home(plan, rank, (leg, group))?,
            Act::Relay => b.relay(plan, rank)?,
            Act::Merge => b.merge_home(plan, rank)?,
            Act::Scatter { leg, part, .. } => b.scatter(plan, rank, (leg, part))?,
            Act::Heads { part } => b.own_heads(plan, rank, part)?,
            Act::Home { leg, part, .. } => b.results_home(plan, rank, (leg, part))?,
            Act::Unpack => return b.put_together(plan, rank),
            // Where heads are dealt out, a rank need not have a part in each group.
            Act::Wait { group } if plan.heads.is_none() || b.has_begun(group) => b.wait(group)?,
            Act::Wait { .. } => {}
            Act::Partial { stage, q, keys, of, tile } => {
                let q_rows: Vec<Progression> = outline.queries(q).iter().map(|&i| b.rows[i]).collect();
                let name = partial_name(&outline, i, stage);
                b.partial(&name, q_rows, outline.rows(keys).to_vec(), tile, of)?;
            }
        }
    }
    b.finish()
}

/// `p3`, and where a stage has several `p3a`, `p3b`, ….
fn partial_name(outline: &Outline, at: usize, stage: usize) -> String {
    let same = |act: &&Act| matches!(act, Act::Partial { stage: s, .. } if *s == stage);
    let before = outline.acts[..at].iter().rev().take_while(same).count();
    let after = outline.acts[at + 1..].iter().take_while(same).count();
    if before + after == 0 { format!("p{stage}") } else { format!("p{stage}{}", letters(before)) }
}

/// A value with rows along axis 2, and which they are.
#[derive(Clone)]
struct Held {
    value: ValueId,
    rows: Vec<Progression>,
}

/// What is known of heads that are dealt out.
#[derive(Default)]
struct Dealt {
    /// Keys and values of all rows in the key heads of the last part that had any, and of which rows of which ranks.
    keys: Option<Held>,
    /// Leaves by part that are one for all heads.
    leaves: BTreeMap<usize, Held>,
    /// By part, results of all rows in own heads.
    results: Vec<Vec<Held>>,
}

/// o, m and l of some rows.
pub(super) struct Acc {
    rows: Vec<Progression>,
    value: [ValueId; 3],
}

struct Builder<'a> {
    site: &'a Site<'a>,
    attention: Arc<Attention>,
    graph: Graph,
    /// The rank's pieces of query rows, and of keys.
    rows: &'a [Progression],
    key_rows: &'a [Progression],
    q: ValueId,
    k: ValueId,
    v: ValueId,
    leaves: Vec<ValueId>,
    /// The rank's own keys and values, packed; groups that have begun, with the name and the rows of what they bring; what
    /// groups have brought.
    own: Option<Held>,
    begun: Vec<(usize, String, Vec<Progression>)>,
    started: BTreeMap<usize, ValueId>,
    brought: BTreeMap<usize, Held>,
    /// Several values of a group that has begun, each with the group and the name of what it brings; what groups have brought.
    several: Vec<(usize, ValueId, String)>,
    arrived: BTreeMap<usize, Vec<(String, ValueId)>>,
    /// Where heads are dealt out.
    dealt: Dealt,
    /// Partial results of the queries of other ranks, each with the pieces; those that leave the node, merged.
    guests: Vec<(Vec<Piece>, Acc)>,
    relayed: Option<Acc>,
    /// What came from one rank, of what came from all, by name.
    sliced: BTreeMap<String, ValueId>,
    /// What was made already: packed keys and values of no rows; leaves under four axes; chunks by value and rows.
    none: Option<ValueId>,
    reshaped: BTreeMap<ValueId, ValueId>,
    chunks: BTreeMap<(ValueId, Vec<Progression>), ValueId>,
    acc: Option<Acc>,
    merges: usize,
}

impl<'a> Builder<'a> {
    fn new(site: &'a Site<'a>, rank: usize) -> Builder<'a> {
        let s = &site.sizes;
        let (rows, held) = (site.q_layout.share(rank), site.kv_layout.share(rank));
        let ty = |heads, rows, size| Type::new(site.dtype, vec![s.batch, heads, rows, size]);
        let mut graph = Graph::new(format!("{}.rank{rank}", site.name));
        let q = graph.input("q", ty(s.q_heads, rows, s.head_dim));
        let k = graph.input("k", ty(s.kv_heads, held, s.head_dim));
        let v = graph.input("v", ty(s.kv_heads, held, s.v_head_dim));
        let mut leaves = Vec::new();
        for (i, leaf) in site.leaves.iter().enumerate() {
            let mut ty = leaf.ty.clone();
            if let (true, Some(axis)) = (leaf.by_query_rows, leaf.query_axis) {
                ty.shape[axis] = rows;
            }
            let steps = site.attention.scores.steps();
            let read = |s: &&ScoreStep| s.leaves().any(|(n, _)| n == i + 3);
            let name = match steps.iter().find(read) {
                Some(ScoreStep::Add(_)) => "bias",
                Some(ScoreStep::Factor(_)) => "factor",
                Some(_) => "mask",
                None if site.attention.dropout.is_some_and(|d| d.seed == i + 3) => "seed",
                None => "sinks",
            };
            leaves.push(graph.input(name, ty));
        }
        Builder {
            site,
            attention: Arc::new(site.attention.clone()),
            graph,
            rows: &site.q_layout.rows[rank],
            key_rows: &site.kv_layout.rows[rank],
            q,
            k,
            v,
            leaves,
            own: None,
            begun: vec![],
            started: BTreeMap::new(),
            brought: BTreeMap::new(),
            several: vec![],
            arrived: BTreeMap::new(),
            dealt: Dealt::default(),
            guests: vec![],
            relayed: None,
            sliced: BTreeMap::new(),
            none: None,
            reshaped: BTreeMap::new(),
            chunks: BTreeMap::new(),
            acc: None,
            merges: 0,
        }
    }

    fn add(&mut self, op: Op, operands: &[ValueId], name: &str) -> Result<ValueId, RingError> {
        self.graph.add1(op, operands, name, "").map_err(|e| self.site.refuse(e.to_string()))
    }

    /// An operation with several results; the names are the island's own and given to nothing else.
    fn add_named(
        &mut self,
        op: Op,
        operands: &[ValueId],
        names: impl Fn(usize) -> String,
    ) -> Result<OpId, RingError> {
        let types: Vec<&Type> = operands.iter().map(|&v| self.graph.ty(v)).collect();
        let types = infer(&op, &types).map_err(|e| self.site.refuse(e.to_string()))?;
        let results = types.into_iter().enumerate().map(|(i, ty)| Value { name: names(i), ty }).collect();
        Ok(self.graph.insert(op, operands, results, ""))
    }

    /// An operation that gives o, m and l.
    fn add_partial(&mut self, op: Op, operands: &[ValueId], name: &str) -> Result<[ValueId; 3], RingError> {
        let id = self.add_named(op, operands, |i| format!("{name}.{}", ["o", "m", "l"][i]))?;
        Ok([0, 1, 2].map(|port| ValueId { op: id, port }))
    }

    /// What a group brought, in order.
    fn arrived(&self, group: usize) -> Vec<ValueId> {
        self.arrived.get(&group).into_iter().flatten().map(|a| a.1).collect()
    }

    /// What a group brought under a name, if anything.
    fn arrived_as(&self, group: usize, name: &str) -> Option<ValueId> {
        self.arrived.get(&group)?.iter().find(|a| a.0 == name).map(|a| a.1)
    }

    /// A group of transfers begins.
    fn start(
        &mut self,
        group: usize,
        (of, sent): (KeyRows, &[Progression]),
        collective: Collective,
        ty: Type,
        name: &str,
    ) -> Result<(), RingError> {
        let operand = if sent.is_empty() { vec![] } else { vec![self.keys(of, sent)?] };
        let started = self.add(Op::Start(Box::new(collective), ty), &operand, name)?;
        self.started.insert(group, started);
        Ok(())
    }

    /// One of several values of a group begins to travel; what comes of it has the name.
    fn begin(
        &mut self,
        collective: Collective,
        ty: Type,
        operands: &[ValueId],
        (started, name): (&str, String),
    ) -> Result<(), RingError> {
        let group = collective.group();
        let value = self.add(Op::Start(Box::new(collective), ty), operands, started)?;
        self.several.push((group, value, name));
        Ok(())
    }

    fn has_begun(&self, group: usize) -> bool {
        self.several.iter().any(|s| s.0 == group)
    }

    fn wait(&mut self, group: usize) -> Result<(), RingError> {
        let several: Vec<_> = self.several.extract_if(.., |s| s.0 == group).collect();
        if !several.is_empty() {
            for (_, started, name) in several {
                let value = self.add(Op::Wait, &[started], &name)?;
                self.arrived.entry(group).or_default().push((name, value));
            }
            return Ok(());
        }
        let at = self.begun.iter().position(|b| b.0 == group);
        let (Some(at), Some(started)) = (at, self.started.remove(&group)) else {
            return Err(self.site.refuse(format!("group {group} has not begun")));
        };
        let (_, name, rows) = self.begun.remove(at);
        let value = self.add(Op::Wait, &[started], &name)?;
        self.brought.insert(group, Held { value, rows });
        Ok(())
    }

    /// Some pieces of own keys and values, side by side when they are first asked for.
    fn own_keys(&mut self, rows: &[Progression]) -> Result<ValueId, RingError> {
        if self.own.is_none() {
            let value = self.add(Op::Concat { axis: 3 }, &[self.k, self.v], "kv.local")?;
            self.own = Some(Held { value, rows: self.key_rows.to_vec() });
        }
        self.keys(KeyRows::Own, rows)
    }

    /// Some pieces of packed keys and values.
    fn keys(&mut self, of: KeyRows, rows: &[Progression]) -> Result<ValueId, RingError> {
        let held = match of {
            KeyRows::Own => self.own.clone(),
            KeyRows::Group(group) => self.brought.get(&group).cloned(),
        };
        let held = held.ok_or_else(|| self.site.refuse("its keys are not there".into()))?;
        self.chunk(&held, rows)
    }

    fn partial(
        &mut self,
        name: &str,
        q_rows: Vec<Progression>,
        k_rows: Vec<Progression>,
        tile: Tile,
        of: KeyRows,
    ) -> Result<(), RingError> {
        let queries = Held { value: self.q, rows: self.rows.to_vec() };
        let keys = match of {
            _ if k_rows.is_empty() => self.none()?,
            KeyRows::Own => self.own_keys(&k_rows)?,
            KeyRows::Group(_) => self.keys(of, &k_rows)?,
        };
        let mut operands = vec![self.chunk(&queries, &q_rows)?, keys];
        for leaf in 0..self.score_leaves() {
            operands.push(self.leaf(leaf, &q_rows)?);
        }
        let acc = self.over(name, operands, q_rows, k_rows, tile)?;
        self.merge(acc)
    }

    /// How many leaves the scores may read. The sinks come last, and are counted once, by the finish.
    fn score_leaves(&self) -> usize {
        self.attention.sinks.map_or(self.leaves.len(), |sinks| sinks - 3)
    }

    /// A partial result.
    fn over(
        &mut self,
        name: &str,
        operands: Vec<ValueId>,
        q_rows: Vec<Progression>,
        k_rows: Vec<Progression>,
        tile: Tile,
    ) -> Result<Acc, RingError> {
        let rows = q_rows.clone();
        let partial = Partial {
            attention: self.attention.clone(),
            v_head_dim: self.site.sizes.v_head_dim,
            q_rows,
            k_rows,
            tile,
        };
        let value = self.add_partial(Op::Partial(Box::new(partial)), &operands, name)?;
        Ok(Acc { rows, value })
    }

    fn merge(&mut self, new: Acc) -> Result<(), RingError> {
        let acc = self.acc.take();
        self.acc = Some(self.merged(acc, new)?);
        Ok(())
    }

    /// A partial result and another behind it.
    fn merged(&mut self, acc: Option<Acc>, new: Acc) -> Result<Acc, RingError> {
        let Some(acc) = acc else { return Ok(new) };
        let rows = union(&acc.rows, &new.rows);
        let op = Op::Merge { a: acc.rows, b: new.rows };
        self.merges += 1;
        let value = self.add_partial(op, &[acc.value, new.value].concat(), &format!("acc{}", self.merges))?;
        Ok(Acc { rows, value })
    }

    /// The sinks and the division, over all of the rank's rows, and the outputs. A rank without rows divides nothing.
    fn finish(mut self) -> Result<Graph, RingError> {
        if self.acc.is_none() {
            self.partial("p0", vec![], vec![], Tile::Full, KeyRows::Own)?;
        }
        let Some(acc) = self.acc.take() else {
            return Err(self.site.refuse("it has no partial result".into()));
        };
        let mut operands = acc.value.to_vec();
        if let Some(sinks) = self.attention.sinks {
            operands.push(self.leaf(sinks - 3, &acc.rows)?);
        }
        let lse = self.attention.lse;
        let op = Op::Finish {
            of: acc.rows,
            rows: self.rows.to_vec(),
            dtype: self.site.dtype,
            empty_row: self.attention.empty_row,
            lse,
        };
        let finish = self.add_named(op, &operands, |i| ["out", "lse"][i].to_owned())?;
        for (value, name) in self.graph.results(finish).into_iter().zip(["out", "lse"]) {
            self.graph.output(name, value);
        }
        Ok(self.graph)
    }

    /// Packed keys and values of no rows.
    fn none(&mut self) -> Result<ValueId, RingError> {
        if let Some(made) = self.none {
            return Ok(made);
        }
        let rows = self.key_rows.to_vec();
        let k = self.chunk(&Held { value: self.k, rows: rows.clone() }, &[])?;
        let v = self.chunk(&Held { value: self.v, rows }, &[])?;
        let made = self.add(Op::Concat { axis: 3 }, &[k, v], "kv.none")?;
        Ok(*self.none.insert(made))
    }

    /// Some pieces of what is held, made once.
    fn chunk(&mut self, held: &Held, rows: &[Progression]) -> Result<ValueId, RingError> {
        let value = held.value;
        if held.rows == rows {
            return Ok(value);
        }
        let key = (value, rows.to_vec());
        if let Some(&made) = self.chunks.get(&key) {
            return Ok(made);
        }
        let index = |p: &Progression| held.rows.iter().position(|h| h == p);
        let which: Vec<String> = rows.iter().filter_map(index).map(|i| i.to_string()).collect();
        let which = if which.is_empty() { "none".to_owned() } else { which.join("_") };
        let name = format!("{}.{which}", self.graph.value(value).name);
        let op = Op::Chunk { of: held.rows.clone(), rows: rows.to_vec() };
        let made = self.add(op, &[value], &name)?;
        self.chunks.insert(key, made);
        Ok(made)
    }

    /// A leaf for some of the rank's query rows.
    fn leaf(&mut self, index: usize, rows: &[Progression]) -> Result<ValueId, RingError> {
        let (leaf, site) = (self.leaves[index], &self.site.leaves[index]);
        let Some(axis) = site.query_axis else { return Ok(leaf) };
        if !site.by_query_rows {
            // Whole on every rank: sliced where it is used.
            let key = (leaf, rows.to_vec());
            if let Some(&made) = self.chunks.get(&key) {
                return Ok(made);
            }
            let op = Op::Rows { axis, outer: 1, inner: 1, rows: rows.to_vec() };
            let name = format!("{}.rows", self.graph.value(leaf).name);
            let made = self.add(op, &[leaf], &name)?;
            self.chunks.insert(key, made);
            return Ok(made);
        }
        if rows == self.rows {
            return Ok(leaf);
        }
        let value = self.four_axes(leaf)?;
        self.chunk(&Held { value, rows: self.rows.to_vec() }, rows)
    }

    /// The leaf with leading ones, so that its query rows are axis 2, along which chunks are cut.
    fn four_axes(&mut self, leaf: ValueId) -> Result<ValueId, RingError> {
        let shape = self.graph.ty(leaf).shape.clone();
        let Some(missing) = 4usize.checked_sub(shape.len()).filter(|&n| n > 0) else { return Ok(leaf) };
        if let Some(&made) = self.reshaped.get(&leaf) {
            return Ok(made);
        }
        let name = format!("{}.4d", self.graph.value(leaf).name);
        let made = self.add(Op::Reshape([vec![1; missing], shape].concat()), &[leaf], &name)?;
        self.reshaped.insert(leaf, made);
        Ok(made)
    }
}

/// a, b, …, z, then numbers that cannot be taken for other names.
fn letters(i: usize) -> String {
    match u8::try_from(i) {
        Ok(n) if n < 26 => char::from(b'a' + n).to_string(),
        _ => format!("z{i}"),
    }
}
