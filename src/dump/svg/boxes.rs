//! The boxes of a timeline: what each kind of them looks like, and how much of its label the picture has room for.

use crate::dump::words::width;
use crate::schedule::Stream;

/// What a box stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Computation without a masked pair.
    Full,
    /// Computation with masked pairs.
    Masked,
    Pack,
    Transfer,
    /// No computation, and more to compute.
    Exposed,
    /// Transfers that wait for an event of the own rank.
    Data,
    /// Waiting for the other end of a transfer.
    Peer,
    /// Done before the slowest rank.
    Idle,
}

impl Kind {
    pub(super) const ALL: [Kind; 8] = [
        Kind::Full,
        Kind::Masked,
        Kind::Pack,
        Kind::Exposed,
        Kind::Transfer,
        Kind::Data,
        Kind::Peer,
        Kind::Idle,
    ];

    /// Attributes of its rectangle. The fills hide what is behind.
    pub(super) fn style(self) -> &'static str {
        match self {
            Kind::Full => "fill=\"#9cc4ee\" stroke=\"#4f81b8\"",
            Kind::Masked => "fill=\"url(#masked)\" stroke=\"#4f81b8\"",
            Kind::Pack => "fill=\"#bdbdbd\" stroke=\"#8a8a8a\"",
            Kind::Transfer => "fill=\"#f6c06d\" stroke=\"#b36b00\"",
            Kind::Exposed => "fill=\"#f3a79e\" stroke=\"#b8382c\"",
            Kind::Data => "fill=\"#f7efe6\" stroke=\"#c9a77a\" stroke-dasharray=\"3 2\"",
            Kind::Peer => "fill=\"#fff3c4\" stroke=\"#b9a13a\" stroke-dasharray=\"3 2\"",
            Kind::Idle => "fill=\"#f2f2f2\" stroke=\"#dddddd\"",
        }
    }

    /// Its entry of the legend.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Full => "compute",
            Kind::Masked => "masked pair by pair",
            Kind::Pack => "packing",
            Kind::Transfer => "transfer",
            Kind::Exposed => "exposed: nothing to compute yet",
            Kind::Data => "waiting for data or a slot",
            Kind::Peer => "waiting for a peer",
            Kind::Idle => "idle",
        }
    }
}

/// A box of a lane.
pub(super) struct Bar {
    pub(super) kind: Kind,
    pub(super) rank: usize,
    pub(super) stream: Stream,
    /// Left edge and width in pixels.
    pub(super) x: f64,
    pub(super) w: f64,
    /// In full, for the tooltip.
    pub(super) title: String,
    pub(super) lines: Vec<Line>,
}

/// Which lines of a picture are cut alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    Keys,
    Rows,
    Pack,
    Transfer,
    Exposed,
    Data,
    Peer,
    Idle,
}

/// A line of a label, with shorter ways to say it: as many for each line of a class.
pub(super) struct Line {
    pub(super) class: Class,
    pub(super) ways: Vec<String>,
}

impl Class {
    pub(super) const ALL: [Class; 8] = [
        Class::Keys,
        Class::Rows,
        Class::Pack,
        Class::Transfer,
        Class::Exposed,
        Class::Data,
        Class::Peer,
        Class::Idle,
    ];

    /// The font of a way to say it.
    pub(super) fn size(self, way: usize) -> f64 {
        match (self, way) {
            (Class::Rows, 0 | 1) => 9.5,
            (Class::Rows, 2) => 8.5,
            (Class::Rows, _) => 7.5,
            _ => 11.0,
        }
    }

    /// The first way that fits into every box of the picture but slivers; one past the last if there is none.
    pub(super) fn way(self, bars: &[Bar]) -> usize {
        let of = || bars.iter().flat_map(|b| b.lines.iter().filter(|l| l.class == self).map(|l| (b.w, l)));
        let widest = of().map(|(w, _)| w).fold(0.0, f64::max);
        let counted = SLIVER.min(0.4 * widest);
        let ways = of().map(|(_, l)| l.ways.len()).max().unwrap_or(0);
        let fits = |way: usize| of().all(|(w, l)| w < counted || self.fits(l, way, w));
        (0..ways).find(|&way| fits(way)).unwrap_or(ways)
    }

    /// Whether that way of saying it fits into a box.
    pub(super) fn fits(self, line: &Line, way: usize, w: f64) -> bool {
        line.ways.get(way).is_some_and(|text| width(text, self.size(way)) + 2.0 <= w)
    }
}

/// Narrower boxes go without a label rather than take it from the others.
const SLIVER: f64 = 24.0;
