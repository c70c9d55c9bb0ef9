//! `annulus opt`: a model through the named passes, text out. Case files of the tests go the same way.

use super::args::Opt;
use super::stop::Stop;
use super::text_file::{name, read_text};
use super::{model, print};
use annulus::dump::stages::{Pass, Request, text_after};
use annulus::import::case::{self, Stored};
use annulus::ir::Form;
use annulus::ir::Graph;
use std::path::Path;

pub(crate) fn run(args: &Opt) -> Result<(), Stop> {
    if args.model.json {
        return Err(Stop::Usage(
            "opt prints a graph or a schedule as text, which parses back: leave out --json".into(),
        ));
    }
    let (graph, request) = read(args)?;
    let stage = args.passes.iter().copied().max().unwrap_or(Pass::Import);
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
    model::strict(&args.model, &case.graph)?;
    request.options.find = model::admitted(&args.admit, &case)?;
    Ok((case.graph, request))
}
