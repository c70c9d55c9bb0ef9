//! Other values for the stored inputs of every model and case: what is found is the same, and the graph afterwards computes
//! what the graph before does.

use super::data;
use annulus::eval::{Precision, compare, eval};
use annulus::find::{FindOptions, Found, Numerics, find};
use annulus::import::ImportOptions;
use annulus::import::case::{Case, Stored, load};
use annulus::ir::{Attention, DType, Graph, Op, ScoreStep, Scores, Tensor, ValueId};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Numbers from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Between 0 and 1, neither of them.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    fn below(&mut self, n: u64) -> f64 {
        (self.next() % n) as f64
    }

    /// Of mean 0 and variance 1.
    fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    /// Of an integer: 1 three times in four and else 0.
    fn mostly(&mut self) -> f64 {
        f64::from(u8::from(!self.next().is_multiple_of(4)))
    }
}

/// How many places there are on the axes that the values of `input` are indexes of, themselves or laid out and cast;
/// nothing if they are none.
fn places(graph: &Graph, input: ValueId) -> Option<usize> {
    let (mut stack, mut seen, mut least) = (vec![input], HashSet::new(), None::<usize>);
    while let Some(v) = stack.pop() {
        if !seen.insert(v) {
            continue;
        }
        for (op, slot) in graph.uses(v) {
            let sizes = |slot: usize| graph.ty(graph.operands(op)[slot]).shape.clone();
            match graph.op(op) {
                Op::Gather { axis } if slot == 1 => {
                    let n = sizes(0)[*axis];
                    least = Some(least.map_or(n, |m| m.min(n)));
                }
                Op::Cast(t) if !t.is_float() && *t != DType::Bool => stack.extend(graph.results(op)),
                Op::Reshape(_) | Op::Permute(_) | Op::Broadcast(_) | Op::Slice { .. } | Op::Concat { .. } => {
                    stack.extend(graph.results(op));
                }
                _ => {}
            }
        }
    }
    least
}

/// Inputs of a case in the graph's order, of other values than the stored ones. Floats are normal, and −∞ where a stored
/// mask may be; indexes lie on the axis that they index; of other integers, and of truth values, those that are 0 and 1
/// are masks, others lengths that may be anything up to the longest that is stored.
fn random(case: &Case, seed: u64) -> Vec<Tensor> {
    let mut random = Random(seed);
    let stored = case.ordered_inputs().unwrap_or_else(|name| panic!("input {name} is not stored"));
    let one = |(v, stored): (ValueId, &Tensor)| {
        let old = stored.to_f64();
        let masks = old.contains(&f64::NEG_INFINITY);
        let most = old.iter().copied().fold(1.0, f64::max) as u64;
        let value = |_| match (stored.dtype(), places(&case.graph, v)) {
            (t, _) if t.is_float() && masks && random.mostly() == 0.0 => f64::NEG_INFINITY,
            (t, _) if t.is_float() => random.normal(),
            (DType::Bool, _) => random.mostly(),
            (_, Some(places)) => random.below(places as u64),
            (_, None) if most == 1 => random.mostly(),
            (_, None) => random.below(most + 1),
        };
        let values: Vec<f64> = (0..old.len()).map(value).collect();
        Tensor::from_f64(stored.dtype(), stored.shape(), &values).expect("a value for each element")
    };
    case.graph.inputs().into_iter().zip(&stored).map(one).collect()
}

/// The bundled models and, where the data are, every model and every case of the operator.
fn everything() -> Vec<PathBuf> {
    let bundled = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
    let mut all = folders(&bundled, "");
    assert_eq!(all.len(), 3);
    for (name, prefix, count) in [("models", "", 69), ("onnx-attention", "test_", 126)] {
        let more = data::given(name).map(|root| folders(&root, prefix));
        assert!(more.as_ref().is_none_or(|m| m.len() >= count), "{more:?}");
        all.extend(more.unwrap_or_default());
    }
    all
}

