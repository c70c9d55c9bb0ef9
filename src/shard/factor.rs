//! Where a sequence lies in a shape.

use super::types::Sharding;
use crate::layout::Progression;

/// A sequence within a shape: `axis` is (outer, length, inner), row-major, and `length` counts the rows of the sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Factor {
    /// The axis.
    pub(super) axis: usize,
    /// Extent outside the rows.
    pub(super) outer: usize,
    /// Number of rows.
    pub(super) length: usize,
    /// Extent inside the rows.
    pub(super) inner: usize,
}

impl Factor {
    /// A whole axis of `length` rows.
    pub(super) fn axis(axis: usize, length: usize) -> Factor {
        Factor { axis, outer: 1, length, inner: 1 }
    }

    /// The factor that a sharding states, of a sequence of `length` rows.
    pub(super) fn of(sharding: &Sharding, length: usize) -> Factor {
        Factor { axis: sharding.axis, outer: sharding.outer, length, inner: sharding.inner }
    }

    /// The sharding that states this factor of a sequence with that layout.
    pub(super) fn sharding(&self, layout: usize) -> Sharding {
        Sharding { axis: self.axis, outer: self.outer, inner: self.inner, layout }
    }

    /// Extent of the axis where `rows` rows of the sequence are held.
    pub(super) fn extent(&self, rows: usize) -> usize {
        self.outer.saturating_mul(rows).saturating_mul(self.inner)
    }

    /// `shape` where only `rows` rows of the sequence are held.
    pub(super) fn local(&self, shape: &[usize], rows: usize) -> Vec<usize> {
        let mut shape = shape.to_vec();
        if let Some(e) = shape.get_mut(self.axis) {
            *e = self.extent(rows);
        }
        shape
    }

    /// Which elements of the axis are held where these rows of the sequence are, in order.
    pub(super) fn places(&self, rows: &[Progression]) -> Vec<usize> {
        let rows: Vec<usize> = rows.iter().flat_map(Progression::rows).collect();
        let mut places = Vec::new();
        for outside in 0..self.outer {
            for row in &rows {
                let first = (outside * self.length + row) * self.inner;
                places.extend(first..first + self.inner);
            }
        }
        places
    }

    /// The same factor of another axis.
    pub(super) fn at(self, axis: usize) -> Factor {
        Factor { axis, ..self }
    }

    /// Elements before and after the rows in the flat order, over all axes; `None` where one of them is 0, for then
    /// nothing tells the rows apart.
    pub(super) fn around(&self, shape: &[usize]) -> Option<(usize, usize)> {
        let before = product(&shape[..self.axis])?.checked_mul(self.outer)?;
        let after = product(&shape[self.axis + 1..])?.checked_mul(self.inner)?;
        (before > 0 && after > 0).then_some((before, after))
    }
}

/// `None` where it overflows: beside an extent of 0 the others of a verified shape may be anything.
pub(super) fn product(extents: &[usize]) -> Option<usize> {
    extents.iter().try_fold(1usize, |n, &e| n.checked_mul(e))
}
