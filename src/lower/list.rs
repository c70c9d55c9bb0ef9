//! The kernels that are compiled and run in tests: few, such that every pair of values of two fields stands in one of them.
//!
//! Built greedily and in a fixed order: a pair that is not covered begins a key, and each other field takes the value that
//! covers most pairs, the first of equals (the idea of Cohen and others, The AETG system, 1997).

use super::arch::Arch;
use super::element::Element;
use super::key::{KernelKey, MaskedScore, Operand};
use super::tile::{F32_HEADS, HOPPER_HEADS, PORTABLE_HEADS};

/// The listed kernels of an architecture.
pub(crate) fn listed(arch: Arch) -> Vec<KernelKey> {
    let halves = [Element::Bf16, Element::F16].as_slice();
    let operands = [Operand::None, Operand::F32, Operand::Element].as_slice();
    let hopper = Fields {
        hopper: true,
        heads: &HOPPER_HEADS,
        elements: halves,
        copies: &[16],
        masks: &[false],
        biases: &operands[..1],
        fills: &[MaskedScore::NegInf],
        sinks: &operands[..2],
    };
    let rest = Fields {
        hopper: false,
        heads: &PORTABLE_HEADS,
        copies: &[16, 4, 2],
        masks: &[false, true],
        biases: operands,
        fills: &[MaskedScore::NegInf, MaskedScore::Replace, MaskedScore::Add],
        sinks: operands,
        ..hopper
    };
    let single = Fields {
        heads: &F32_HEADS,
        elements: &[Element::F32],
        copies: &[16, 4],
        biases: &operands[..2],
        sinks: &operands[..2],
        ..rest
    };
    let families = if arch == Arch::Sm90a { vec![hopper, rest, single] } else { vec![rest, single] };
    families.iter().flat_map(|fields| fields.cover(arch)).collect()
}

/// The values that the fields of a family take.
#[derive(Clone, Copy)]
struct Fields {
    hopper: bool,
    heads: &'static [(u16, u16)],
    elements: &'static [Element],
    copies: &'static [u8],
    masks: &'static [bool],
    biases: &'static [Operand],
    fills: &'static [MaskedScore],
    sinks: &'static [Operand],
}

/// How many fields there are.
const FIELDS: usize = 11;
/// A value's number per field; `None` where it is open.
type Row = [Option<usize>; FIELDS];

impl Fields {
    fn counts(&self) -> [usize; FIELDS] {
        [
            // Hopper has a cut of its own for long rows of keys, as if it were another size.
            self.heads.len() + usize::from(self.hopper),
            self.elements.len(),
            self.copies.len(),
            self.masks.len(),
            self.biases.len(),
            self.fills.len(),
            self.sinks.len(),
            2,
            2,
            2,
            2,
        ]
    }

    fn key(&self, row: [usize; FIELDS], arch: Arch) -> Option<KernelKey> {
        let [heads, element, copy, mask, bias, fill, sinks, positions, softcap, carry_in, carry_out] = row;
        let long = heads == self.heads.len();
        let (dk, dv) = self.heads.get(heads).copied().unwrap_or((128, 128));
        let (dk, dv, positions) = (dk.into(), dv.into(), positions == 1);
        let plain = if self.hopper {
            KernelKey::hopper(self.elements[element], dk, dv, positions)?
        } else {
            KernelKey::portable(self.elements[element], dk, dv, positions, arch)?
        };
        let key = KernelKey {
            copy: self.copies[copy],
            mask: self.masks[mask],
            bias: self.biases[bias],
            fill: self.fills[fill],
            sinks: self.sinks[sinks],
            softcap: softcap == 1,
            carry_in: carry_in == 1,
            cast_out: carry_out == 0,
            ..plain
        };
        let cut = key.for_keys(if long { usize::MAX } else { 1 });
        let key = if long && cut == key { return None } else { cut };
        key.exists().then_some(key)
    }

    /// Whether the open fields of the row can still be chosen. What a value asks of others, it asks of mask and positions; the
    /// first values of the rest go with everything.
    fn possible(&self, row: &Row, arch: Arch) -> bool {
        let (mask, positions) = (3, 7);
        let choices = |field: usize, count: usize| row[field].map_or(0..count, |v| v..v + 1);
        let pairs = choices(mask, self.masks.len()).flat_map(|m| choices(positions, 2).map(move |p| (m, p)));
        pairs.into_iter().any(|chosen| {
            let mut full = row.map(|v| v.unwrap_or(0));
            (full[mask], full[positions]) = chosen;
            self.key(full, arch).is_some()
        })
    }

    fn cover(&self, arch: Arch) -> Vec<KernelKey> {
        let counts = self.counts();
        let mut open: std::collections::BTreeSet<(usize, usize, usize, usize)> = Default::default();
        for (a, b) in (0..FIELDS).flat_map(|b| (0..b).map(move |a| (a, b))) {
            for (x, y) in (0..counts[a]).flat_map(|x| (0..counts[b]).map(move |y| (x, y))) {
                let mut row: Row = [None; FIELDS];
                (row[a], row[b]) = (Some(x), Some(y));
                if self.possible(&row, arch) {
                    open.insert((a, b, x, y));
                }
            }
        }
        let mut keys = vec![];
        while let Some(&(a, b, x, y)) = open.first() {
            let mut row: Row = [None; FIELDS];
            (row[a], row[b]) = (Some(x), Some(y));
            for field in 0..FIELDS {
                if row[field].is_some() {
                    continue;
                }
                let gain = |value: usize| {
                    let pair = |(other, set): (usize, &Option<usize>)| match *set {
                        Some(v) if other < field => open.contains(&(other, field, v, value)),
                        Some(v) => open.contains(&(field, other, value, v)),
                        None => false,
                    };
                    row.iter().enumerate().filter(|f| pair(*f)).count()
                };
                let fits = |value: &usize| {
                    let mut next = row;
                    next[field] = Some(*value);
                    self.possible(&next, arch)
                };
                // The first of the best: `max_by_key` takes the last.
                row[field] = (0..counts[field]).rev().filter(fits).max_by_key(|v| gain(*v));
            }
            let full = row.map(|v| v.unwrap_or(0));
            open.retain(|&(a, b, x, y)| full[a] != x || full[b] != y);
            keys.extend(self.key(full, arch));
        }
        keys
    }
}
