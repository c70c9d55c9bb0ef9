//! The island graph where heads are dealt out over the ranks.

use super::{Builder, Held, RingError};
use crate::ir::{Collective, DType, Heads, Op, Tensor, ValueId};
use crate::layout::{Progression, row_count};
use crate::ring::heads::{HeadPlan, Leg, Part};
use crate::ring::plan::Plan;

/// Something that is dealt out by heads.
struct Dealt {
    /// The rank's own rows of it; `None` for keys and values, which are packed when they are first asked for.
    value: Option<ValueId>,
    name: String,
    kind: Kind,
}

/// By which heads it is dealt out, of how many.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ByHead(usize),
    /// One for all heads: it goes once.
    ForAll,
    Keys(usize),
}

impl Dealt {
    /// How many heads there are to choose from; 0 if it is one for all.
    fn all(&self) -> usize {
        match self.kind {
            Kind::ByHead(all) | Kind::Keys(all) => all,
            Kind::ForAll => 0,
        }
    }

    /// The heads that come to a rank with a part.
    fn heads(&self, plan: &HeadPlan, part: usize, rank: usize) -> Option<Heads> {
        let of = plan.part(rank, part)?;
        match self.kind {
            Kind::ByHead(_) => Some(of.q),
            Kind::ForAll => (part == 0).then_some(Heads::all(1)),
            Kind::Keys(_) => of.keys_come.then_some(of.keys),
        }
    }

    /// The blocks of heads that come to a node with a part, side by side.
    fn blocks(&self, plan: &HeadPlan, part: usize, node: usize) -> Vec<Heads> {
        if let Kind::Keys(_) = self.kind {
            return plan.keys_of_node(node, part);
        }
        let mut blocks: Vec<Heads> =
            plan.levels.ranks_of(node).filter_map(|rank| self.heads(plan, part, rank)).collect();
        blocks.dedup();
        blocks
    }

    /// The names of what comes with a part: within the node, and from the others.
    fn near(&self, part: usize) -> String {
        format!("{}.part{}", self.name, part + 1)
    }

    fn far(&self, part: usize) -> String {
        format!("{}.far{}", self.name, part + 1)
    }
}

