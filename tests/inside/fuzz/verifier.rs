//! A fuzz target: graphs of the case files are broken at random places; the verifier says so, or the graph is sound indeed.

use super::driver::{Rng, Target, fuzz, kind};
use crate::inside::support::alone::alone;
use annulus::eval::{Precision, eval};
use annulus::find::{FindOptions, find};
use annulus::ir::{DType, Form, Graph, Op, OpId, RegionKind, Tensor, Value, ValueId, parse, print, verify};
use std::sync::{Arc, OnceLock};

/// The graphs of the case files, those of regions too.
fn graphs() -> &'static [Graph] {
    static ALL: OnceLock<Vec<Graph>> = OnceLock::new();
    ALL.get_or_init(|| {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/inside/ir");
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
        paths.sort();
        let mut all: Vec<Graph> =
            paths.iter().map(|p| parse(&std::fs::read_to_string(p).unwrap()).unwrap()).collect();
        let inner: Vec<Graph> = all
            .iter()
            .flat_map(|g| g.ops().into_iter().map(move |id| g.op(id)))
            .filter_map(|op| if let Op::Region(_, inner) = op { Some(Graph::clone(inner)) } else { None })
            .collect();
        all.extend(inner);
        all
    })
}

/// One change: what, where, and of whom.
const CHANGE: usize = 8;

/// A change is added, dropped or altered.
fn mutate(rng: &mut Rng, input: &[u8], corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut out = input.to_vec();
    let changes = out.len() / CHANGE;
    match rng.below(8) {
        0 if changes > 0 => drop(out.drain(..CHANGE)),
        1 => {
            // The changes of two.
            let other: &Vec<u8> = rng.pick(corpus);
            out.extend(other.iter().skip(1));
        }
        2 => out[0] = rng.next() as u8,
        3 if out.len() > 1 => {
            let at = rng.below(out.len());
            out[at] = rng.next() as u8;
        }
        _ => out.extend(rng.next().to_le_bytes()),
    }
    out.truncate(1 + 32 * CHANGE);
    out
}

