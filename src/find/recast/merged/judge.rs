//! What a value is: the attention over its parts together, or the logarithm of their sum of exponentials.
//!
//! In: values in every trial. Out: whether that is so where nothing is special, and what the value is where it is no number, or where no
//! key is left.

use super::trial::{self, PARTS, Special, keys};
use super::walk::{Kind, Made, Value, Walk};
use crate::find::observers::NotFinite;
use crate::ir::DType;

/// How far numbers of trials may differ: they are computed in f64.
const NEAR: f64 = 1e-9;
/// The same, beside large or masked scores: they are computed in the types of the graph.
const NEAR_SPECIAL: f64 = 1e-4;
/// As that, of halves.
const NEAR_HALF: f64 = 5e-2;

/// What is said of a value that is an attention, or the logarithm of a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Verdict {
    /// Whether rows without a key are zeros.
    pub(super) zero: bool,
    /// What of it is no number where the attention gives one.
    pub(super) hidden: NotFinite,
    /// Whether it is another number where masks fill in all of a row.
    pub(super) keyed: bool,
    /// Whether it is another number where exponentials leave the numbers of their type.
    pub(super) vanishes: bool,
}

/// What a value is not, and why not.
pub(super) enum Fault {
    /// Something else.
    Other,
    /// Of more parts than are tried: so many.
    Parts(usize),
    /// It would be, but not in every row.
    Special(String),
}

/// A row as an attention has it: its sum of weighted values, or nothing without a key, and the logarithm of its sum.
struct Want {
    result: Option<f64>,
    log: f64,
}

