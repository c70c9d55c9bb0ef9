//! Which factors of the scores are batch, heads and rows.
//!
//! In: a region. Out: its factors by their roles, the heads that K and V really have among them. Invariant: every factor of the scores but
//! those of the keys has one role.

use crate::find::axes::factors::{Axes, Dim};
use crate::find::axes::trace::Trace;
use crate::find::region::types::{QAxis, Region};

/// Which factors make up the axes of an attention.
pub(crate) struct Roles {
    pub(crate) batch: Vec<Dim>,
    pub(crate) heads: Vec<Dim>,
    pub(crate) kv_heads: Vec<Dim>,
    pub(crate) rows: Vec<Dim>,
}

/// Sorts the factors of the scores into batch, heads and rows.
///
/// Any sorting gives the right result, for attention treats batch, heads and rows alike; this one finds the names that a
/// reader expects, and what is split are rows. Of several shared axes the first is the batch, and the others are heads. Of what Q has
/// alone one part holds the rows; the others hold the query heads that share a key head.
pub(crate) fn roles(r: &Region) -> Roles {
    let (batch, mut heads) = shared(r);
    let q = Q::new(r, &heads);
    let mut parts = q.parts();
    let may = (0..parts.len()).filter(|&i| !parts[i].of_heads);
    let rows = may.max_by_key(|&i| q.likely_rows(&parts[i]));
    let rows = rows.map(|i| std::mem::take(&mut parts[i].dims)).unwrap_or_default();
    heads.extend(parts.into_iter().flat_map(|p| p.dims));
    let kv_heads = kv_heads(r, &mut heads);
    Roles { batch, heads, kv_heads, rows }
}

/// Batch and heads, of what Q and K share. A factor that was cut from the same axis as the head size is a head.
fn shared(r: &Region) -> (Vec<Dim>, Vec<Dim>) {
    let base = r.space.resolve_all(&r.operands[0].base_axes);
    let beside_depth = |d: &Dim| base.iter().any(|a| a.contains(d) && a.iter().any(|x| r.depth.contains(x)));
    let own_first_axis = |d: &Dim| base.first().is_some_and(|a| a == &[*d]);
    if let [only] = r.shared.as_slice() {
        let is_batch = |i: usize, d: &Dim| {
            if only.len() == 1 { own_first_axis(d) } else { i == 0 && !beside_depth(d) }
        };
        let (batch, heads): (Vec<_>, Vec<_>) = only.iter().enumerate().partition(|&(i, d)| is_batch(i, d));
        let plain = |all: Vec<(usize, &Dim)>| all.into_iter().map(|(_, d)| *d).collect();
        return (plain(batch), plain(heads));
    }
    let mut axes = r.shared.iter().cloned();
    (axes.next().unwrap_or_default(), axes.flatten().collect())
}

/// A part of what Q has alone: an axis, or what is left of one without what is known to be heads.
struct Part {
    /// Which axis of Q alone it is of.
    axis: usize,
    dims: Vec<Dim>,
    /// Whether it was cut from one axis with heads or the head size.
    of_heads: bool,
}

/// How Q is laid out.
struct Q<'a> {
    region: &'a Region,
    heads: &'a [Dim],
    /// Axes in which Q stood somewhere on its way, from where it was made to the product.
    axes: Axes,
    /// Its factors where it was made, outermost first.
    base: Vec<Dim>,
    /// Of each mask, its factors: of those that tell keys apart and no heads.
    masks: Vec<Vec<Dim>>,
}

/// How close to heads something stands: the farther the more likely it holds rows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Right behind them, where the query heads of a key head stand.
    BehindHeads,
    BeforeHeads,
    Apart,
}

