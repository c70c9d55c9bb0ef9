//! Random graphs over every operation: a list of numbers is read as steps; a step that inference refuses is left out.

use annulus::ir::{
    Attention, AttentionBackward, Attribute, Binary, Blob, Collective, Constant, Contract, DType, Data,
    EmptyRow, Factor, Form, Graph, MessageKind, Op, Opaque, Partial, Reduction, RegionKind, RowAxes,
    ScoreStep, Scores, Tensor, Type, Unary, ValueId, Windows, parse, print, verify,
};
use annulus::layout::{LayoutKind, Progression, row_count};
use annulus::mask::{Fill, Mask, Term, Tile};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One step: which operation, on which values, with which numbers, and a name.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    kind: usize,
    on: [usize; 3],
    n: [usize; 4],
    bits: u64,
    name: String,
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = prop_oneof![
        4 => "[a-z]{1,3}",
        1 => "[a-zA-Z0-9_./:$-]{1,6}",
        1 => any::<String>(),
    ];
    let step = (0usize..54, any::<[usize; 3]>(), proptest::array::uniform4(0usize..6), any::<u64>(), name)
        .prop_map(|(kind, on, n, bits, name)| Step { kind, on, n, bits, name });
    proptest::collection::vec(step, 0..40)
}

/// The graph of a list of steps.
pub(crate) fn graph(steps: &[Step]) -> Graph {
    let mut g = Graph::new(steps.first().map_or("", |s| &s.name));
    let mut made: Vec<ValueId> = Vec::new();
    for s in steps {
        let (op, operands) = match s.kind {
            0..3 => {
                made.push(g.input(&s.name, Type::new(dtype(s.n[0]), shape(s))));
                continue;
            }
            3..6 => {
                made.push(constant(&mut g, s));
                continue;
            }
            6 => {
                // Frees numbers of operations, which later ones take.
                if let Some(&v) = made.last().filter(|_| g.outputs().iter().all(|o| o.name != s.name)) {
                    g.output(&s.name, v);
                }
                g.remove_dead();
                let started = |v: &ValueId| matches!(g.op(v.op), Op::Start(..));
                made = g.ops().into_iter().flat_map(|id| g.results(id)).filter(|v| !started(v)).collect();
                continue;
            }
            7..10 => {
                transfer(&mut g, s, &mut made);
                continue;
            }
            _ if made.is_empty() => continue,
            kind => step(&g, &made, s, kind),
        };
        if let Ok(id) = g.add(op, &operands, &s.name, if s.n[0] == 0 { &s.name } else { "" }) {
            made.extend(g.results(id));
        }
    }
    let mut names = BTreeSet::new();
    names.extend(g.outputs().iter().map(|o| o.name.clone()));
    for (i, &v) in made.iter().rev().take(3).enumerate() {
        let name = format!("out {i}");
        if names.insert(name.clone()) {
            g.output(&name, v);
        }
    }
    g
}

fn dtype(n: usize) -> DType {
    // Mostly one type, so that operations find operands.
    [DType::F32, DType::F32, DType::F16, DType::I64, DType::Bool, DType::F64][n % 6]
}

fn shape(s: &Step) -> Vec<usize> {
    [vec![], vec![s.n[1]], vec![2, 3], vec![1, 2, s.n[1], 4], vec![1, 2, s.n[1], 4], vec![2, 1, 3]]
        [s.n[2] % 6]
        .clone()
}

fn constant(g: &mut Graph, s: &Step) -> ValueId {
    let ty = Type::new(DType::ALL[s.n[0]], shape(s));
    if s.kind == 3 {
        return g.weight(&s.name, Constant { ty, hash: s.bits, data: None });
    }
    let mut bits = s.bits;
    let bytes: Vec<u8> = (0..ty.bytes())
        .map(|_| {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (bits >> 56) as u8
        })
        .collect();
    let data = Data::from_le_bytes(ty.dtype, &bytes).expect("as many bytes as the type has");
    g.constant(&s.name, Tensor::new(ty.shape, data).expect("as many elements as the type has"))
}