impl Walk<'_> {
    /// Whether a result is the attention over all parts and masks of which it is made.
    pub(super) fn attention(&self, v: &Value) -> Result<Verdict, Fault> {
        let distinct = v.of.products.iter().all(|&p| {
            let part = self.products[p].part;
            v.of.products.iter().filter(|&&o| self.products[o].part == part).count() == 1
        });
        let mut numbers: Vec<usize> = v.of.parts.iter().map(|p| p % PARTS).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let all = v.of.parts.len() == v.of.products.len() && numbers.len() == v.of.parts.len();
        let parts = v.of.parts.len();
        if v.kind == Kind::Result && distinct && parts > PARTS && v.of.products.len() == parts {
            return Err(Fault::Parts(parts));
        }
        if v.kind != Kind::Result || !distinct || !all || v.of.products.is_empty() {
            return Err(Fault::Other);
        }
        self.judged(v, &v.of, |want| want.result, "attention")
    }

    /// Whether a row is the logarithm of the sum of exponentials of the scores of which `of` is made.
    pub(super) fn log_sum(&self, v: &Value, of: &Made) -> Result<Verdict, Fault> {
        if v.kind != Kind::Row || v.of.parts != of.parts || v.of.masks != of.masks {
            return Err(Fault::Other);
        }
        self.judged(v, of, |want| Some(want.log), "log")
    }

    fn judged(
        &self,
        v: &Value,
        of: &Made,
        which: impl Fn(&Want) -> Option<f64>,
        what: &str,
    ) -> Result<Verdict, Fault> {
        let [plain, declared] = &v.data;
        let near_special = match declared.dtype() {
            DType::F16 | DType::BF16 => NEAR_HALF,
            _ => NEAR_SPECIAL,
        };
        let (plain, declared) = (plain.to_f64(), declared.to_f64());
        let data: Vec<f64> = self
            .trials
            .iter()
            .zip(plain.into_iter().zip(declared))
            // What a fill swallows is decided by the types of the graph.
            .map(|(trial, (plain, declared))| match trial {
                Special::Scores(..) | Special::Filled(_) => declared,
                _ => plain,
            })
            .collect();
        let mut out = Verdict::default();
        for (n, (&got, &trial)) in data.iter().zip(&self.trials).enumerate() {
            let want = self.want(n, trial, of);
            let near = if trial == Special::None { NEAR } else { near_special };
            match which(&want) {
                Some(w) if got == w || (got - w).abs() <= near * (1.0 + w.abs()) => {}
                _ if trial == Special::None => return Err(Fault::Other),
                Some(_) if got.is_nan() => out.hidden.nan = true,
                Some(w) if got.is_infinite() && w.is_finite() => out.hidden.infinite = true,
                // Where exponentials over- or underflow, sums of them have left the numbers of their type.
                Some(_) if trial == Special::Large => out.vanishes = true,
                Some(_) if matches!(trial, Special::Shifted(_)) => {
                    return Err(Fault::Special(
                        "only as long as its exponentials are not small: subtract each row's maximum before"
                            .into(),
                    ));
                }
                Some(_) if matches!(trial, Special::Apart(_)) => {
                    return Err(Fault::Special(self.decides(&v.of)));
                }
                Some(_) if self.all_filled(trial, of) => out.keyed = true,
                Some(_) if what == "log" => {
                    return Err(Fault::Special(
                        "a row without a key has another logarithm of its sum".into(),
                    ));
                }
                Some(_) if matches!(trial, Special::Filled(_)) => {
                    return Err(Fault::Special(
                        "a mask or an addend of unknown size before the softmax may make scores as low as a fill, and a row of which the mask \
                         behind the softmax keeps only such keys is another: mask by one condition in both places, and bind the inputs \
                         of that addend (--bind)"
                            .into(),
                    ));
                }
                Some(_) => {
                    return Err(Fault::Special(
                        "a part of the keys that a mask leaves out changes the others".into(),
                    ));
                }
                // Without a key.
                None if got.is_nan() => out.hidden.nan |= out.zero,
                None if got == 0.0 => out.zero = true,
                None => return Err(Fault::Special("a row without a key is neither zeros nor NaN".into())),
            }
        }
        // Zeros in one trial, NaN in an earlier one.
        let empty = |n: usize| which(&self.want(n, self.trials[n], of)).is_none();
        out.hidden.nan |= out.zero && (0..data.len()).any(|n| data[n].is_nan() && empty(n));
        Ok(out)
    }

    /// Why a value is another where the scores of a row are far apart.
    fn decides(&self, of: &Made) -> String {
        let Some((&guard, c)) = of.guards.first_key_value() else {
            return "only as long as the scores of a row are not far apart: subtract each row's maximum before".into();
        };
        let name = &self.g.value(guard).name;
        if of.masks.is_empty() {
            return format!(
                "the guard {c} ({name}) stands beside a sum of exponentials that may be far below it, and decides there: subtract each \
                 row's maximum before"
            );
        }
        format!(
            "the guard {c} ({name}) stands beside the probabilities that the mask keeps of all keys, which are far below it where a \
             masked key has a large score, so that it decides there: mask the scores before the softmax, or guard the sum by Where(sum > \
             0, sum, 1)"
        )
    }

    /// Whether every score of these parts is what a mask makes of it.
    fn all_filled(&self, trial: Special, of: &Made) -> bool {
        let Special::Scores(set, _) = trial else { return false };
        of.parts.iter().all(|&p| set >> (p % PARTS) & 1 == 1 && !self.parts[p].fills.is_empty())
    }

    /// What an attention over these parts gives in a trial.
    fn want(&self, n: usize, trial: Special, of: &Made) -> Want {
        let mut weighted: Vec<(f64, f64)> = vec![];
        for &part in &of.parts {
            let value = of.products.iter().find(|&&p| self.products[p].part == part);
            for key in 0..keys(part) {
                let of_part = |m: &&usize| self.masks[**m].part == part;
                if of.masks.iter().filter(of_part).all(|&m| trial::kept(n, trial, part, key, m)) {
                    let score = self.score(n, trial, part, key);
                    let beside =
                        value.map_or(0.0, |&p| trial::beside(n, part, key, self.products[p].value()));
                    weighted.push((score, beside));
                }
            }
        }
        let max = weighted.iter().map(|w| w.0).fold(f64::NEG_INFINITY, f64::max);
        if max == f64::NEG_INFINITY {
            return Want { result: None, log: f64::NEG_INFINITY };
        }
        let sum: f64 = weighted.iter().map(|w| (w.0 - max).exp()).sum();
        let result = weighted.iter().map(|w| (w.0 - max).exp() * w.1).sum::<f64>() / sum;
        Want { result: Some(result), log: max + sum.ln() }
    }
}
