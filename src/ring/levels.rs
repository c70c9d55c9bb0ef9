//! The levels of a machine on which ranks stand: nodes, and places in a node.
//!
//! What goes from a rank to one that stands on another node and at another place goes by the rank of that node that stands at the same
//! place as it: along one level at a time.

use std::ops::Range;

/// Ranks on nodes of equally many; rank r stands on node r / size, at place r mod size. On one node there is one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Levels {
    nodes: usize,
    /// Ranks of a node.
    size: usize,
}

impl Levels {
    /// `None` where that many nodes cannot have equally many of the ranks.
    pub(super) fn of(ranks: usize, nodes: usize) -> Option<Levels> {
        let fits = nodes > 0 && ranks.is_multiple_of(nodes) && (nodes <= ranks || nodes == 1);
        fits.then(|| Levels { nodes, size: ranks / nodes })
    }

    /// How many nodes there are, and how many ranks stand on each.
    pub(crate) fn sizes(&self) -> [usize; 2] {
        [self.nodes, self.size]
    }

    /// Whether there are two.
    pub(crate) fn are_two(&self) -> bool {
        self.nodes > 1
    }

    /// The node of a rank.
    pub(crate) fn node(&self, rank: usize) -> usize {
        rank / self.size.max(1)
    }

    /// The ranks of a node.
    pub(crate) fn ranks_of(&self, node: usize) -> Range<usize> {
        node * self.size..(node + 1) * self.size
    }

    /// The others of its node, ascending.
    pub(crate) fn near(&self, rank: usize) -> impl Iterator<Item = usize> + use<> {
        self.ranks_of(self.node(rank)).filter(move |&r| r != rank)
    }

    /// Those of the other nodes that stand at the same place, ascending.
    pub(crate) fn far(&self, rank: usize) -> impl Iterator<Item = usize> + use<> {
        let (size, place) = (self.size, rank % self.size.max(1));
        (0..self.nodes).map(move |node| node * size + place).filter(move |&r| r != rank)
    }

    /// Whether two ranks stand on one node.
    pub(crate) fn are_near(&self, a: usize, b: usize) -> bool {
        self.node(a) == self.node(b)
    }

    /// Whether two ranks stand at the same place of two nodes.
    pub(crate) fn are_far(&self, a: usize, b: usize) -> bool {
        !self.are_near(a, b) && a % self.size.max(1) == b % self.size.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rank_is_reached_by_at_most_one_step_on_each_level() {
        for ranks in 1..=12 {
            for nodes in (1..=ranks).filter(|n| ranks % n == 0) {
                let levels = Levels::of(ranks, nodes).unwrap();
                for from in 0..ranks {
                    let mut reached = vec![0; ranks];
                    for by in levels.far(from).chain([from]) {
                        assert!(by == from || levels.are_far(from, by));
                        reached[by] += 1;
                        levels.near(by).for_each(|to| reached[to] += 1);
                    }
                    assert_eq!(reached, vec![1; ranks], "{ranks} ranks on {nodes} nodes from {from}");
                    assert!(levels.near(from).all(|to| levels.are_near(from, to)));
                }
            }
        }
        assert_eq!(Levels::of(4, 3), None);
        assert_eq!(Levels::of(4, 0), None);
        assert_eq!(Levels::of(4, 8), None);
        assert!(Levels::of(0, 1).is_some());
    }
}