/// A transfer and its wait.
fn transfer(g: &mut Graph, s: &Step, made: &mut Vec<ValueId>) {
    let four = made.iter().copied().find(|&v| g.ty(v).rank() == 4 && !matches!(g.op(v.op), Op::Start(..)));
    let started = g.ops().into_iter().filter_map(|id| match g.op(id) {
        Op::Start(c, _) => Some(c.group()),
        _ => None,
    });
    let group = 1 + started.max().unwrap_or(0);
    let rows = rows(s, s.n[3]);
    let (op, operands) = match four {
        Some(x) if s.kind == 7 && s.n[2] % 2 == 1 => {
            // To each rank all of it; what comes is put together along either axis.
            let axis = 1 + s.n[1] % 2;
            let ranks = vec![rows.clone(), vec![], rows.clone()];
            let mut ty = g.ty(x).clone();
            ty.shape[1] *= if axis == 1 { 2 } else { 1 };
            ty.shape[2] = row_count(&rows) * if axis == 2 { 2 } else { 1 };
            let all = Collective::AllToAll { group, to: vec![1, 4], axis, rows: ranks };
            (Op::Start(Box::new(all), ty), vec![x, x])
        }
        Some(x) if s.kind == 7 => {
            let ranks = vec![rows.clone(), vec![], rows.clone()];
            let mut ty = g.ty(x).clone();
            ty.shape[2] = 2 * row_count(&rows);
            (Op::Start(Box::new(Collective::AllGather { group, rows: ranks }), ty), vec![x])
        }
        Some(x) => {
            let mut ty = g.ty(x).clone();
            ty.shape[2] = row_count(&rows);
            let from = (!rows.is_empty()).then_some(s.n[0]);
            (Op::Start(Box::new(Collective::SendRecv { group, to: Some(s.n[1]), from, rows }), ty), vec![x])
        }
        None => {
            let ty = Type::new(DType::F32, [1, 2, row_count(&rows), 4]);
            let from = (!rows.is_empty()).then_some(s.n[0]);
            (Op::Start(Box::new(Collective::SendRecv { group, to: None, from, rows }), ty), vec![])
        }
    };
    if let Ok(started) = g.add1(op, &operands, &s.name, "") {
        made.extend(g.add1(Op::Wait, &[started], &s.name, &s.name));
    }
}

/// So many rows, in one or two progressions.
fn rows(s: &Step, count: usize) -> Vec<Progression> {
    let start = s.on[0] % 10;
    match (count, s.on[1] % 3) {
        (0, _) => vec![],
        (1, _) | (_, 0) => vec![Progression::range(start, count)],
        (_, 1) => vec![Progression { start, len: count, step: 3 }],
        _ => vec![Progression::range(start + 20, 1), Progression::range(start, count - 1)],
    }
}

/// Up to six steps of any kind; where there are leaves, operand 3 is one of numbers.
fn attention(s: &Step, leaf: bool) -> Attention {
    let number = f64::from_bits(s.bits);
    let scale = if number.is_finite() { number } else { 0.125 };
    let terms = [
        vec![],
        vec![Term::Causal { offset: s.n[1] as i64 - 3 }],
        vec![Term::Window { left: Some(s.n[1] as u64), right: None, offset: -1 }, Term::Causal { offset: 9 }],
    ];
    let one = |i: usize| {
        let bits = (s.bits >> (9 * i)) as usize;
        let fill = [Fill::NegInf, Fill::Add(scale), Fill::Replace(scale)][bits / 8 % 3];
        match bits % 8 {
            0 => ScoreStep::Factor(Factor::Number(scale / (i + 1) as f64)),
            1 if leaf => ScoreStep::Factor(Factor::Leaf(3)),
            2 => ScoreStep::Softcap(scale.abs() + 1e-300),
            3 | 4 if leaf => ScoreStep::Add(3),
            5 => ScoreStep::Round([DType::F16, DType::BF16, DType::F32, DType::F64][bits / 8 % 4]),
            _ => ScoreStep::Fill(Mask { terms: terms[bits / 32 % 3].clone(), fill }),
        }
    };
    let reads = leaf.then_some(ScoreStep::Add(3));
    Attention {
        scores: Scores::new((0..s.n[0]).map(one).chain(reads)),
        empty_row: if s.n[2] < 3 { EmptyRow::Zero } else { EmptyRow::Nan },
        lse: s.n[3] < 3,
        stats: s.n[1] > 2,
        ..Attention::plain(1.0, if s.n[3] == 0 { DType::F64 } else { DType::F32 })
    }
}

