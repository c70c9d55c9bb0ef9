//! Writes the island graph of one rank.

use super::plan::{Group, groups};
use super::route::Route;
use super::site::Site;
use super::{RingError, Strategy};
use crate::ir::infer::{infer, union};
use crate::ir::{Attention, Collective, Graph, Op, OpId, Partial, Type, Value, ValueId};
use crate::layout::{Progression, row_count};
use crate::mask::Tile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The island graph of `rank`.
pub(super) fn graph(
    site: &Site<'_>,
    route: &Route<'_>,
    strategy: Strategy,
    rank: usize,
) -> Result<Graph, RingError> {
    let mut b = Builder::new(site, rank);
    match strategy {
        Strategy::Ring | Strategy::RingReverse => b.ring(route)?,
        Strategy::AllGather => b.all_gather(route, 1)?,
        Strategy::AllGatherStaged => b.all_gather(route, STAGES)?,
    }
    b.finish()
}

/// Stages of an all-gather in stages: all but the last one's transfer lie under computation on keys that came before, and
/// what they cost is a launch and a latency each.
const STAGES: usize = 4;

/// Rows that the rank holds.
#[derive(Clone)]
struct Held {
    source: Source,
    rows: Vec<Progression>,
}

/// Where held rows are.
#[derive(Clone, Copy)]
enum Source {
    /// The rank's own keys and values; packed when first used.
    Own,
    /// A value with rows along axis 2.
    Value(ValueId),
}

/// o, m and l of some rows.
struct Acc {
    rows: Vec<Progression>,
    value: [ValueId; 3],
}

