//! `annulus eval`, and the comparison of outputs that `run` shares.

use super::args::{Data, Eval};
use super::stop::Stop;
use super::{model, print};
use annulus::dump::report::OutputReport;
use annulus::eval::{EvalError, Precision, compare, fits};
use annulus::find::{FoundAttention, Numerics};
use annulus::import::case::Case;
use annulus::ir::{Output, Tensor};
use serde::Serialize;
use std::time::Instant;

/// What `--json` prints. Without expected outputs nothing is `compared`, and no output is within anything.
#[derive(Serialize)]
struct EvalReport<Output> {
    outputs: Vec<Output>,
    compared: bool,
    ok: bool,
}

/// An output that was compared with nothing.
#[derive(Serialize)]
struct Uncompared {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    /// The largest magnitude of a finite element.
    max_abs: f64,
    /// How many elements are not finite.
    not_finite: usize,
    max_abs_error: (),
    max_rel_error: (),
    within: (),
}

pub(crate) fn run(args: &Eval) -> Result<(), Stop> {
    let case = model::load(&args.model, Some(&args.data))?;
    // Before any input is asked for.
    fits(&case.graph, Precision::Declared).map_err(|e| annulus::Error::from(EvalError::from(e)))?;
    let inputs = model::inputs(&case)?;
    let expected = model::expected(&case)?;
    let start = Instant::now();
    let outputs = model::evaluate(&case.graph, &inputs, args.model.verbose)?;
    model::note(args.model.verbose, "evaluated", start);
    let Some(expected) = expected else { return alone(args, &case, &outputs) };
    let reports = judge(&case, &args.data, &outputs, &expected, false)?;
    let ok = reports.iter().all(|r| r.within);
    if args.model.json {
        print::json(&EvalReport { outputs: reports.clone(), compared: true, ok })?;
    } else {
        print::text(&lines(&case, &args.data, &reports).join("\n"))?;
    }
    if ok { Ok(()) } else { Err(Stop::Failed(failed(&case, &args.data, &reports))) }
}

/// Says of each output what it is, and that nothing was compared.
fn alone(args: &Eval, case: &Case, outputs: &[Tensor]) -> Result<(), Stop> {
    let describe = |(o, t): (&Output, &Tensor)| {
        let values = t.to_f64();
        let finite = || values.iter().filter(|x| x.is_finite());
        Uncompared {
            name: o.name.clone(),
            dtype: t.dtype().name(),
            shape: t.shape().to_vec(),
            max_abs: finite().fold(0.0, |most, x| x.abs().max(most)),
            not_finite: values.len() - finite().count(),
            max_abs_error: (),
            max_rel_error: (),
            within: (),
        }
    };
    let all: Vec<Uncompared> = case.graph.outputs().iter().zip(outputs).map(describe).collect();
    if args.model.json {
        return print::json(&EvalReport { outputs: all, compared: false, ok: true });
    }
    let line = |(o, t): (&Uncompared, &Tensor)| {
        let odd = if o.not_finite > 0 { format!(", {} not finite", o.not_finite) } else { String::new() };
        format!("{}  {}  largest magnitude {:.4}{odd}   not compared", o.name, t.ty(), o.max_abs)
    };
    let mut lines: Vec<String> = all.iter().zip(outputs).map(line).collect();
    lines.push(
        "nothing was compared: no expected outputs are stored; --expect DIR names a folder of output_N.pb"
            .into(),
    );
    print::text(&lines.join("\n"))
}

/// Compares each output with what is expected of it.
pub(crate) fn judge(
    case: &Case,
    data: &Data,
    got: &[Tensor],
    want: &[Tensor],
    nan_ok: bool,
) -> Result<Vec<OutputReport>, Stop> {
    let outputs = case.graph.outputs();
    let mut reports = Vec::new();
    for (i, output) in outputs.iter().enumerate() {
        let (atol, rtol) = model::tolerance(case, data, i);
        let c = compare(&got[i], &want[i], atol, rtol, nan_ok)
            .map_err(|why| Stop::Failed(format!("output {}: {why}", output.name)))?;
        reports.push(OutputReport {
            name: output.name.clone(),
            max_abs_error: c.max_abs_error,
            max_rel_error: c.max_rel_error,
            within: c.within,
        });
    }
    Ok(reports)
}

/// One line an output: `output  max error 2.4e-6   within 3.5e-4   ok`.
pub(crate) fn lines(case: &Case, data: &Data, reports: &[OutputReport]) -> Vec<String> {
    let width = reports.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
    let line = |(i, r): (usize, &OutputReport)| {
        let (atol, rtol) = model::tolerance(case, data, i);
        let (relation, verdict) = if r.within { ("within", "ok") } else { ("not within", "WRONG") };
        format!(
            "{:width$}  max error {:.1e}   {relation} {atol:.1e} + {rtol:.0e}·|expected|{}   {verdict}",
            r.name,
            r.max_abs_error,
            computed(case, data, i)
        )
    };
    reports.iter().enumerate().map(line).collect()
}

/// By which type output number `i` is judged, where that is narrower than its own: ` (computed in f16)`.
fn computed(case: &Case, data: &Data, i: usize) -> String {
    let own = data.atol.is_none() || data.rtol.is_none();
    let narrow = case.computed_in.get(i).copied().flatten().filter(|_| own);
    narrow.map_or_else(String::new, |dtype| format!(" (computed in {dtype})"))
}

/// What is said of outputs that are not within tolerance where the graph as it stands gives NaN and the ranks a number, as rewritings of
/// class `domain` may. `attentions`: those that were found.
pub(crate) fn not_numbers(
    reports: &[OutputReport],
    (got, want): (&[Tensor], &[Tensor]),
    attentions: &[FoundAttention],
) -> Option<String> {
    let domain = |a: &&FoundAttention| a.applied.iter().any(|step| step.numerics == Numerics::Domain);
    let names: Vec<&str> = attentions.iter().filter(domain).map(|a| a.name.as_str()).collect();
    let (first, others) = names.split_first()?;
    let wrong = reports.iter().zip(got.iter().zip(want)).filter(|(r, _)| !r.within);
    let count = |(_, (got, want)): (_, (&Tensor, &Tensor))| {
        got.to_f64().iter().zip(want.to_f64()).filter(|(g, w)| w.is_nan() && g.is_finite()).count()
    };
    let elements = match wrong.map(count).sum::<usize>() {
        0 => return None,
        1 => "1 element is".to_owned(),
        n => format!("{n} elements are"),
    };
    let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
    Some(format!(
        "{elements} NaN in eval and a number here, which the rewritings of class domain that made an attention of {first}{more} allow; without \
         that class (--numerics exact,reassociation,rounding,precision) NaN stays"
    ))
}

/// The message when an output is not within tolerance.
pub(crate) fn failed(case: &Case, data: &Data, reports: &[OutputReport]) -> String {
    let stored = data.expect.is_some() || !case.expected.is_empty();
    let from = if stored { "the stored outputs" } else { "eval" };
    let mut why =
        format!("an output differs from {from} by more than the tolerance; --atol and --rtol change it");
    let wrong = reports.iter().enumerate().filter(|(_, r)| !r.within);
    let mut causes: Vec<String> = vec![];
    for cause in wrong.flat_map(|(i, _)| case.departures_of(i)).map(ToString::to_string).filter(|_| stored) {
        if !causes.contains(&cause) {
            causes.push(cause);
        }
    }
    if !causes.is_empty() {
        why += &format!("; if they are ONNX Runtime's, this may be why: {}", causes.join("; "));
    }
    why
}
