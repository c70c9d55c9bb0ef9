//! What an operand's axes are to the axes of a result, and what can be read from that.

use crate::ir::types::strides;

/// What one axis of an operand is to the result. `to` is an axis of the result, i a place along it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Along {
    /// Element i is element i.
    Kept { to: usize },
    /// Element i is element start + i·step.
    Sliced { to: usize, start: usize, step: i64 },
    /// Element i is element i − offset, if there is such a one: the axis stands beside others, or is padded.
    Joined { to: usize, offset: usize },
    /// Its only element stands at every i.
    Repeated { to: usize },
    /// Element i is element i, but where an index tensor put something else.
    Written { to: usize },
    /// Element i is made of element i and of others of the axis.
    Mixed { to: usize },
    /// The axis holds elements of this one in an order of their own.
    Ranked { to: usize },
    /// Element i is made of the elements in a window.
    Windowed { to: usize },
    /// Both axes fall into as many runs, and element i is made of those of its own run.
    Grouped { to: usize },
    /// Every element of the result is made of all along this axis, of which one is left (`to`) or none.
    Folded { to: Option<usize> },
    /// An index tensor names the element.
    LookedUp,
    /// An index tensor says where the element goes.
    Scattered,
}

impl Along {
    /// The axis of the result that stands in this one's place.
    pub(super) fn to(self) -> Option<usize> {
        match self {
            Along::Kept { to }
            | Along::Sliced { to, .. }
            | Along::Joined { to, .. }
            | Along::Repeated { to }
            | Along::Written { to }
            | Along::Mixed { to }
            | Along::Ranked { to }
            | Along::Windowed { to }
            | Along::Grouped { to } => Some(to),
            Along::Folded { to } => to,
            Along::LookedUp | Along::Scattered => None,
        }
    }
}

/// What an operand is to the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Map {
    /// Axis by axis of the operand. No two go to one axis of the result. An axis of the result to which none goes is one
    /// along which the operand is the same everywhere, unless its elements are looked up or scattered.
    Axes(Vec<Along>),
    /// The same elements in the same row-major order, under another shape.
    Flat,
    /// Nothing is said of it.
    Opaque,
}

impl Map {
    /// The axis of the operand that goes to axis `to` of the result, and how.
    pub(crate) fn at(&self, to: usize) -> Option<(usize, Along)> {
        let Map::Axes(axes) = self else { return None };
        axes.iter().copied().enumerate().find(|(_, along)| along.to() == Some(to))
    }

    /// The axis of the operand that is axis `to` of the result, element by element.
    pub(crate) fn kept(&self, to: usize) -> Option<usize> {
        self.at(to).filter(|(_, along)| matches!(along, Along::Kept { .. })).map(|(axis, _)| axis)
    }

    /// The axis of the result that is axis `axis` of the operand, element by element.
    pub(crate) fn kept_as(&self, axis: usize) -> Option<usize> {
        match self {
            Map::Axes(axes) => match axes.get(axis)? {
                Along::Kept { to } => Some(*to),
                _ => None,
            },
            Map::Flat | Map::Opaque => None,
        }
    }

    /// From the flat place of an element of the result to the one in the operand from which it was moved. Both shapes are
    /// given; the second argument of the answer are the places that were looked up, one for each axis of which an index tensor
    /// names the element. `None` where the element is made of several, or comes from another operand.
    pub(crate) fn source(
        &self,
        operand: &[usize],
        result: &[usize],
    ) -> impl Fn(usize, &[usize]) -> Option<usize> + use<'_> {
        let (steps, own) = (strides(operand), strides(result));
        let (operand, result) = (operand.to_vec(), result.to_vec());
        move |place, looked_up| {
            let Map::Axes(axes) = self else { return (*self == Map::Flat).then_some(place) };
            let i = |to: usize| place / own[to] % result[to];
            let mut looked_up = looked_up.iter();
            let mut at = 0;
            for (axis, &along) in axes.iter().enumerate() {
                let element = match along {
                    Along::Kept { to } | Along::Written { to } => i(to),
                    Along::Sliced { to, start, step } => (start as i64 + i(to) as i64 * step) as usize,
                    Along::Joined { to, offset } => {
                        i(to).checked_sub(offset).filter(|&e| e < operand[axis])?
                    }
                    Along::Repeated { .. } => 0,
                    Along::LookedUp => *looked_up.next()?,
                    Along::Mixed { .. }
                    | Along::Ranked { .. }
                    | Along::Windowed { .. }
                    | Along::Grouped { .. }
                    | Along::Folded { .. }
                    | Along::Scattered => return None,
                };
                at += element * steps[axis];
            }
            Some(at)
        }
    }
}
