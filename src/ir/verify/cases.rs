//! Case files of `tests/inside/ir/verify_fail`: a graph as text with the faults that are planted in it, one idea each. What the
//! verifier says of it is a snapshot, and every invariant is broken by some case.
//!
//! ```text
//! // fault: use %z 1 %x            %z reads %x in slot 1 too
//! // fault: operands %z %x %x:1    %z reads these and nothing else; a colon names a further result
//! // fault: replace %x %z          what read %x reads %z
//! // fault: remove %y              with its uses
//! // fault: op %y %z               %y is the operation that %z is
//! // fault: type %y f32[1]
//! // fault: name %y x              the rest of the line; nothing for no name
//! // fault: inputs %x %x           the list of inputs
//! // fault: output more %x:1       an output beside those that there are
//! // fault: data %c %d             the constant %c has the data of %d
//! // fault: hash %c 17             and claims this hash
//! // fault: group %s 0             the transfer %s is of that group
//! // fault: tile %o full           the partial %o claims that no pair is masked
//! // fault: rows %o 5000           its rows and keys are so many, each apart from the next
//! // fault: wrap 33                the graph is the inner one of so many, one in the other
//! // fault in %r: …                in the graph of a region
//! ```

use super::{Broken, verify, verify_at};
use crate::inside::support::cases::{files, reviewed, stem};
use crate::ir::{Collective, Constant, DType, Graph, Op, Partial, RegionKind, Stage, Type, ValueId, parse};
use crate::layout::Progression;
use crate::mask::Tile;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The value of that name; behind a colon, another result of its operation, there or not.
fn value(g: &Graph, word: &str) -> ValueId {
    let name = word.strip_prefix('%').unwrap_or_else(|| panic!("{word} is no value"));
    let (name, port) = name.split_once(':').map_or((name, 0), |(name, port)| (name, port.parse().unwrap()));
    let found = g.ops().into_iter().find(|&id| g.value(g.result(id)).name == name);
    ValueId { op: found.unwrap_or_else(|| panic!("there is no %{name}")), port }
}

fn ty(word: &str) -> Type {
    let (dtype, extents) = word.strip_suffix(']').and_then(|w| w.split_once('[')).unwrap();
    let extents: Vec<usize> =
        extents.split(',').filter(|e| !e.is_empty()).map(|e| e.parse().unwrap()).collect();
    Type::new(DType::from_name(dtype).unwrap(), extents)
}

/// The constant behind a value.
fn constant<'g>(g: &'g mut Graph, word: &str) -> &'g mut Constant {
    let v = value(g, word);
    let Op::Constant(c) = g.faulty_op(v.op) else { panic!("{word} is no constant") };
    c
}

/// The partial attention behind a value.
fn partial<'g>(g: &'g mut Graph, word: &str) -> &'g mut Partial {
    let v = value(g, word);
    let Op::Partial(p) = g.faulty_op(v.op) else { panic!("{word} is no partial") };
    p
}

fn plant(g: &mut Graph, fault: &str) {
    let (command, rest) = fault.split_once(' ').unwrap_or((fault, ""));
    let words: Vec<&str> = rest.split_whitespace().collect();
    let values = |g: &Graph, words: &[&str]| words.iter().map(|w| value(g, w)).collect::<Vec<_>>();
    match (command, words.as_slice()) {
        ("use", [user, slot, v]) => {
            let (user, v) = (value(g, user).op, value(g, v));
            g.faulty_use(user, slot.parse().unwrap(), v);
        }
        ("operands", [user, operands @ ..]) => {
            let (user, operands) = (value(g, user).op, values(g, operands));
            g.faulty_operands(user, &operands);
        }
        ("replace", [old, new]) => {
            let (old, new) = (value(g, old), value(g, new));
            g.replace(old, new).unwrap();
        }
        ("remove", [v]) => {
            let v = value(g, v);
            g.faulty_remove(v.op);
        }
        ("op", [v, like]) => {
            let (v, like) = (value(g, v), value(g, like));
            *g.faulty_op(v.op) = g.op(like.op).clone();
        }
        ("type", [v, to]) => {
            let v = value(g, v);
            g.faulty_value(v).ty = ty(to);
        }
        ("name", [v, ..]) => {
            let (v, name) = (value(g, v), rest.strip_prefix(v).unwrap().trim());
            g.faulty_value(v).name = name.to_owned();
        }
        ("inputs", inputs) => {
            let inputs = values(g, inputs).into_iter().map(|v| v.op).collect();
            g.faulty_inputs(inputs);
        }
        ("output", [name, v]) => {
            let v = value(g, v);
            g.faulty_output(name, v);
        }
        ("data", [c, of]) => {
            let data = constant(g, of).data.clone();
            constant(g, c).data = data;
        }
        ("hash", [c, hash]) => constant(g, c).hash = u64::from_str_radix(hash, 16).unwrap(),
        ("group", [v, to]) => {
            let v = value(g, v);
            let Op::Start(c, _) = g.faulty_op(v.op) else { panic!("starts nothing") };
            match &mut **c {
                Collective::SendRecv { group, .. }
                | Collective::AllGather { group, .. }
                | Collective::AllToAll { group, .. } => {
                    *group = to.parse().unwrap();
                }
            }
        }
        ("tile", [v, "full"]) => partial(g, v).tile = Tile::Full,
        ("rows", [v, n]) => {
            let apart: Vec<Progression> =
                (0..n.parse().unwrap()).map(|i: usize| Progression::range(2 * i, 1)).collect();
            let p = partial(g, v);
            (p.q_rows, p.k_rows) = (apart.clone(), apart);
        }
        ("wrap", [times]) => {
            for _ in 0..times.parse().unwrap() {
                let mut outer = Graph::new("outer");
                let x = outer.input("x", g.ty(g.inputs()[0]).clone());
                let region = Op::Region(RegionKind::Segment, Arc::new(std::mem::take(g)));
                let r = outer.add1(region, &[x], "r", "").unwrap();
                outer.output("out", r);
                *g = outer;
            }
        }
        _ => panic!("{fault:?} is no fault"),
    }
}

