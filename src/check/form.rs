//! form: every number of a schedule is in range, so that the other checks may use it.

use super::bytes::{block_bytes, carry_bytes, keys_of, kv_bytes, leaf_heads, message_bytes};
use super::log::{Log, block_name, rows_name};
use super::rows::{Owned, Run, sweep};
use crate::ir::{DType, Factor, ScoreStep};
use crate::layout::{Layout, Progression};
use crate::mask::{Fill, Mask, Term, Tile};
use crate::schedule::{
    AttentionFacts, Block, ExchangeKind, Heads, Mesh, Packed, Place, Port, RankProgram, Schedule, Step,
    StepOp, Stream, Transfer, View,
};
use std::collections::HashSet;

/// Axes of one mesh, at most.
pub(super) const MOST_AXES: usize = 8;

pub(super) fn form(schedule: &Schedule, log: &mut Log<'_>) {
    let ranks = schedule.ranks.len();
    if ranks == 0 {
        log.fail(0, 0, || "there are no ranks".to_owned());
        return;
    }
    let facts = &schedule.attention;
    mesh(&schedule.mesh, ranks, log);
    attention(facts, log);
    layout("q_layout", &schedule.q_layout, facts.sizes.q_len, ranks, log);
    layout("kv_layout", &schedule.kv_layout, facts.sizes.kv_len, ranks, log);
    if log.failed() {
        // Rows and sizes of steps have no meaning without these.
        return;
    }
    log.each_rank(|r, log| {
        let program = &schedule.ranks[r];
        let mut rank = Rank {
            schedule,
            r,
            program,
            q: Owned::new(&schedule.q_layout.rows[r]),
            kv: Owned::new(&schedule.kv_layout.rows[r]),
            log,
        };
        rank.slots();
        rank.events();
        for (i, step) in program.steps.iter().enumerate() {
            rank.step(i, step);
        }
    });
}

/// Every rank has one place in the mesh.
fn mesh(mesh: &Mesh, ranks: usize, log: &mut Log<'_>) {
    let mut want = |holds: bool, message: &dyn Fn() -> String| {
        if holds { log.fact() } else { log.fail_at(0, 0, "mesh".to_owned(), message) }
    };
    let axes = &mesh.axes;
    want((1..=MOST_AXES).contains(&axes.len()), &|| {
        format!("it has {} axes, and a mesh has 1 to {MOST_AXES}", axes.len())
    });
    let places = axes.iter().try_fold(1usize, |n, a| n.checked_mul(a.size));
    want(places == Some(ranks), &|| {
        let sizes: Vec<String> = axes.iter().map(|a| a.size.to_string()).collect();
        format!("its axes of {} ranks have no place for each of {ranks} ranks", sizes.join(" x "))
    });
    for (i, axis) in axes.iter().enumerate() {
        want(axes[..i].iter().all(|a| a.name != axis.name), &|| {
            format!("two axes have the name {}", axis.name.escape_debug())
        });
    }
}

