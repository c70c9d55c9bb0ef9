//! Partial results: launches of `attn_partial`.
//!
//! A step is one launch, or several where one does not say it: query heads that differ, leaves that came with their queries, more
//! pieces than a kernel takes. Rows of queries are independent of each other; over keys, launches go on from each other's carry.

use super::args::{AttentionArg, KvArg, LeafArg, Marks, QArg, Scoring, Strided};
use super::build::Builder;
use super::bytes::{Address, Base, Runs};
use super::copy::power_of_two;
use super::error::Why;
use super::scores::Site;
use super::types::{Argument, Copy, Grid, Kernel, Target, Work};
use crate::lower::params::{FAR, MAX_PIECES};
use crate::lower::{Arch, KernelKey, Launch, Tiling};
use crate::mask::Tile;
use crate::schedule::{Heads, KvPiece, Port, QPiece, View};
use std::sync::Arc;

/// Where the counter ends and the marks of rows begin.
const COUNTER_BYTES: usize = 256;

/// How a partial result begins and ends.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    pub(super) carry_in: bool,
    pub(super) sinks_here: bool,
    pub(super) cast_out: bool,
}

/// What the launches of some pieces of queries share.
struct Shared {
    batch: usize,
    heads: Heads,
    kv_heads: usize,
    tile: Tile,
    scoring: Scoring,
    sinks: Option<LeafArg>,
}

impl Builder<'_, '_> {
    pub(super) fn attention(
        &mut self,
        q: &[QPiece],
        kv: &[KvPiece],
        tile: Tile,
        [carry_in, sinks_here, cast_out]: [bool; 3],
    ) -> Result<(), Why> {
        let ends = Ends { carry_in, sinks_here, cast_out };
        self.check_sinks(ends)?;
        for piece in kv {
            self.places.rows(Port::Kv, &piece.rows)?;
            self.places.heads(Port::Kv, piece.heads)?;
        }
        // Leaves that came with their queries lie apart for every piece.
        let by_rows = |n: usize| self.facts.leaves.get(n.wrapping_sub(3)).is_some_and(|l| l.by_query_rows);
        let apart = self.scorings.by_rows || (sinks_here && self.facts.sinks.is_some_and(by_rows));
        let mut done = 0;
        while done < q.len() {
            let first = &q[done];
            let alone = |p: &QPiece| apart && !p.at.is_empty();
            let alike = |p: &&QPiece| p.heads == first.heads && !alone(p);
            let count = if alone(first) { 1 } else { q[done..].iter().take_while(alike).count() };
            self.alike(&q[done..done + count], kv, tile, ends)?;
            done += count;
        }
        Ok(())
    }

    pub(super) fn check_sinks(&self, ends: Ends) -> Result<(), Why> {
        if ends.sinks_here && self.facts.sinks.is_none() {
            return Err("it counts sinks, and there are none".to_owned().into());
        }
        match ends.sinks_here && !ends.cast_out && self.target != Target::Cpu {
            true => Err(Why::EarlySinks),
            false => Ok(()),
        }
    }