fn name(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

/// How far the graphs before and after `find` may be apart in f64, relative to the largest value of an output or to 1, by
/// the class that was used: only constants that the graph computes in f32 and `find` folds are not in f64 throughout.
fn apart(class: Numerics) -> f64 {
    if class == Numerics::Exact { 0.0 } else { 1e-6 }
}

/// A graph whose attentions round no scores: in f64 the graph before rounds none either.
fn without_rounds(graph: &Graph) -> Graph {
    let mut all = graph.clone();
    for id in graph.ops() {
        let Op::Attention(a) = graph.op(id) else { continue };
        let steps = a.scores.steps().iter().filter(|s| !matches!(s, ScoreStep::Round(_)));
        let exact = Attention { scores: Scores::new(steps.cloned()), ..(**a).clone() };
        if exact == **a {
            continue;
        }
        let new = all.add(Op::Attention(Box::new(exact)), &graph.operands(id), "exact", "").unwrap();
        for (old, new) in graph.results(id).into_iter().zip(all.results(new)) {
            all.replace(old, new).unwrap();
        }
    }
    all
}

/// Where the graphs before and after `find` disagree over inputs: in the declared types beyond the tolerance of the outputs,
/// or in f64, which leaves roundings out, beyond what their class of rewriting explains.
fn disagreement(case: &Case, found: &Found, inputs: &[Tensor]) -> Result<(), String> {
    let used = found.attentions.iter().flat_map(|a| &a.applied).map(|s| s.numerics);
    let class = used.max().unwrap_or(Numerics::Exact);
    for precision in [Precision::Declared, Precision::F64] {
        let after = match precision {
            Precision::Declared => found.graph.clone(),
            _ => without_rounds(&found.graph),
        };
        let [want, got] = [&case.graph, &after].map(|g| eval(g, inputs, precision));
        let (want, got) = (want.map_err(|e| e.to_string())?, got.map_err(|e| e.to_string())?);
        for (i, (got, want)) in got.iter().zip(&want).enumerate() {
            let largest =
                want.to_f64().into_iter().filter(|x| x.is_finite()).fold(1.0, |m, x| x.abs().max(m));
            let (atol, rtol) = match precision {
                Precision::Declared if class > Numerics::Exact => {
                    (case.tolerance[i].atol, case.tolerance[i].rtol)
                }
                _ => (apart(class) * largest, 0.0),
            };
            let c = compare(got, want, atol, rtol, true)?;
            if !c.within {
                let what = format!("{precision:?}, {}, output {i}", class.name());
                return Err(format!("{what}: {:?}, {} outside", c.worst, c.outside));
            }
        }
    }
    Ok(())
}

#[test]
fn the_graph_afterwards_agrees_over_random_inputs() {
    for folder in everything() {
        let case = load(&folder, &Stored::default(), &ImportOptions::default()).unwrap();
        let found = find(&case.graph, &FindOptions::default());
        for seed in 1..4 {
            let inputs = random(&case, seed);
            disagreement(&case, &found, &inputs)
                .unwrap_or_else(|e| panic!("{}, seed {seed}: {e}", name(&folder)));
        }
    }
}

/// As `annulus find` prints it.
fn answer(model: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_annulus"));
    command.arg("find").arg(model).arg("--json").args(more).output().unwrap()
}

/// A number as protobuf writes it: seven bits a byte, the lowest first.
fn varint(mut n: u64) -> Vec<u8> {
    let mut out = vec![];
    while n > 0x7f {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
    out
}

/// A tensor as ONNX's `TensorProto`: dims (field 1), data_type (2), name (8), raw_data (9).
fn tensor_proto(name: &str, t: &Tensor) -> Vec<u8> {
    let dtype = match t.dtype() {
        DType::F32 => 1,
        DType::I32 => 6,
        DType::I64 => 7,
        DType::Bool => 9,
        DType::F16 => 10,
        DType::F64 => 11,
        DType::BF16 => 16,
    };
    let number = |field: u64, n: u64| [varint(field << 3), varint(n)].concat();
    let bytes = |field: u64, b: &[u8]| [varint(field << 3 | 2), varint(b.len() as u64), b.to_vec()].concat();
    let dims = t.shape().iter().flat_map(|&d| number(1, d as u64)).collect();
    [dims, number(2, dtype), bytes(8, name.as_bytes()), bytes(9, &t.data().to_le_bytes())].concat()
}

/// Every folder whose name begins so, in order.
fn folders(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.is_dir() && name(p).starts_with(prefix));
    all.sort();
    all
}

/// A folder with the model of another one, and these inputs.
fn with_inputs(folder: &Path, case: &Case, inputs: &[Tensor]) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("inputs").join(name(folder));
    let _ = std::fs::remove_dir_all(&to);
    let data = to.join("test_data_set_0");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::copy(folder.join("model.onnx"), to.join("model.onnx")).unwrap();
    for (i, (t, v)) in inputs.iter().zip(case.graph.inputs()).enumerate() {
        let name = &case.graph.value(v).name;
        std::fs::write(data.join(format!("input_{i}.pb")), tensor_proto(name, t)).unwrap();
    }
    to
}

/// The same bytes for the stored inputs, for others, and for none where no size depends on them. Inputs that are bound are
/// another matter: then the mask of these documents has its name.
#[test]
fn other_inputs_find_the_same() {
    for folder in everything() {
        let case = load(&folder, &Stored::default(), &ImportOptions::default()).unwrap();
        let other = with_inputs(&folder, &case, &random(&case, 5));
        let read = load(&other, &Stored::default(), &ImportOptions::default()).unwrap();
        assert_ne!(read.inputs, case.inputs, "{}", name(&folder));
        let (want, got) = (answer(&folder, &[]), answer(&other, &[]));
        assert!(want.status.success() && got.stdout == want.stdout, "{}: {got:?}", name(&folder));
        let alone = answer(&other.join("model.onnx"), &[]);
        if alone.status.success() {
            assert_eq!(alone.stdout, want.stdout, "{}", name(&folder));
        } else {
            assert!(String::from_utf8_lossy(&alone.stderr).contains("--dim"), "{}: {alone:?}", name(&folder));
        }
        if name(&folder).starts_with("sdpa-documents") {
            let [want, got] = [&folder, &other].map(|f| answer(f, &["--bind", "mask"]));
            assert!(want.status.success() && got.status.success() && got.stdout != want.stdout);
        }
    }
}
