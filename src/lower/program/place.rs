//! Where what a schedule names lies: views of the arena, and the rank's own rows of tensors.
//!
//! In: views, blocks, rows. Out: addresses and runs of bytes. Invariants: what comes out lies within the arena, or within the rank's
//! rows of a tensor; numbers of a schedule are looked at before anything is computed of them.

use super::args::Strided;
use super::bytes::{Address, Base, Runs};
use crate::layout::{Layout, Progression, row_count};
use crate::schedule::{AttentionFacts, Block, Heads, Place, Port, RankProgram, Schedule, View};

/// What a rank has.
pub(super) struct Places<'a> {
    pub(super) facts: &'a AttentionFacts,
    program: &'a RankProgram,
    q_rows: &'a [Progression],
    kv_rows: &'a [Progression],
    /// How many own rows there are.
    pub(super) q_count: usize,
    pub(super) kv_count: usize,
}

/// A tensor's own rows: in what, (outer, heads, own rows, bytes of a row).
#[derive(Clone, Copy)]
struct Form {
    base: Base,
    outer: usize,
    heads: usize,
    rows: usize,
    width: usize,
}

impl<'a> Places<'a> {
    /// Those of a rank of the schedule.
    pub(super) fn of(schedule: &'a Schedule, rank: usize) -> Result<Places<'a>, String> {
        let rows = |layout: &'a Layout| layout.rows.get(rank).map(Vec::as_slice).unwrap_or_default();
        let (q_rows, kv_rows) = (rows(&schedule.q_layout), rows(&schedule.kv_layout));
        let s = &schedule.attention.sizes;
        for (own, length) in [(q_rows, s.q_len), (kv_rows, s.kv_len)] {
            let mut count = 0usize;
            for p in own {
                count = count.saturating_add(p.len);
                if p.len == 0 || last_of(p).is_none_or(|l| l >= length) || count > length {
                    return Err(format!("own rows {p} are not among {length}"));
                }
            }
        }
        Ok(Places {
            facts: &schedule.attention,
            program: &schedule.ranks[rank],
            q_rows,
            kv_rows,
            q_count: row_count(q_rows),
            kv_count: row_count(kv_rows),
        })
    }

    /// A view of so many bytes.
    pub(super) fn view(&self, view: &View, bytes: usize, what: &str) -> Result<Address, String> {
        if view.bytes != bytes {
            return Err(format!("{what} in {} bytes, not {bytes}", view.bytes));
        }
        self.any_view(view)
    }

    /// A view of as many bytes as it says.
    fn any_view(&self, view: &View) -> Result<Address, String> {
        let slot =
            self.program.slots.get(view.slot).ok_or_else(|| format!("there is no slot {}", view.slot))?;
        let end = view.start.checked_add(view.bytes).filter(|&end| end <= slot.bytes);
        let last = slot.offset.checked_add(slot.bytes).filter(|&end| end <= self.program.arena_bytes);
        match (end, last) {
            (Some(_), Some(_)) => Ok(Address { base: Base::Arena, offset: slot.offset + view.start }),
            _ => Err(format!("{} bytes from byte {} on leave slot {}", view.bytes, view.start, slot.name)),
        }
    }

    /// Where a run of rows begins among the own ones that go through a port.
    pub(super) fn local(&self, port: Port, rows: &Progression) -> Result<usize, String> {
        let own = if port == Port::Kv { self.kv_rows } else { self.q_rows };
        run_of(own, rows).ok_or_else(|| format!("rows {rows} are no run of the rank's own"))
    }

    /// Rows and heads are there at all.
    pub(super) fn rows(&self, port: Port, rows: &Progression) -> Result<(), String> {
        let length = if port == Port::Kv { self.facts.sizes.kv_len } else { self.facts.sizes.q_len };
        match rows.len > 0 && last_of(rows).is_none_or(|l| l >= length) {
            true => Err(format!("there are no rows {rows} of {length}")),
            false => Ok(()),
        }
    }

    pub(super) fn heads(&self, port: Port, heads: Heads) -> Result<(), String> {
        let all = self.facts.heads_of(port);
        match heads.len == 0 || heads.end() > all.len {
            true => Err(format!("there are no heads {}..{} of {}", heads.start, heads.end(), all.len)),
            false => Ok(()),
        }
    }

    /// Own rows of a tensor with all heads, from a row and a head on; `width` bytes a row.
    pub(super) fn own(&self, base: Base, local: usize, head: usize, width: usize) -> Strided {
        let s = &self.facts.sizes;
        let (rows, heads) = match base {
            Base::Argument(1 | 2) => (self.kv_count, s.kv_heads),
            _ => (self.q_count, s.q_heads),
        };
        let offset = (head * rows + local) * width;
        Strided { at: Address { base, offset }, head_rows: rows, batch_heads: heads }
    }

    /// The tensors that a port is, in the order in which their bytes lie in an arena.
    fn forms(&self, port: Port) -> Result<[Option<Form>; 2], String> {
        let (f, s) = (self.facts, &self.facts.sizes);
        let of = |base, heads, rows, width| Some(Form { base, outer: s.batch, heads, rows, width });
        let (size, q) = (f.dtype.bytes(), self.q_count);
        Ok(match port {
            Port::Q => [of(Base::Argument(0), s.q_heads, q, s.head_dim * size), None],
            Port::Kv => [
                of(Base::Argument(1), s.kv_heads, self.kv_count, s.head_dim * size),
                of(Base::Argument(2), s.kv_heads, self.kv_count, s.v_head_dim * size),
            ],
            Port::Out => [of(Base::Out, s.q_heads, q, s.v_head_dim * size), None],
            Port::Lse => [of(Base::Lse, s.q_heads, q, f.acc.bytes()), None],
            Port::Leaf(n) => {
                let leaf = n.checked_sub(3).and_then(|i| f.leaves.get(i)).filter(|l| l.by_query_rows);
                let leaf = leaf.ok_or_else(|| format!("argument {n} is not handed out by query rows"))?;
                let [outer, heads, _, width] = leaf.shape;
                let width = width * leaf.dtype.bytes();
                [Some(Form { base: Base::Argument(n), outer, heads, rows: q, width }), None]
            }
        })
    }

    /// The bytes of a block of own rows, in the order in which they lie side by side in an arena.
    pub(super) fn block(&self, block: &Block, out: &mut Vec<Runs>) -> Result<(), String> {
        self.heads(block.port, block.heads)?;
        let local = self.local(block.port, &block.rows)?;
        for form in self.forms(block.port)?.into_iter().flatten() {
            // A leaf that is one for all heads has them once.
            let one = matches!(block.port, Port::Leaf(_)) && form.heads == 1;
            let heads = if one { Heads::all(1) } else { block.heads };
            let (bytes, stride) = (block.rows.len * form.width, form.rows * form.width);
            if bytes == 0 {
                continue;
            }
            let at = |outer: usize| {
                let offset = ((outer * form.heads + heads.start) * form.rows + local) * form.width;
                Address { base: form.base, offset }
            };
            if heads.len == form.heads {
                out.push(Runs { at: at(0), count: form.outer * heads.len, stride, bytes }.joined());
            } else {
                let runs = |outer| Runs { at: at(outer), count: heads.len, stride, bytes }.joined();
                out.extend((0..form.outer).map(runs));
            }
        }
        Ok(())
    }

    /// The bytes of a part of a message.
    pub(super) fn part(&self, part: &Place, out: &mut Vec<Runs>) -> Result<(), String> {
        match part {
            Place::Own(block) => self.block(block, out),
            Place::Arena(view) => {
                let at = self.any_view(view)?;
                if view.bytes > 0 {
                    out.push(Runs::dense(at, view.bytes));
                }
                Ok(())
            }
        }
    }
}

/// The last row; `None` on overflow or if rows coincide.
fn last_of(p: &Progression) -> Option<usize> {
    if p.len > 1 && p.step == 0 {
        return None;
    }
    p.start.checked_add(p.len.checked_sub(1)?.checked_mul(p.step)?)
}

/// Where the rows begin among a rank's own, if they are a run of one of its progressions.
fn run_of(own: &[Progression], rows: &Progression) -> Option<usize> {
    if rows.len == 0 {
        return Some(0);
    }
    last_of(rows)?;
    let mut before = 0;
    for p in own {
        if p.holds(rows) {
            return Some(before + (rows.start - p.start) / p.step.max(1));
        }
        before += p.len;
    }
    None
}
