//! Score programs as text: `factor 0.25 | softcap 30.0 | add 3 | fill -inf unless causal(0) & tensor(4) | round f16`.

use super::scores::{Factor, ScoreStep, Scores};
use crate::ir::types::DType;
use crate::mask::{Fill, Mask};
use std::fmt;
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
#[error(
    "{0} is no step of a score program: want `factor 0.25`, `factor leaf 3`, `softcap 30.0`, `add 3`, `fill -inf unless causal(0)` (or add(-10000.0), \
     replace(-10000.0) in the place of -inf; causal(offset), window(left,right,offset), segments(start,...;offset), prefix(length;offset), \
     keys(start,end), batch(terms;...) and tensor(operand) joined by &) or `round f16`, joined by |"
)]
pub struct ParseScoresError(String);

impl FromStr for Scores {
    type Err = ParseScoresError;

    /// Parses what `Display` prints.
    fn from_str(text: &str) -> Result<Scores, ParseScoresError> {
        if text.trim() == "none" {
            return Ok(Scores::new([]));
        }
        let one =
            |s: &str| step(s.trim()).ok_or_else(|| ParseScoresError(s.trim().escape_debug().to_string()));
        text.split('|').map(one).collect::<Result<Vec<_>, _>>().map(Scores::new)
    }
}

fn step(text: &str) -> Option<ScoreStep> {
    let (word, rest) = text.split_once(' ')?;
    let rest = rest.trim();
    Some(match word {
        "factor" => ScoreStep::Factor(match rest.strip_prefix("leaf ") {
            Some(n) => Factor::Leaf(n.trim().parse().ok()?),
            None => Factor::Number(rest.parse().ok()?),
        }),
        "softcap" => ScoreStep::Softcap(rest.parse().ok()?),
        "add" => ScoreStep::Add(rest.parse().ok()?),
        "fill" => {
            let (fill, terms) = rest.split_once(" unless ")?;
            let inside = |name: &str| fill.trim().strip_prefix(name)?.strip_suffix(')');
            let number = |x: &str| x.trim().parse::<f64>().ok().filter(|x| x.is_finite());
            let fill = match (fill.trim(), inside("replace("), inside("add(")) {
                ("-inf", ..) => Fill::NegInf,
                (_, Some(x), _) => Fill::Replace(number(x)?),
                (_, _, Some(x)) => Fill::Add(number(x)?),
                _ => return None,
            };
            let mask: Mask = terms.parse().ok()?;
            // A mask's own text may bring a fill along.
            (mask.fill == Fill::NegInf).then_some(())?;
            ScoreStep::Fill(Mask { fill, ..mask })
        }
        "round" => ScoreStep::Round(DType::from_name(rest)?),
        _ => return None,
    })
}
