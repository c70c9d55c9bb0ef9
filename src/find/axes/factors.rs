//! Axes as lists of factors: the algebra behind reshape, permute and broadcast.
//!
//! A [`Dim`] is one factor of an axis, and stands for the same factor in every value that carries it. A value's axes are lists
//! of factors, outermost first; factors of extent 1 are left out. A reshape splits factors, a matmul says that two lists
//! are the same factors, and both are recorded once, for every list that was ever written down.
//!
//! Invariant: the extents of a list multiply to the extent of its axis, before and after every split.

/// A factor of an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Dim(pub(crate) usize);

/// The axes of a value.
pub(crate) type Axes = Vec<Vec<Dim>>;

#[derive(Clone, Copy, Debug)]
enum State {
    Leaf,
    Same(Dim),
    Split(Dim, Dim),
}

/// Every factor of one region.
#[derive(Clone, Debug, Default)]
pub(crate) struct Space {
    factors: Vec<(usize, State)>,
}

impl Space {
    /// A new factor.
    pub(crate) fn fresh(&mut self, extent: usize) -> Dim {
        self.factors.push((extent, State::Leaf));
        Dim(self.factors.len() - 1)
    }

    /// Fresh axes for a value of this shape.
    pub(crate) fn axes(&mut self, shape: &[usize]) -> Axes {
        shape.iter().map(|&e| if e == 1 { vec![] } else { vec![self.fresh(e)] }).collect()
    }

    /// Extent of a factor.
    pub(crate) fn extent(&self, d: Dim) -> usize {
        self.factors[d.0].0
    }

    /// Product of the extents of a list.
    pub(crate) fn product(&self, list: &[Dim]) -> usize {
        list.iter().map(|&d| self.extent(d)).product()
    }

    /// The list in factors that are not split further.
    pub(crate) fn resolve(&self, list: &[Dim]) -> Vec<Dim> {
        let mut out = Vec::with_capacity(list.len());
        let mut stack: Vec<Dim> = list.iter().rev().copied().collect();
        while let Some(d) = stack.pop() {
            match self.factors[d.0].1 {
                State::Leaf if self.factors[d.0].0 == 1 => {}
                State::Leaf => out.push(d),
                State::Same(e) => stack.push(e),
                State::Split(outer, inner) => stack.extend([inner, outer]),
            }
        }
        out
    }

    /// Every axis in factors that are not split further.
    pub(crate) fn resolve_all(&self, axes: &[Vec<Dim>]) -> Axes {
        axes.iter().map(|a| self.resolve(a)).collect()
    }

    fn split(&mut self, d: Dim, outer: usize) -> (Dim, Dim) {
        let (o, i) = (self.fresh(outer), self.fresh(self.extent(d) / outer));
        self.factors[d.0].1 = State::Split(o, i);
        (o, i)
    }

    /// Says that two lists are the same factors. `false`, and nothing changed, if their factors do not line up.
    pub(crate) fn unify(&mut self, a: &[Dim], b: &[Dim]) -> bool {
        let before = self.factors.clone();
        loop {
            let (x, y) = (self.resolve(a), self.resolve(b));
            let place = x.iter().zip(&y).position(|(p, q)| p != q);
            let Some(i) = place else {
                if x.len() == y.len() {
                    return true;
                }
                break;
            };
            let (p, q) = (x[i], y[i]);
            // One factor twice in a list would be a diagonal.
            if x.contains(&q) || y.contains(&p) {
                break;
            }
            let (ep, eq) = (self.extent(p), self.extent(q));
            if ep == eq {
                self.factors[q.0].1 = State::Same(p);
            } else if ep > eq && eq > 0 && ep % eq == 0 {
                self.split(p, eq);
            } else if eq > ep && ep > 0 && eq % ep == 0 {
                self.split(q, ep);
            } else {
                break;
            }
        }
        self.factors = before;
        false
    }

    /// The axes after a reshape; `None` if the new axes cut a factor where it cannot be cut.
    pub(crate) fn reshape(&mut self, axes: &[Vec<Dim>], shape: &[usize]) -> Option<Axes> {
        let mut rest: Vec<Dim> = self.resolve(&axes.concat());
        rest.reverse();
        let mut out = Vec::with_capacity(shape.len());
        for &extent in shape {
            let (mut axis, mut have) = (Vec::new(), 1usize);
            while have < extent {
                let d = rest.pop()?;
                let (e, want) = (self.extent(d), extent / have);
                if extent % have != 0 || e == 0 {
                    return None;
                } else if e <= want {
                    axis.push(d);
                    have *= e;
                } else if e % want == 0 {
                    let (o, i) = self.split(d, want);
                    axis.push(o);
                    rest.push(i);
                    have *= want;
                } else {
                    return None;
                }
            }
            if have != extent {
                return None;
            }
            out.push(axis);
        }
        rest.is_empty().then_some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_split_from_a_flat_axis_and_joined_again() {
        let mut s = Space::default();
        let flat = s.axes(&[2, 5, 12]);
        let split = s.reshape(&flat, &[2, 5, 3, 4]).unwrap();
        let joined =
            s.reshape(&[split[0].clone(), split[2].clone(), split[1].clone(), split[3].clone()], &[6, 5, 4]);
        let joined = joined.unwrap();
        assert_eq!(s.resolve(&joined[0]), s.resolve(&[split[0].clone(), split[2].clone()].concat()));
        assert_eq!(s.resolve(&flat[2]).len(), 2);
    }

    #[test]
    fn factors_that_do_not_line_up_change_nothing() {
        let mut s = Space::default();
        let a = [s.fresh(2), s.fresh(3)];
        let b = [s.fresh(3), s.fresh(2)];
        assert!(!s.unify(&a, &b));
        assert_eq!(s.resolve(&a), a);
        assert!(s.reshape(&[vec![a[0]], vec![a[1]]], &[3, 2]).is_none());
    }

    #[test]
    fn unifying_splits_the_coarser_side() {
        let mut s = Space::default();
        let whole = [s.fresh(12)];
        let parts = [s.fresh(3), s.fresh(4)];
        assert!(s.unify(&whole, &parts));
        assert_eq!(s.resolve(&whole), s.resolve(&parts));
    }
}
