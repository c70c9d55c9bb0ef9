//! `annulus compile` and `annulus run`: the whole pass, without and with running.

use super::args::{Admit, Backend, Choice, Compile, Emit, Run, Split};
use super::processes::Processes;
use super::progress::Progress as Shown;
use super::stop::Stop;
use super::{eval as compared, gpu, model, print};
use annulus::device::Device;
use annulus::dump::report::{self, IslandReport, OpaqueReport, Report, TrafficReport};
use annulus::dump::{dot, perfetto, stages, timeline_svg};
use annulus::eval::{EvalError, Precision, fits};
use annulus::exec::cpu::{self, Progress};
use annulus::exec::flight;
use annulus::import::case::Case;
use annulus::ir::{Form, Tensor, print as print_graph};
use annulus::lower::program::{Target, lower, with_kernels};
use annulus::schedule::Schedule;
use annulus::shard::Placement;
use annulus::{Compiled, Island, Options};
use std::path::Path;
use std::time::Instant;

pub(crate) fn compile(args: &Compile) -> Result<(), Stop> {
    if args.rank >= args.split.ranks {
        return Err(Stop::Usage(format!(
            "--rank {}: there are ranks 0 to {}",
            args.rank,
            args.split.ranks - 1
        )));
    }
    if args.model.json && args.output.is_none() && args.emit.iter().any(|&e| e != Emit::Report) {
        return Err(Stop::Usage(
            "--json prints the report: name a folder with -o for what --emit asks for".into(),
        ));
    }
    if args.emit.len() > 1 && args.output.is_none() {
        return Err(Stop::Usage("several --emit need a folder: name it with -o".into()));
    }
    let case = model::load(&args.model, None)?;
    let (compiled, report) = pass(&case, &args.split, &args.admit, args.model.verbose)?;
    if let Some(dir) = &args.output {
        for &what in if args.emit.is_empty() { &[Emit::Report][..] } else { &args.emit } {
            write(dir, &emitted(args, what, &compiled, &report)?)?;
        }
        return if args.model.json { print::json(&report) } else { Ok(()) };
    }
    if args.model.json {
        return print::json(&report);
    }
    let what = args.emit.first().copied().unwrap_or(Emit::Report);
    print::text(emitted(args, what, &compiled, &report)?.first().map_or("", |(_, text)| text))
}

pub(crate) fn run(args: &Run) -> Result<(), Stop> {
    let mut processes = Processes::join(args)?;
    match &args.flight {
        Some(folder) => _ = flight::keep_in(folder),
        None if processes.several() => _ = flight::keep_in_own(),
        None => {}
    }
    let case = model::load(&args.model, Some(&args.data))?;
    // What is stored is of weights that are all there.
    let drops = args.admit.dropout.is_some();
    let stored = model::expected(&case)?.filter(|_| !drops);
    if stored.is_none() {
        // What the ranks compute is compared with: before any input is asked for.
        fits(&case.graph, Precision::Declared).map_err(|e| annulus::Error::from(EvalError::from(e)))?;
    }
    let inputs = model::inputs(&case)?;
    let (compiled, mut report) = pass(&case, &args.split, &args.admit, args.model.verbose)?;
    let start = Instant::now();
    let progress = Shown::begin(args.model.verbose, &format!("running {} ranks", args.split.ranks));
    let (run, on) = run_all(args, &mut processes, &compiled, &inputs, &mut |at| {
        progress.set(|| {
            let steps =
                if at.steps > 0 { format!(", step {} of {}", at.begun, at.steps) } else { String::new() };
            format!(
                "running {} ranks: segment {} of {}{steps}",
                args.split.ranks,
                at.segment + 1,
                at.segments
            )
        });
    })?;
    drop(progress);
    model::note(args.model.verbose, "ran all ranks", start);
    let nan_ok = stored.is_none();
    let expected = match stored {
        Some(outputs) => outputs,
        // With dropout that the graph itself does not have: what one rank makes of the graph that has it.
        None if drops => model::evaluate(&compiled.program.graph, &inputs, args.model.verbose)?,
        None => model::evaluate(&case.graph, &inputs, args.model.verbose)?,
    };
    let outputs = compared::judge(&case, &args.data, &run.outputs, &expected, nan_ok)?;
    let within = outputs.iter().all(|o| o.within);
    let counted = TrafficReport { bytes_sent: run.traffic.bytes_sent, messages: run.traffic.messages };
    let as_planned = counted == report.traffic;
    report.traffic = counted;
    report.ok = within && as_planned;
    report.outputs = Some(outputs);
    if !processes.first() {
        // What it found is what the first one says.
    } else if args.model.json {
        print::json(&report)?;
    } else {
        let mut lines = summary(&compiled, &report);
        lines.extend(on);
        if nan_ok {
            let why = if drops { "weights are dropped" } else { "no outputs are stored" };
            lines.push(format!("{why}: compared with eval on one rank"));
        }
        lines.extend(compared::lines(&case, &args.data, report.outputs.as_deref().unwrap_or_default()));
        print::text(&lines.join("\n"))?;
    }
    match (as_planned, within) {
        (false, _) => Err(Stop::Failed("the ranks sent other bytes or messages than the plan says".into())),
        (true, false) => {
            let outputs = report.outputs.as_deref().unwrap_or_default();
            let why = compared::failed(&case, &args.data, outputs);
            let more = nan_ok
                .then(|| compared::not_numbers(outputs, (&run.outputs, &expected), &compiled.attentions));
            Err(Stop::Failed(more.flatten().map_or_else(|| why.clone(), |more| format!("{why}; {more}"))))
        }
        (true, true) => Ok(()),
    }
}