    /// Pieces of the same heads, whose leaves lie alike.
    fn alike(&mut self, q: &[QPiece], kv: &[KvPiece], tile: Tile, ends: Ends) -> Result<(), Why> {
        let heads = q[0].heads;
        self.places.heads(Port::Q, heads)?;
        let keys = self.facts.keys_of(heads);
        let mut args = Vec::with_capacity(q.len());
        let mut leaves = vec![];
        for piece in q {
            let arg = self.queries(piece, ends, &mut leaves)?;
            args.extend((piece.rows.len > 0).then_some(arg));
        }
        let mut kv_args = Vec::with_capacity(kv.len());
        for piece in kv {
            if keys.start < piece.heads.start || keys.end() > piece.heads.end() {
                let (h, p) = (heads, piece.heads);
                let which = format!("{}..{} read key heads that {}..{}", h.start, h.end(), p.start, p.end());
                return Err(format!("query heads {which} has not").into());
            }
            let arg = self.keys(piece, keys)?;
            kv_args.extend((piece.rows.len > 0).then_some(arg));
        }
        let Some(rows) = args.first().map(|a| a.rows.len) else { return Ok(()) };
        let site = match leaves.is_empty() || q.len() > 1 {
            true => Site::Own,
            false => Site::Received { at: &leaves, rows, heads: heads.len },
        };
        let scoring = self.scorings.scoring(&self.places, tile, heads.start, site)?;
        let sinks = self.facts.sinks.filter(|_| ends.sinks_here);
        let sinks = sinks.map(|n| self.scorings.leaf(&self.places, n, heads.start, site)).transpose()?;
        let shared =
            Shared { batch: self.facts.sizes.batch, heads, kv_heads: keys.len, tile, scoring, sinks };
        let kv: Vec<Arc<Vec<KvArg>>> = match kv_args.len() <= MAX_PIECES {
            true => vec![Arc::new(kv_args)],
            false => kv_args.chunks(MAX_PIECES).map(|some| Arc::new(some.to_vec())).collect(),
        };
        if args.len() <= MAX_PIECES {
            return self.chain(&shared, args, &kv, ends);
        }
        args.chunks(MAX_PIECES).try_for_each(|some| self.chain(&shared, some.to_vec(), &kv, ends))
    }

    /// A piece of queries; the places of leaves that came with it.
    fn queries(&mut self, piece: &QPiece, ends: Ends, leaves: &mut Vec<Address>) -> Result<QArg, Why> {
        let (f, rows, heads) = (self.facts, piece.rows, piece.heads);
        let (s, size) = (&f.sizes, f.dtype.bytes());
        self.places.rows(Port::Q, &rows)?;
        leaves.clear();
        let (local, q) = match piece.at.split_first() {
            None => {
                let local = self.places.local(Port::Q, &rows)?;
                (local, self.places.own(Base::Argument(0), local, heads.start, s.head_dim * size))
            }
            Some((q, more)) => {
                let by_rows = (3..3 + f.leaves.len()).filter(|n| f.leaves[n - 3].by_query_rows);
                if more.len() != by_rows.clone().count() {
                    return Err(format!("{} leaves with received queries", more.len()).into());
                }
                for (view, n) in more.iter().zip(by_rows) {
                    let bytes = f.block_bytes(Port::Leaf(n), rows.len, heads.len);
                    leaves.push(self.places.view(view, bytes, "a leaf")?);
                }
                let bytes = f.block_bytes(Port::Q, rows.len, heads.len);
                let at = self.places.view(q, bytes, "queries")?;
                (0, Strided { at, head_rows: rows.len, batch_heads: heads.len })
            }
        };
        let (carry, out, lse) = self.ends(&rows, heads, piece.carry.as_ref(), &piece.out, ends)?;
        Ok(QArg { rows, local, q, carry, out, lse })
    }

    /// Where carries and results of rows lie.
    #[allow(clippy::type_complexity)]
    pub(super) fn ends(
        &self,
        rows: &crate::layout::Progression,
        heads: Heads,
        carry: Option<&View>,
        out: &[View],
        ends: Ends,
    ) -> Result<(Option<Address>, Option<Strided>, Option<Address>), Why> {
        let f = self.facts;
        if carry.is_none() && (ends.carry_in || !ends.cast_out) {
            return Err("a carry is read or written, and has no place".to_owned().into());
        }
        let bytes = f.carry_bytes(rows.len, heads.len);
        let carry = carry.map(|v| self.places.view(v, bytes, "a carry")).transpose()?;
        let carry = carry.filter(|_| ends.carry_in || !ends.cast_out);
        if !ends.cast_out {
            return Ok((carry, None, None));
        }
        let width = f.sizes.v_head_dim * f.dtype.bytes();
        let Some((o, lse)) = out.split_first() else {
            let local = self.places.local(Port::Q, rows)?;
            let out = self.places.own(Base::Out, local, heads.start, width);
            let lse = self.places.own(Base::Lse, local, heads.start, f.acc.bytes()).at;
            return Ok((carry, Some(out), f.lse.then_some(lse)));
        };
        if lse.len() != usize::from(f.lse) {
            return Err(format!("{} places for the log-sum-exp", lse.len()).into());
        }
        let at = self.places.view(o, f.block_bytes(Port::Out, rows.len, heads.len), "a result")?;
        let bytes = f.block_bytes(Port::Lse, rows.len, heads.len);
        let lse = lse.first().map(|v| self.places.view(v, bytes, "a log-sum-exp")).transpose()?;
        Ok((carry, Some(Strided { at, head_rows: rows.len, batch_heads: heads.len }), lse))
    }