fn attention(a: &AttentionFacts, log: &mut Log<'_>) {
    let mut want = |holds: bool, message: String| {
        if holds { log.fact() } else { log.fail_at(0, 0, "attention".to_owned(), || message) }
    };
    let s = &a.sizes;
    want(a.dtype.is_float(), format!("{} is no floating type", a.dtype));
    let wide = a.acc == DType::F64 || (a.acc == DType::F32 && a.dtype != DType::F64);
    want(wide, format!("{} is not accumulated in {}", a.dtype, a.acc));
    want(s.batch > 0 && s.q_heads > 0, "there is no batch entry, or no head".to_owned());
    let heads = s.kv_heads > 0 && s.q_heads.is_multiple_of(s.kv_heads);
    want(heads, format!("{} query heads do not share {} key heads evenly", s.q_heads, s.kv_heads));
    want(
        kv_bytes(a, s.kv_len).is_some(),
        "all keys and values have more bytes than can be counted".to_owned(),
    );
    want(
        carry_bytes(a, s.q_len, s.q_heads).is_some(),
        "all carries have more bytes than can be counted".to_owned(),
    );
    let leaf = |argument: usize| argument.checked_sub(3).and_then(|i| a.leaves.get(i));
    let number = |n: usize| leaf(n).is_some_and(|l| l.dtype.is_float());
    for step in a.scores.steps() {
        match *step {
            ScoreStep::Factor(Factor::Number(x)) => {
                want(x.is_finite(), format!("the factor {x} of the scores is not finite"));
            }
            ScoreStep::Factor(Factor::Leaf(n)) => {
                want(
                    number(n),
                    format!("argument {n}, by which scores are multiplied, is none of a floating type"),
                );
            }
            ScoreStep::Softcap(c) => {
                want(c.is_finite() && c > 0.0, format!("the softcap {c} is no finite number above 0"));
            }
            ScoreStep::Add(n) => want(number(n), format!("the bias {n} is no argument of a floating type")),
            ScoreStep::Round(t) => {
                want(t.is_float(), format!("scores are rounded to {t}, which is no floating type"));
            }
            ScoreStep::Fill(ref m) => fill(m, a, &mut want),
        }
    }
    if let Some(dropout) = a.dropout {
        let part = dropout.ratio >= 0.0 && dropout.ratio < 1.0;
        want(part, format!("{} is no part of the weights to drop: want 0 up to but not 1", dropout.ratio));
        let holds = leaf(dropout.seed).is_some_and(|l| l.dtype == DType::I64 && l.shape == [1; 4]);
        want(holds, format!("the seed {} is no argument of one i64", dropout.seed));
    }
    if let Some(sinks) = a.sinks {
        let holds = leaf(sinks).is_some_and(|l| l.dtype.is_float() && l.shape[3] == 1);
        want(holds, format!("the sinks {sinks} are no argument of a floating type with one column"));
    }
    for (i, l) in a.leaves.iter().enumerate() {
        let whole = [s.batch, s.q_heads, s.q_len, s.kv_len];
        let fits = l.shape.iter().zip(whole).all(|(&extent, whole)| extent == 1 || extent == whole);
        want(fits, format!("leaf {} of shape {:?} does not broadcast to {whole:?}", i + 3, l.shape));
        let rows = !l.by_query_rows || l.shape[2] == s.q_len;
        want(rows, format!("leaf {} has no query rows to hand out", i + 3));
    }
}

/// The terms and the number of one fill.
fn fill(mask: &Mask, a: &AttentionFacts, want: &mut dyn FnMut(bool, String)) {
    let filled = match mask.fill {
        Fill::NegInf => true,
        Fill::Replace(x) | Fill::Add(x) => x.is_finite(),
    };
    want(filled, "the fill of the mask is not finite".to_owned());
    let batch = a.sizes.batch;
    for term in &mask.terms {
        let plain = |t: &Term| match t {
            Term::Segments { starts, .. } => {
                starts.first() != Some(&0) && starts.windows(2).all(|w| w[0] < w[1])
            }
            Term::Keys { start, end } => start <= end,
            _ => true,
        };
        if let Term::Batch { entries } = term {
            let message = format!("the mask has terms for {} batch entries, not for {batch}", entries.len());
            want(entries.len() == batch, message);
            let inner = |t: &Term| plain(t) && !matches!(t, Term::Batch { .. } | Term::Tensor { .. });
            let holds = entries.iter().flatten().all(inner);
            want(holds, "the mask's terms for each batch entry are not all of positions".to_owned());
        }
        if matches!(term, Term::Segments { .. } | Term::Keys { .. }) {
            want(plain(term), format!("{term} of the mask has its numbers in no order"));
        }
        if let Term::Tensor { operand } = *term {
            let leaf = operand.checked_sub(3).and_then(|i| a.leaves.get(i));
            let holds = leaf.is_some_and(|l| l.dtype == DType::Bool);
            want(holds, format!("the mask's tensor {operand} is no argument of type bool"));
        }
    }
}

