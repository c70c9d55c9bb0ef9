//! Schedules by hand in which queries or heads travel, as no ring makes them: run against the oracle under several orders, and
//! proved.

use super::build::{Builder, tile};
use super::case::{Case, cases};
use super::check_case;
use annulus::check::check;
use annulus::exec::cpu::run_island;
use annulus::ir::Strategy as Named;
use annulus::layout::{Layout, Progression};
use annulus::schedule::*;
use proptest::prelude::*;

/// What travels.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    /// Queries go to all keys; partial results come home and are merged, of a mesh of two axes also on the way.
    Queries,
    /// All rows of some heads come together on each rank; results go home.
    Heads,
}

/// All ranks on one level, or on so many nodes.
pub(crate) fn mesh(ranks: usize, nodes: usize) -> Mesh {
    let axis = |name: &str, size| MeshAxis { name: name.into(), size };
    if nodes < 2 {
        return Mesh::flat(ranks);
    }
    Mesh { axes: vec![axis("node", nodes), axis("local", ranks / nodes)] }
}

/// The program of every rank. Heads travel over one axis alone.
pub(crate) fn travel(
    facts: &AttentionFacts,
    (q_layout, kv_layout): (&Layout, &Layout),
    way: Way,
    mesh: Mesh,
) -> Schedule {
    let of = |rank| {
        let on = On { facts, q: q_layout, kv: kv_layout, mesh: &mesh, rank };
        match way {
            Way::Queries => on.queries(),
            Way::Heads => on.heads(),
        }
    };
    Schedule {
        name: "by hand".into(),
        strategy: Named::AllGather,
        slots: SLOTS,
        attention: facts.clone(),
        q_layout: q_layout.clone(),
        kv_layout: kv_layout.clone(),
        ranks: (0..q_layout.ranks()).map(of).collect(),
        mesh,
    }
}

/// A rank and what it is part of.
struct On<'a> {
    facts: &'a AttentionFacts,
    q: &'a Layout,
    kv: &'a Layout,
    mesh: &'a Mesh,
    rank: usize,
}

fn arena(views: &[View]) -> Vec<Place> {
    views.iter().copied().map(Place::Arena).collect()
}

fn own(blocks: Vec<Block>) -> Vec<Place> {
    blocks.into_iter().map(Place::Own).collect()
}

/// Messages of some parts; those of none are not sent.
fn messages(all: impl IntoIterator<Item = (usize, Vec<Place>)>) -> Vec<Transfer> {
    let some = all.into_iter().filter(|(_, parts)| !parts.is_empty());
    some.map(|(peer, parts)| Transfer { peer, parts }).collect()
}

