//! The island graph where queries travel and partial results come home.

use super::{Acc, Builder, Held, RingError};
use crate::ir::{Collective, Op, Type, ValueId};
use crate::layout::{Progression, row_count};
use crate::mask::Tile;
use crate::ring::plan::Plan;
use crate::ring::sight::{Leg, Piece, Sight};

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
            let started = format!("{name}.{group}");
            self.begin(collective, ty, &operands, (&started, name))?;
        }
        Ok(())
    }

    /// The rows of some pieces of queries.
    fn rows_of(&self, pieces: &[Piece]) -> Vec<Progression> {
        pieces.iter().map(|&(of, piece)| self.site.q_layout.rows[of][piece]).collect()
    }

    /// What comes to a rank in a leg, by rank, and to whom it sends.
    fn leg(&self, sight: &Sight, leg: Leg, rank: usize) -> (Vec<Vec<Progression>>, Vec<usize>) {
        let peers = sight.peers(leg, rank);
        let mut rows = vec![vec![]; self.site.ranks()];
        peers.iter().for_each(|&p| rows[p] = self.rows_of(&sight.carried(leg, p, rank)));
        let to = peers.into_iter().filter(|&p| !sight.carried(leg, rank, p).is_empty()).collect();
        (rows, to)
    }

    /// Queries, and the leaves that go with them, leave for the ranks whose keys they see, or for where they go on from; those of others
    /// come.
    pub(super) fn queries(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (leg, group): (Leg, usize),
    ) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let (rows, to) = self.leg(sight, leg, rank);
        let mut tensors = vec![(self.q, "q".to_owned())];
        for leaf in self.by_rows() {
            let value = self.four_axes(self.leaves[leaf])?;
            tensors.push((value, self.graph.value(value).name.clone()));
        }
        let mut values = vec![];
        for (nth, (value, name)) in tensors.into_iter().enumerate() {
            let held = match leg {
                Leg::On if !to.is_empty() => self.came(sight, Leg::Far, rank, nth)?,
                _ => Held { value, rows: self.rows.to_vec() },
            };
            let some = |&p: &usize| self.rows_of(&sight.carried(leg, rank, p));
            let wanted: Vec<Vec<Progression>> = to.iter().map(some).collect();
            let operands = wanted.iter().map(|rows| self.chunk(&held, rows)).collect::<Result<_, _>>()?;
            let kind = match leg {
                Leg::Far => "far",
                Leg::On => "beyond",
                _ => "guests",
            };
            values.push((operands, self.graph.ty(value).clone(), format!("{name}.{kind}")));
        }
        self.start_each((group, to), &rows, values)
    }

    /// The leaves that are handed out by query rows.
    pub(super) fn by_rows(&self) -> Vec<usize> {
        (0..self.leaves.len()).filter(|&i| self.site.leaves[i].by_query_rows).collect()
    }

    /// The n-th value that came in a leg, and its rows.
    fn came(&self, sight: &Sight, leg: Leg, rank: usize, nth: usize) -> Result<Held, RingError> {
        let value = self.arrived(sight.group(leg)).get(nth).copied();
        let value = value.ok_or_else(|| self.site.refuse("what travels has not come".into()))?;
        Ok(Held { value, rows: self.leg(sight, leg, rank).0.concat() })
    }

    /// The partial result of received queries over own keys.
    pub(super) fn guest(
        &mut self,
        (plan, rank): (&Plan<'_>, usize),
        leg: Leg,
        pieces: &[Piece],
        k_rows: Vec<Progression>,
        tile: Tile,
    ) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let keys = self.own_keys(&k_rows)?;
        let (q_rows, by_rows) = (self.rows_of(pieces), self.by_rows());
        let q = self.came(sight, leg, rank, 0)?;
        let mut operands = vec![self.chunk(&q, &q_rows)?, keys];
        for leaf in 0..self.score_leaves() {
            let operand = match by_rows.iter().position(|&l| l == leaf) {
                Some(at) => {
                    let held = self.came(sight, leg, rank, at + 1)?;
                    self.chunk(&held, &q_rows)?
                }
                None => self.leaf(leaf, &q_rows)?,
            };
            operands.push(operand);
        }
        let name = format!("g{}", super::letters(self.guests.len()));
        let acc = self.over(&name, operands, q_rows, k_rows, tile)?;
        self.guests.push((pieces.to_vec(), acc));
        Ok(())
    }

    /// What is known of some pieces, of the ranks whose queries they are: o, m and l apart, in the order of the pieces.
    fn of_guests(&mut self, pieces: &[Piece], name: &str) -> Result<[ValueId; 3], RingError> {
        let theirs = self.guests.iter().filter(|g| g.0.iter().any(|p| pieces.contains(p)));
        let theirs: Vec<&Acc> = theirs.map(|g| &g.1).collect();
        let rows: Vec<Progression> = theirs.iter().flat_map(|a| a.rows.clone()).collect();
        let values: Vec<[ValueId; 3]> = theirs.iter().map(|a| a.value).collect();
        let wanted = self.rows_of(pieces);
        let mut out = [ValueId { op: self.q.op, port: 0 }; 3];
        for (i, out) in out.iter_mut().enumerate() {
            let parts: Vec<ValueId> = values.iter().map(|v| v[i]).collect();
            let joined = match parts.as_slice() {
                [one] => *one,
                _ => self.add(Op::Concat { axis: 2 }, &parts, &format!("{name}.{}", ["o", "m", "l"][i]))?,
            };
            *out = self.chunk(&Held { value: joined, rows: rows.clone() }, &wanted)?;
        }
        Ok(out)
    }

    /// Partial results leave for the ranks whose queries they are of, or for where they leave the node, and those of others come.
    pub(super) fn partials_home(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (leg, group): (Leg, usize),
    ) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let (rows, to) = self.leg(sight, leg, rank);
        let mut values: [Vec<ValueId>; 3] = Default::default();
        for &of in &to {
            let carried = sight.carried(leg, rank, of);
            let theirs = match &self.relayed {
                Some(acc) if leg == Leg::Home => {
                    let (rows, value) = (acc.rows.clone(), acc.value);
                    let wanted = self.rows_of(&carried);
                    let mut theirs = value;
                    for (theirs, value) in theirs.iter_mut().zip(value) {
                        *theirs = self.chunk(&Held { value, rows: rows.clone() }, &wanted)?;
                    }
                    theirs
                }
                _ => self.of_guests(&carried, &format!("g{of}"))?,
            };
            values.iter_mut().zip(theirs).for_each(|(values, theirs)| values.push(theirs));
        }
        let s = &self.site.sizes;
        let ty = |shape: Vec<usize>| Type::new(self.attention.acc, shape);
        let types = [
            ty(vec![s.batch, s.q_heads, 0, s.v_head_dim]),
            ty(vec![s.batch, s.q_heads, 0]),
            ty(vec![s.batch, s.q_heads, 0]),
        ];
        let name = if leg == Leg::Home { "from" } else { "home" };
        let values = values.into_iter().zip(types).zip(["o", "m", "l"]);
        let values = values.map(|((operands, ty), i)| (operands, ty, format!("{name}.{i}"))).collect();
        self.start_each((group, to), &rows, values)
    }

    /// Some pieces of the partial result that came from a rank in a leg; `None` of none.
    fn came_home(
        &mut self,
        (sight, rank): (&Sight, usize),
        leg: Leg,
        from: usize,
        wanted: impl Fn(&Piece) -> bool,
    ) -> Result<Option<Acc>, RingError> {
        let arrived = self.arrived(sight.group(leg));
        let before = sight.peers(leg, rank).into_iter().take_while(|&p| p < from);
        let start = before.map(|p| row_count(&self.rows_of(&sight.carried(leg, p, rank)))).sum();
        let carried = sight.carried(leg, from, rank);
        let all = self.rows_of(&carried);
        let rows = self.rows_of(&carried.iter().copied().filter(wanted).collect::<Vec<_>>());
        if rows.is_empty() || arrived.len() != 3 {
            return Ok(None);
        }
        let len = row_count(&all);
        let mut value = [ValueId { op: self.q.op, port: 0 }; 3];
        let kind = if leg == Leg::Home { "from" } else { "home" };
        for (i, value) in value.iter_mut().enumerate() {
            let name = format!("{kind}{from}.{}", ["o", "m", "l"][i]);
            let held = match self.sliced.get(&name) {
                Some(&made) => made,
                None => {
                    let made = self.add(Op::Slice { axis: 2, start, len, step: 1 }, &[arrived[i]], &name)?;
                    self.sliced.insert(name, made);
                    made
                }
            };
            *value = self.chunk(&Held { value: held, rows: all.clone() }, &rows)?;
        }
        Ok(Some(Acc { rows, value }))
    }

    /// Partial results that leave the node are merged: what was computed here, and behind it what came from the others of the node.
    pub(super) fn relay(&mut self, plan: &Plan<'_>, rank: usize) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        let far: Vec<usize> = sight.levels.far(rank).collect();
        // A step has those of some ranks of other nodes, or of none: they came by another leg than those of this one.
        let mut acc = None;
        for (pieces, new) in std::mem::take(&mut self.guests) {
            let on: Vec<Piece> = pieces.iter().copied().filter(|p| far.contains(&p.0)).collect();
            if !on.is_empty() {
                acc = Some(self.merged(acc, new)?);
            }
        }
        for from in sight.peers(Leg::Back, rank) {
            if let Some(new) = self.came_home((sight, rank), Leg::Back, from, |p| p.0 != rank)? {
                acc = Some(self.merged(acc, new)?);
            }
        }
        self.relayed = acc;
        Ok(())
    }

    /// What came home, rank after rank, is merged.
    pub(super) fn merge_home(&mut self, plan: &Plan<'_>, rank: usize) -> Result<(), RingError> {
        let Some(sight) = &plan.sight else { return Ok(()) };
        for leg in [Leg::Back, Leg::Home] {
            for from in sight.peers(leg, rank) {
                if let Some(new) = self.came_home((sight, rank), leg, from, |p| p.0 == rank)? {
                    self.merge(new)?;
                }
            }
        }
        Ok(())
    }
}