/// Every row of the sequence has exactly one owner.
fn layout(name: &str, layout: &Layout, length: usize, ranks: usize, log: &mut Log<'_>) {
    let mut want = |holds: bool, rank: usize, message: &dyn Fn() -> String| {
        if holds {
            log.fact()
        } else {
            log.fail_at(rank, 0, name.to_owned(), message)
        }
        holds
    };
    let mut fine = want(layout.length == length, 0, &|| {
        format!("it is of {} rows, the attention has {length}", layout.length)
    });
    fine &= want(layout.rows.len() == ranks, 0, &|| {
        format!("it is of {} ranks, the schedule of {ranks}", layout.rows.len())
    });
    let owner: Vec<usize> =
        layout.rows.iter().enumerate().flat_map(|(r, rows)| rows.iter().map(move |_| r)).collect();
    let all: Vec<Progression> = layout.rows.iter().flatten().copied().collect();
    for (p, &r) in all.iter().zip(&owner) {
        let inside = Run::of(p).is_some_and(|run| run.last < length as i128);
        fine &= want(inside, r, &|| {
            let (Progression { start, len, step }, last) = (p, length);
            format!("rows {start}:{len}:{step} are none, or not all in 0..{last}")
        });
    }
    if !fine {
        return;
    }
    let Some(sweep) = sweep(&all, length) else {
        want(false, 0, &|| {
            "its steps have too large a common multiple to prove that no row is lost".to_owned()
        });
        return;
    };
    match sweep.overlap {
        None => log.fact(),
        Some((a, b, row)) => log.fail_at(owner[b], 0, name.to_owned(), || {
            format!("row {row} is owned by rank {} and again by rank {}", owner[a], owner[b])
        }),
    }
    match sweep.gaps.first() {
        None => log.fact(),
        Some(gap) => log.fail_at(0, 0, name.to_owned(), || format!("nobody owns {}", gap.name())),
    }
}

struct Rank<'a, 'l, 's> {
    schedule: &'a Schedule,
    r: usize,
    program: &'a RankProgram,
    q: Owned,
    kv: Owned,
    log: &'l mut Log<'s>,
}

