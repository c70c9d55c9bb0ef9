//! Choices and the reasons against them, in words.

use super::types::TIE;
use crate::layout::LayoutKind;
use crate::ring::Strategy;

/// Two makespans nearer than this are equal.
const NEAR: f64 = 1e-9;

/// Why a choice of this makespan was not taken.
pub(super) fn compared(us: f64, taken: f64) -> String {
    match us {
        us if us < taken * (1.0 - TIE) => {
            "faster for this attention, but slower over all attentions of the sequence".into()
        }
        us if us < taken * (1.0 - NEAR) => {
            "less than 0.1 % faster, which is a tie: the order of choices decides".into()
        }
        us if us <= taken * (1.0 + NEAR) => "no faster".into(),
        us => longer(us / taken.max(f64::MIN_POSITIVE)),
    }
}

/// A ratio of times, above 1, in words.
pub(super) fn longer(ratio: f64) -> String {
    match ratio {
        r if r < 1.001 => "less than 0.1 % longer".into(),
        r if r < 2.0 => format!("{:.1} % longer", (r - 1.0) * 100.0),
        r => format!("{r:.1} times as long"),
    }
}

/// A choice in words: `ring, zigzag`, `queries on 2 nodes, contiguous`.
pub fn label(strategy: Strategy, nodes: usize, layouts: [LayoutKind; 2]) -> String {
    let ([q, kv], way) = (layouts, way(strategy, nodes));
    if q == kv { format!("{way}, {q}") } else { format!("{way}, {q} × {kv}") }
}

/// A strategy, and on how many nodes where that is more than one: `queries on 2 nodes`.
pub fn way(strategy: Strategy, nodes: usize) -> String {
    if nodes > 1 { format!("{strategy} on {nodes} nodes") } else { strategy.name().to_owned() }
}
