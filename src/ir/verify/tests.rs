//! Every broken invariant is found and named, one fault planted at a time.

use super::*;
use crate::ir::{Attention, Binary, Collective, DType, Data, RegionKind, Tensor, Unary, Value, ValueId};
use crate::layout::Progression;

fn f32(shape: &[usize]) -> Type {
    Type::new(DType::F32, shape)
}

/// `%y = neg %x`, `%z = add %x, %y`, output z.
fn small() -> (Graph, [ValueId; 3]) {
    let mut g = Graph::new("small");
    let x = g.input("x", f32(&[2]));
    let y = g.add1(Op::Unary(Unary::Neg), &[x], "y", "node y").unwrap();
    let z = g.add1(Op::Binary(Binary::Add), &[x, y], "z", "").unwrap();
    g.output("out", z);
    (g, [x, y, z])
}

/// `%s = sendrecv_start %x`, `%w = wait %s`, output w.
fn transfer(group: usize) -> (Graph, [ValueId; 3]) {
    let mut g = Graph::new("transfer");
    let ty = f32(&[1, 1, 2, 4]);
    let x = g.input("x", ty.clone());
    let s = g.add1(send(group, &ty), &[x], "s", "").unwrap();
    let w = g.add1(Op::Wait, &[s], "w", "").unwrap();
    g.output("out", w);
    (g, [x, s, w])
}

fn send(group: usize, ty: &Type) -> Op {
    let rows = vec![Progression::range(0, 2)];
    Op::Start(Box::new(Collective::SendRecv { group, to: Some(1), from: Some(1), rows }), ty.clone())
}

/// The errors as lines.
#[track_caller]
fn broken(g: &Graph) -> Vec<String> {
    verify(g).expect_err("a fault was planted").iter().map(ToString::to_string).collect()
}

#[test]
fn a_sound_graph_has_no_error() {
    assert_eq!(verify(&small().0), Ok(()));
    assert_eq!(verify(&transfer(1).0), Ok(()));
    assert_eq!(verify(&Graph::new("")), Ok(()));
}

#[test]
fn a_cycle() {
    let (mut g, [x, y, z]) = small();
    g.replace(x, z);
    assert_eq!(
        broken(&g),
        [
            "%y (neg, @\"node y\"): needs its own result, or that of an operation that does",
            "%x (add): needs its own result, or that of an operation that does",
        ]
    );
    assert!(g.contains(y));
}

#[test]
fn an_operand_slot_that_is_filled_twice_or_not() {
    let (mut g, [x, _, z]) = small();
    g.faulty_use(z.op, 1, x);
    assert_eq!(broken(&g), ["%z (add): operands fill the slots [0, 1, 1]"]);
    let (mut g, [x, y, _]) = small();
    g.faulty_use(y.op, 2, x);
    assert_eq!(broken(&g), ["%y (neg, @\"node y\"): operands fill the slots [0, 2]"]);
}

#[test]
fn an_operand_that_is_no_result() {
    let (mut g, [x, y, _]) = small();
    let no = ValueId { op: x.op, port: 1 };
    let value = Value { name: "v".into(), ty: f32(&[2]) };
    g.insert(Op::Unary(Unary::Exp), &[no], vec![value], "");
    assert_eq!(broken(&g), ["%v (exp): an operand is a result that its operation does not have"]);
    assert!(g.contains(y));
}

#[test]
fn an_operand_that_was_removed() {
    let (mut g, [x, y, _]) = small();
    g.faulty_remove(y.op);
    assert_eq!(broken(&g), ["%z (add): wants 2 operands, has 1"]);
    g.faulty_remove(x.op);
    let errors = broken(&g);
    assert_eq!(
        errors,
        ["%z (add): wants 2 operands, has 0", "graph \"small\": the list of inputs holds what is no input"]
    );
}

#[test]
fn a_type_that_inference_does_not_give() {
    let (mut g, [_, y, _]) = small();
    g.faulty_value(y).ty = f32(&[1]);
    assert_eq!(broken(&g), ["%y (neg, @\"node y\"): is declared as f32[1], but gives f32[2]"]);
}

#[test]
fn an_operation_that_does_not_take_its_operands() {
    let (mut g, [_, y, _]) = small();
    *g.faulty_op(y.op) = Op::Unary(Unary::Not);
    assert_eq!(broken(&g), ["%y (neg, @\"node y\"): does not take f32[2]".replace("neg", "not")]);
}