/// The graph of a case, and the same with its faults.
fn read(text: &str) -> (Graph, Graph) {
    let sound = parse(text).unwrap_or_else(|e| panic!("{e}"));
    let mut g = sound.clone();
    for line in text.lines().filter_map(|l| l.strip_prefix("// fault")) {
        let (place, fault) = line.split_once(':').unwrap();
        match place.strip_prefix(" in ") {
            None => plant(&mut g, fault.trim_start()),
            Some(region) => {
                let v = value(&g, region);
                let Op::Region(_, inner) = g.faulty_op(v.op) else { panic!("{region} is no region") };
                plant(Arc::make_mut(inner), fault.trim_start());
            }
        }
    }
    (sound, g)
}

/// A number for every invariant. The match has no wildcard, so that a new one must be added here, and is then wanted of the
/// case files.
fn number(broken: &Broken) -> usize {
    match broken {
        Broken::Cycle => 0,
        Broken::Slots(_) => 1,
        Broken::NoOperand => 2,
        Broken::Operands(_) => 3,
        Broken::Types { .. } => 4,
        Broken::TooLarge => 5,
        Broken::Unnamed => 6,
        Broken::NameTaken(_) => 7,
        Broken::Unlisted => 8,
        Broken::NoInput => 9,
        Broken::NoValue => 10,
        Broken::OutputTwice => 11,
        Broken::DataType { .. } => 12,
        Broken::DataHash(_) => 13,
        Broken::GroupZero => 14,
        Broken::GroupTwice(_) => 15,
        Broken::NotAwaited(_) => 16,
        Broken::StartedOutput => 17,
        Broken::NotStarted => 18,
        Broken::NotFull { .. } => 19,
        Broken::NotProvedFull => 20,
        Broken::TooDeep => 21,
        // Only where the stage is known: the test below.
        Broken::Stage(_) => 22,
    }
}

#[test]
fn every_invariant_is_broken_by_a_case() {
    let mut seen = BTreeSet::new();
    for path in files("inside/ir/verify_fail") {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = stem(&path);
        let (sound, faulty) = read(&text);
        assert_eq!(verify(&sound), Ok(()), "{name}");
        let errors = verify(&faulty).expect_err(&name);
        seen.extend(errors.iter().map(|e| number(&e.why)));
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        reviewed("ir", &format!("broken_{name}"), &text, &lines.join("\n"));
    }
    assert!(seen.into_iter().eq(0..22));
}

#[test]
fn an_operation_of_another_stage_is_broken() {
    let mut out = String::new();
    for case in ["attention", "island", "all_gather", "call"] {
        let path = format!("{}/tests/inside/ir/{case}.txt", env!("CARGO_MANIFEST_DIR"));
        let graph = parse(&std::fs::read_to_string(path).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(verify(&graph), Ok(()), "{case}");
        for stage in Stage::ALL {
            let found = match verify_at(&graph, stage) {
                Ok(()) => "well formed".into(),
                Err(errors) => {
                    assert!(errors.iter().all(|e| matches!(e.why, Broken::Stage(_))), "{case}: {errors:?}");
                    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n    ")
                }
            };
            out += &format!("{case} as {stage:?}\n    {found}\n");
        }
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots/ir"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("broken_stages", out));
}
