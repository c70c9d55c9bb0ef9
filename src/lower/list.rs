//! The kernels that are compiled and run in tests: few, such that every pair of values of two fields stands in one of them.
//!
//! Built greedily and in a fixed order: a pair that is not covered begins a key, and each other field takes the value that
//! covers most pairs, the first of equals (the idea of Cohen and others, The AETG system, 1997).

use super::arch::Arch;
use super::element::Element;
use super::key::{KernelKey, Operand};
use super::steps::MaskedScore;
use super::steps::{MAX_STEPS, StepKind, Steps};
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

/// Kernels with steps that want the most registers: many tensors and conditions, caps, positions of their own; beside every size of
/// heads that a cut goes by, with what else takes registers on every second one.
pub(crate) fn listed_with_steps(arch: Arch) -> Vec<KernelKey> {
    let fill = |score, positions, masks| StepKind::Fill { score, positions, masks };
    let (factor, cap) = (StepKind::Factor, StepKind::Softcap);
    let (add, replace, hide) = (MaskedScore::Add, MaskedScore::Replace, MaskedScore::NegInf);
    let half = StepKind::Round(Element::F16);
    let programs = |element: Element| {
        let (leaf, single) = (StepKind::Add(element), StepKind::Add(Element::F32));
        let by_leaf = StepKind::FactorLeaf(element);
        [
            vec![single; MAX_STEPS],
            vec![factor, half, leaf, half, fill(replace, true, 0)],
            vec![factor, by_leaf, leaf, single, by_leaf, leaf, cap, leaf],
            vec![
                factor,
                fill(hide, false, 3),
                cap,
                fill(add, true, 1),
                fill(replace, true, 1),
                leaf,
                fill(hide, false, 2),
            ],
            vec![factor, cap, fill(add, true, 8)],
            vec![factor, fill(hide, true, 0), cap, fill(add, true, 0), fill(replace, true, 0), cap],
            vec![
                leaf,
                fill(replace, true, 1),
                cap,
                by_leaf,
                fill(add, true, 1),
                half,
                single,
                fill(hide, false, 3),
            ],
        ]
    };
    let numbers = [
        vec![factor, cap, StepKind::Round(Element::Bf16)],
        vec![cap, factor, cap, half, cap, half, factor, half],
    ];
    let hard = |plain: KernelKey, i: usize, kinds: &[StepKind]| {
        let sinks = if i.is_multiple_of(2) { Operand::F32 } else { Operand::None };
        let cast_out = i.is_multiple_of(2) || i.is_multiple_of(3);
        let key = KernelKey { carry_in: !i.is_multiple_of(3), cast_out, sinks, ..plain };
        KernelKey { steps: Steps::new(kinds).unwrap_or_default(), ..key }.for_keys(1)
    };
    let mut keys = vec![];
    let elements = [Element::F16, Element::Bf16, Element::F32];
    let portable = |i: usize, (dk, dv): (u16, u16), kinds: &[StepKind]| {
        let plain = KernelKey::portable(elements[i % 3], dk.into(), dv.into(), i % 4 < 3, arch)?;
        let narrow = if plain.element == Element::F32 { 4 } else { 2 };
        let copy = if i.is_multiple_of(2) { plain.copy } else { narrow };
        Some(hard(KernelKey { copy, ..plain }, i, kinds))
    };
    // Each size of heads twice, with another type and other copies.
    for (i, heads) in PORTABLE_HEADS.iter().cycle().take(2 * PORTABLE_HEADS.len()).enumerate() {
        let i = i + i / PORTABLE_HEADS.len();
        let programs = programs(elements[i % 3]);
        keys.extend(portable(i, *heads, &programs[i % programs.len()]));
    }
    for (i, kinds) in numbers.iter().enumerate() {
        // Copies of 16 bytes, so that there are two tiles of rows; the last class of heads has one.
        keys.extend([0, 6].iter().filter_map(|n| portable(n + 4 * i, PORTABLE_HEADS[3 * i + n / 6], kinds)));
        if arch == Arch::Sm90a {
            let hopper = |(n, (dk, dv)): (usize, &(u16, u16))| {
                let plain = KernelKey::hopper(elements[(n + i) % 2], (*dk).into(), (*dv).into(), true)?;
                Some(hard(plain, n + i, kinds))
            };
            keys.extend(HOPPER_HEADS.iter().enumerate().filter_map(hopper));
        }
    }
    keys
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