#[test]
fn an_attention_whose_scale_is_no_number() {
    let mut g = Graph::new("attention");
    let q = g.input("q", f32(&[1, 2, 3, 4]));
    let op = Op::Attention(Box::new(Attention::plain(0.5, DType::F32)));
    let o = g.add1(op, &[q, q, q], "o", "").unwrap();
    *g.faulty_op(o.op) = Op::Attention(Box::new(Attention::plain(f64::NAN, DType::F32)));
    assert_eq!(broken(&g), ["%o (attention): scale NaN or softcap 0 is no number"]);
    *g.faulty_op(o.op) = Op::Attention(Box::new(Attention::plain(0.5, DType::F16)));
    assert_eq!(broken(&g), ["%o (attention): cannot accumulate in f16"]);
    let mut infinite = Attention::plain(0.5, DType::F32);
    infinite.mask = Mask { fill: Fill::Add(f64::NEG_INFINITY), ..Mask::causal(0) };
    *g.faulty_op(o.op) = Op::Attention(Box::new(infinite));
    assert_eq!(broken(&g), ["%o (attention): the mask fills with -inf, which is not finite"]);
}

#[test]
fn a_value_that_is_too_large() {
    let mut g = Graph::new("large");
    g.input("x", f32(&[1 << 20, 1 << 20, 2]));
    g.input("y", f32(&[0, usize::MAX, usize::MAX]));
    g.input("z", f32(&[1; 65]));
    let errors = broken(&g);
    assert_eq!(errors[0], "%x (input): a result has more than 2^40 elements or 64 axes");
    for name in ["%x", "%y", "%z"] {
        assert!(errors.iter().any(|e| e.starts_with(name)), "{errors:?}");
    }
}

#[test]
fn a_name_that_is_empty_or_taken() {
    let (mut g, [_, y, _]) = small();
    g.faulty_value(y).name.clear();
    assert_eq!(broken(&g), ["%\"\" (neg, @\"node y\"): a result has no name"]);
    g.faulty_value(y).name.push('x');
    assert_eq!(broken(&g), ["%x (neg, @\"node y\"): the name %x is that of another value too"]);
}

#[test]
fn a_list_of_inputs_that_is_not_that_of_the_operations() {
    let (mut g, [x, y, _]) = small();
    let missing = "%x (input): the list of inputs does not hold this input once";
    let no_input = "graph \"small\": the list of inputs holds what is no input";
    g.faulty_inputs(vec![]);
    assert_eq!(broken(&g), [missing]);
    g.faulty_inputs(vec![x.op, x.op]);
    assert_eq!(broken(&g), [missing]);
    g.faulty_inputs(vec![x.op, y.op]);
    assert_eq!(broken(&g), [no_input]);
}

#[test]
fn an_output_that_does_not_exist_or_is_named_twice() {
    let (mut g, [x, y, _]) = small();
    g.output("out", y);
    assert_eq!(broken(&g), ["output \"out\": another output has this name"]);
    let (mut g, _) = small();
    g.output("more", ValueId { op: x.op, port: 1 });
    assert_eq!(broken(&g), ["output \"more\": is a value that does not exist"]);
    let (mut g, [_, _, z]) = small();
    g.faulty_remove(z.op);
    assert_eq!(broken(&g), ["output \"out\": is a value that does not exist"]);
}

#[test]
fn a_constant_that_is_not_what_it_claims() {
    let data = Arc::new(Tensor::vector_i64(&[1, 2, 3]));
    let sound = Constant::new(Tensor::new(vec![3], data.data().clone()).unwrap());
    let mut g = Graph::new("constant");
    let other = Type::new(DType::I64, vec![4]);
    g.weight("c", Constant { ty: other, ..sound.clone() });
    assert_eq!(broken(&g), ["%c (const): the data is i64[3], not i64[4]"]);
    let mut g = Graph::new("constant");
    g.weight("c", Constant { hash: 0x17, ..sound.clone() });
    assert_eq!(broken(&g), ["%c (const): the data does not hash to #0000000000000017"]);
    let mut g = Graph::new("constant");
    g.weight("c", Constant { data: None, hash: 0x17, ..sound.clone() });
    g.weight("d", sound);
    assert_eq!(verify(&g), Ok(()));
    assert!(matches!(data.data(), Data::I64(_)));
}

#[test]
fn a_transfer_that_is_not_waited_for_once() {
    let (mut g, [_, s, w]) = transfer(1);
    let read = |by| format!("%s (sendrecv_start): is read by {by}; want one wait, and nothing else");
    g.add(Op::Wait, &[s], "w2", "").unwrap();
    assert_eq!(broken(&g), [read("wait, wait")]);

    let (mut g, [_, s, _]) = transfer(1);
    g.add(Op::Unary(Unary::Neg), &[s], "n", "").unwrap();
    assert_eq!(broken(&g), [read("wait, neg")]);

    let (mut g, _) = transfer(1);
    g.faulty_remove(w.op);
    assert_eq!(broken(&g), [&read("nothing"), "output \"out\": is a value that does not exist"]);

    let (mut g, [_, s, _]) = transfer(1);
    g.output("early", s);
    assert_eq!(broken(&g), ["%s (sendrecv_start): a started transfer is an output"]);
}

