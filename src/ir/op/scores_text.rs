//! Score programs as text: `factor 0.25 | softcap 30.0 | add 3 | fill -inf unless causal(0) & tensor(4) | round f16`.

use super::scores::{Factor, ScoreStep, Scores};
use crate::ir::types::DType;
use crate::mask::{Fill, Mask, ParseMaskError};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

impl fmt::Display for ScoreStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ScoreStep::Factor(Factor::Number(x)) => write!(f, "factor {x:?}"),
            ScoreStep::Factor(Factor::Leaf(n)) => write!(f, "factor leaf {n}"),
            ScoreStep::Softcap(c) => write!(f, "softcap {c:?}"),
            ScoreStep::Add(n) => write!(f, "add {n}"),
            ScoreStep::Fill(m) => {
                let terms = Mask { terms: m.terms.clone(), fill: Fill::NegInf };
                write!(f, "fill {} unless {terms}", m.fill)
            }
            ScoreStep::Round(t) => write!(f, "round {t}"),
        }
    }
}

/// The steps joined by ` | `; `none` if there are none.
impl fmt::Display for Scores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps().is_empty() {
            return f.write_str("none");
        }
        for (i, step) in self.steps().iter().enumerate() {
            write!(f, "{}{step}", if i > 0 { " | " } else { "" })?;
        }
        Ok(())
    }
}

/// Why a text is no score program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{step}` is no step of the scores: {why}")]
pub struct ParseScoresError {
    /// The step, of which nothing is hidden.
    step: String,
    why: String,
    /// Where the step stands.
    pub(crate) at: Range<usize>,
}

impl FromStr for Scores {
    type Err = ParseScoresError;

    /// Parses what `Display` prints.
    fn from_str(text: &str) -> Result<Scores, ParseScoresError> {
        if text.trim() == "none" {
            return Ok(Scores::new([]));
        }
        let (mut steps, mut begin) = (vec![], 0);
        for part in text.split('|') {
            let own = part.trim();
            let at = begin + part.len() - part.trim_start().len();
            let fault =
                |why| ParseScoresError { step: own.escape_debug().to_string(), why, at: at..at + own.len() };
            steps.push(step(own).map_err(fault)?);
            begin += part.len() + 1;
        }
        Ok(Scores::new(steps))
    }
}

/// The step, or what is wanted in its place.
fn step(text: &str) -> Result<ScoreStep, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    let want = |found: Option<ScoreStep>, wanted: &str| found.ok_or_else(|| format!("want {wanted}"));
    match word {
        "factor" => {
            let factor = match rest.strip_prefix("leaf ") {
                Some(n) => n.trim().parse().ok().map(Factor::Leaf),
                None => rest.parse().ok().map(Factor::Number),
            };
            want(factor.map(ScoreStep::Factor), "`factor 0.25` or `factor leaf 3`")
        }
        "softcap" => want(rest.parse().ok().map(ScoreStep::Softcap), "`softcap 30.0`"),
        "add" => want(rest.parse().ok().map(ScoreStep::Add), "`add 3`, the number of an operand"),
        "round" => want(DType::from_name(rest).map(ScoreStep::Round), "`round f16` or another type"),
        "fill" => {
            let (fill, terms) = rest.split_once(" unless ").ok_or("want `fill -inf unless causal(0)`")?;
            let fill = filling(fill.trim())
                .ok_or("want a fill of -inf, add(-10000.0) or replace(-10000.0), which are finite")?;
            let mask: Mask = terms.parse().map_err(|e: ParseMaskError| e.to_string())?;
            // A mask's own text may bring a fill along.
            let plain = mask.fill == Fill::NegInf;
            want(plain.then_some(ScoreStep::Fill(Mask { fill, ..mask })), "one fill, before `unless`")
        }
        _ => want(
            None,
            "`factor 0.25`, `factor leaf 3`, `softcap 30.0`, `add 3`, `fill -inf unless causal(0)` or `round f16`, joined by |",
        ),
    }
}

fn filling(text: &str) -> Option<Fill> {
    let inside = |name: &str| text.strip_prefix(name)?.strip_suffix(')');
    let number = |x: &str| x.trim().parse::<f64>().ok().filter(|x| x.is_finite());
    match (text, inside("replace("), inside("add(")) {
        ("-inf", ..) => Some(Fill::NegInf),
        (_, Some(x), _) => number(x).map(Fill::Replace),
        (_, _, Some(x)) => number(x).map(Fill::Add),
        _ => None,
    }
}