impl Rank<'_, '_, '_> {
    fn slots(&mut self) {
        let mut names = HashSet::new();
        for slot in &self.program.slots {
            let end = slot.offset.checked_add(slot.bytes);
            let inside = end.is_some_and(|e| e <= self.program.arena_bytes);
            let new = names.insert(slot.name.as_str());
            for (holds, what) in [(inside, "does not lie in the arena"), (new, "is there twice")] {
                if holds {
                    self.log.fact();
                } else {
                    let name = slot.name.escape_debug();
                    self.log.fail_at(self.r, 0, "arena".to_owned(), || format!("slot {name} {what}"));
                }
            }
        }
    }

    fn events(&mut self) {
        let steps = &self.program.steps;
        let mut recorded = vec![false; steps.len()];
        for (i, step) in steps.iter().enumerate() {
            for &e in &step.waits {
                self.log.want(recorded.get(e) == Some(&true), self.r, i, || {
                    match steps.iter().position(|s| s.records == Some(e)) {
                        Some(later) => {
                            format!("waits for event e{e}, which is recorded only by step {later}")
                        }
                        None => format!("waits for event e{e}, which no step records"),
                    }
                });
            }
            if let Some(e) = step.records {
                match recorded.get_mut(e) {
                    Some(known) => {
                        let new = !std::mem::replace(known, true);
                        self.log.want(new, self.r, i, || format!("event e{e} is recorded twice"));
                    }
                    None => {
                        self.log
                            .fail(self.r, i, || format!("event e{e} has a number above that of all steps"));
                    }
                }
            }
        }
    }

    fn step(&mut self, i: usize, step: &Step) {
        let a = &self.schedule.attention;
        let lanes = self.schedule.mesh.axes.len();
        self.want(step.stream.lane() <= lanes, i, || {
            "runs on the stream of an axis that there is not".to_owned()
        });
        match &step.op {
            StepOp::Pack { pieces } => pieces.iter().for_each(|p| self.packed(i, p, "packs", true)),
            StepOp::Unpack { pieces } => pieces.iter().for_each(|p| self.packed(i, p, "unpacks", false)),
            StepOp::Exchange { group, kind, sms, sends, recvs } => {
                let comm = matches!(step.stream, Stream::Comm(_));
                self.want(comm, i, || {
                    "transfers belong on the comm stream, where they have one order".to_owned()
                });
                self.want(*group > 0, i, || "groups are numbered from 1".to_owned());
                let power = sms.is_none_or(|sms| sms == 0 || sms.is_power_of_two());
                self.want(power, i, || "multiprocessors of transfers are a power of two, or none".to_owned());
                let one = *kind != ExchangeKind::SendRecv || sends.len().max(recvs.len()) <= 1;
                self.want(one, i, || "has more than one send or receive".to_owned());
                self.transfers(i, step.stream, "sends to", sends);
                self.transfers(i, step.stream, "receives from", recvs);
            }
            StepOp::AttnPartial { q, kv, tile, carry_in, cast_out, sinks_here } => {
                self.want(*tile != Tile::Skip, i, || "computes a block that is to be skipped".to_owned());
                self.sinks(i, *sinks_here);
                for p in q {
                    self.heads(i, p.heads, a.sizes.q_heads);
                    self.queries(i, &p.rows);
                    match p.at.split_first() {
                        None => self.own(i, &p.rows),
                        Some((at, leaves)) => self.received(i, (&p.rows, p.heads), at, leaves),
                    }
                    self.ends(i, (&p.rows, p.heads), (&p.carry, &p.out), (*carry_in, *cast_out));
                }
                for p in kv {
                    self.heads(i, p.heads, a.sizes.kv_heads);
                    let length = a.sizes.kv_len as i128;
                    let inside = Run::of(&p.rows).is_some_and(|run| run.last < length);
                    self.want(inside, i, || {
                        format!("key rows {} are none, or not all in 0..{length}", p.rows)
                    });
                    match &p.at {
                        None => {
                            let own = self.kv.local(&p.rows).is_some();
                            self.want(own, i, || {
                                format!(
                                    "key {}: no run of the rank's own, and they lie nowhere",
                                    rows_name(&p.rows)
                                )
                            });
                        }
                        Some(at) => {
                            self.block(i, &Block { port: Port::Kv, rows: p.rows, heads: p.heads }, at)
                        }
                    }
                    let lacks = |q: &Heads| {
                        let needed = keys_of(a, *q);
                        needed.start < p.heads.start || needed.end() > p.heads.end()
                    };
                    let lacking = q.iter().map(|p| p.heads).find(lacks);
                    self.want(lacking.is_none(), i, || {
                        let (q, k) = (lacking.unwrap_or(p.heads), p.heads);
                        format!(
                            "query heads {}..{} read other key heads than {}..{}",
                            q.start,
                            q.end(),
                            k.start,
                            k.end()
                        )
                    });
                }
            }
            StepOp::Merge { q, carry_in, cast_out, sinks_here } => {
                self.sinks(i, *sinks_here);
                let sinks = a.sinks.and_then(|s| a.leaves.get(s.checked_sub(3)?));
                for p in q {
                    self.heads(i, p.heads, a.sizes.q_heads);
                    self.queries(i, &p.rows);
                    if *sinks_here && sinks.is_some_and(|l| l.by_query_rows) {
                        self.own(i, &p.rows);
                    }
                    self.want(!p.partials.is_empty(), i, || {
                        format!("merges nothing of query {}", rows_name(&p.rows))
                    });
                    let bytes = carry_bytes(a, p.rows.len, p.heads.len);
                    for at in &p.partials {
                        self.view(i, at, bytes, || format!("a partial result of {}", rows_name(&p.rows)));
                    }
                    self.ends(i, (&p.rows, p.heads), (&p.carry, &p.out), (*carry_in, *cast_out));
                }
            }
        }
    }

    fn want(&mut self, holds: bool, step: usize, message: impl FnOnce() -> String) {
        self.log.want(holds, self.r, step, message);
    }

    fn sinks(&mut self, i: usize, here: bool) {
        let any = self.schedule.attention.sinks.is_some();
        self.want(any || !here, i, || "counts sinks, and the attention has none".to_owned());
    }

    fn heads(&mut self, i: usize, some: Heads, all: usize) {
        let inside = some.len > 0 && some.start.checked_add(some.len).is_some_and(|end| end <= all);
        self.want(inside, i, || {
            format!("heads {}..{} are none, or not all in 0..{all}", some.start, some.end())
        });
    }

    /// Rows of queries.
    fn queries(&mut self, i: usize, rows: &Progression) {
        let length = self.schedule.attention.sizes.q_len as i128;
        let inside = Run::of(rows).is_some_and(|run| run.last < length);
        self.want(inside, i, || format!("query rows {rows} are none, or not all in 0..{length}"));
    }

    /// Query rows of the rank.
    fn own(&mut self, i: usize, rows: &Progression) {
        let own = self.q.local(rows).is_some();
        self.want(own, i, || format!("query {}: no run of the rank's own", rows_name(rows)));
    }

    /// Queries that were received, and the leaves behind them.
    fn received(&mut self, i: usize, (rows, heads): (&Progression, Heads), at: &View, leaves: &[View]) {
        let block = |port| Block { port, rows: *rows, heads };
        self.block(i, &block(Port::Q), at);
        let by_rows = self.schedule.attention.leaves.iter().enumerate().filter(|(_, l)| l.by_query_rows);
        let ports: Vec<Port> = by_rows.map(|(n, _)| Port::Leaf(n + 3)).collect();
        self.want(leaves.len() == ports.len(), i, || {
            format!(
                "has {} leaves for the queries of {} that it received, and {} are handed out by query rows",
                leaves.len(),
                rows_name(rows),
                ports.len()
            )
        });
        for (port, at) in ports.into_iter().zip(leaves) {
            let of = leaf_heads(&self.schedule.attention, port, heads);
            self.block(i, &Block { heads: of, ..block(port) }, at);
        }
    }

    /// Carries and results have places.
    fn ends(
        &mut self,
        i: usize,
        (rows, heads): (&Progression, Heads),
        (carry, out): (&Option<View>, &[View]),
        (carry_in, cast_out): (bool, bool),
    ) {
        let a = &self.schedule.attention;
        let used = carry_in || !cast_out;
        self.want(carry.is_some() || !used, i, || {
            format!("has no place for the carry of query {}", rows_name(rows))
        });
        if let Some(at) = carry {
            let bytes = carry_bytes(a, rows.len, heads.len);
            self.view(i, at, bytes, || format!("the carry of {}", rows_name(rows)));
        }
        let Some((to, lse)) = out.split_first() else {
            if cast_out {
                self.own(i, rows);
            }
            return;
        };
        self.want(cast_out, i, || {
            format!("has places for results of query {}, and gives none", rows_name(rows))
        });
        self.want(lse.len() == usize::from(a.lse), i, || {
            format!("has {} places for the log-sum-exp of query {}", lse.len(), rows_name(rows))
        });
        let block = |port| Block { port, rows: *rows, heads };
        self.block(i, &block(Port::Out), to);
        lse.iter().for_each(|at| self.block(i, &block(Port::Lse), at));
    }

    /// Own rows that are read, or results that are written.
    fn owned(&mut self, i: usize, b: &Block, does: &str, reads: bool) {
        let a = &self.schedule.attention;
        let there = match b.port {
            Port::Q | Port::Kv => reads,
            Port::Leaf(n) => {
                reads && n.checked_sub(3).and_then(|n| a.leaves.get(n)).is_some_and(|l| l.by_query_rows)
            }
            Port::Out => !reads,
            Port::Lse => !reads && a.lse,
        };
        self.want(there, i, || {
            format!(
                "{does} {}, which a rank {}",
                b.port,
                if reads { "does not own" } else { "does not give" }
            )
        });
        let (owned, all) = match b.port {
            Port::Kv => (self.kv.local(&b.rows), a.sizes.kv_heads),
            _ => (self.q.local(&b.rows), a.sizes.q_heads),
        };
        self.heads(i, b.heads, all);
        let keys = if b.port == Port::Kv { "keys" } else { "queries" };
        self.want(owned.is_some(), i, || {
            format!("{does} {}, no run of the rank's own {keys}", rows_name(&b.rows))
        });
    }

    fn packed(&mut self, i: usize, p: &Packed, does: &str, reads: bool) {
        self.owned(i, &p.block, does, reads);
        self.block(i, &p.block, &p.at);
    }

    fn transfers(&mut self, i: usize, stream: Stream, verb: &str, transfers: &[Transfer]) {
        // A hop has one; an all-gather has them in order.
        let distinct = transfers.windows(2).all(|w| w[0].peer < w[1].peer);
        let mut seen = HashSet::new();
        for t in transfers {
            let other = t.peer < self.schedule.ranks.len() && t.peer != self.r;
            self.want(other, i, || format!("{verb} rank {}, which is no other rank", t.peer));
            let along = apart(&self.schedule.mesh, self.r, t.peer);
            let axis = stream.lane().wrapping_sub(1);
            self.want(!other || along == Some(axis), i, || {
                format!("{verb} rank {}, which is not along the axis of the stream", t.peer)
            });
            self.want(distinct || seen.insert(t.peer), i, || format!("{verb} rank {} twice", t.peer));
            let reads = verb.starts_with("sends");
            for p in &t.parts {
                match p {
                    Place::Arena(v) => {
                        self.view(i, v, Some(v.bytes), || format!("what it {verb} rank {}", t.peer));
                    }
                    Place::Own(b) => self.owned(i, b, if reads { "sends" } else { "receives" }, reads),
                }
            }
            let counted = message_bytes(&self.schedule.attention, t).is_some();
            self.want(counted, i, || format!("{verb} rank {} more bytes than can be counted", t.peer));
        }
    }

    /// A block lies in a view.
    fn block(&mut self, i: usize, b: &Block, at: &View) {
        let bytes = block_bytes(&self.schedule.attention, b.port, b.rows.len, b.heads.len);
        let facts = &self.schedule.attention;
        self.view(i, at, bytes, || block_name(facts, b));
    }

    /// A view lies in a slot and has that many bytes.
    fn view(&mut self, i: usize, view: &View, bytes: Option<usize>, what: impl Fn() -> String) {
        let Some(slot) = self.program.slots.get(view.slot) else {
            self.want(false, i, || format!("{} lie in slot {}, which is not there", what(), view.slot));
            return;
        };
        let inside = view.start.checked_add(view.bytes).is_some_and(|end| end <= slot.bytes);
        self.want(inside, i, || {
            let (from, to) = (view.start, view.start as u128 + view.bytes as u128);
            let name = slot.name.escape_debug();
            format!("{}: bytes {from}..{to} do not lie in slot {name} of {} bytes", what(), slot.bytes)
        });
        self.want(bytes == Some(view.bytes), i, || match bytes {
            Some(bytes) => format!("{} take {bytes} bytes, not {}", what(), view.bytes),
            None => format!("{} take more bytes than can be counted", what()),
        });
    }
}

/// The axis along which alone two ranks differ.
fn apart(mesh: &Mesh, mut a: usize, mut b: usize) -> Option<usize> {
    let mut along = None;
    for (i, axis) in mesh.axes.iter().enumerate().rev() {
        let size = axis.size.max(1);
        if a % size != b % size && along.replace(i).is_some() {
            return None;
        }
        (a, b) = (a / size, b / size);
    }
    along
}