struct Builder<'a> {
    site: &'a Site<'a>,
    attention: Arc<Attention>,
    graph: Graph,
    /// The rank, and its query pieces.
    rank: usize,
    rows: &'a [Progression],
    q: ValueId,
    k: ValueId,
    v: ValueId,
    leaves: Vec<ValueId>,
    /// What was made already: the packed own keys and values, and those of no rows; leaves under four axes; chunks by value
    /// and rows.
    local: Option<ValueId>,
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
            let named = |operand: Option<usize>| operand == Some(i + 3);
            let name = match site.attention {
                a if named(a.bias) => "bias",
                a if named(a.sinks) => "sinks",
                _ => "mask",
            };
            leaves.push(graph.input(name, ty));
        }
        Builder {
            site,
            attention: Arc::new(site.attention.clone()),
            graph,
            rank,
            rows: &site.q_layout.rows[rank],
            q,
            k,
            v,
            leaves,
            local: None,
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

    fn own(&self) -> Held {
        Held { source: Source::Own, rows: self.site.kv_layout.rows[self.rank].clone() }
    }

    /// Keys and values travel to the next rank, hop after hop; each hop is under way while its keys are computed on.
    fn ring(&mut self, route: &Route<'_>) -> Result<(), RingError> {
        let mut held = self.own();
        let mut stages = vec![held.rows.clone()];
        stages.extend((1..self.site.ranks()).map(|hop| route.received(self.rank, hop)));
        let plan = groups(&self.attention.mask, self.rows, &stages);
        if plan[0].iter().any(|g| !g.keys.is_empty()) {
            self.local()?;
        }
        for (stage, groups) in plan.iter().enumerate() {
            let hop = stage + 1;
            let arriving = stages.get(hop).cloned().unwrap_or_default();
            let started = self.start_hop(route, &held, hop, &arriving)?;
            self.partials(stage, groups, &held, &held.rows)?;
            let Some(started) = started else { continue };
            if arriving.is_empty() {
                self.add(Op::Wait, &[started], &format!("sent{hop}"))?;
                continue;
            }
            let value = self.add(Op::Wait, &[started], &format!("kv.hop{hop}"))?;
            held = Held { source: Source::Value(value), rows: arriving };
        }
        Ok(())
    }

    /// The exchange of hop `hop`, if anything is sent or received.
    fn start_hop(
        &mut self,
        route: &Route<'_>,
        held: &Held,
        hop: usize,
        arriving: &[Progression],
    ) -> Result<Option<ValueId>, RingError> {
        let ranks = self.site.ranks();
        let sent = if hop < ranks { route.sent(self.rank, hop) } else { vec![] };
        if sent.is_empty() && arriving.is_empty() {
            return Ok(None);
        }
        let collective = Collective::SendRecv {
            group: hop,
            to: (!sent.is_empty()).then(|| route.next(self.rank)),
            from: (!arriving.is_empty()).then(|| route.before(self.rank)),
            rows: arriving.to_vec(),
        };
        let ty = self.site.packed(row_count(arriving));
        let operand = if sent.is_empty() { vec![] } else { vec![self.chunk(held, &sent)?] };
        self.add(Op::Start(Box::new(collective), ty), &operand, &format!("hop{hop}")).map(Some)
    }

    /// The keys and values that another rank needs come from everyone to everyone, in one or several stages, under the
    /// computation on the rank's own keys and on those of the stages before.
    fn all_gather(&mut self, route: &Route<'_>, stages: usize) -> Result<(), RingError> {
        // Of each stage the pieces of each rank.
        let mut rows = vec![vec![Vec::new(); self.site.ranks()]; stages];
        for rank in 0..self.site.ranks() {
            for (stage, part) in rows.iter_mut().zip(in_parts(&route.leaves_home(rank), stages)) {
                stage[rank] = part;
            }
        }
        let home =
            |p: &Progression| !rows.iter().any(|stage| stage[self.rank].iter().any(|part| p.holds(part)));
        let own_rows = &self.site.kv_layout.rows[self.rank];
        let parts = |p: &Progression| -> Vec<Progression> {
            let parts = rows.iter().flat_map(|stage| &stage[self.rank]);
            if home(p) { vec![*p] } else { parts.filter(|part| p.holds(part)).copied().collect() }
        };
        let own = Held { source: Source::Own, rows: own_rows.iter().flat_map(parts).collect() };
        let mut keys = vec![own.rows.clone()];
        let mut started = Vec::new();
        for (stage, rows) in rows.into_iter().enumerate() {
            let sent = &rows[self.rank];
            let others =
                (0..rows.len()).filter(|&r| r != self.rank).flat_map(|r| rows[r].clone()).collect::<Vec<_>>();
            if sent.is_empty() && others.is_empty() {
                continue;
            }
            let operand = if sent.is_empty() { vec![] } else { vec![self.chunk(&own, sent)?] };
            let all = rows.concat();
            let ty = self.site.packed(row_count(&all));
            let group = stage + 1;
            let name = |what: &str| if stages == 1 { what.to_owned() } else { format!("{what}{group}") };
            let collective = Collective::AllGather { group, rows };
            let start = self.add(Op::Start(Box::new(collective), ty), &operand, &name("gather"))?;
            started.push((start, if stages == 1 { "kv.all".to_owned() } else { name("kv.stage") }, all));
            keys.push(others);
        }
        let plan = groups(&self.attention.mask, self.rows, &keys);
        self.partials(0, &plan[0], &own, &keys[0])?;
        for (stage, (start, name, all)) in started.into_iter().enumerate() {
            let value = self.add(Op::Wait, &[start], &name)?;
            // The groups name the pieces of the other ranks; what is held has the rank's own besides.
            let all = Held { source: Source::Value(value), rows: all };
            self.partials(stage + 1, &plan[stage + 1], &all, &keys[stage + 1])?;
        }
        Ok(())
    }

    /// The partial results of a stage, each merged into what there is. `keys` are the pieces that the groups name.
    fn partials(
        &mut self,
        stage: usize,
        groups: &[Group],
        held: &Held,
        keys: &[Progression],
    ) -> Result<(), RingError> {
        for (i, group) in groups.iter().enumerate() {
            let name = match groups.len() {
                1 => format!("p{stage}"),
                _ => format!("p{stage}{}", letters(i)),
            };
            let k_rows: Vec<Progression> = group.keys.iter().map(|&k| keys[k]).collect();
            let q_rows: Vec<Progression> = group.q.iter().map(|&q| self.rows[q]).collect();
            self.partial(&name, q_rows, k_rows, group.tile, held)?;
        }
        Ok(())
    }

    fn partial(
        &mut self,
        name: &str,
        q_rows: Vec<Progression>,
        k_rows: Vec<Progression>,
        tile: Tile,
        held: &Held,
    ) -> Result<(), RingError> {
        let queries = Held { source: Source::Value(self.q), rows: self.rows.to_vec() };
        let keys = if k_rows.is_empty() { self.none()? } else { self.chunk(held, &k_rows)? };
        let mut operands = vec![self.chunk(&queries, &q_rows)?, keys];
        // The sinks come last, and are counted once, by the finish.
        let leaves = self.attention.sinks.map_or(self.leaves.len(), |sinks| sinks - 3);
        for leaf in 0..leaves {
            operands.push(self.leaf(leaf, &q_rows)?);
        }
        let rows = q_rows.clone();
        let partial = Partial {
            attention: self.attention.clone(),
            v_head_dim: self.site.sizes.v_head_dim,
            q_rows,
            k_rows,
            tile,
        };
        let value = self.add_partial(Op::Partial(Box::new(partial)), &operands, name)?;
        self.merge(Acc { rows, value })
    }

    fn merge(&mut self, new: Acc) -> Result<(), RingError> {
        let Some(acc) = self.acc.take() else {
            self.acc = Some(new);
            return Ok(());
        };
        let rows = union(&acc.rows, &new.rows);
        let op = Op::Merge { a: acc.rows, b: new.rows };
        self.merges += 1;
        let value = self.add_partial(op, &[acc.value, new.value].concat(), &format!("acc{}", self.merges))?;
        self.acc = Some(Acc { rows, value });
        Ok(())
    }

    /// The sinks and the division, over all of the rank's rows, and the outputs. A rank without rows divides nothing.
    fn finish(mut self) -> Result<Graph, RingError> {
        if self.acc.is_none() {
            let own = self.own();
            self.partial("p0", vec![], vec![], Tile::Full, &own)?;
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

    /// Keys and values side by side, so that a hop is one message.
    fn local(&mut self) -> Result<ValueId, RingError> {
        if let Some(made) = self.local {
            return Ok(made);
        }
        let made = self.add(Op::Concat { axis: 3 }, &[self.k, self.v], "kv.local")?;
        Ok(*self.local.insert(made))
    }

    /// Packed keys and values of no rows.
    fn none(&mut self) -> Result<ValueId, RingError> {
        if let Some(made) = self.none {
            return Ok(made);
        }
        let rows = self.own().rows;
        let k = self.chunk(&Held { source: Source::Value(self.k), rows: rows.clone() }, &[])?;
        let v = self.chunk(&Held { source: Source::Value(self.v), rows }, &[])?;
        let made = self.add(Op::Concat { axis: 3 }, &[k, v], "kv.none")?;
        Ok(*self.none.insert(made))
    }

    /// Some pieces of what is held, made once.
    fn chunk(&mut self, held: &Held, rows: &[Progression]) -> Result<ValueId, RingError> {
        let value = match held.source {
            Source::Own => self.local()?,
            Source::Value(value) => value,
        };
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
        self.chunk(&Held { source: Source::Value(value), rows: self.rows.to_vec() }, rows)
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

/// The rows of some pieces, in order, in that many parts of nearly equal numbers of rows.
fn in_parts(pieces: &[Progression], parts: usize) -> Vec<Vec<Progression>> {
    let rows = row_count(pieces);
    let mut out = vec![Vec::new(); parts];
    for (i, part) in out.iter_mut().enumerate() {
        let (from, to) = (rows * i / parts, rows * (i + 1) / parts);
        let mut before = 0;
        for p in pieces {
            let (first, end) = (from.max(before), to.min(before + p.len));
            if first < end {
                part.push(p.part(first - before, end - first));
            }
            before += p.len;
        }
    }
    out
}

/// a, b, …, z, then numbers that cannot be taken for other names.
fn letters(i: usize) -> String {
    match u8::try_from(i) {
        Ok(n) if n < 26 => char::from(b'a' + n).to_string(),
        _ => format!("z{i}"),
    }
}
