//! Which operators a graph needs that annulus does not compute, all of them at once.

use crate::ir::{Graph, Op, Opaque, Topology};
use std::collections::BTreeMap;

/// An operator that annulus does not compute, and where a graph has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lacking {
    /// The operator with its domain.
    pub operator: String,
    /// The nodes that are of it, in the graph's order: the node of the imported model, or the first result where there is none.
    pub nodes: Vec<String>,
    /// Why it is not computed, as is said of the first; may be empty.
    pub why: String,
}

/// The operators that the outputs of a graph need and that annulus does not compute, in the order of the first node of each;
/// those inside of regions too.
///
/// ```
/// use annulus::eval::lacking;
///
/// let graph = annulus::ir::parse(
///     r#"graph "g" {
///   input %x: f32[4]
///   %a: f32[4] = opaque %x {domain="com.example", op="Flip", version=1}  @"first"
///   %b: f32[4] = opaque %a {domain="com.example", op="Flip", version=1}  @"second"
///   %dead: f32[4] = opaque %a {op="Other", version=13}
///   output "b" = %b
/// }"#,
/// )?;
/// let all = lacking(&graph);
/// assert_eq!((all.len(), all[0].operator.as_str()), (1, "com.example::Flip"));
/// assert_eq!(all[0].nodes, ["first", "second"]);
/// # Ok::<(), annulus::ir::ParseError>(())
/// ```
pub fn lacking(graph: &Graph) -> Vec<Lacking> {
    let mut out: Vec<Lacking> = Vec::new();
    let mut place: BTreeMap<String, usize> = BTreeMap::new();
    let mut open: Vec<&Graph> = vec![graph];
    while let Some(graph) = open.pop() {
        let topology = Topology::new(graph);
        for &id in topology.order().iter().filter(|id| topology.is_live(**id)) {
            let o = match graph.op(id) {
                Op::Opaque(o) => o,
                Op::Region(_, inner) => {
                    open.push(inner);
                    continue;
                }
                _ => continue,
            };
            let operator = o.operator();
            let at = *place.entry(operator.clone()).or_insert_with(|| {
                out.push(Lacking { operator, nodes: vec![], why: o.why.clone() });
                out.len() - 1
            });
            out[at].nodes.push(match graph.source(id) {
                "" => graph.value(graph.result(id)).name.clone(),
                source => source.to_owned(),
            });
        }
    }
    out
}

/// Why one operation is not computed.
pub(super) fn lacks(o: &Opaque) -> String {
    let why = if o.why.is_empty() { String::new() } else { format!(": {}", o.why) };
    format!("annulus does not compute {}{why}", o.operator())
}

/// The operators in words, for the error.
pub(super) fn described(all: &[Lacking]) -> String {
    let one = |l: &Lacking| {
        let first = l.nodes.first().map_or("", String::as_str);
        let nodes = match l.nodes.len() {
            0 | 1 => format!("node {first}"),
            n => format!("{n} nodes, the first is {first}"),
        };
        let why = if l.why.is_empty() { String::new() } else { format!(": {}", l.why) };
        format!("{} ({nodes}{why})", l.operator)
    };
    let parts: Vec<String> = all.iter().map(one).collect();
    let operators = if all.len() == 1 { "1 operator" } else { &format!("{} operators", all.len()) };
    format!(
        "annulus does not compute {operators} that the outputs need: {}; find and compile work around them, and what is \
         handed back runs on a host that has them",
        parts.join(", ")
    )
}