fn step(g: &Graph, made: &[ValueId], s: &Step, kind: usize) -> (Op, Vec<ValueId>) {
    let x = made[s.on[0] % made.len()];
    let y = made[s.on[1] % made.len()];
    let z = made[s.on[2] % made.len()];
    let t = g.ty(x);
    let axis = s.n[0] % t.rank().max(1);
    let like = |v: ValueId| made.iter().copied().find(|&w| w != v && g.ty(w) == g.ty(v)).unwrap_or(v);
    let held = || rows(s, t.shape.get(2).copied().unwrap_or(0));
    let letters = |n: usize, from: u8| (0..n as u8).map(|i| char::from(from + i)).collect::<String>();
    match kind {
        10 => (Op::Iota { ty: Type::new(DType::I32, shape(s)), axis: 0 }, vec![]),
        11..14 => (Op::Unary(Unary::ALL[s.on[1] % Unary::ALL.len()]), vec![x]),
        14..17 => {
            let truth = t.dtype == DType::Bool;
            let fit: Vec<Binary> = Binary::ALL.iter().copied().filter(|b| b.is_logical() == truth).collect();
            (Op::Binary(fit[s.on[1] % fit.len()]), vec![x, like(x)])
        }
        17 => {
            let truth = made.iter().copied().find(|&v| g.ty(v).dtype == DType::Bool).unwrap_or(x);
            (Op::Select, vec![truth, y, like(y)])
        }
        18 => (Op::Cast(DType::ALL[s.n[1]]), vec![x]),
        19 => {
            let (a, b) = (letters(t.rank(), b'a'), letters(g.ty(y).rank(), b'M'));
            (Op::Contract(Contract { out: format!("{b}{a}"), lhs: a, rhs: b }), vec![x, y])
        }
        20 => {
            let axes = if t.rank() > 1 && s.n[1] > 2 { vec![0, 1] } else { vec![axis] };
            (Op::Reduce { kind: Reduction::ALL[s.n[2] % 5], axes, keep: s.n[3] > 2 }, vec![x])
        }
        21 => (Op::Softmax { axis }, vec![x]),
        22 => (Op::Reshape(vec![1, t.elements()]), vec![x]),
        23 => (Op::Permute((0..t.rank()).rev().collect()), vec![x]),
        24 => (Op::Broadcast([&[s.n[0]], t.shape.as_slice()].concat()), vec![x]),
        25 | 26 => {
            let extent = t.shape.get(axis).copied().unwrap_or(0);
            let step = if s.n[1] > 2 { 1 } else { -1 };
            let start = if step > 0 { 0 } else { extent.saturating_sub(1) };
            (Op::Slice { axis, start, len: extent / 2, step }, vec![x])
        }
        27 => (
            Op::Rows { axis, outer: 1, inner: 1 + s.n[1] % 2, rows: vec![Progression::range(0, 1)] },
            vec![x],
        ),
        28 => (Op::Concat { axis }, vec![x, like(x), x]),
        29 => {
            let scalar = made.iter().copied().find(|&v| *g.ty(v) == Type::new(t.dtype, [])).unwrap_or(y);
            (Op::Pad { low: vec![s.n[1]; t.rank()], high: vec![0; t.rank()] }, vec![x, scalar])
        }
        30 | 31 => {
            let at =
                made.iter().copied().find(|&v| matches!(g.ty(v).dtype, DType::I64 | DType::I32)).unwrap_or(y);
            (if kind == 30 { Op::Gather { axis } } else { Op::GatherNd { batch: 0 } }, vec![x, at])
        }
        32 => {
            let how = [None, Some(Binary::Add), Some(Binary::Max)][s.n[3] % 3];
            let fits = |at: ValueId, new: ValueId| {
                annulus::ir::infer::infer(&Op::ScatterNd { how }, &[t, g.ty(at), g.ty(new)]).is_ok()
            };
            let whole = |v: &ValueId| matches!(g.ty(*v).dtype, DType::I64 | DType::I32);
            let pairs =
                made.iter().filter(|v| whole(v)).flat_map(|&at| made.iter().map(move |&new| (at, new)));
            let (at, new) = pairs.take(400).find(|&(at, new)| fits(at, new)).unwrap_or((y, z));
            (Op::ScatterNd { how }, vec![x, at, new])
        }
        33 => (Op::CumSum { axis, exclusive: s.n[1] > 2, reverse: s.n[2] > 2 }, vec![x]),
        34 => (Op::TopK { axis, k: s.n[1] % 3, largest: s.n[2] > 2 }, vec![x]),
        35..38 => {
            // One more operand than q, k and v: a leaf of the scores, or sinks, if it fits.
            let leaf = (s.n[2] == 2).then_some(x);
            let sinks = (s.n[2] > 3).then_some(y);
            let a = Attention { sinks: sinks.map(|_| 3), ..attention(s, leaf.is_some()) };
            // Of one that was made with its statistics the gradients.
            let made = made.iter().find_map(|v| match g.op(v.op) {
                Op::Attention(made) if made.stats && kind == 35 => Some((v.op, made)),
                _ => None,
            });
            if let Some((op, made)) = made {
                let (operands, results) = (g.operands(op), g.results(op));
                let leaves = made.scores.leaves().filter(|l| !l.1).map(|l| l.0).chain(made.sinks);
                let mut wrt: Vec<usize> = leaves.filter(|_| s.n[0] > 1).collect();
                wrt.dedup();
                let attention = Attention { lse: false, stats: s.n[2] > 1, ..(**made).clone() };
                let stats = &results[results.len() - 2..];
                let more = [results[0], stats[0], stats[1], results[0]];
                let op = Op::AttentionBackward(Box::new(AttentionBackward { attention, wrt }));
                return (op, operands.into_iter().chain(more).collect());
            }
            (Op::Attention(Box::new(a)), [x, like(x), x].into_iter().chain(leaf).chain(sinks).collect())
        }
        38 => {
            let of = held();
            (Op::Chunk { rows: of.iter().rev().copied().collect(), of }, vec![x])
        }
        39..42 => {
            let (q_rows, k_rows) = (held(), rows(s, g.ty(y).shape.get(2).copied().unwrap_or(0)));
            let (d, all) = (t.shape.last().copied().unwrap_or(0), g.ty(y).shape.last().copied().unwrap_or(0));
            let attention = Arc::new(attention(s, false));
            let v_head_dim = all.saturating_sub(d);
            (
                Op::Partial(Box::new(Partial { attention, v_head_dim, q_rows, k_rows, tile: Tile::Partial })),
                vec![x, y],
            )
        }
        42 | 43 => {
            let three = |v: ValueId| g.results(v.op);
            (Op::Merge { a: held(), b: held() }, [three(x), three(x)].concat())
        }
        44 => {
            let of = held();
            let rows = of.iter().rev().copied().collect();
            (
                Op::Finish { of, rows, dtype: DType::F32, empty_row: EmptyRow::Nan, lse: s.n[0] > 2 },
                g.results(x.op).into_iter().chain((s.n[1] > 3).then_some(y)).collect(),
            )
        }
        45 | 46 => {
            let mut inner = Graph::new(s.name.clone());
            let (a, b) = (inner.input(&s.name, t.clone()), inner.input("b", g.ty(y).clone()));
            let r = inner.add1(Op::Cast(DType::F32), &[a], &s.name, "").expect("a cast takes any type");
            inner.output("r", r);
            inner.output("b", b);
            let island = RegionKind::Island {
                strategy: annulus::ir::Strategy::ALL[s.n[1] % 4],
                layout: LayoutKind::ALL[s.n[0] % 2],
            };
            let kind = if kind == 45 { RegionKind::Segment } else { island };
            (Op::Region(kind, Arc::new(inner)), vec![x, y])
        }
        47..50 => {
            let n = t.rank().saturating_sub(2);
            let windows = Windows {
                strides: vec![1 + s.n[0]; n],
                dilations: vec![1 + s.n[1] % 2; n],
                low: vec![s.n[2]; n],
                high: vec![s.n[3] % 2; n],
            };
            let kind = [Reduction::Max, Reduction::Mean][s.n[3] % 2];
            match kind_of_window(s) {
                true => (Op::Pool { kind, kernel: vec![1 + s.n[2] % 2; n], windows }, vec![x]),
                false => (Op::Conv { windows, groups: 1 + s.n[3] % 2 }, vec![x, like(x)]),
            }
        }
        50 | 51 => {
            let results = [t.clone(), Type::new(DType::I64, shape(s))];
            let mut o = Opaque::new(s.name.clone(), "Op", results.into_iter().take(1 + s.n[0] % 2));
            let number = Attribute::Float(f32::from_bits(s.bits as u32));
            let graph = Attribute::Encoded(MessageKind::Graph, vec![Blob::new(s.name.as_bytes())]);
            o.attributes = vec![(format!("a{}", s.name), number), ("g".to_owned(), graph)];
            o.left_out = if s.n[1] > 2 { vec![1] } else { vec![] };
            o.captured = if s.n[2] > 2 { vec![format!("y{}", s.name)] } else { vec![] };
            let rows = RowAxes { operands: vec![Some(axis)], result: axis };
            o.rowwise = (kind == 51 && s.n[0].is_multiple_of(2) && t.rank() > 0).then_some(rows);
            (Op::Opaque(o.into()), vec![x, y, z])
        }
        _ if s.bits % 4 == 1 => {
            let kind = [Reduction::Sum, Reduction::Max, Reduction::Min, Reduction::Prod][s.n[3] % 4];
            (Op::AllReduce { kind, ranks: s.n[0], dtype: t.dtype }, vec![x])
        }
        _ if s.bits.is_multiple_of(4) => {
            let results = vec![t.clone(), Type::new(DType::F16, shape(s))];
            (Op::Call { number: s.n[0], results, workspace: s.n[1] }, vec![x, y])
        }
        _ => {
            let length = t.shape.get(axis).copied().unwrap_or(0);
            let own = if length > 0 { vec![Progression::range(1, length)] } else { vec![] };
            (
                Op::Unshard { axis, outer: 1, inner: 1, rows: vec![own, vec![Progression::range(0, 1)]] },
                vec![x],
            )
        }
    }
}

