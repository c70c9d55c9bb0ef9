//! What a rank does, in order, as plain data: its island graph and its steps of the schedule are both written from it.
//!
//! In: a plan and a rank. Out: an [`Outline`]. Which partial results a rank computes on the keys that it holds at each stage is
//! decided here, by asking the mask of every pair of pieces.

use super::plan::Plan;
use super::route::Route;
use super::sight::{Leg, Piece};
use super::{heads, sight};
use crate::ir::Strategy;
use crate::layout::Progression;
use crate::mask::Tile;
use std::ops::Range;

/// The acts of one rank. Lists of rows lie one behind the other, for there are as many acts as ranks.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    pub(crate) acts: Vec<Act>,
    rows: Vec<Progression>,
    queries: Vec<usize>,
    guests: Vec<Piece>,
}

/// Some pieces of keys of an outline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows {
    from: usize,
    to: usize,
}

impl Rows {
    pub(crate) fn is_empty(self) -> bool {
        self.from == self.to
    }
}

/// Some of the rank's pieces of query rows, by index, of an outline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queries {
    from: usize,
    to: usize,
}

/// Some pieces of the queries of other ranks, of an outline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guests {
    from: usize,
    to: usize,
}

/// Keys that a rank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyRows {
    /// Its own.
    Own,
    /// What this group of transfers brought.
    Group(usize),
}

/// One act.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// The rank's own keys and values are laid side by side, cut in these pieces. Before all that uses them.
    Pack(Rows),
    /// A hop begins.
    Hop {
        /// From 1.
        group: usize,
        /// Whose keys are sent on.
        of: KeyRows,
        /// Pieces that go to rank `to`; empty if there is none.
        sent: Rows,
        to: Option<usize>,
        /// Pieces that come from rank `from`; empty if there is none.
        arriving: Rows,
        from: Option<usize>,
        /// The rank whose keys they are.
        owner: usize,
    },
    /// A stage of an all-gather begins: the rows of [`Plan::stages`] before this group.
    Gather {
        /// From 1.
        group: usize,
        /// The rank's own part.
        sent: Rows,
    },
    /// Queries travel, own ones or those of others: as [`Plan::sight`] says of this leg.
    Queries { leg: sight::Leg, group: usize },
    /// The partial result of some pieces of the queries of other ranks, that were received by this leg, over own keys.
    Guest { leg: sight::Leg, q: Guests, keys: Rows, tile: Tile },
    /// Partial results travel home: as [`Plan::sight`] says of this leg.
    Partials { leg: sight::Leg, group: usize },
    /// Partial results of this node for ranks of others are merged.
    Relay,
    /// What came home is merged.
    Merge,
    /// A part of the heads is exchanged: as [`Plan::heads`] says of this leg.
    Scatter { leg: heads::Leg, part: usize, group: usize },
    /// All rows of a part of the own heads are computed.
    Heads { part: usize },
    /// The results of a part go home: as [`Plan::heads`] says of this leg.
    Home { leg: heads::Leg, part: usize, group: usize },
    /// All results that came home are given.
    Unpack,
    /// What a group brings, if anything, has arrived.
    Wait { group: usize },
    /// A partial result, merged into those of its rows before it.
    Partial {
        /// How many groups before it brought keys that are computed on.
        stage: usize,
        q: Queries,
        /// May be empty: rows that see no key in any stage.
        keys: Rows,
        of: KeyRows,
        tile: Tile,
    },
}

impl Outline {
    /// Pieces of keys.
    pub(crate) fn rows(&self, rows: Rows) -> &[Progression] {
        &self.rows[rows.from..rows.to]
    }

    /// Indices of pieces of query rows, ascending.
    pub(crate) fn queries(&self, queries: Queries) -> &[usize] {
        &self.queries[queries.from..queries.to]
    }

    /// Pieces of the queries of other ranks.
    pub(crate) fn guests(&self, guests: Guests) -> &[Piece] {
        &self.guests[guests.from..guests.to]
    }

    fn add_queries(&mut self, queries: impl IntoIterator<Item = usize>) -> Queries {
        let from = self.queries.len();
        self.queries.extend(queries);
        Queries { from, to: self.queries.len() }
    }

    fn add_rows<'p>(&mut self, rows: impl IntoIterator<Item = &'p Progression>) -> Rows {
        let from = self.rows.len();
        self.rows.extend(rows);
        Rows { from, to: self.rows.len() }
    }
}

