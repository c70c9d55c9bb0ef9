//! The text of a graph after each stage of the pass: what case files and snapshots compare.
//!
//! In: a graph, and what a case file's header asks for. Out: the text of one stage.

use super::program::listing;
use crate::device::Device;
use crate::ir::Graph;
use crate::ir::text::{Form, print};
use crate::layout::LayoutKind;
use crate::ring::Strategy;
use crate::{Compiled, Error, Options, compile, find_attentions};
use std::fmt::Write;

/// The stages that have a text, in the order of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pass {
    /// The graph as read.
    Import,
    /// The graph with attention nodes.
    Find,
    /// What is sharded how, and the order of segments.
    Shard,
    /// One rank's program, its islands rewritten.
    Ring,
    /// The schedules of all ranks.
    Schedule,
    /// What is proved of them.
    Check,
}

impl Pass {
    /// Every stage, in the order of the pass.
    pub const ALL: [Pass; 6] =
        [Pass::Import, Pass::Find, Pass::Shard, Pass::Ring, Pass::Schedule, Pass::Check];

    /// The name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Pass::Import => "import",
            Pass::Find => "find",
            Pass::Shard => "shard",
            Pass::Ring => "ring",
            Pass::Schedule => "schedule",
            Pass::Check => "check",
        }
    }
}

/// What a case file's header asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// Options of the pass.
    pub options: Options,
    /// The rank whose graph is printed.
    pub rank: usize,
}

impl Request {
    /// Reads the first line of a case file, `// opt ranks=4 rank=1 layout=zigzag strategy=ring device=cpu slots=3`. Without such
    /// a line: one rank, everything else chosen.
    ///
    /// # Errors
    /// Names the word that is wrong.
    pub fn from_header(text: &str) -> Result<Request, String> {
        let mut request = Request { options: Options::new(1), rank: 0 };
        let Some(line) = text.lines().next().and_then(|l| l.strip_prefix("// opt ")) else {
            return Ok(request);
        };
        for pair in line.split_whitespace() {
            let bad = |why: &str| format!("{pair}: want {why}");
            let (key, value) = pair.split_once('=').ok_or_else(|| bad("key=value"))?;
            let number = || value.parse::<usize>().map_err(|_| bad("a number"));
            match (key, value) {
                ("strategy" | "layout", "auto") => {}
                ("ranks", _) => request.options.ranks = number()?,
                ("rank", _) => request.rank = number()?,
                ("strategy", _) => {
                    let strategy = Strategy::from_name(value);
                    request.options.strategy =
                        Some(strategy.ok_or_else(|| bad(&format!("auto, {}", Strategy::names())))?);
                }
                ("layout", _) => {
                    let names = LayoutKind::ALL.map(LayoutKind::name).join(", ");
                    let layout = LayoutKind::ALL.into_iter().find(|k| k.name() == value);
                    request.options.layout = Some(layout.ok_or_else(|| bad(&format!("auto, {names}")))?);
                }
                ("device", _) => {
                    let names = Device::bundled().collect::<Vec<_>>().join(", ");
                    request.options.device = Some(Device::named(value).ok_or_else(|| bad(&names))?);
                }
                ("nodes", _) => request.options.nodes = Some(number()?),
                ("slots", _) => request.options.slots = number()?,
                ("comm-sms", _) => request.options.comm_sms = Some(number()?),
                _ => return Err(bad("ranks, rank, strategy, layout, device, nodes, slots or comm-sms")),
            }
        }
        if request.rank >= request.options.ranks {
            return Err(format!("rank {} of {} ranks", request.rank, request.options.ranks));
        }
        Ok(request)
    }
}

/// The text of `graph` after `stage`.
///
/// # Errors
/// Those of the stages on the way.
pub fn text_after(graph: &Graph, request: &Request, stage: Pass, form: Form) -> Result<String, Error> {
    if stage == Pass::Import {
        return Ok(print(graph, form));
    }
    if stage == Pass::Find {
        return Ok(print(&find_attentions(graph, &request.options.find)?.graph, form));
    }
    let compiled = compile(graph, &request.options)?;
    Ok(match stage {
        Pass::Shard => listing(&compiled.program),
        Pass::Ring => print(&compiled.rank_graph(request.rank)?, form),
        Pass::Schedule => schedules(&compiled),
        _ => proofs(&compiled),
    })
}

/// Every distinct schedule as text, in order of first use; it parses back.
pub fn schedules(compiled: &Compiled) -> String {
    let all: Vec<String> = compiled.islands.iter().map(|i| i.schedule.to_string()).collect();
    all.join("\n")
}

/// What was proved of each island, a line a check.
pub fn proofs(compiled: &Compiled) -> String {
    let mut out = String::new();
    for island in &compiled.islands {
        // A name of the model.
        let _ = writeln!(out, "{}", island.schedule.name.escape_debug());
        for p in &island.report.passed {
            let _ = writeln!(out, "  {}: {} facts", p.check, p.facts);
        }
    }
    out
}
