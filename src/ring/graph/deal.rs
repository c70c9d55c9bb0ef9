//! The island graph where heads are dealt out over the ranks.

use super::{Builder, Held, RingError};
use crate::ir::{Collective, DType, Graph, Heads, Op, Tensor, Type, ValueId};
use crate::layout::{Progression, row_count};
use crate::ring::heads::Part;
use crate::ring::plan::Plan;

/// Values that begin to travel in one group: what goes to each rank, the type of what comes, and its name.
type Travelling = (Vec<ValueId>, Type, String);

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

    /// Some rows of own heads of others go there, and rows of others come in own heads.
    pub(super) fn scatter(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (part, group): (usize, usize),
    ) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let ranks = plan.site.ranks();
        let others = || (0..ranks).filter(move |&p| p != rank);
        let (q_all, kv_all) = (self.site.sizes.q_heads, self.site.sizes.kv_heads);
        let own = heads.part(rank, part);
        let rows_of = |keys: bool| -> Vec<Vec<Progression>> {
            let layout = if keys { plan.site.kv_layout } else { plan.site.q_layout };
            (0..ranks).map(|p| if p == rank { vec![] } else { layout.rows[p].clone() }).collect()
        };
        let mut values: Vec<(bool, Vec<usize>, Travelling, bool)> = vec![];
        // Queries, and the leaves of their rows; one that is one for all heads goes once.
        let mut tensors = vec![(self.q, "q".to_owned(), true)];
        for leaf in self.by_rows() {
            let value = self.four_axes(self.leaves[leaf])?;
            let by_head = self.graph.ty(value).shape[1] == q_all && q_all > 1;
            tensors.push((value, format!("leaf{}", leaf + 3), by_head));
        }
        for (value, name, by_head) in tensors {
            if part > 0 && !by_head {
                continue;
            }
            let mut operands = vec![];
            let mut to = vec![];
            for p in others().filter(|_| row_count(self.rows) > 0) {
                if let Some(theirs) = heads.part(p, part) {
                    operands.push(self.some_heads(value, theirs.q, if by_head { q_all } else { 0 })?);
                    to.push(p);
                }
            }
            let mut ty = self.graph.ty(value).clone();
            if let (true, Some(own)) = (by_head, own) {
                ty.shape[1] = own.q.len;
            }
            values.push((false, to, (operands, ty, format!("{name}.part{}", part + 1)), own.is_some()));
        }
        let keys = |p: Option<Part>| p.filter(|p| p.keys_come);
        if others().chain([rank]).any(|p| keys(heads.part(p, part)).is_some()) {
            let all = self.key_rows.to_vec();
            let value = if all.is_empty() { self.none()? } else { self.own_keys(&all)? };
            let (mut operands, mut to) = (vec![], vec![]);
            for p in others().filter(|_| !all.is_empty()) {
                if let Some(theirs) = keys(heads.part(p, part)) {
                    operands.push(self.some_heads(value, theirs.keys, kv_all)?);
                    to.push(p);
                }
            }
            let mut ty = self.graph.ty(value).clone();
            let own = keys(own);
            if let Some(own) = own {
                ty.shape[1] = own.keys.len;
            }
            values.push((true, to, (operands, ty, format!("kv.part{}", part + 1)), own.is_some()));
        }
        for (keys, to, (operands, mut ty, name), comes) in values {
            let rows = if comes { rows_of(keys) } else { vec![vec![]; ranks] };
            ty.shape[2] = rows.iter().map(|r| row_count(r)).sum();
            if operands.is_empty() && ty.shape[2] == 0 {
                continue;
            }
            let collective = Collective::AllToAll { group, to, axis: 2, rows };
            let started =
                self.add(Op::Start(Box::new(collective), ty), &operands, &format!("{name}.start"))?;
            self.several.push((group, started, name));
        }
        Ok(())
    }

    /// Own rows in own heads, and behind them those that came.
    fn with_own(
        &mut self,
        own: ValueId,
        came: Option<ValueId>,
        rows: Vec<Progression>,
        name: &str,
    ) -> Result<Held, RingError> {
        let value = match came {
            Some(came) => self.add(Op::Concat { axis: 2 }, &[own, came], name)?,
            None => own,
        };
        Ok(Held { value, rows })
    }

    /// All rows of a part's heads are computed, and divided.
    pub(super) fn own_heads(&mut self, plan: &Plan<'_>, rank: usize, part: usize) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let Some(own) = heads.part(rank, part) else { return Ok(()) };
        let ranks = plan.site.ranks();
        let all_rows = |own: &[Progression], layout: &crate::layout::Layout| {
            let others = (0..ranks).filter(|&p| p != rank).flat_map(|p| layout.rows[p].clone());
            own.iter().copied().chain(others).collect::<Vec<_>>()
        };
        let q_rows = all_rows(self.rows, plan.site.q_layout);
        let kv_rows = all_rows(self.key_rows, plan.site.kv_layout);
        let (q_all, kv_all) = (self.site.sizes.q_heads, self.site.sizes.kv_heads);
        let (n, group) = (part + 1, 2 * part + 1);
        let q = self.some_heads(self.q, own.q, q_all)?;
        let came = self.arrived_as(group, &format!("q.part{n}"));
        let q = self.with_own(q, came, q_rows.clone(), &format!("q.all{n}"))?;
        let by_rows = self.by_rows();
        for &leaf in &by_rows {
            let value = self.four_axes(self.leaves[leaf])?;
            let by_head = self.graph.ty(value).shape[1] == q_all && q_all > 1;
            if part > 0 && !by_head {
                continue;
            }
            let mine = self.some_heads(value, own.q, if by_head { q_all } else { 0 })?;
            let came = self.arrived_as(group, &format!("leaf{}.part{n}", leaf + 3));
            let held = self.with_own(mine, came, q_rows.clone(), &format!("leaf{}.all{n}", leaf + 3))?;
            self.dealt.leaves.insert(leaf, held);
        }
        if own.keys_come {
            let all = self.key_rows.to_vec();
            let value = if all.is_empty() { self.none()? } else { self.own_keys(&all)? };
            let mine = self.some_heads(value, own.keys, kv_all)?;
            let came = self.arrived_as(group, &format!("kv.part{n}"));
            let mut held = self.with_own(mine, came, kv_rows, &format!("kv.all{n}"))?;
            if let Some(repeated) = self.repeated(held.value, own, n)? {
                held.value = repeated;
            }
            self.dealt.keys = Some(held);
        }
        let keys =
            self.dealt.keys.clone().ok_or_else(|| plan.site.refuse("its keys have not come".into()))?;
        let mut results: Vec<Held> = vec![];
        let mut outs: [Vec<ValueId>; 2] = Default::default();
        let mut done: Vec<Progression> = vec![];
        for (i, group) in heads.groups.iter().enumerate() {
            let rows: Vec<Progression> =
                group.q.iter().map(|&(of, piece)| plan.site.q_layout.rows[of][piece]).collect();
            let k_rows: Vec<Progression> = group.keys.iter().map(|k| k.1).collect();
            let mut operands = vec![self.chunk(&q, &rows)?, self.chunk(&keys, &k_rows)?];
            for leaf in 0..self.score_leaves() {
                operands.push(self.leaf_of(leaf, &rows, own.q)?);
            }
            let name = format!("h{n}{}", super::letters(i));
            let acc = self.over(&name, operands, rows.clone(), k_rows, group.tile)?;
            let mut operands = acc.value.to_vec();
            if let Some(sinks) = self.attention.sinks {
                operands.push(self.leaf_of(sinks - 3, &rows, own.q)?);
            }
            let (dtype, empty_row, lse) = (self.site.dtype, self.attention.empty_row, self.attention.lse);
            let op = Op::Finish { of: rows.clone(), rows: rows.clone(), dtype, empty_row, lse };
            let finish = self.add_named(op, &operands, |port| format!("{name}.{}", ["out", "lse"][port]))?;
            for (value, outs) in self.graph.results(finish).into_iter().zip(&mut outs) {
                outs.push(value);
            }
            done.extend(rows);
        }
        for (outs, what) in outs.into_iter().zip(["out", "lse"]).filter(|(o, _)| !o.is_empty()) {
            let value = match outs.as_slice() {
                [one] => *one,
                _ => self.add(Op::Concat { axis: 2 }, &outs, &format!("{what}.heads{n}"))?,
            };
            results.push(Held { value, rows: done.clone() });
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

    /// The results of a part go to the ranks of their rows, and those of own rows come.
    pub(super) fn results_home(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (part, group): (usize, usize),
    ) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let ranks = plan.site.ranks();
        let s = &self.site.sizes;
        let others = || (0..ranks).filter(move |&p| p != rank);
        let results = self.dealt.results.get(part).cloned().unwrap_or_default();
        let own = row_count(self.rows);
        let theirs = |p: usize| heads.part(p, part).filter(|_| own > 0);
        let come: usize = others().filter_map(theirs).map(|p| p.q.len).sum();
        let rows: Vec<Vec<Progression>> = (0..ranks)
            .map(|p| if p == rank || theirs(p).is_none() { vec![] } else { self.rows.to_vec() })
            .collect();
        let kinds = [
            (Type::new(self.site.dtype, vec![s.batch, come, own, s.v_head_dim]), "out"),
            (Type::new(self.attention.acc, vec![s.batch, come, own]), "lse"),
        ];
        for (i, (mut ty, what)) in kinds.into_iter().enumerate().take(1 + usize::from(self.attention.lse)) {
            let (mut operands, mut to) = (vec![], vec![]);
            for p in others().filter(|&p| row_count(&plan.site.q_layout.rows[p]) > 0) {
                if let Some(held) = results.get(i) {
                    operands.push(self.chunk(held, &plan.site.q_layout.rows[p])?);
                    to.push(p);
                }
            }
            if come == 0 {
                ty.shape[2] = 0;
            }
            if operands.is_empty() && come == 0 {
                continue;
            }
            let name = format!("{what}.home{}", part + 1);
            let collective = Collective::AllToAll { group, to, axis: 1, rows: rows.clone() };
            let started =
                self.add(Op::Start(Box::new(collective), ty), &operands, &format!("{name}.start"))?;
            self.several.push((group, started, name));
        }
        Ok(())
    }

    /// The results of own rows in all heads.
    pub(super) fn put_together(mut self, plan: &Plan<'_>, rank: usize) -> Result<Graph, RingError> {
        let Some(heads) = &plan.heads else { return Ok(self.graph) };
        if row_count(self.rows) == 0 {
            // Of no rows, any heads are as good as all.
            return self.finish();
        }
        let ranks = plan.site.ranks();
        for (i, what) in ["out", "lse"].into_iter().enumerate().take(1 + usize::from(self.attention.lse)) {
            let mut parts: Vec<(usize, ValueId)> = vec![];
            for part in 0..heads.most() {
                if let (Some(own), Some(held)) =
                    (heads.part(rank, part), self.dealt.results.get(part).and_then(|r| r.get(i)).cloned())
                {
                    let value = self.chunk(&held, self.rows)?;
                    parts.push((own.q.start, value));
                }
                let came = self.arrived_as(2 * part + 2, &format!("{what}.home{}", part + 1));
                let Some(came) = came else { continue };
                let mut start = 0;
                for p in (0..ranks).filter(|&p| p != rank) {
                    let Some(theirs) = heads.part(p, part) else { continue };
                    let name = format!("{what}.h{}", theirs.q.start);
                    let slice = Op::Slice { axis: 1, start, len: theirs.q.len, step: 1 };
                    parts.push((theirs.q.start, self.add(slice, &[came], &name)?));
                    start += theirs.q.len;
                }
            }
            parts.sort_unstable_by_key(|p| p.0);
            let parts: Vec<ValueId> = parts.into_iter().map(|p| p.1).collect();
            let value = match parts.as_slice() {
                [] => return self.finish(),
                [one] => *one,
                _ => self.add(Op::Concat { axis: 1 }, &parts, what)?,
            };
            self.graph.output(what, value);
        }
        Ok(self.graph)
    }
}