impl Plan<'_> {
    /// What a rank does, in order.
    pub(crate) fn outline(&self, rank: usize) -> Outline {
        let mut w = Writer { plan: self, rank, out: Outline::default() };
        match self.strategy {
            Strategy::Ring | Strategy::RingReverse => w.ring(&self.route),
            Strategy::AllGather | Strategy::AllGatherStaged => w.all_gather(),
            Strategy::Queries => w.queries(),
            Strategy::Heads => w.heads(),
        }
        w.out
    }
}

struct Writer<'a> {
    plan: &'a Plan<'a>,
    rank: usize,
    out: Outline,
}

impl Writer<'_> {
    /// Keys and values travel to the next rank, hop after hop; each hop is under way while its keys are computed on.
    fn ring(&mut self, route: &Route<'_>) {
        let ranks = self.plan.site.ranks();
        let own = self.plan.site.kv_layout.rows[self.rank].as_slice();
        let mut stages = Stages::default();
        stages.add(own);
        for hop in 1..ranks {
            stages.add(route.arriving(self.rank, hop));
        }
        let groups = stages.groups(self.plan, self.rank, &mut self.out);
        let used = groups.at(0).iter().any(|g| !g.keys.is_empty());
        if used || route.sent(self.rank, 1).next().is_some() {
            let cut = self.out.add_rows(own);
            self.out.acts.push(Act::Pack(cut));
        }
        let mut of = KeyRows::Own;
        for stage in 0..ranks {
            let hop = stage + 1;
            let mut begun = false;
            if hop < ranks {
                let sent = self.out.add_rows(route.sent(self.rank, hop));
                let arriving = self.out.add_rows(stages.keys(hop));
                begun = !(sent.is_empty() && arriving.is_empty());
                if begun {
                    self.out.acts.push(Act::Hop {
                        group: hop,
                        of,
                        sent,
                        to: (!sent.is_empty()).then(|| route.next(self.rank)),
                        arriving,
                        from: (!arriving.is_empty()).then(|| route.before(self.rank)),
                        owner: route.source(self.rank, hop),
                    });
                }
            }
            self.partials(stage, groups.at(stage), of);
            if begun {
                self.out.acts.push(Act::Wait { group: hop });
                of = KeyRows::Group(hop);
            }
        }
    }

    /// The keys and values that another rank needs come from everyone to everyone, in one or several stages, under the
    /// computation on the rank's own keys and on those of the stages before.
    fn all_gather(&mut self) {
        let plan = self.plan;
        let gathered = &plan.stages;
        // The own pieces are cut as they are sent; one that no other rank needs is whole.
        let mut own: Vec<Progression> = Vec::new();
        for p in &plan.site.kv_layout.rows[self.rank] {
            let parts = gathered.iter().flat_map(|stage| &stage[self.rank]).filter(|part| p.holds(part));
            let before = own.len();
            own.extend(parts);
            if own.len() == before {
                own.push(*p);
            }
        }
        let mut stages = Stages::default();
        stages.add(&own);
        let mut begun = Vec::new();
        for (at, rows) in gathered.iter().enumerate() {
            if rows.iter().any(|part| !part.is_empty()) {
                stages
                    .add(rows.iter().enumerate().filter(|(r, _)| *r != self.rank).flat_map(|(_, part)| part));
                begun.push(at + 1);
            }
        }
        let groups = stages.groups(plan, self.rank, &mut self.out);
        let sends = gathered.iter().any(|stage| !stage[self.rank].is_empty());
        if sends || groups.at(0).iter().any(|g| !g.keys.is_empty()) {
            let cut = self.out.add_rows(&own);
            self.out.acts.push(Act::Pack(cut));
        }
        for &group in &begun {
            let sent = self.out.add_rows(&gathered[group - 1][self.rank]);
            self.out.acts.push(Act::Gather { group, sent });
        }
        self.partials(0, groups.at(0), KeyRows::Own);
        for (i, &group) in begun.iter().enumerate() {
            self.out.acts.push(Act::Wait { group });
            self.partials(i + 1, groups.at(i + 1), KeyRows::Group(group));
        }
    }

    /// Queries go to the keys that they see, under the computation on the own keys, and partial results come home.
    fn queries(&mut self) {
        let (plan, rank) = (self.plan, self.rank);
        let Some(sight) = &plan.sight else { return };
        // On the one level, the near one, there are no other nodes.
        let legs =
            |all: &[Leg]| all.iter().copied().filter(|&leg| sight.takes_part(leg, rank)).collect::<Vec<_>>();
        let begin = |leg| Act::Queries { leg, group: sight.group(leg) };
        self.out.acts.extend(legs(&[Leg::Near, Leg::Far]).into_iter().map(begin));
        // Own queries over own keys; those that see no key at all over none.
        let own = sight.seen(rank, rank);
        let elsewhere = |piece: usize| {
            sight.helpers(rank).any(|at| sight.seen(rank, at).iter().any(|s| s.piece == piece))
        };
        // Pieces of one step are merged later, or none of them is.
        for group in alike(own, |s| (elsewhere(s.piece), s.tile, &s.keys)) {
            let q = self.out.add_queries(group.iter().map(|s| s.piece));
            let keys = self.out.add_rows(&group[0].keys);
            self.out.acts.push(Act::Partial { stage: 0, q, keys, of: KeyRows::Own, tile: group[0].tile });
        }
        let blind: Vec<usize> = (0..plan.site.q_layout.rows[rank].len())
            .filter(|&i| !elsewhere(i) && own.iter().all(|s| s.piece != i))
            .collect();
        if !blind.is_empty() {
            let (q, keys) = (self.out.add_queries(blind), self.out.add_rows(&[]));
            self.out.acts.push(Act::Partial { stage: 0, q, keys, of: KeyRows::Own, tile: Tile::Full });
        }
        // What came from other nodes goes on before anything is computed on it.
        for (leg, on) in [(Leg::Far, Some(Leg::On)), (Leg::Near, None), (Leg::On, None)] {
            let wait = |leg| Act::Wait { group: sight.group(leg) };
            self.out.acts.extend(legs(&[leg]).into_iter().map(wait));
            self.out.acts.extend(legs(on.as_slice()).into_iter().map(begin));
            // Those of several ranks that see the same keys in one step: keys are read once.
            let guests = sight.guests(rank).filter(|&of| sight.comes_by(of, rank) == leg);
            let seen = guests.flat_map(|of| sight.seen(of, rank).iter().map(move |s| (of, s)));
            for group in alike(seen, |&(_, s)| (s.tile, &s.keys)) {
                let from = self.out.guests.len();
                self.out.guests.extend(group.iter().map(|&(of, s)| (of, s.piece)));
                let q = Guests { from, to: self.out.guests.len() };
                let (_, s) = group[0];
                let keys = self.out.add_rows(&s.keys);
                self.out.acts.push(Act::Guest { leg, q, keys, tile: s.tile });
            }
        }
        for (leg, merge) in [(Leg::Back, Act::Relay), (Leg::Home, Act::Merge)] {
            let group = sight.group(leg);
            if sight.takes_part(leg, rank) {
                self.out.acts.push(Act::Partials { leg, group });
                self.out.acts.push(Act::Wait { group });
            }
            // A relay has what only it computed as well.
            let merges = match leg {
                Leg::Back => sight.takes_part(Leg::Home, rank),
                _ => sight.helpers(rank).next().is_some(),
            };
            self.out.acts.extend(merges.then_some(merge));
        }
    }

    /// Heads are dealt out. The next part is under way while one is computed, and results go home behind it.
    fn heads(&mut self) {
        use heads::Leg;
        let Some(heads) = &self.plan.heads else { return };
        let two = heads.levels.are_two();
        let legs = |all: [Leg; 2]| all.into_iter().filter(move |leg| two || !leg.is_far());
        let (parts, group) = (heads.most(), |leg, part| heads.group(leg, part));
        let acts = &mut self.out.acts;
        // Rows go on within the node once they have come from the others.
        let scatter = |acts: &mut Vec<Act>, part| {
            for leg in legs([Leg::Out, Leg::In]) {
                acts.extend((leg == Leg::In && two).then(|| Act::Wait { group: group(Leg::Out, part) }));
                acts.push(Act::Scatter { leg, part, group: group(leg, part) });
            }
        };
        if parts > 0 {
            scatter(acts, 0);
        }
        for part in 0..parts {
            if part + 1 < parts {
                scatter(acts, part + 1);
            }
            acts.push(Act::Wait { group: group(Leg::In, part) });
            acts.push(Act::Heads { part });
            for leg in legs([Leg::Back, Leg::Home]) {
                acts.extend((leg == Leg::Home).then(|| Act::Wait { group: group(Leg::Back, part) }));
                acts.push(Act::Home { leg, part, group: group(leg, part) });
            }
        }
        let last = if two { Leg::Home } else { Leg::Back };
        acts.extend((0..parts).map(|part| Act::Wait { group: group(last, part) }));
        acts.push(Act::Unpack);
    }

    fn partials(&mut self, stage: usize, groups: &[Group], of: KeyRows) {
        self.out.acts.extend(groups.iter().map(|g| {
            let (q, keys, tile) = (g.q, g.keys, g.tile);
            Act::Partial { stage, q, keys, of, tile }
        }));
    }
}

