//! Promises of the user: operators that annulus does not compute, and that treat rows apart from one another.
//!
//! In: a graph and the promises. Out: the graph in which every node of such an operator says so, which `axes` reads.
//!
//! A promise cannot be proved: where it is false, the ranks compute something else than the model. What can be compared is: the
//! axes are there, and as long as each other.

use super::error::ShardError;
use crate::ir::{Graph, Op, RowAxes, Topology};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A promise about an operator that annulus does not compute: entry i along an axis of its results is made of the entries i along
/// axes of its operands, and of operands that it needs whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Rowwise {
    /// The operator with its domain, as reports name it: `com.microsoft::MoE`, `Resize`.
    pub operator: String,
    /// Which axes.
    pub axes: RowAxes,
}

impl Rowwise {
    /// The operator takes rows along these axes of its operands (`None`, and that of operands beyond the list: it needs all of
    /// the operand), and gives them along that axis of its results.
    ///
    /// ```
    /// use annulus::shard::Rowwise;
    ///
    /// // A mixture of experts: rows and their choices, and weights that every row needs.
    /// let moe = Rowwise::new("com.microsoft::MoE", [Some(0), Some(0)], 0);
    /// assert_eq!(moe.to_string(), "com.microsoft::MoE=0,0:0");
    /// ```
    pub fn new(
        operator: impl Into<String>,
        operands: impl IntoIterator<Item = Option<usize>>,
        result: usize,
    ) -> Rowwise {
        let axes = RowAxes { operands: operands.into_iter().collect(), result };
        Rowwise { operator: operator.into(), axes }
    }

    fn refused(&self, why: String) -> ShardError {
        ShardError::Rowwise { promise: self.to_string(), why }
    }
}

/// As the command line takes it: `OPERATOR=AXES:AXIS`.
impl std::fmt::Display for Rowwise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axis = |a: &Option<usize>| a.map_or("-".to_owned(), |a| a.to_string());
        let operands: Vec<String> = self.axes.operands.iter().map(axis).collect();
        write!(f, "{}={}:{}", self.operator, operands.join(","), self.axes.result)
    }
}

/// The graph with the promises.
pub(super) fn promised(graph: Arc<Graph>, promises: &[Rowwise]) -> Result<Arc<Graph>, ShardError> {
    if promises.is_empty() {
        return Ok(graph);
    }
    let topology = Topology::new(&graph);
    let live = topology.order().iter().copied().filter(|&id| topology.is_live(id));
    let nodes: Vec<_> = live
        .filter_map(|id| match graph.op(id) {
            Op::Opaque(o) => Some((id, o.operator())),
            _ => None,
        })
        .collect();
    let mut graph = Arc::unwrap_or_clone(graph);
    for (i, promise) in promises.iter().enumerate() {
        if promises[..i].iter().any(|other| other.operator == promise.operator) {
            return Err(promise.refused("something was promised of this operator already".into()));
        }
        let mut any = false;
        for (id, _) in nodes.iter().filter(|(_, operator)| *operator == promise.operator) {
            any = true;
            let at = match graph.source(*id) {
                "" => graph.value(graph.result(*id)).name.clone(),
                source => source.to_owned(),
            };
            let refused = |why: String| promise.refused(format!("node {at}: {why}"));
            graph.promise(*id, promise.axes.clone()).map_err(refused)?;
        }
        if !any {
            let known: BTreeSet<&str> = nodes.iter().map(|(_, operator)| operator.as_str()).collect();
            let known = match known.len() {
                0 => "annulus knows every operator that the outputs need".to_owned(),
                _ => format!("there are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
            };
            return Err(promise.refused(format!("no operator that is not known has this name; {known}")));
        }
    }
    Ok(Arc::new(graph))
}