fn kind_of_window(s: &Step) -> bool {
    s.bits.is_multiple_of(2)
}

/// The mnemonics of a graph's operations.
pub(crate) fn mnemonics(g: &Graph) -> BTreeSet<&'static str> {
    g.ops().into_iter().map(|id| g.op(id).name()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_random_graph_prints_and_parses_back(steps in steps()) {
        let g = graph(&steps);
        prop_assert_eq!(verify(&g), Ok(()));
        for form in [Form::People, Form::Full] {
            let text = print(&g, form);
            let back = match parse(&text) {
                Ok(back) => back,
                Err(e) => return Err(TestCaseError::fail(format!("{e}\n{text}"))),
            };
            prop_assert!(back == g, "{}", text);
            prop_assert_eq!(print(&back, form), text.as_str());
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
            if form == Form::Full {
                // Equality looks at hashes; the data is compared here.
                let data = |g: &Graph| -> Vec<Option<Arc<Tensor>>> {
                    let values = g.ops().into_iter().flat_map(|id| g.results(id));
                    values.filter_map(|v| g.as_constant(v)).map(|c| c.data.clone()).collect()
                };
                prop_assert_eq!(data(&back), data(&g));
            }
        }
    }
}

#[test]
fn random_graphs_reach_every_operation() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let steps = steps().new_tree(&mut runner).expect("steps are never rejected").current();
        seen.extend(mnemonics(&graph(&steps)));
    }
    let all = super::every_mnemonic();
    let missing: Vec<_> = all.difference(&seen).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
