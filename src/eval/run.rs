//! Runs a graph, or one operation. The operations of a graph come in order; a value lives until its last use.

use super::compute::results;
use super::error::EvalError;
use super::lacking::lacking;
use super::memory::fits;
use super::precision::{Precision, held, hold};
use crate::ir::types::MAX_NESTING;
use crate::ir::{Graph, Op, OpId, RegionKind, Tensor, Topology, ValueId};
use std::collections::HashMap;

/// Evaluates a graph. `inputs` stand in the order of the graph's inputs, in their declared types. What no output needs is
/// not evaluated; a value is freed after its last use.
///
/// # Errors
/// If an input does not fit, a weight has no data, operators are needed that annulus does not compute, there is no memory for what is
/// held at once, or an operation fails (an index out of range, a region or a transfer,
/// which need other ranks).
pub fn eval(graph: &Graph, inputs: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, EvalError> {
    eval_watched(graph, inputs, precision, &mut |_| {})
}

/// Where an evaluation is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The operation that comes next.
    pub op: OpId,
    /// How many are done.
    pub done: usize,
    /// How many there are to do.
    pub of: usize,
}

/// [`eval`] that tells before each operation of the graph itself where it is.
///
/// # Errors
/// As [`eval`].
pub fn eval_watched(
    graph: &Graph,
    inputs: &[Tensor],
    precision: Precision,
    watch: &mut dyn FnMut(Progress),
) -> Result<Vec<Tensor>, EvalError> {
    let declared = graph.inputs();
    if declared.len() != inputs.len() {
        return Err(EvalError::Inputs(format!(
            "graph {} has {} inputs, got {}",
            graph.name(),
            declared.len(),
            inputs.len()
        )));
    }
    for (v, x) in declared.into_iter().zip(inputs) {
        if *graph.ty(v) != x.ty() {
            let name = &graph.value(v).name;
            return Err(EvalError::Inputs(format!("input {name} is {}, got {}", graph.ty(v), x.ty())));
        }
    }
    let lacking = lacking(graph);
    if !lacking.is_empty() {
        return Err(EvalError::Lacks(lacking));
    }
    fits(graph, precision)?;
    let inputs: Vec<Tensor> = inputs.iter().map(|x| hold(x, precision)).collect();
    run(graph, &inputs, precision, 0, watch)
}

/// Applies one operation to its operands. Under [`Precision::F64`] floating operands of any type are taken as f64.
///
/// # Errors
/// What is wrong, as a text without the operation's name.
pub fn apply(op: &Op, operands: &[Tensor], precision: Precision) -> Result<Vec<Tensor>, String> {
    let operands: Vec<Tensor> = operands.iter().map(|x| hold(x, precision)).collect();
    apply_at(op, &operands, precision, 0)
}

/// [`apply`] on operands as they are held, `depth` regions down.
fn apply_at(op: &Op, x: &[Tensor], precision: Precision, depth: usize) -> Result<Vec<Tensor>, String> {
    match op {
        Op::Input(_) => return Err("an input has no value of its own".into()),
        Op::Constant(c) => {
            let data = c.data.as_ref().ok_or("the weight has no data")?;
            if data.ty() != c.ty {
                return Err(format!("the weight is {}, declared {}", data.ty(), c.ty));
            }
            return Ok(vec![hold(data, precision)]);
        }
        Op::Start(..)
        | Op::Wait
        | Op::Unshard { .. }
        | Op::AllReduce { .. }
        | Op::Call { .. }
        | Op::Region(RegionKind::Island { .. }, _) => {
            return Err("needs other ranks".into());
        }
        Op::Region(RegionKind::Segment, graph) => return segment(graph, x, precision, depth),
        _ => {}
    }
    results(op, x, precision)
}

fn segment(graph: &Graph, x: &[Tensor], precision: Precision, depth: usize) -> Result<Vec<Tensor>, String> {
    if depth >= MAX_NESTING {
        return Err(format!("regions are nested more than {} deep", MAX_NESTING));
    }
    let declared = graph.inputs();
    let fits = declared.len() == x.len()
        && declared.iter().zip(x).all(|(&v, x)| held(graph.ty(v), precision) == x.ty());
    if !fits {
        return Err(format!("the inputs of {} are not the operands", graph.name()));
    }
    run(graph, x, precision, depth + 1, &mut |_| {}).map_err(|e| e.to_string())
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

/// Evaluates a graph on inputs whose types have been checked, `depth` regions down; under [`Precision::F64`] they are f64
/// where the graph declares a floating type.
fn run(
    graph: &Graph,
    inputs: &[Tensor],
    precision: Precision,
    depth: usize,
    watch: &mut dyn FnMut(Progress),
) -> Result<Vec<Tensor>, EvalError> {
    let topology = Topology::new(graph);
    let order = topology.order();
    if order.len() != graph.len() {
        return Err(EvalError::Inputs(format!("graph {} has a cycle", graph.name())));
    }
    let bound = order.iter().map(|id| id.index() + 1).max().unwrap_or(0);
    let mut store = Store { values: vec![Vec::new(); bound] };
    let mut as_output: HashMap<ValueId, usize> = HashMap::new();
    graph.outputs().iter().for_each(|o| *as_output.entry(o.value).or_default() += 1);
    let uses = |v: ValueId| {
        let inside = graph.uses(v).iter().filter(|(user, _)| topology.is_live(*user)).count();
        inside + as_output.get(&v).copied().unwrap_or(0)
    };
    for (v, x) in graph.inputs().into_iter().zip(inputs) {
        store.put(v, x.clone(), uses(v));
    }
    let work = |id: &OpId| topology.is_live(*id) && !matches!(graph.op(*id), Op::Input(_));
    let todo: Vec<OpId> = order.iter().copied().filter(work).collect();
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
        && graph.ty(*v).dtype.is_exact_in(*to)
    {
        // The declared conversion rounds nothing: neither does this one, though the f64 at hand may have more digits.
        return Ok(operands);
    }
    let results = apply_at(graph.op(id), &operands, precision, depth)?;
    for (v, got) in graph.results(id).into_iter().zip(&results) {
        let want = held(graph.ty(v), precision);
        if got.ty() != want {
            return Err(format!("gives {}, declared {want}", got.ty()));
        }
    }
    Ok(results)
}