impl Q<'_> {
    fn new<'a>(region: &'a Region, heads: &'a [Dim]) -> Q<'a> {
        let s = &region.space;
        let Trace { base_axes, points, .. } = &region.operands[0];
        let on_the_way = points.iter().map(|(_, axes)| axes).chain([base_axes]);
        let axes: Axes = on_the_way.flat_map(|axes| s.resolve_all(axes)).collect();
        let masks = region.leaves.iter().filter(|l| l.truth).map(|l| s.resolve(&l.axes.concat()));
        let of_pairs =
            |m: &Vec<Dim>| m.iter().any(|d| region.keys.contains(d)) && !m.iter().any(|d| heads.contains(d));
        let masks = masks.filter(of_pairs).collect();
        Q { region, heads, axes, base: s.resolve(&base_axes.concat()), masks }
    }

    /// Whether some axis held it together with the head size or with a head, or V has it.
    fn is_head(&self, d: Dim) -> bool {
        // One axis alone that is shared may be the batch, whose rows may stand in one axis with it.
        let batch = match self.region.shared.as_slice() {
            [only] => only.first(),
            _ => None,
        };
        let of_heads =
            |x: &Dim| self.region.depth.contains(x) || (self.heads.contains(x) && Some(x) != batch);
        let of_values = self.region.space.resolve(&self.region.operands[2].axes.concat());
        of_values.contains(&d) || self.axes.iter().any(|a| a.contains(&d) && a.iter().any(of_heads))
    }

    /// Whether some axis held the head size together with something else: with all heads then.
    fn projected(&self) -> bool {
        let of_size = |d: &&Dim| self.region.depth.contains(d);
        self.axes.iter().any(|a| (1..a.len()).contains(&a.iter().filter(of_size).count()))
    }

    /// Whether Q alone has an axis of extent 1, which may be that of its rows.
    fn one_row(&self) -> bool {
        self.region.free.iter().any(Vec::is_empty)
    }

    /// Whether a mask tells rows of this factor apart.
    fn masked(&self, d: Dim) -> bool {
        self.masks.iter().any(|m| m.contains(&d))
    }

    /// Each axis of Q alone, cut between factors that are heads for sure and others, and between factors that a mask tells apart and
    /// others.
    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = vec![];
        for (axis, dims) in self.region.free.iter().enumerate() {
            let kind = |d: &Dim| (self.is_head(*d), self.masked(*d));
            let runs = dims.chunk_by(|a, b| kind(a) == kind(b));
            let of = |run: &[Dim]| Part { axis, dims: run.to_vec(), of_heads: self.is_head(run[0]) };
            parts.extend(runs.map(of));
            if dims.is_empty() {
                parts.push(Part { axis, dims: vec![], of_heads: false });
            }
        }
        parts
    }

    /// The greatest of these holds the rows: what a mask tells apart; what a projection to all heads left alone; what does not stand
    /// behind the heads; what is as long as the keys; what stands apart from the heads; more than one row; the last.
    fn likely_rows(&self, part: &Part) -> impl Ord + use<> {
        let s = &self.region.space;
        // Beside an axis of one row any number may be that of heads.
        let long = !self.one_row() && s.product(&part.dims) == s.product(&self.region.keys);
        let masked = part.dims.iter().any(|&d| self.masked(d));
        let (some, place) = (!part.dims.is_empty(), self.place(part));
        let left = some && self.projected();
        (masked, left, place != Place::BehindHeads, long, place, some, part.axis)
    }

    /// Where it stands beside the heads: in Q as it was made, or, where an axis of extent 1 leaves no trace there, at the product.
    fn place(&self, part: &Part) -> Place {
        let place = |before: bool, behind: bool| match (before, behind) {
            (true, _) => Place::BehindHeads,
            (_, true) => Place::BeforeHeads,
            _ => Place::Apart,
        };
        let at = part.dims.first().and_then(|d| self.base.iter().position(|x| x == d));
        if let Some(at) = at.filter(|_| !self.heads.is_empty() && !self.one_row()) {
            let (before, rest) = self.base.split_at(at);
            let is_head = |d: Option<&Dim>| d.is_some_and(|d| self.heads.contains(d));
            return place(is_head(before.last()), is_head(rest.get(part.dims.len())));
        }
        let order = &self.region.q_order;
        let Some(at) = order.iter().position(|a| *a == QAxis::Free(part.axis)) else { return Place::Apart };
        // One axis alone that they share is the batch if it comes first.
        let alone = self.region.shared.len() == 1 && order.first() != Some(&QAxis::Shared(0));
        let is_head = |a: Option<&QAxis>| match a {
            Some(QAxis::Shared(i)) => *i > 0 || alone,
            _ => false,
        };
        place(is_head(order[..at].last()), is_head(order.get(at + 1)))
    }
}

/// The heads that K and V really have. Query heads that share one are brought side by side, should they not be: then K and V
/// need not be repeated.
fn kv_heads(r: &Region, heads: &mut [Dim]) -> Vec<Dim> {
    let has = |t: &Trace, d: &Dim| r.space.resolve_all(&t.base_axes).iter().any(|a| a.contains(d));
    let own = |d: &Dim| has(&r.operands[1], d) || has(&r.operands[2], d);
    heads.sort_by_key(|d| !own(d));
    heads.iter().copied().filter(own).collect()
}
