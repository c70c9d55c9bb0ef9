//! `annulus opt`: a model through the named passes, text out. Case files of the tests go the same way.

use super::args::Opt;
use super::stop::Stop;
use super::{model, print};
use annulus::dump::stages::{Request, Stage, text_after};
use annulus::import::case::{self, Stored};
use annulus::ir::Graph;
use annulus::ir::text::Form;
use std::io::Read;
use std::path::Path;

pub(crate) fn run(args: &Opt) -> Result<(), Stop> {
    if args.model.json {
        return Err(Stop::Usage(
            "opt prints a graph or a schedule as text, which parses back: leave out --json".into(),
        ));
    }
    let (graph, request) = read(args)?;
    let stage = args.passes.iter().copied().max().unwrap_or(Stage::Import);
    let form = if args.full { Form::Full } else { Form::People };
    print::text(&text_after(&graph, &request, stage, form)?)
}

/// A text graph with its header, or any other model on one rank.
fn read(args: &Opt) -> Result<(Graph, Request), Stop> {
    let path = &args.model.model;
    let usage = |why: String| Stop::Usage(format!("{}: {why}", name(path)));
    let (case, mut request) = if model::is_text(path) {
        model::dims(&args.model)?;
        let source = read_text(path)?;
        let request = Request::from_header(&source).map_err(usage)?;
        (case::from_text(&source, Path::new(&name(path)), &Stored::default())?, request)
    } else {
        (model::load(&args.model, None)?, Request::from_header("").map_err(usage)?)
    };
    request.options.find = model::admitted(&args.admit, &case)?;
    Ok((case.graph, request))
}

/// A path as messages name it.
pub(crate) fn name(path: &Path) -> String {
    if path.as_os_str() == "-" { "standard input".into() } else { path.display().to_string() }
}

/// A text file, or standard input for `-`.
pub(crate) fn read_text(path: &Path) -> Result<String, Stop> {
    let fail = |e: std::io::Error| Stop::Usage(format!("{}: {e}", name(path)));
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().lock().read_to_string(&mut text).map_err(fail)?;
        Ok(text)
    } else {
        std::fs::read_to_string(path).map_err(fail)
    }
}