impl On<'_> {
    fn bytes(&self, b: &Block) -> usize {
        self.facts.block_bytes(b.port, b.rows.len, b.heads.len)
    }

    /// The queries of a rank, and what goes with them: of each piece one block after another.
    fn asked(&self, rank: usize, heads: Heads) -> Vec<Block> {
        let ports = self.ports();
        let of = |rows: &Progression| {
            ports.clone().into_iter().map(|port| Block { port, rows: *rows, heads }).collect()
        };
        self.q.rows[rank].iter().flat_map(|rows| -> Vec<Block> { of(rows) }).collect()
    }

    fn ports(&self) -> Vec<Port> {
        let by_rows = self.facts.leaves.iter().enumerate().filter(|(_, l)| l.by_query_rows);
        [Port::Q].into_iter().chain(by_rows.map(|(n, _)| Port::Leaf(n + 3))).collect()
    }

    /// The results of a rank, piece by piece.
    fn given(&self, rank: usize, heads: Heads) -> Vec<Block> {
        let ports = if self.facts.lse { vec![Port::Out, Port::Lse] } else { vec![Port::Out] };
        let of = |rows: &Progression| {
            ports.clone().into_iter().map(|port| Block { port, rows: *rows, heads }).collect()
        };
        self.q.rows[rank].iter().flat_map(|rows| -> Vec<Block> { of(rows) }).collect()
    }

    fn keys(&self, rank: usize, heads: Heads) -> Vec<Block> {
        self.kv.rows[rank].iter().map(|&rows| Block { port: Port::Kv, rows, heads }).collect()
    }

    /// The rank's own keys, where it is handed them.
    fn own_keys(&self, heads: Heads) -> Vec<KvPiece> {
        self.kv.rows[self.rank].iter().map(|&rows| KvPiece { rows, heads, at: None }).collect()
    }

    /// Own queries, and where their carries lie.
    fn own_queries(&self, heads: Heads, carries: &[View]) -> Vec<QPiece> {
        let piece = |(n, &rows): (usize, &Progression)| QPiece {
            rows,
            heads,
            at: vec![],
            carry: carries.get(n).copied(),
            out: vec![],
        };
        self.q.rows[self.rank].iter().enumerate().map(piece).collect()
    }

    fn partial(
        &self,
        q: Vec<QPiece>,
        kv: Vec<KvPiece>,
        [carry_in, sinks_here, cast_out]: [bool; 3],
    ) -> StepOp {
        let q_rows: Vec<Progression> = q.iter().map(|p| p.rows).collect();
        let k_rows: Vec<Progression> = kv.iter().map(|p| p.rows).collect();
        let sinks_here = sinks_here && self.facts.sinks.is_some();
        StepOp::AttnPartial {
            tile: tile(self.facts, &q_rows, &k_rows),
            q,
            kv,
            carry_in,
            sinks_here,
            cast_out,
        }
    }

    /// Places for carries of all rows of a rank.
    fn carries(&self, b: &mut Builder, name: &str, rank: usize) -> Vec<View> {
        let rows = &self.q.rows[rank];
        if rows.is_empty() {
            return vec![];
        }
        b.lay(name, rows.iter().map(|p| self.facts.carry_bytes(p.len, self.facts.sizes.q_heads)))
    }

    fn queries(&self) -> RankProgram {
        let (facts, rank, heads) = (self.facts, self.rank, self.facts.q_heads());
        let ranks = self.q.ranks();
        let local = self.mesh.axes.last().unwrap().size;
        let (within, across) = (Stream::Comm(self.mesh.axes.len() - 1), Stream::Comm(0));
        let others = || (0..ranks).filter(|&r| r != rank);
        let same_node = |a: usize, b: usize| a / local == b / local;
        let same_place = |a: usize, b: usize| a % local == b % local;
        let near: Vec<usize> = others().filter(|&r| same_node(r, rank)).collect();
        let far: Vec<usize> =
            others().filter(|&r| same_place(r, rank)).filter(|r| !near.contains(r)).collect();
        let mut b = Builder::default();
        // Where the queries of each other rank come to lie.
        let held: Vec<Vec<View>> = (0..ranks)
            .map(|s| match self.asked(s, heads) {
                blocks if s == rank || blocks.is_empty() => vec![],
                blocks => b.lay(&format!("q.{s}"), blocks.iter().map(|b| self.bytes(b))),
            })
            .collect();
        let exchange = |group, kind, sends, recvs| StepOp::Exchange { group, kind, sms: None, sends, recvs };
        let gather = |group, peers: &[usize]| {
            let mine = |&p: &usize| (p, own(self.asked(rank, heads)));
            let theirs = |&p: &usize| (p, arena(&held[p]));
            let (sends, recvs) = (messages(peers.iter().map(mine)), messages(peers.iter().map(theirs)));
            exchange(group, ExchangeKind::AllGather, sends, recvs)
        };
        let mut came = vec![0; ranks];
        let event = b.step(within, vec![], gather(1, &near));
        near.iter().for_each(|&p| came[p] = event);
        if !far.is_empty() {
            let event = b.step(across, vec![], gather(2, &far));
            far.iter().for_each(|&p| came[p] = event);
            // What came from other nodes goes on within this one.
            let on: Vec<Place> = far.iter().flat_map(|&t| arena(&held[t])).collect();
            let beyond = |s: usize| others().filter(move |&t| same_place(t, s) && !same_node(t, rank));
            let sends = messages(near.iter().map(|&s| (s, on.clone())));
            let recvs =
                messages(near.iter().map(|&s| (s, beyond(s).flat_map(|t| arena(&held[t])).collect())));
            let event = b.step(within, vec![event], exchange(3, ExchangeKind::AllGather, sends, recvs));
            near.iter().flat_map(|&s| beyond(s)).for_each(|t| came[t] = event);
        }
        // Own queries meanwhile; sinks are counted here or at the end.
        let mine = self.carries(&mut b, "acc", rank);
        let early = rank.is_multiple_of(2);
        if !mine.is_empty() {
            let op = self.partial(
                self.own_queries(heads, &mine),
                self.own_keys(facts.kv_heads()),
                [false, early, false],
            );
            b.step(Stream::Compute, vec![], op);
        }
        let width = self.ports().len();
        let mut parts = vec![vec![]; ranks];
        let mut last = None;
        for s in others().filter(|&s| !held[s].is_empty()) {
            parts[s] = self.carries(&mut b, &format!("part.{s}"), s);
            let pieces = self.q.rows[s].iter().zip(held[s].chunks(width)).zip(&parts[s]);
            let piece = |((&rows, at), &carry): ((&Progression, &[View]), &View)| QPiece {
                rows,
                heads,
                at: at.to_vec(),
                carry: Some(carry),
                out: vec![],
            };
            let op = self.partial(pieces.map(piece).collect(), self.own_keys(facts.kv_heads()), [false; 3]);
            last = Some(b.step(Stream::Compute, vec![came[s]], op));
        }
        // Home: what is for a rank of another node is merged first by the one of this node that stands as it does.
        let for_whom =
            |s: usize| others().filter(move |&t| t == s || (same_place(t, s) && !same_node(t, rank)));
        let sends = messages(near.iter().map(|&s| (s, for_whom(s).flat_map(|t| arena(&parts[t])).collect())));
        let mut home: Vec<Vec<View>> = vec![];
        let mut relayed: Vec<Vec<Vec<View>>> = vec![vec![]; ranks];
        let mut recvs = vec![];
        for &s in &near {
            let mut views = self.carries(&mut b, &format!("home.{s}"), rank);
            let mut all = arena(&views);
            home.push(std::mem::take(&mut views));
            // In the order of the ranks, as it is sent: those before this node, its own, those behind it.
            let mut whole: Vec<(usize, Vec<Place>)> = vec![(rank, std::mem::take(&mut all))];
            for &t in &far {
                let views = self.carries(&mut b, &format!("relay.{t}.{s}"), t);
                whole.push((t, arena(&views)));
                relayed[t].push(views);
            }
            whole.sort_by_key(|w| w.0);
            recvs.push((s, whole.into_iter().flat_map(|w| w.1).collect()));
        }
        let wait = |e: Option<usize>| e.into_iter().collect::<Vec<usize>>();
        let mut back =
            b.step(within, wait(last), exchange(4, ExchangeKind::ReduceScatter, sends, messages(recvs)));
        let merged = |t: usize, carry: &[View], partials: &[Vec<View>]| -> Vec<Merged> {
            let piece = |(n, &rows): (usize, &Progression)| {
                let partials = partials.iter().map(|p| p[n]).collect();
                Merged { rows, heads, partials, carry: carry.get(n).copied(), out: vec![] }
            };
            self.q.rows[t].iter().enumerate().map(piece).collect()
        };
        let mut waits = vec![back];
        if !far.is_empty() {
            let q: Vec<Merged> = far.iter().flat_map(|&t| merged(t, &parts[t], &relayed[t])).collect();
            if !q.is_empty() && !near.is_empty() {
                let op = StepOp::Merge { q, carry_in: true, sinks_here: false, cast_out: false };
                last = Some(b.step(Stream::Compute, vec![back], op));
            }
            let sends = messages(far.iter().map(|&t| (t, arena(&parts[t]))));
            let places: Vec<Vec<View>> =
                far.iter().map(|&t| self.carries(&mut b, &format!("home.{t}"), rank)).collect();
            let recvs = messages(far.iter().zip(&places).map(|(&t, views)| (t, arena(views))));
            back = b.step(across, wait(last), exchange(5, ExchangeKind::ReduceScatter, sends, recvs));
            home.extend(places);
            waits.push(back);
        }
        if mine.is_empty() {
            return b.program;
        }
        // The own partial result is the carry, or one of those that are merged.
        let carry_in = !rank.is_multiple_of(3) && !home.is_empty();
        let q = if carry_in {
            merged(rank, &mine, &home)
        } else {
            home.insert(0, mine);
            merged(rank, &[], &home)
        };
        let sinks_here = !early && facts.sinks.is_some();
        b.step(Stream::Compute, waits, StepOp::Merge { q, carry_in, sinks_here, cast_out: true });
        b.program
    }

    /// The query heads that a rank computes: none, where there are fewer heads than ranks.
    fn heads_of(&self, rank: usize) -> Heads {
        let (all, ranks) = (self.facts.sizes.q_heads, self.q.ranks());
        let from = |r: usize| all * r / ranks;
        Heads { start: from(rank), len: from(rank + 1) - from(rank) }
    }

    fn heads(&self) -> RankProgram {
        let (facts, rank, here) = (self.facts, self.rank, self.heads_of(self.rank));
        let others = || (0..self.q.ranks()).filter(move |&r| r != rank);
        let stream = Stream::Comm(0);
        let mut b = Builder::default();
        let work = |to: usize, from: usize| -> Vec<Block> {
            let heads = self.heads_of(to);
            if heads.len == 0 {
                return vec![];
            }
            [self.asked(from, heads), self.keys(from, facts.keys_of(heads))].concat()
        };
        let sends = messages(others().map(|p| (p, own(work(p, rank)))));
        let held: Vec<Vec<View>> = (0..self.q.ranks())
            .map(|s| match work(rank, s) {
                blocks if s == rank || blocks.is_empty() => vec![],
                blocks => b.lay(&format!("in.{s}"), blocks.iter().map(|b| self.bytes(b))),
            })
            .collect();
        let recvs = messages(others().map(|p| (p, arena(&held[p]))));
        let op = StepOp::Exchange { group: 1, kind: ExchangeKind::AllToAll, sms: None, sends, recvs };
        let came = b.step(stream, vec![], op);
        let k_heads = facts.keys_of(here);
        let width = self.ports().len();
        let (mut q, mut keys): (Vec<QPiece>, Vec<KvPiece>) = (vec![], vec![]);
        let mut results = vec![vec![]; self.q.ranks()];
        for s in others().filter(|&s| !held[s].is_empty()) {
            let (asked, rest) = held[s].split_at(self.q.rows[s].len() * width);
            let here_are = self.kv.rows[s].iter().zip(rest);
            keys.extend(here_are.map(|(&rows, &at)| KvPiece { rows, heads: k_heads, at: Some(at) }));
            let given = self.given(s, here);
            if given.is_empty() {
                continue;
            }
            results[s] = b.lay(&format!("out.{s}"), given.iter().map(|b| self.bytes(b)));
            let places = results[s].chunks(1 + usize::from(facts.lse));
            for ((&rows, at), out) in self.q.rows[s].iter().zip(asked.chunks(width)).zip(places) {
                q.push(QPiece { rows, heads: here, at: at.to_vec(), carry: None, out: out.to_vec() });
            }
        }
        let mine = &self.q.rows[rank];
        let mut done = None;
        if here.len > 0 && !mine.is_empty() {
            if keys.is_empty() {
                let op =
                    self.partial(self.own_queries(here, &[]), self.own_keys(k_heads), [false, true, true]);
                b.step(Stream::Compute, vec![], op);
            } else {
                let carries = b.lay("acc", mine.iter().map(|p| facts.carry_bytes(p.len, here.len)));
                let pieces = self.own_queries(here, &carries);
                let op = self.partial(pieces.clone(), self.own_keys(k_heads), [false; 3]);
                b.step(Stream::Compute, vec![], op);
                b.step(Stream::Compute, vec![came], self.partial(pieces, keys.clone(), [true; 3]));
            }
        }
        if !q.is_empty() {
            let all = [self.own_keys(k_heads), keys].concat();
            done = Some(b.step(Stream::Compute, vec![came], self.partial(q, all, [false, true, true])));
        }
        // Results go where the rank gives them, or are unpacked there.
        let sends = messages(others().map(|p| (p, arena(&results[p]))));
        let home =
            |p: usize| if self.heads_of(p).len == 0 { vec![] } else { self.given(rank, self.heads_of(p)) };
        let mut unpacked = vec![];
        let recvs: Vec<(usize, Vec<Place>)> = others()
            .map(|p| {
                let blocks = home(p);
                if blocks.is_empty() || rank.is_multiple_of(2) {
                    return (p, own(blocks));
                }
                let views = b.lay(&format!("back.{p}"), blocks.iter().map(|b| self.bytes(b)));
                unpacked.extend(blocks.into_iter().zip(&views).map(|(block, &at)| Packed { block, at }));
                (p, arena(&views))
            })
            .collect();
        let op = StepOp::Exchange {
            group: 2,
            kind: ExchangeKind::AllToAll,
            sms: None,
            sends,
            recvs: messages(recvs),
        };
        let back = b.step(stream, done.into_iter().collect(), op);
        if !unpacked.is_empty() {
            b.step(Stream::Compute, vec![back], StepOp::Unpack { pieces: unpacked });
        }
        b.program
    }
}

