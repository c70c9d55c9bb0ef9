//! All recastings of a graph, one after the other.

use super::factors::factors;
use super::side_by_side::side_by_side;
use super::split_keys::around;
use super::types::{Key, Recasting, Site};
use super::{copies, linear, merged, slices, values};
use crate::eval::Constants;
use crate::find::types::Numerics;
use crate::ir::{Graph, OpId};
use std::collections::{BTreeSet, HashSet};

/// A graph that was recast, and where.
pub(crate) struct Recast {
    pub(crate) graph: Graph,
    pub(crate) sites: Vec<Site>,
    /// Why something that looks like such a place is none, for near misses at one of these operations.
    pub(crate) refused: Vec<(BTreeSet<OpId>, String)>,
}

/// The graph recast around near misses, and its sums of products and factors of operands everywhere; `None` where nothing is.
pub(crate) fn recast(
    graph: &Graph,
    missed: &[OpId],
    admitted: &[Numerics],
    left: &HashSet<Key>,
) -> Option<Recast> {
    let mut work = Recasting {
        graph: graph.clone(),
        constants: Constants::default(),
        admitted,
        left,
        missed,
        sites: vec![],
        refused: vec![],
    };
    side_by_side(&mut work);
    factors(&mut work);
    if !work.missed.is_empty() {
        for pass in [linear::linear, slices::slices, values::values, merged::merged, copies::copies] {
            let near = around(&work.graph, work.missed);
            pass(&mut work, &near);
        }
    }
    if work.sites.is_empty() && work.refused.is_empty() {
        return None;
    }
    // What is dead stays, so that no operation gets the number of another.
    let Recasting { graph, sites, refused, .. } = work;
    Some(Recast { graph, sites, refused })
}
