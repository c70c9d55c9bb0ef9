//! The island graph where results of heads that were dealt out go home.

use super::{Builder, Held, RingError};
use crate::ir::{Collective, Graph, Op, Type, ValueId};
use crate::layout::{Progression, row_count};
use crate::ring::heads::{HeadPlan, Leg};
use crate::ring::plan::Plan;

/// What is given, and the name of what comes within the node and from the others.
const GIVEN: [&str; 2] = ["out", "lse"];

fn name(what: &str, leg: Leg, part: usize) -> String {
    let by = if leg == Leg::Home { "from" } else { "home" };
    format!("{what}.{by}{}", part + 1)
}

/// The ranks whose heads of a part come from a rank in a leg, with how many they are.
fn come(heads: &HeadPlan, leg: Leg, part: usize, from: usize) -> Vec<(usize, usize)> {
    let ranks = match leg {
        Leg::Home => heads.levels.ranks_of(heads.levels.node(from)),
        _ => from..from + 1,
    };
    ranks.filter_map(|rank| Some((rank, heads.part(rank, part)?.q.len))).collect()
}

impl Builder<'_> {
    /// The rows that pass a rank on their way home: its own, and those of the ranks of other nodes that stand as it does.
    fn rows_by(&self, heads: &HeadPlan, rank: usize) -> Vec<Progression> {
        let by = [rank].into_iter().chain(heads.levels.far(rank));
        by.flat_map(|p| self.site.q_layout.rows[p].clone()).collect()
    }

    /// The results of a part go to the ranks of their rows, or to where they leave the node, and those of others come.
    pub(super) fn results_home(
        &mut self,
        plan: &Plan<'_>,
        rank: usize,
        (leg, part): (Leg, usize),
    ) -> Result<(), RingError> {
        let Some(heads) = &plan.heads else { return Ok(()) };
        let (peers, group, s) = (heads.peers(leg, rank), heads.group(leg, part), &self.site.sizes);
        let mine = if leg == Leg::Home { self.rows.to_vec() } else { self.rows_by(heads, rank) };
        let own = row_count(&mine);
        let kinds = [
            Type::new(self.site.dtype, vec![s.batch, 0, own, s.v_head_dim]),
            Type::new(self.attention.acc, vec![s.batch, 0, own]),
        ];
        for (i, mut ty) in kinds.into_iter().enumerate().take(1 + usize::from(self.attention.lse)) {
            let (mut operands, mut to) = (vec![], vec![]);
            for &p in &peers {
                let wanted = match leg {
                    Leg::Home => plan.site.q_layout.rows[p].clone(),
                    _ => self.rows_by(heads, p),
                };
                if row_count(&wanted) == 0 {
                    continue;
                }
                let values = match leg {
                    Leg::Home => self.of_node((heads, rank), part, i, &wanted)?,
                    _ => self.own_results(part, i, &wanted)?.into_iter().collect(),
                };
                if !values.is_empty() {
                    operands.push(self.side_by_side(&values, 1, &format!("{}.to{p}", GIVEN[i]))?);
                    to.push(p);
                }
            }
            let mut rows = vec![vec![]; plan.site.ranks()];
            for &p in peers.iter().filter(|_| own > 0) {
                let heads: usize = come(heads, leg, part, p).iter().map(|c| c.1).sum();
                if heads > 0 {
                    rows[p].clone_from(&mine);
                    ty.shape[1] += heads;
                }
            }
            if ty.shape[1] == 0 {
                ty.shape[2] = 0;
            }
            if operands.is_empty() && ty.shape[1] == 0 {
                continue;
            }
            let name = name(GIVEN[i], leg, part);
            let collective = Collective::AllToAll { group, to, axis: 1, rows };
            let started = format!("{name}.start");
            self.begin(collective, ty, &operands, (&started, name))?;
        }
        Ok(())
    }

    /// Results of some rows in own heads of a part, if it has any.
    fn own_results(
        &mut self,
        part: usize,
        i: usize,
        rows: &[Progression],
    ) -> Result<Option<ValueId>, RingError> {
        let held = self.dealt.results.get(part).and_then(|r| r.get(i)).cloned();
        held.map(|held| self.chunk(&held, rows)).transpose()
    }

    /// Results of some rows in the heads of all ranks of the node, in the order of the ranks.
    fn of_node(
        &mut self,
        (heads, rank): (&HeadPlan, usize),
        part: usize,
        i: usize,
        rows: &[Progression],
    ) -> Result<Vec<ValueId>, RingError> {
        let mut came = self.came_back((heads, rank), Leg::Back, part, i, rows)?;
        if let Some(own) = self.own_results(part, i, rows)? {
            came.push((rank, own));
        }
        came.sort_unstable_by_key(|c| c.0);
        Ok(came.into_iter().map(|c| c.1).collect())
    }

    /// Results of some rows that came in a leg, each with the rank of its heads.
    fn came_back(
        &mut self,
        (heads, rank): (&HeadPlan, usize),
        leg: Leg,
        part: usize,
        i: usize,
        rows: &[Progression],
    ) -> Result<Vec<(usize, ValueId)>, RingError> {
        let group = heads.group(leg, part);
        let Some(came) = self.arrived_as(group, &name(GIVEN[i], leg, part)) else { return Ok(vec![]) };
        let held = if leg == Leg::Home { self.rows.to_vec() } else { self.rows_by(heads, rank) };
        let mut out = vec![];
        let mut start = 0;
        for (at, len) in heads.peers(leg, rank).into_iter().flat_map(|p| come(heads, leg, part, p)) {
            let first = heads.part(at, part).map_or(0, |p| p.q.start);
            let slice = Op::Slice { axis: 1, start, len, step: 1 };
            let value = self.add(slice, &[came], &format!("{}.h{first}", GIVEN[i]))?;
            out.push((at, self.chunk(&Held { value, rows: held.clone() }, rows)?));
            start += len;
        }
        Ok(out)
    }

    /// The results of own rows in all heads.
    pub(super) fn put_together(mut self, plan: &Plan<'_>, rank: usize) -> Result<Graph, RingError> {
        let Some(heads) = &plan.heads else { return Ok(self.graph) };
        if row_count(self.rows) == 0 {
            // Of no rows, any heads are as good as all.
            return self.finish();
        }
        let rows = self.rows.to_vec();
        for (i, what) in GIVEN.into_iter().enumerate().take(1 + usize::from(self.attention.lse)) {
            let mut parts: Vec<(usize, ValueId)> = vec![];
            for part in 0..heads.most() {
                let mut came = self.came_back((heads, rank), Leg::Back, part, i, &rows)?;
                if heads.levels.are_two() {
                    came.extend(self.came_back((heads, rank), Leg::Home, part, i, &rows)?);
                }
                came.extend(self.own_results(part, i, &rows)?.map(|own| (rank, own)));
                let start = |at| heads.part(at, part).map_or(0, |p| p.q.start);
                parts.extend(came.into_iter().map(|(at, value)| (start(at), value)));
            }
            parts.sort_unstable_by_key(|p| p.0);
            let parts: Vec<ValueId> = parts.into_iter().map(|p| p.1).collect();
            let value = match parts.as_slice() {
                [] => return self.finish(),
                _ => self.side_by_side(&parts, 1, what)?,
            };
            self.graph.output(what, value);
        }
        Ok(self.graph)
    }
}
