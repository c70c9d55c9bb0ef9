//! Runs the operations of a graph in order; a value lives until its last use.

use super::{EvalError, Precision, Progress, apply_at};
use crate::ir::{Graph, Op, OpId, Tensor, ValueId};
use std::collections::HashMap;

/// How deep regions may be nested in regions.
pub(super) const MAX_NESTING: usize = 32;

/// Which operations the outputs need, by [`OpId::index`], and all operations in order.
fn needed(graph: &Graph) -> Result<(Vec<OpId>, Vec<bool>), EvalError> {
    let order = graph.ops();
    if order.len() != graph.len() {
        return Err(EvalError::Inputs(format!("graph {} has a cycle", graph.name())));
    }
    let mut live = vec![false; order.iter().map(|id| id.index() + 1).max().unwrap_or(0)];
    graph.outputs().iter().for_each(|o| live[o.value.op.index()] = true);
    for &id in order.iter().rev() {
        if live[id.index()] {
            graph.operands(id).iter().for_each(|v| live[v.op.index()] = true);
        }
    }
    Ok((order, live))
}

/// Values in flight, each with the number of uses to come.
struct Store {
    values: Vec<Vec<Option<(Tensor, usize)>>>,
}

impl Store {
    fn put(&mut self, v: ValueId, value: Tensor, uses: usize) {
        if uses == 0 {
            return;
        }
        let ports = &mut self.values[v.op.index()];
        if ports.len() <= v.port {
            ports.resize(v.port + 1, None);
        }
        ports[v.port] = Some((value, uses));
    }

    /// One use: the last one takes the value out.
    fn take(&mut self, v: ValueId) -> Option<Tensor> {
        let slot = self.values.get_mut(v.op.index())?.get_mut(v.port)?;
        let (value, uses) = slot.take()?;
        if uses > 1 {
            *slot = Some((value.clone(), uses - 1));
        }
        Some(value)
    }
}

/// Evaluates a graph on inputs whose types have been checked; under [`Precision::F64`] they are f64 where the graph
/// declares a floating type.
pub(super) fn graph(
    graph: &Graph,
    inputs: &[Tensor],
    precision: Precision,
    depth: usize,
    watch: &mut dyn FnMut(Progress),
) -> Result<Vec<Tensor>, EvalError> {
    let (order, live) = needed(graph)?;
    let mut store = Store { values: vec![Vec::new(); live.len()] };
    let mut as_output: HashMap<ValueId, usize> = HashMap::new();
    graph.outputs().iter().for_each(|o| *as_output.entry(o.value).or_default() += 1);
    let uses = |v: ValueId| {
        let inside = graph.uses(v).iter().filter(|(user, _)| live[user.index()]).count();
        inside + as_output.get(&v).copied().unwrap_or(0)
    };
    for (v, x) in graph.inputs().into_iter().zip(inputs) {
        store.put(v, x.clone(), uses(v));
    }
    let work = |id: &OpId| live[id.index()] && !matches!(graph.op(*id), Op::Input(_));
    let todo: Vec<OpId> = order.into_iter().filter(work).collect();
    for (done, &id) in todo.iter().enumerate() {
        watch(Progress { op: id, done, of: todo.len() });
        let results = step(graph, id, &mut store, precision, depth).map_err(|why| EvalError::Op {
            op: graph.op(id).name(),
            name: graph.results(id).first().map_or_else(String::new, |&v| graph.value(v).name.clone()),
            source_node: graph.source(id).to_owned(),
            why,
        })?;
        for (v, value) in graph.results(id).into_iter().zip(results) {
            store.put(v, value, uses(v));
        }
    }
    let missing = || EvalError::Inputs(format!("graph {} has an output that nothing makes", graph.name()));
    graph.outputs().iter().map(|o| store.take(o.value).ok_or_else(missing)).collect()
}

fn step(
    graph: &Graph,
    id: OpId,
    store: &mut Store,
    precision: Precision,
    depth: usize,
) -> Result<Vec<Tensor>, String> {
    let values = graph.operands(id);
    let operands: Vec<Tensor> = values
        .iter()
        .map(|&v| store.take(v).ok_or_else(|| format!("operand {} is not there", graph.value(v).name)))
        .collect::<Result<_, _>>()?;
    if let (Precision::F64, Op::Cast(to), [v]) = (precision, graph.op(id), &values[..])
        && super::is_exact(graph.ty(*v).dtype, *to)
    {
        // The declared conversion rounds nothing: neither does this one, though the f64 at hand may have more digits.
        return Ok(operands);
    }
    let results = apply_at(graph.op(id), &operands, precision, depth)?;
    for (v, got) in graph.results(id).into_iter().zip(&results) {
        let want = super::held(graph.ty(v), precision);
        if got.ty() != want {
            return Err(format!("gives {}, declared {want}", got.ty()));
        }
    }
    Ok(results)
}