/// Runs all ranks where they are asked to be run; and on what, in a line, if not on the CPU.
fn run_all(
    args: &Run,
    processes: &mut Processes,
    compiled: &Compiled,
    inputs: &[Tensor],
    watch: &mut dyn FnMut(Progress),
) -> Result<(cpu::Run, Option<String>), Stop> {
    match args.backend {
        Backend::Cpu => processes.run(args, compiled, inputs, watch),
        Backend::Cuda => gpu::run(args, processes, compiled, inputs, watch),
    }
}

/// The whole pass, timed.
fn pass(case: &Case, split: &Split, admit: &Admit, verbose: bool) -> Result<(Compiled, Report), Stop> {
    let options = Options::new(split.ranks as usize)
        .strategy(Choice::named(&split.strategy))
        .layout(Choice::named(&split.layout))
        .inputs(split.shard.iter().cloned())
        .device(split.device.as_deref().map(device).transpose()?)
        .nodes(split.nodes.map(|n| n as usize))
        .memory(split.memory)
        .slots(split.slots as usize)
        .comm_sms(split.comm_sms.map(|n| n as usize))
        .find(model::admitted(admit, case)?);
    let options = split.rowwise.iter().cloned().fold(options, Options::rowwise);
    let start = Instant::now();
    let _progress = Shown::begin(verbose, "finding, splitting, scheduling and proving");
    let compiled = annulus::compile(&case.graph, &options)?;
    let mut report = report::report(&compiled);
    // The schedules are proved: what is left is what a rank computes by itself.
    if let Some(fault) = report.checks.failed.first() {
        return Err(Stop::Fault(format!("rank {}: {}", fault.rank, fault.message)));
    }
    report.compile_ms = Some(start.elapsed().as_secs_f64() * 1e3);
    model::note(verbose, "found, split, rewrote, scheduled and proved", start);
    Ok((compiled, report))
}

/// A bundled device, or a description in a file.
fn device(name: &Path) -> Result<Device, Stop> {
    if let Some(device) = name.to_str().and_then(Device::named) {
        return Ok(device);
    }
    let shown = name.display();
    let text = std::fs::read_to_string(name).map_err(|e| {
        let known: Vec<&str> = Device::bundled().collect();
        Stop::Usage(format!("--device {shown}: {e}; bundled are {}", known.join(", ")))
    })?;
    Device::parse(&text, &shown.to_string()).map_err(|e| Stop::Usage(e.to_string()))
}

/// The files that one WHAT stands for, as (name, text); without a folder the first goes to standard output.
fn emitted(
    args: &Compile,
    what: Emit,
    compiled: &Compiled,
    report: &Report,
) -> Result<Vec<(String, String)>, Stop> {
    let rank = args.rank;
    let graph = || compiled.rank_graph(rank as usize);
    let one = |name: String, text: String| Ok(vec![(name, text)]);
    match what {
        Emit::Graph => {
            let text = report::rows_of_rank(compiled, rank as usize) + &print_graph(&graph()?, Form::People);
            one(format!("graph.{rank}.txt"), text)
        }
        Emit::Dot => one(format!("graph.{rank}.dot"), dot(&graph()?)),
        Emit::Schedule if compiled.islands.is_empty() => {
            Err(Stop::Failed("there is no schedule: no attention is split".into()))
        }
        Emit::Schedule => one("schedule.txt".into(), stages::schedules(compiled)),
        Emit::Cuda => one(format!("cuda.{rank}.txt"), device_programs(args, compiled)?),
        Emit::Report => one("report.txt".into(), summary(compiled, report).join("\n") + "\n"),
        Emit::Svg => pictures(args, compiled, "svg", timeline_svg),
        Emit::Perfetto => pictures(args, compiled, "json", perfetto),
    }
}

/// What the rank's GPU is told for each distinct island, with the texts of the kernels.
fn device_programs(args: &Compile, compiled: &Compiled) -> Result<String, Stop> {
    if compiled.islands.is_empty() {
        return Err(Stop::Failed("there is no device program: no attention is split".into()));
    }
    let mut programs = vec![];
    for island in &compiled.islands {
        let of_ranks = lower(&island.schedule, Target::Cuda(args.arch)).map_err(|e| {
            Stop::Failed(format!("the island {} has no program for GPUs: {e}", island.schedule.name))
        })?;
        programs.extend(of_ranks.into_iter().nth(args.rank as usize));
    }
    Ok(with_kernels(&programs))
}

