//! `annulus eval`, and the comparison of outputs that `run` shares.

use super::args::{Data, Eval};
use super::{Stop, model, print};
use annulus::dump::report::OutputReport;
use annulus::eval::compare::compare;
use annulus::eval::{Precision, eval};
use annulus::import::case::Case;
use annulus::ir::Tensor;
use serde::Serialize;
use std::time::Instant;

#[derive(Serialize)]
struct Outcome {
    outputs: Vec<OutputReport>,
    ok: bool,
}

pub(crate) fn run(args: &Eval) -> Result<(), Stop> {
    let case = model::load(&args.model, Some(&args.data))?;
    let inputs = model::inputs(&case)?;
    let expected = model::expected(&case)?;
    let start = Instant::now();
    let outputs = eval(&case.graph, &inputs, Precision::Declared).map_err(annulus::Error::from)?;
    model::note(args.model.verbose, "evaluated", start);
    let Some(expected) = expected else {
        // Nothing to compare with: the outputs' types and sizes are the answer.
        if args.model.json {
            return print::json(&Outcome { outputs: vec![], ok: true });
        }
        let names = case.graph.outputs().iter().zip(&outputs);
        let lines: Vec<String> = names
            .map(|(o, t)| {
                let most = t.to_f64().into_iter().map(f64::abs).fold(0.0, f64::max);
                format!("{}  {}  largest magnitude {most:.4}  (no expected value)", o.name, t.ty())
            })
            .collect();
        return print::text(&lines.join("\n"));
    };
    let reports = judge(&case, &args.data, &outputs, &expected, false)?;
    let ok = reports.iter().all(|r| r.within);
    if args.model.json {
        print::json(&Outcome { outputs: reports, ok })?;
    } else {
        print::text(&lines(&case, &args.data, &reports).join("\n"))?;
    }
    if ok { Ok(()) } else { Err(Stop::Failed(failed(&case, &args.data))) }
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
            "{:width$}  max error {:.1e}   {relation} {atol:.1e} + {rtol:.0e}·|expected|   {verdict}",
            r.name, r.max_abs_error
        )
    };
    reports.iter().enumerate().map(line).collect()
}

/// The message when an output is not within tolerance.
pub(crate) fn failed(case: &Case, data: &Data) -> String {
    let from = if data.expect.is_some() || !case.expected.is_empty() { "the stored outputs" } else { "eval" };
    format!("an output differs from {from} by more than the tolerance; --atol and --rtol change it")
}