/// The graph that the first byte names, with every change made to it.
fn broken(input: &[u8]) -> Graph {
    let all = graphs();
    let mut g = all[usize::from(input.first().copied().unwrap_or(0)) % all.len()].clone();
    for change in input.get(1..).unwrap_or_default().chunks_exact(CHANGE) {
        // What a cycle leaves out of the order can be broken too.
        let mut ops = g.ops();
        ops.extend(g.left_out(&ops));
        if ops.is_empty() {
            return g;
        }
        let at = |i: usize| usize::from(change[i]) | usize::from(change[i + 1]) << 8;
        let (a, b) = (ops[at(2) % ops.len()], ops[at(4) % ops.len()]);
        let small = usize::from(change[1] & 7);
        let port = |id: OpId| ValueId { op: id, port: at(6) % g.results(id).len().max(1) };
        let (va, vb) = (port(a), port(b));
        let (has_a, has_b) = (g.contains(va), g.contains(vb));
        match change[0] % 14 {
            0 => g.faulty_use(a, small, vb),
            1 if has_a && has_b => g.faulty_value(va).name = g.value(vb).name.clone(),
            2 if has_a => g.faulty_value(va).name = ["", "\u{1b}[2J", "a b", "%", "é"][small % 5].to_owned(),
            3 if has_a && has_b => g.faulty_value(va).ty = g.ty(vb).clone(),
            4 if has_a => {
                let shape = &mut g.faulty_value(va).ty.shape;
                let extent = [0, 1, 2, 1 << 20, 1 << 40, (1 << 56) + 1, usize::MAX / 2, usize::MAX][small];
                match at(4) % (shape.len() + 1) {
                    d if d < shape.len() => shape[d] = extent,
                    _ => shape.push(extent),
                }
            }
            5 if has_a => {
                g.faulty_value(va).ty.dtype = [DType::F32, DType::Bool, DType::I64, DType::BF16][small % 4]
            }
            6 => *g.faulty_op(a) = g.op(b).clone(),
            7 => {
                let other = &all[small % all.len()];
                let ops = other.ops();
                if !ops.is_empty() {
                    *g.faulty_op(a) = other.op(ops[at(4) % ops.len()]).clone();
                }
            }
            8 => g.faulty_remove(a),
            9 => {
                let mut inputs: Vec<OpId> = g.inputs().into_iter().map(|v| v.op).collect();
                match small % 3 {
                    0 => drop(inputs.pop()),
                    1 => inputs.reverse(),
                    _ => inputs.push(a),
                }
                g.faulty_inputs(inputs);
            }
            10 if has_a && has_b && g.ty(va) == g.ty(vb) => g.replace(va, vb).expect("of one type"),
            11 => g.faulty_output(["out", "all", ""][small % 3], ValueId { op: a, port: small % 3 }),
            12 => {
                let op = g.op(b).clone();
                let results = g.results(b).into_iter().map(|v| g.value(v).clone()).collect::<Vec<Value>>();
                let operands: Vec<ValueId> = g.slots(b).into_iter().map(|(_, v)| v).collect();
                g.insert(op, &operands, results, "twice");
            }
            13 => {
                // All of it becomes a region of a graph with the same inputs and outputs.
                let mut outer = Graph::new("outer");
                let kept: Vec<_> = g.inputs().into_iter().filter(|&v| g.contains(v)).collect();
                let inputs: Vec<ValueId> =
                    kept.into_iter().map(|v| outer.input(&g.value(v).name, g.ty(v).clone())).collect();
                let outputs: Vec<ValueId> = g.outputs().iter().map(|o| o.value).collect();
                let types: Vec<Value> = outputs
                    .iter()
                    .filter(|&&v| g.contains(v))
                    .enumerate()
                    .map(|(i, &v)| Value { name: format!("r{i}"), ty: g.ty(v).clone() })
                    .collect();
                let results = types.len();
                let id = outer.insert(Op::Region(RegionKind::Segment, Arc::new(g)), &inputs, types, "");
                for port in 0..results {
                    outer.output(&format!("r{port}"), ValueId { op: id, port });
                }
                g = outer;
            }
            _ => {}
        }
    }
    g
}

/// The verifier ends with decent words, or the graph is one that the other rooms can take.
fn run(input: &[u8]) -> String {
    let g = broken(input);
    match verify(&g) {
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            for e in &errors {
                let text = e.to_string();
                assert!(!text.chars().any(char::is_control), "{text:?}");
            }
            errors.iter().take(2).map(|e| kind(&e.why.to_string())).collect()
        }
        Ok(()) => {
            for form in [Form::People, Form::Full] {
                let printed = print(&g, form);
                let again = parse(&printed).unwrap_or_else(|e| panic!("what it prints does not parse: {e}"));
                assert!(again == g, "it prints as another graph\n{printed}");
            }
            find(&g, &FindOptions::default());
            format!("sound, {}", evaluated(&g))
        }
    }
}

/// Whether a sound graph of few elements evaluates.
fn evaluated(g: &Graph) -> &'static str {
    let all = || g.ops().into_iter().flat_map(|id| g.results(id));
    if all().any(|v| g.ty(v).elements() > 10_000) {
        return "large";
    }
    let inputs: Option<Vec<Tensor>> = g
        .inputs()
        .into_iter()
        .map(|v| {
            let ty = g.ty(v);
            let values: Vec<f64> = (0..ty.elements()).map(|i| (i % 3) as f64).collect();
            Tensor::from_f64(ty.dtype, ty.shape.clone(), &values)
        })
        .collect();
    match inputs.map(|inputs| eval(g, &inputs, Precision::Declared)) {
        Some(Ok(_)) => "evaluates",
        _ => "does not evaluate",
    }
}

/// Left out while working: `--skip ::long::`.
mod long {
    use super::*;

    #[test]
    fn fuzz_verifier() {
        if !alone!(fuzz_verifier) {
            return;
        }
        let seeds = (0..graphs().len()).map(|i| vec![i as u8]).collect();
        fuzz(&Target { name: "fuzz_verifier", seeds, inputs: 60_000, mutate, run });
    }
}
