//! Trials: numbers that stand for those of a graph, few enough to compute everything with them.
//!
//! A row of scores is independent of every other, and what merges parts of a row treats all keys of a part alike. So a part is taken as
//! a few keys, a value as one number a key, and what the graph does is computed with these in f64: plainly, with parts of which a mask
//! leaves no key, with scores far apart, and with scores whose exponentials leave the numbers of every type.

/// Keys of a part in a trial: parts next to each other differ, so that none weighs as much as another by its number of keys alone.
pub(super) fn keys(part: usize) -> usize {
    2 + part % 3
}

/// Most parts of a row. They are told apart by their number, modulo this.
pub(super) const PARTS: usize = 8;
/// Most fills of one part that are tried.
pub(super) const FILLS: usize = 4;
/// Trials with numbers of ordinary size.
const PLAIN: u64 = 12;
/// Trials with shifted scores, up and down.
const SHIFTED: usize = 4;
/// By how much: exponentials stay within the numbers of f32, but far from 1.
const SHIFT: f64 = 30.0;
/// By how much scores are so low that their exponentials are 0 in every type, unless something was subtracted.
const DEEP: f64 = 1000.0;
/// Trials with scores far apart.
const APART_TRIALS: usize = 16;
/// By how much scores are above or below 0 in these: a sum of exponentials that leaves the largest out is next to nothing, but a number
/// of f32, and a number of f64 that loses no digit.
const APART: f64 = 20.0;
/// Trials with large numbers.
const LARGE_TRIALS: usize = 16;
/// Scores of such a size that their exponentials leave the numbers of every type.
const LARGE: f64 = 1e4;

/// What is special about a trial.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Special {
    /// Nothing.
    None,
    /// Every score of these parts is what the mask makes of it that has this number among those of its part.
    Scores(u64, usize),
    /// No key of these parts is kept by masks behind the exponentials.
    Masks(u64),
    /// Masks behind the exponentials keep nothing but keys of which the scores are what a mask makes of them.
    Filled(usize),
    /// All scores are higher or lower by this: a softmax is the same with it and without.
    Shifted(f64),
    /// Scores are far apart; where this is true, masks behind the exponentials keep one low score and leave the high ones out.
    Apart(bool),
    /// Scores are large.
    Large,
}

/// Every trial.
pub(super) fn trials() -> Vec<Special> {
    let mut sets: Vec<u64> = vec![u64::MAX];
    sets.extend((0..PARTS).flat_map(|p| [1 << p, !(1u64 << p)]));
    sets.extend((0..PARTS as u64).map(|n| mixed(&[n])));
    let mut all: Vec<Special> = (0..PLAIN).map(|_| Special::None).collect();
    for set in sets {
        all.extend((0..FILLS).map(|fill| Special::Scores(set, fill)));
        all.push(Special::Masks(set));
    }
    all.extend((0..FILLS).map(Special::Filled));
    all.extend([-SHIFT, SHIFT].repeat(SHIFTED).into_iter().map(Special::Shifted));
    all.push(Special::Shifted(-DEEP));
    all.extend((0..APART_TRIALS).map(|n| Special::Apart(n == 0)));
    all.extend([Special::Large; LARGE_TRIALS]);
    all
}

/// The score of key `key` of part `part` in trial `n`; `fills` are what masks make of it.
pub(super) fn score(n: usize, trial: Special, part: usize, key: usize, fills: &[f64]) -> f64 {
    let plain = 3.0 * noise(&[1, n as u64, part as u64, key as u64]);
    match trial {
        Special::Scores(set, fill) if !fills.is_empty() && set >> (part % PARTS) & 1 == 1 => {
            fills[fill % fills.len()]
        }
        Special::Filled(fill) if !fills.is_empty() && key == 0 => fills[fill % fills.len()],
        Special::Shifted(by) => plain + by,
        Special::Apart(true) => plain + if key == 0 { -APART } else { APART },
        Special::Apart(false) => {
            let low = noise(&[4, n as u64, part as u64, key as u64]) < 0.0;
            plain + if low { -APART } else { APART }
        }
        Special::Large => LARGE * plain,
        _ => plain,
    }
}

/// Whether mask `mask` keeps key `key` of part `part` in trial `n`.
pub(super) fn kept(n: usize, trial: Special, part: usize, key: usize, mask: usize) -> bool {
    match trial {
        Special::Masks(set) if set >> (part % PARTS) & 1 == 1 => false,
        Special::Filled(_) | Special::Apart(true) => key == 0,
        _ => key == 0 || noise(&[2, n as u64, part as u64, key as u64, mask as u64]) > 0.0,
    }
}

/// The number of value `value` that stands beside key `key` of part `part` in trial `n`.
pub(super) fn beside(n: usize, part: usize, key: usize, value: usize) -> f64 {
    noise(&[3, n as u64, part as u64, key as u64, value as u64])
}

/// A number between −1 and 1 that looks random and is always the same.
fn noise(of: &[u64]) -> f64 {
    (mixed(of) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

fn mixed(of: &[u64]) -> u64 {
    of.iter().fold(0x243f_6a88_85a3_08d3, |state, &x| {
        let mut z = (state ^ x).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}