    /// A piece of keys, from the first head on that is read.
    fn keys(&self, piece: &KvPiece, heads: Heads) -> Result<KvArg, Why> {
        let (f, rows) = (self.facts, piece.rows);
        let (s, size) = (&f.sizes, f.dtype.bytes());
        let [k_row, v_row] = [s.head_dim * size, s.v_head_dim * size];
        let Some(view) = &piece.at else {
            let local = self.places.local(Port::Kv, &rows)?;
            let own = |n, width| self.places.own(Base::Argument(n), local, heads.start, width);
            return Ok(KvArg { rows, k: own(1, k_row), v: own(2, v_row).at });
        };
        let at = self.places.view(view, f.block_bytes(Port::Kv, rows.len, piece.heads.len), "keys")?;
        let skipped = (heads.start - piece.heads.start) * rows.len;
        let v = at.plus(s.batch * piece.heads.len * rows.len * k_row + skipped * v_row);
        let k = Strided { at: at.plus(skipped * k_row), head_rows: rows.len, batch_heads: piece.heads.len };
        Ok(KvArg { rows, k, v })
    }

    /// Launches over some keys after another, so many at a time as a kernel takes.
    fn chain(
        &mut self,
        shared: &Shared,
        mut q: Vec<QArg>,
        kv: &[Arc<Vec<KvArg>>],
        ends: Ends,
    ) -> Result<(), Why> {
        if let [kv] = kv {
            return self.launches(shared, &Arc::new(q), kv, ends);
        }
        if ends.cast_out {
            // The schedule's carry, if there is one, is only read.
            let mut at = 0;
            for piece in &mut q {
                let bytes = self.facts.carry_bytes(piece.rows.len, shared.heads.len);
                let own = self.scratch(at, bytes);
                at = (at + bytes).next_multiple_of(16);
                if let Some(carry) = piece.carry {
                    self.copy(Copy { from: Runs::dense(carry, bytes), to: Runs::dense(own, bytes) });
                }
                piece.carry = Some(own);
            }
        }
        let before = q.iter().map(|&piece| QArg { out: None, lse: None, ..piece });
        let (before, q) = (Arc::new(before.collect()), Arc::new(q));
        for (i, some) in kv.iter().enumerate() {
            let last = i + 1 == kv.len();
            let part = Ends {
                carry_in: ends.carry_in || i > 0,
                sinks_here: ends.sinks_here && last,
                cast_out: ends.cast_out && last,
            };
            self.launches(shared, if part.cast_out { &q } else { &before }, some, part)?;
        }
        Ok(())
    }