/// Every check but those that ask for a strategy of that name.
pub(crate) const OF_NO_STRATEGY: [&str; 2] = ["memory", "labels"];

fn right(case: &Case, way: Way, nodes: usize) -> Result<(), String> {
    let (q, kv) = case.layouts();
    let schedule = travel(&case.facts, (&q, &kv), way, mesh(case.ranks, nodes));
    let told = |what: String| format!("{what}\n{schedule}");
    let back = parse(&schedule.to_string()).map_err(|e| told(e.rendered))?;
    if back != [schedule.clone()] {
        return Err(told("it reads back as another".into()));
    }
    let report = check(&schedule);
    let wrong: Vec<_> = report.failed.iter().filter(|f| !OF_NO_STRATEGY.contains(&f.check)).collect();
    let held = report.passed.iter().filter(|p| !OF_NO_STRATEGY.contains(&p.check)).count();
    if !wrong.is_empty() || held != 8 {
        return Err(told(format!("{held} checks hold, and {wrong:#?}")));
    }
    let go = |seed| run_island(&schedule, &case.local(), seed).map_err(|e| told(e.to_string()));
    let (results, traffic) = go(0)?;
    check_case(case, &results).map_err(told)?;
    if traffic.bytes_sent != schedule.bytes_sent() {
        return Err(told(format!("{traffic:?}")));
    }
    for seed in [1, case.seed | 1, !case.seed | 1] {
        let again = go(seed)?.0;
        let same = |a: &annulus::ir::Tensor, b: &annulus::ir::Tensor| {
            a.data().to_le_bytes() == b.data().to_le_bytes()
        };
        let all = results.iter().flatten().zip(again.iter().flatten());
        if !all.into_iter().all(|(a, b)| same(a, b)) {
            return Err(told(format!("seed {seed} gives other bits")));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn queries_and_heads_that_travel_give_the_attention(case in cases(24), heads: bool, levels: bool) {
        let way = if heads { Way::Heads } else { Way::Queries };
        let divides = |n: &usize| case.ranks.is_multiple_of(*n);
        let nodes = if levels && !heads { (2..=case.ranks).find(divides).unwrap_or(1) } else { 1 };
        if let Err(wrong) = right(&case, way, nodes) {
            prop_assert!(false, "{:?} on {} nodes: {}", way, nodes, wrong);
        }
    }
}