/// A file for each distinct island: timeline.svg, timeline.1.svg, …
fn pictures(
    args: &Compile,
    compiled: &Compiled,
    ends: &str,
    draw: fn(&Schedule, &Device) -> String,
) -> Result<Vec<(String, String)>, Stop> {
    let n = compiled.islands.len();
    if n == 0 {
        return Err(Stop::Failed("there is no island to draw: no attention is split".into()));
    }
    if n > 1 && args.output.is_none() {
        return Err(Stop::Usage(format!("there are {n} timelines, one an island: name a folder with -o")));
    }
    let name = |i: usize| if i == 0 { format!("timeline.{ends}") } else { format!("timeline.{i}.{ends}") };
    let file = |(i, island): (usize, &Island)| (name(i), draw(&island.schedule, &compiled.device));
    Ok(compiled.islands.iter().enumerate().map(file).collect())
}

fn write(dir: &Path, files: &[(String, String)]) -> Result<(), Stop> {
    if dir.exists() && !dir.is_dir() {
        return Err(Stop::Usage(format!("-o {}: a file has that name; name a folder", dir.display())));
    }
    for (name, text) in files {
        let path = dir.join(name);
        let fail = |e: std::io::Error| Stop::Usage(format!("{}: {e}", path.display()));
        std::fs::create_dir_all(dir).map_err(fail)?;
        std::fs::write(&path, text).map_err(fail)?;
    }
    Ok(())
}

/// The report as a few lines.
fn summary(compiled: &Compiled, report: &Report) -> Vec<String> {
    let found = report.attention.found;
    let plural = if found == 1 { "" } else { "s" };
    let mut parts = match found {
        0 => vec!["found no attention".to_owned()],
        _ => vec![format!("found {found} attention{plural}, {} distinct", report.islands.len())],
    };
    let mut choices: Vec<String> = Vec::new();
    for i in &report.islands {
        let choice = if i.layout == i.kv_layout {
            format!("{}, {}", i.way(), i.layout)
        } else {
            format!("{}, {} × {}", i.way(), i.layout, i.kv_layout)
        };
        if !choices.contains(&choice) {
            choices.push(choice);
        }
    }
    parts.extend(choices);
    if !report.checks.passed.is_empty() {
        let proved: Vec<&str> = report.checks.passed.iter().map(|c| phrase(c)).collect();
        parts.push(format!("proved: {}", proved.join(", ")));
    }
    let mut lines = vec![parts.join(" · ")];
    if !report.bound.is_empty() {
        lines.push(format!("for the stored value of {} alone", report.bound.join(", ")));
    }
    for m in &compiled.missed {
        lines.push(format!("near miss at {}: {}", m.at, m.reason));
    }
    for r in &report.attention.refused {
        lines.push(format!("not split: {}: {}", r.at, r.reason));
    }
    for g in &report.gathered {
        let what = if g.kind == "reduce" { "reduced" } else { "gathered" };
        let (bytes, time) = (print::bytes(g.bytes), report::time(g.makespan_us));
        lines.push(format!("{what} {}: {} ({bytes} in all, {time})", g.at, g.reason));
    }
    lines.extend(report.opaque.iter().map(OpaqueReport::line));
    let split = |p: &Placement| matches!(p, Placement::Sharded(_));
    let count = |n: usize| format!("{n}");
    if report.islands.is_empty() {
        lines.push(if !compiled.program.placements.values().any(split) {
            "nothing is split: every rank computes the whole model".into()
        } else {
            format!(
                "no attention is split along its rows · sent per rank {} in {} messages",
                print::span(&report.traffic.bytes_sent, print::bytes),
                print::span(&report.traffic.messages, count),
            )
        });
        return lines;
    }
    lines.push(format!(
        "sent per rank {} in {} messages · arena {} per rank",
        print::span(&report.traffic.bytes_sent, print::bytes),
        print::span(&report.traffic.messages, count),
        print::span(&report.schedule.peak_bytes, print::bytes),
    ));
    lines.push(format!("schedule on {}", report::figures_line(&report.device, &report.schedule)));
    lines.extend(report.islands.iter().filter_map(|i| instead_of(i, report.islands.len() > 1)));
    lines
}

/// What was not taken for an island, in a line: the nearest three.
fn instead_of(island: &IslandReport, named: bool) -> Option<String> {
    let shown = island.rejected.iter().take(3).map(|r| format!("{}: {}", r.choice, r.reason));
    let mut others: Vec<String> = shown.collect();
    match island.rejected.len().saturating_sub(others.len()) {
        0 => {}
        n => others.push(format!("{n} more")),
    }
    let at = if named { format!(" at {}", island.at[0]) } else { String::new() };
    (!others.is_empty()).then(|| format!("rejected{at}: {}", others.join(" · ")))
}

/// What a check proves, in words.
fn phrase(check: &str) -> &str {
    match check {
        "deadlock" => "no deadlock",
        "race" => "no race",
        "filled" => "nothing read before it is there",
        "coverage" => "every key once",
        "merge once" => "every part merged once",
        "sizes" => "sizes in 64 bits",
        "labels" => "true labels",
        other => other,
    }
}