impl Builder<'_> {
    /// Some heads of a value that has `all` of them; of one that is one for all heads, all of it.
    fn some_heads(&mut self, value: ValueId, heads: Heads, all: usize) -> Result<ValueId, RingError> {
        // They stand third from behind.
        let shape = &self.graph.ty(value).shape;
        let axis = shape.len().checked_sub(3).filter(|&axis| shape[axis] == all && heads != Heads::all(all));
        let Some(axis) = axis else { return Ok(value) };
        let name = format!("{}.h{}", self.graph.value(value).name, heads.start);
        self.add(Op::Slice { axis, start: heads.start, len: heads.len, step: 1 }, &[value], &name)
    }

    /// What is dealt out: queries, the leaves of their rows, keys with values.
    fn dealt_out(&mut self) -> Result<Vec<Dealt>, RingError> {
        let (q_all, kv_all) = (self.site.sizes.q_heads, self.site.sizes.kv_heads);
        let mut out = vec![Dealt { value: Some(self.q), name: "q".to_owned(), kind: Kind::ByHead(q_all) }];
        for leaf in self.by_rows() {
            let value = self.four_axes(self.leaves[leaf])?;
            let by_head = self.graph.ty(value).shape[1] == q_all && q_all > 1;
            let kind = if by_head { Kind::ByHead(q_all) } else { Kind::ForAll };
            out.push(Dealt { value: Some(value), name: format!("leaf{}", leaf + 3), kind });
        }
        out.push(Dealt { value: None, name: "kv".to_owned(), kind: Kind::Keys(kv_all) });
        Ok(out)
    }

    /// The rank's own rows of what is dealt out, in all heads.
    fn own_rows(&mut self, of: &Dealt) -> Result<ValueId, RingError> {
        let all = self.key_rows.to_vec();
        match of.value {
            Some(value) => Ok(value),
            None if all.is_empty() => self.none(),
            None => self.own_keys(&all),
        }
    }

    /// The rows of a rank.
    fn rows_at(&self, of: &Dealt, rank: usize) -> Vec<Progression> {
        let layout = if matches!(of.kind, Kind::Keys(_)) { self.site.kv_layout } else { self.site.q_layout };
        layout.rows[rank].clone()
    }

    /// Of other nodes, the rows of the ranks that stand as a rank does.
    fn far_rows(&self, of: &Dealt, heads: &HeadPlan, rank: usize) -> Vec<Progression> {
        heads.levels.far(rank).flat_map(|p| self.rows_at(of, p)).collect()
    }

    /// Some blocks of heads of a value, side by side.
    pub(super) fn side_by_side(
        &mut self,
        values: &[ValueId],
        axis: usize,
        name: &str,
    ) -> Result<ValueId, RingError> {
        match values {
            [one] => Ok(*one),
            _ => self.add(Op::Concat { axis }, values, name),
        }
    }

    /// One block of heads of those that lie side by side in a value.
    fn cut(&mut self, value: ValueId, blocks: &[Heads], wanted: Heads) -> Result<ValueId, RingError> {
        let Some(at) = blocks.iter().position(|&b| b == wanted).filter(|_| blocks.len() > 1) else {
            return Ok(value);
        };
        let start = blocks[..at].iter().map(|b| b.len).sum();
        let name = format!("{}.h{}", self.graph.value(value).name, wanted.start);
        self.add(Op::Slice { axis: 1, start, len: wanted.len, step: 1 }, &[value], &name)
    }

    /// What came from other nodes in some heads; `None` if it has no rows.
    fn crossed(
        &mut self,
        (heads, rank): (&HeadPlan, usize),
        of: &Dealt,
        part: usize,
        wanted: Heads,
    ) -> Result<Option<ValueId>, RingError> {
        let node = heads.levels.node(rank);
        if row_count(&self.far_rows(of, heads, rank)) == 0 {
            return Ok(None);
        }
        // Keys came with the first part that reads them.
        for part in (0..=part).rev() {
            let blocks = of.blocks(heads, part, node);
            if blocks.contains(&wanted) {
                let came = self.arrived_as(heads.group(Leg::Out, part), &of.far(part));
                let came = came.ok_or_else(|| self.site.refuse("what travels has not come".into()))?;
                return self.cut(came, &blocks, wanted).map(Some);
            }
        }
        Err(self.site.refuse("its heads have not come".into()))
    }

    /// Own rows in the heads of others go there, or to their node, and those of others come.
    pub(super) fn scatter(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (leg, part): (Leg, usize),
    ) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let (peers, group) = (heads.peers(leg, rank), heads.group(leg, part));
        // What is sent is made before any of it leaves.
        let mut leaves = vec![];
        for of in self.dealt_out()? {
            let mut rows = vec![vec![]; plan.site.ranks()];
            let (mut operands, mut to) = (vec![], vec![]);
            let own = row_count(&self.rows_at(&of, rank)) > 0;
            for &p in &peers {
                let mut values = vec![];
                let (name, axis) = match leg {
                    Leg::Out => {
                        let blocks = of.blocks(heads, part, heads.levels.node(p));
                        for block in blocks.into_iter().filter(|_| own) {
                            let value = self.own_rows(&of)?;
                            values.push(self.some_heads(value, block, of.all())?);
                        }
                        (format!("{}.to{}", of.name, heads.levels.node(p)), 1)
                    }
                    _ => {
                        if let Some(block) = of.heads(heads, part, p) {
                            if own {
                                let value = self.own_rows(&of)?;
                                values.push(self.some_heads(value, block, of.all())?);
                            }
                            values.extend(self.crossed((heads, rank), &of, part, block)?);
                        }
                        (format!("{}.for{p}", of.name), 2)
                    }
                };
                if !values.is_empty() {
                    operands.push(self.side_by_side(&values, axis, &name)?);
                    to.push(p);
                }
            }
            let node = heads.levels.node(rank);
            let come = match leg {
                Leg::Out => of.blocks(heads, part, node),
                _ => of.heads(heads, part, rank).into_iter().collect(),
            };
            for &p in peers.iter().filter(|_| !come.is_empty()) {
                rows[p] = self.rows_at(&of, p);
                if leg == Leg::In {
                    rows[p].extend(self.far_rows(&of, heads, p));
                }
            }
            let all: usize = rows.iter().map(|r| row_count(r)).sum();
            if operands.is_empty() && all == 0 {
                continue;
            }
            let value = self.own_rows(&of)?;
            let mut ty = self.graph.ty(value).clone();
            ty.shape[2] = all;
            if of.all() > 0 && !come.is_empty() {
                ty.shape[1] = come.iter().map(|h| h.len).sum();
            }
            let name = if leg == Leg::Out { of.far(part) } else { of.near(part) };
            leaves.push((Collective::AllToAll { group, to, axis: 2, rows }, ty, operands, name));
        }
        for (collective, ty, operands, name) in leaves {
            let started = format!("{name}.start");
            self.begin(collective, ty, &operands, (&started, name))?;
        }
        Ok(())
    }

    /// All rows in own heads: own ones, and behind them those that came.
    fn all_rows(
        &mut self,
        (heads, rank): (&HeadPlan, usize),
        of: &Dealt,
        part: usize,
        wanted: Heads,
    ) -> Result<Held, RingError> {
        let value = self.own_rows(of)?;
        let mut values = vec![self.some_heads(value, wanted, of.all())?];
        let mut rows = self.rows_at(of, rank);
        values.extend(self.crossed((heads, rank), of, part, wanted)?);
        rows.extend(self.far_rows(of, heads, rank));
        values.extend(self.arrived_as(heads.group(Leg::In, part), &of.near(part)));
        for p in heads.levels.near(rank) {
            rows.extend(self.rows_at(of, p));
            rows.extend(self.far_rows(of, heads, p));
        }
        let value = self.side_by_side(&values, 2, &format!("{}.all{}", of.name, part + 1))?;
        Ok(Held { value, rows })
    }

    /// All rows of a part's heads are computed, and divided.
    pub(super) fn own_heads(&mut self, plan: &Plan<'_>, rank: usize, part: usize) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let Some(own) = heads.part(rank, part) else { return Ok(()) };
        let n = part + 1;
        let mut q = None;
        let by_rows = self.by_rows();
        for (nth, of) in self.dealt_out()?.into_iter().enumerate() {
            let Some(wanted) = of.heads(heads, part, rank) else { continue };
            let mut held = self.all_rows((heads, rank), &of, part, wanted)?;
            match of.kind {
                Kind::Keys(_) => {
                    if let Some(repeated) = self.repeated(held.value, own, n)? {
                        held.value = repeated;
                    }
                    self.dealt.keys = Some(held);
                }
                _ if nth == 0 => q = Some(held),
                _ => {
                    self.dealt.leaves.insert(by_rows[nth - 1], held);
                }
            }
        }
        let q = q.ok_or_else(|| plan.site.refuse("its queries have not come".into()))?;
        let keys =
            self.dealt.keys.clone().ok_or_else(|| plan.site.refuse("its keys have not come".into()))?;
        let group = &heads.group;
        let mut results: Vec<Held> = vec![];
        if !group.q.is_empty() {
            let rows: Vec<Progression> =
                group.q.iter().map(|&(of, piece)| plan.site.q_layout.rows[of][piece]).collect();
            let k_rows: Vec<Progression> = group.keys.iter().map(|k| k.1).collect();
            let mut operands = vec![self.chunk(&q, &rows)?, self.chunk(&keys, &k_rows)?];
            for leaf in 0..self.score_leaves() {
                operands.push(self.leaf_of(leaf, &rows, own.q)?);
            }
            let name = format!("h{n}");
            let acc = self.over(&name, operands, rows.clone(), k_rows, group.tile)?;
            let mut operands = acc.value.to_vec();
            if let Some(sinks) = self.attention.sinks {
                operands.push(self.leaf_of(sinks - 3, &rows, own.q)?);
            }
            let (dtype, empty_row, lse) = (self.site.dtype, self.attention.empty_row, self.attention.lse);
            let op = Op::Finish { of: rows.clone(), rows: rows.clone(), dtype, empty_row, lse };
            let finish = self.add_named(op, &operands, |port| format!("{name}.{}", ["out", "lse"][port]))?;
            results = self
                .graph
                .results(finish)
                .into_iter()
                .map(|value| Held { value, rows: rows.clone() })
                .collect();
        }
        self.dealt.results.resize(part + 1, vec![]);
        self.dealt.results[part] = results;
        Ok(())
    }

    /// Where query heads do not share key heads evenly, each has its own.
    fn repeated(&mut self, kv: ValueId, own: Part, n: usize) -> Result<Option<ValueId>, RingError> {
        let group = self.site.sizes.q_heads / self.site.sizes.kv_heads.max(1);
        let of = |h: usize| (own.q.start + h) / group.max(1) - own.keys.start;
        let even = own.q.len.is_multiple_of(own.keys.len)
            && (0..own.q.len).all(|h| of(h) == h / (own.q.len / own.keys.len));
        if even {
            return Ok(None);
        }
        let places: Vec<f64> = (0..own.q.len).map(|h| of(h) as f64).collect();
        let indices = Tensor::from_f64(DType::I64, [places.len()], &places);
        let indices = indices.ok_or_else(|| self.site.refuse("its heads cannot be counted".into()))?;
        let indices = self.graph.constant(&format!("heads{n}"), indices);
        Ok(Some(self.add(Op::Gather { axis: 1 }, &[kv, indices], &format!("kv.repeated{n}"))?))
    }

    /// A leaf for some query rows in some heads, wherever the rows are from.
    fn leaf_of(&mut self, leaf: usize, rows: &[Progression], heads: Heads) -> Result<ValueId, RingError> {
        if let Some(held) = self.dealt.leaves.get(&leaf).cloned() {
            return self.chunk(&held, rows);
        }
        let site = &self.site.leaves[leaf];
        let mut value = self.leaves[leaf];
        if let Some(axis) = site.query_axis {
            let op = Op::Rows { axis, outer: 1, inner: 1, rows: rows.to_vec() };
            let name = format!("{}.rows", self.graph.value(value).name);
            value = self.add(op, &[value], &name)?;
        }
        self.some_heads(value, heads, self.site.sizes.q_heads)
    }
}