/// What is alike by a key, in order of the first of each.
fn alike<'a, T: 'a, K: PartialEq + 'a>(
    all: impl IntoIterator<Item = T>,
    key: impl Fn(&T) -> K,
) -> Vec<Vec<T>> {
    let mut groups: Vec<(K, Vec<T>)> = vec![];
    for one in all {
        let k = key(&one);
        match groups.iter_mut().find(|g| g.0 == k) {
            Some(group) => group.1.push(one),
            None => groups.push((k, vec![one])),
        }
    }
    groups.into_iter().map(|g| g.1).collect()
}

/// The pieces of keys that a rank holds at each stage.
#[derive(Default)]
struct Stages {
    keys: Vec<Progression>,
    ends: Vec<usize>,
}

impl Stages {
    fn add<'p>(&mut self, keys: impl IntoIterator<Item = &'p Progression>) {
        self.keys.extend(keys);
        self.ends.push(self.keys.len());
    }

    fn keys(&self, stage: usize) -> &[Progression] {
        let from = stage.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.keys[from..self.ends[stage]]
    }

    /// The partial results of each stage. Pieces that see no key at all come in the first, over no keys.
    fn groups(&self, plan: &Plan<'_>, rank: usize, out: &mut Outline) -> Groups {
        let (scores, q) = (&plan.site.attention.scores, plan.site.q_layout.rows[rank].as_slice());
        // Who sees what, stage by stage, and of each the query pieces in order.
        let mut seen: Vec<(Rows, Tile)> = Vec::with_capacity(q.len() * self.ends.len());
        let mut busy: Vec<Option<(usize, usize)>> = vec![None; q.len()];
        for stage in 0..self.ends.len() {
            for (piece, busy) in q.iter().zip(&mut busy) {
                let from = out.rows.len();
                let mut all = Tile::Full;
                for key in self.keys(stage) {
                    match scores.tile(piece, key) {
                        Tile::Skip => continue,
                        Tile::Full => {}
                        Tile::Partial => all = Tile::Partial,
                    }
                    out.rows.push(*key);
                }
                let keys = Rows { from, to: out.rows.len() };
                if !keys.is_empty() {
                    *busy = Some((busy.map_or(stage, |b| b.0), stage));
                }
                seen.push((keys, all));
            }
        }
        let mut groups = Groups::default();
        let mut members: Vec<(usize, usize)> = Vec::new();
        for stage in 0..self.ends.len() {
            let first = groups.all.len();
            members.clear();
            for (i, busy) in busy.iter().enumerate() {
                let (keys, tile) = seen[stage * q.len() + i];
                let (begins, ends) = busy.unwrap_or((0, 0));
                if keys.is_empty() && stage != begins {
                    continue;
                }
                let (goes_on, ends) = (stage > begins, stage == ends);
                let alike = |g: &Group| {
                    (g.tile, g.goes_on, g.ends) == (tile, goes_on, ends) && out.rows(g.keys) == out.rows(keys)
                };
                let at = groups.all[first..].iter().position(alike).unwrap_or_else(|| {
                    groups.all.push(Group { q: Queries { from: 0, to: 0 }, keys, tile, goes_on, ends });
                    groups.all.len() - 1 - first
                });
                members.push((at, i));
            }
            // Pieces of one group side by side.
            members.sort_unstable();
            for (at, group) in groups.all[first..].iter_mut().enumerate() {
                let from = out.queries.len();
                out.queries.extend(members.iter().filter(|m| m.0 == at).map(|m| m.1));
                group.q = Queries { from, to: out.queries.len() };
            }
            groups.ends.push(groups.all.len());
        }
        groups
    }
}

/// Query pieces that see the same keys of a stage, and stand alike in their chain of partial results.
struct Group {
    q: Queries,
    /// Empty for rows that see no key in any stage.
    keys: Rows,
    /// Whether some pair is masked.
    tile: Tile,
    /// Whether the pieces have had a partial result in an earlier stage.
    goes_on: bool,
    /// Whether they get none in a later stage.
    ends: bool,
}

/// The groups of each stage, in order of their first query piece.
#[derive(Default)]
struct Groups {
    all: Vec<Group>,
    ends: Vec<usize>,
}

impl Groups {
    fn at(&self, stage: usize) -> &[Group] {
        let range: Range<usize> =
            stage.checked_sub(1).map_or(0, |before| self.ends[before])..self.ends[stage];
        &self.all[range]
    }
}