    /// The launch, and the one behind it that does the rows that it leaves.
    fn launches(
        &mut self,
        shared: &Shared,
        q: &Arc<Vec<QArg>>,
        kv: &Arc<Vec<KvArg>>,
        ends: Ends,
    ) -> Result<(), Why> {
        let s = &self.facts.sizes;
        let group = s.q_heads / s.kv_heads;
        let mut arg = AttentionArg {
            batch: shared.batch,
            heads: shared.heads.len,
            kv_heads: shared.kv_heads,
            group,
            head_shift: shared.heads.start % group,
            dk: s.head_dim,
            dv: s.v_head_dim,
            q: q.clone(),
            kv: kv.clone(),
            carry_in: ends.carry_in,
            cast_out: ends.cast_out,
            scoring: shared.scoring.clone(),
            sinks: shared.sinks.filter(|_| ends.sinks_here),
            marks: None,
        };
        let Target::Cuda(arch) = self.target else {
            let blocks = arg.q.iter().map(|p| p.rows.len).sum::<usize>() * arg.heads * arg.batch;
            let grid = Grid { blocks, most: None, leaves: 0, multiple: 1, threads: 1 };
            self.launch(Kernel::Cpu(Work::Attention), grid, Argument::Attention(Arc::new(arg)));
            return Ok(());
        };
        let key = self.key(&arg, shared.tile, ends.sinks_here, arch)?;
        let redo = key.redo(arch);
        if matches!(key.tiling, Tiling::Hopper(_)) {
            let counter = self.zeroed(0, COUNTER_BYTES);
            let sixteens: usize = arg.q.iter().map(|p| p.rows.len.div_ceil(16)).sum();
            let bytes = sixteens * arg.batch * arg.heads;
            arg.marks =
                Some(Marks { counter, odd: redo.is_some().then(|| self.zeroed(COUNTER_BYTES, bytes)) });
        }
        let arg = Arc::new(arg);
        let grid = grid(&key, &arg)?;
        self.launch(Kernel::Attention(key), grid, Argument::Attention(arg.clone()));
        if let Some(redo) = redo {
            let grid = self::grid(&redo, &arg)?;
            self.launch(Kernel::Attention(redo), grid, Argument::Attention(arg));
        }
        Ok(())
    }

    /// The kernel of a launch, by what it does and how what it reads and writes lies.
    fn key(
        &mut self,
        arg: &AttentionArg,
        tile: Tile,
        sinks_here: bool,
        arch: Arch,
    ) -> Result<KernelKey, Why> {
        let even = |tensor: &Strided, heads: usize| arg.batch == 1 || tensor.batch_heads == heads;
        let mut even_heads = true;
        let mut align = 16;
        let mut at = |address: Address| align = align.min(power_of_two(address.offset));
        for q in arg.q.iter() {
            even_heads &= even(&q.q, arg.heads);
            at(q.q.at);
            q.out.iter().for_each(|out| at(out.at));
        }
        for kv in arg.kv.iter() {
            even_heads &= even(&kv.k, arg.kv_heads);
            [kv.k.at, kv.v].into_iter().for_each(&mut at);
        }
        let carries =
            arg.q.iter().filter_map(|q| q.carry).map(|c| power_of_two(c.offset)).min().unwrap_or(16);
        let numbers = arg.q.iter().filter_map(|q| q.lse).map(|l| power_of_two(l.offset)).min().unwrap_or(16);
        if carries < 4 || numbers < 4 {
            return Err(Why::Alignment { what: "a carry or a log-sum-exp", unit: 4 });
        }
        // Kernels that copy four bytes at a time and more read two numbers of a carry at once.
        if carries < 8 && self.facts.dtype.bytes() == 2 {
            align = align.min(2);
        }
        if align < self.facts.dtype.bytes() {
            return Err(Why::Alignment { what: "q, k, v or the result", unit: self.facts.dtype.bytes() });
        }
        let keys = arg.kv.iter().map(|p| p.rows.len).sum();
        let (carry_in, cast_out) = (arg.carry_in, arg.cast_out);
        let launch = Launch { tile, keys, carry_in, sinks_here, cast_out, even_heads, align };
        Ok(self.scorings.kernel(launch, arch)?)
    }
}

fn grid(key: &KernelKey, arg: &AttentionArg) -> Result<Grid, Why> {
    let per_head: usize = arg.q.iter().map(|p| p.rows.len.div_ceil(key.rows())).sum();
    let blocks = per_head.saturating_mul(arg.batch * arg.heads);
    // The counter of tiles goes on past the last, once for every block.
    if blocks >= FAR as usize {
        return Err(Why::TooMany { what: "tiles of query rows", count: blocks });
    }
    // Hopper's blocks stay and take one tile after another.
    let most = matches!(key.tiling, Tiling::Hopper(_)).then_some(1);
    Ok(Grid { blocks, most, leaves: 0, multiple: 1, threads: key.threads() })
}
