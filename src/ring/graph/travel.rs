//! The island graph where queries travel and partial results come home.

use super::{Acc, Builder, Held, RingError};
use crate::ir::{Collective, Op, Type, ValueId};
use crate::layout::{Progression, row_count};
use crate::mask::Tile;
use crate::ring::plan::Plan;

impl Builder<'_> {
    /// Several values begin to travel in one group; each rank in `to` gets one operand of each.
    fn start_each(
        &mut self,
        (group, to): (usize, Vec<usize>),
        rows: &[Vec<Progression>],
        values: Vec<(Vec<ValueId>, Type, String)>,
    ) -> Result<(), RingError> {
        for (operands, mut ty, name) in values {
            ty.shape[2] = rows.iter().map(|r| row_count(r)).sum();
            let collective = Collective::AllToAll { group, to: to.clone(), axis: 2, rows: rows.to_vec() };
            let started =
                self.add(Op::Start(Box::new(collective), ty), &operands, &format!("{name}.{group}"))?;
            self.several.push((group, started, name));
        }
        Ok(())
    }

    /// Own queries, and the leaves that go with them, leave for the ranks whose keys they see; those of others come.
    pub(super) fn queries(&mut self, plan: &Plan<'_>, rank: usize, group: usize) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let of = |owner: usize, at: usize| -> Vec<Progression> {
            let pieces = &plan.site.q_layout.rows[owner];
            sight.seen(owner, at).iter().map(|s| pieces[s.piece]).collect()
        };
        let to: Vec<usize> = sight.helpers(rank).collect();
        let guests: Vec<usize> = sight.guests(rank).collect();
        let mut values = vec![];
        let own = Held { value: self.q, rows: self.rows.to_vec() };
        let operands = to.iter().map(|&at| self.chunk(&own, &of(rank, at))).collect::<Result<_, _>>()?;
        values.push((operands, self.graph.ty(self.q).clone(), "q.guests".to_owned()));
        for leaf in self.by_rows() {
            let value = self.four_axes(self.leaves[leaf])?;
            let own = Held { value, rows: self.rows.to_vec() };
            let operands = to.iter().map(|&at| self.chunk(&own, &of(rank, at))).collect::<Result<_, _>>()?;
            let name = format!("{}.guests", self.graph.value(value).name);
            values.push((operands, self.graph.ty(value).clone(), name));
        }
        let mut rows = vec![vec![]; plan.site.ranks()];
        guests.iter().for_each(|&owner| rows[owner] = of(owner, rank));
        self.guest_rows = rows.concat();
        self.start_each((group, to), &rows, values)
    }

    /// The leaves that are handed out by query rows.
    pub(super) fn by_rows(&self) -> Vec<usize> {
        (0..self.leaves.len()).filter(|&i| self.site.leaves[i].by_query_rows).collect()
    }

    /// The partial result of received queries over own keys.
    pub(super) fn guest(
        &mut self,
        of: usize,
        q_rows: Vec<Progression>,
        k_rows: Vec<Progression>,
        tile: Tile,
    ) -> Result<(), RingError> {
        let keys = self.own_keys(&k_rows)?;
        let (arrived, by_rows) = (self.arrived(1), self.by_rows());
        let rows = self.guest_rows.clone();
        let held = |value: ValueId| Held { value, rows: rows.clone() };
        let mut operands = vec![self.chunk(&held(arrived[0]), &q_rows)?, keys];
        for leaf in 0..self.score_leaves() {
            let operand = match by_rows.iter().position(|&l| l == leaf) {
                Some(at) => self.chunk(&held(arrived[at + 1]), &q_rows)?,
                None => self.leaf(leaf, &q_rows)?,
            };
            operands.push(operand);
        }
        let before = self.guests.iter().filter(|g| g.0 == of).count();
        let acc = self.over(&format!("g{of}{}", super::letters(before)), operands, q_rows, k_rows, tile)?;
        self.guests.push((of, acc));
        Ok(())
    }

    /// Partial results leave for the ranks whose queries they are of, and those of own queries come.
    pub(super) fn partials_home(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        group: usize,
    ) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let to: Vec<usize> = sight.guests(rank).collect();
        let guests = std::mem::take(&mut self.guests);
        let mut values: [Vec<ValueId>; 3] = Default::default();
        for &of in &to {
            let theirs: Vec<&Acc> = guests.iter().filter(|g| g.0 == of).map(|g| &g.1).collect();
            let rows: Vec<Progression> = theirs.iter().flat_map(|a| a.rows.clone()).collect();
            let wanted: Vec<Progression> =
                sight.seen(of, rank).iter().map(|s| plan.site.q_layout.rows[of][s.piece]).collect();
            for (i, values) in values.iter_mut().enumerate() {
                let parts: Vec<ValueId> = theirs.iter().map(|a| a.value[i]).collect();
                let name = format!("g{of}.{}", ["o", "m", "l"][i]);
                let joined = match parts.as_slice() {
                    [one] => *one,
                    _ => self.add(Op::Concat { axis: 2 }, &parts, &name)?,
                };
                // In the order of the pieces.
                values.push(self.chunk(&Held { value: joined, rows: rows.clone() }, &wanted)?);
            }
        }
        let mut rows = vec![vec![]; plan.site.ranks()];
        for at in sight.helpers(rank) {
            let pieces = sight.seen(rank, at).iter();
            rows[at] = pieces.map(|s| plan.site.q_layout.rows[rank][s.piece]).collect();
        }
        let s = &self.site.sizes;
        let ty = |shape: Vec<usize>| Type::new(self.attention.acc, shape);
        let types = [
            ty(vec![s.batch, s.q_heads, 0, s.v_head_dim]),
            ty(vec![s.batch, s.q_heads, 0]),
            ty(vec![s.batch, s.q_heads, 0]),
        ];
        let values = values.into_iter().zip(types).zip(["home.o", "home.m", "home.l"]);
        let values = values.map(|((operands, ty), name)| (operands, ty, name.to_owned())).collect();
        self.start_each((group, to), &rows, values)
    }

    /// What came home, rank after rank, is merged.
    pub(super) fn merge_home(&mut self, plan: &Plan<'_>, rank: usize) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let arrived = self.arrived(2);
        let mut start = 0;
        for at in sight.helpers(rank) {
            let pieces = sight.seen(rank, at).iter();
            let rows: Vec<Progression> = pieces.map(|s| plan.site.q_layout.rows[rank][s.piece]).collect();
            let len = row_count(&rows);
            let mut value = [ValueId { op: self.q.op, port: 0 }; 3];
            for (i, value) in value.iter_mut().enumerate() {
                let slice = Op::Slice { axis: 2, start, len, step: 1 };
                *value = self.add(slice, &[arrived[i]], &format!("home{at}.{}", ["o", "m", "l"][i]))?;
            }
            start += len;
            self.merge(Acc { rows, value })?;
        }
        Ok(())
    }
}
