//! Where queries and partial results lie that travel, piece by piece.

use super::blocks::{Port, View};
use crate::ring::sight::Piece;
use std::collections::BTreeMap;

/// Where what travels lies.
#[derive(Default)]
pub(super) struct Travelling {
    /// Own pieces that are packed.
    pub(super) packed: BTreeMap<(Port, usize), View>,
    /// Received queries, and what goes with them, in the order of the ports.
    pub(super) queries: BTreeMap<Piece, Vec<View>>,
    /// Partial results of the queries of others.
    pub(super) partials: BTreeMap<Piece, View>,
    /// Partial results that came, in order; those of other ranks' queries come on their way.
    pub(super) came: Vec<(Piece, View)>,
}