#[test]
fn a_wait_for_what_was_not_started() {
    let (mut g, [x, _, _]) = transfer(1);
    g.add(Op::Wait, &[x], "w2", "").unwrap();
    assert_eq!(broken(&g), ["%w2 (wait): waits for what is no started transfer"]);
}

#[test]
fn a_group_that_is_zero_or_started_twice() {
    assert_eq!(broken(&transfer(0).0), ["%s (sendrecv_start): groups count from 1"]);
    let (mut g, [x, _, _]) = transfer(1);
    let s = g.add1(send(1, &f32(&[1, 1, 2, 4])), &[x], "s2", "").unwrap();
    g.add(Op::Wait, &[s], "w2", "").unwrap();
    assert_eq!(broken(&g), ["%s2 (sendrecv_start): group 1 is started twice"]);
}

#[test]
fn a_tile_that_is_not_full() {
    let mut g = Graph::new("tile");
    let q = g.input("q", f32(&[1, 2, 4, 3]));
    let kv = g.input("kv", f32(&[1, 1, 4, 5]));
    let part = |k_start, tile| {
        let attention = Attention { mask: Mask::causal(0), ..Attention::plain(0.5, DType::F32) };
        Op::Partial(Box::new(Partial {
            attention: Arc::new(attention),
            v_head_dim: 2,
            q_rows: vec![Progression::range(4, 4)],
            k_rows: vec![Progression::range(k_start, 4)],
            tile,
        }))
    };
    g.add(part(0, Tile::Full), &[q, kv], "sound", "").unwrap();
    g.add(part(4, Tile::Partial), &[q, kv], "diagonal", "").unwrap();
    assert_eq!(verify(&g), Ok(()));
    g.add(part(4, Tile::Full), &[q, kv], "o", "").unwrap();
    assert_eq!(
        broken(&g),
        [
            "%o, %o.1, %o.2 (attn_partial): claims that no pair is masked, but causal(0) does in rows 4:4 and keys 4:4"
        ]
    );
}

#[test]
fn a_tile_of_too_many_rows() {
    let rows = |n: usize| (0..n).map(|i| Progression::range(2 * i, 1)).collect::<Vec<_>>();
    let attention = Arc::new(Attention::plain(0.5, DType::F32));
    let part = Partial { attention, v_head_dim: 2, q_rows: rows(5000), k_rows: rows(5000), tile: Tile::Full };
    assert_eq!(not_full(&part).as_deref(), Some("has too many rows to prove that its tile is full"));
}

#[test]
fn a_fault_in_a_region() {
    let (mut inner, [_, y, _]) = small();
    let ty = f32(&[2]);
    inner.faulty_value(y).ty = f32(&[1]);
    let mut g = Graph::new("outer");
    let x = g.input("x", ty);
    let inner = Arc::new(inner);
    g.add(Op::Region(RegionKind::Segment, inner.clone()), &[x], "r", "").unwrap();
    g.add(Op::Region(RegionKind::Segment, inner), &[x], "again", "").unwrap();
    assert_eq!(
        broken(&g),
        ["%r (segment) in %y (neg, @\"node y\"): is declared as f32[1], but gives f32[2]"],
        "a shared region is reported once"
    );
}

#[test]
fn a_region_whose_output_or_input_does_not_exist() {
    let why = "its graph has an input or output that does not exist";
    let within = |inner: Graph| {
        let mut g = Graph::new("outer");
        let x = g.input("x", f32(&[2]));
        let results = vec![Value { name: "r".into(), ty: f32(&[2]) }];
        let op = Op::Region(RegionKind::Segment, Arc::new(inner.clone()));
        assert_eq!(g.clone().add(op.clone(), &[x], "r", "").unwrap_err().why, why);
        g.insert(op, &[x], results, "");
        assert_eq!(broken(&g)[0], format!("%r (segment): {why}"));
    };
    let (mut inner, [x, _, _]) = small();
    inner.output("more", ValueId { op: x.op, port: 1 });
    within(inner);
    let (mut inner, [x, _, _]) = small();
    inner.faulty_remove(x.op);
    within(inner);
}

#[test]
fn regions_that_nest_too_deep() {
    let nested = |depth| {
        let (mut g, _) = small();
        for _ in 0..depth {
            let mut outer = Graph::new("outer");
            let x = outer.input("x", f32(&[2]));
            let r = outer.add1(Op::Region(RegionKind::Segment, Arc::new(g)), &[x], "r", "").unwrap();
            outer.output("out", r);
            g = outer;
        }
        g
    };
    assert_eq!(verify(&nested(MAX_NESTING)), Ok(()));
    let errors = broken(&nested(MAX_NESTING + 1));
    assert_eq!(errors.len(), 1);
    assert!(errors[0].ends_with("%r (segment): graphs nest deeper than 32"), "{errors:?}");
}
