//! Guards against what is no number, of every kind and at every place, around every spelling of a softmax and every mask: whatever is
//! found computes what the model computes, wherever the model's outputs are numbers.

use super::models::folders;
use crate::inside::support::data;
use annulus::Options;
use annulus::eval::{Precision, compare, eval};
use annulus::find::{FindOptions, find};
use annulus::import::ImportOptions;
use annulus::import::case::{Stored, load};
use annulus::ir::{DType, Graph, Tensor, parse};
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;
use std::sync::Mutex;

const ROWS: usize = 4;
const KEYS: usize = 5;

/// How the softmax of `%x` is spelled, and what it gives as `%p`. `%s` are the scores before masks.
const SOFTMAXES: [(&str, &str); 16] = [
    ("operator", "%p: S = softmax %x {axis=3}"),
    ("without max", "%e: S = exp %x\n%l: R = reduce %e {sum, axes=[3], keep}\n%p: S = div %e, %l"),
    (
        "shifted",
        "%m: R = reduce %x {max, axes=[3], keep}\n%d: S = sub %x, %m\n%e: S = exp %d\n%l: R = reduce %e {sum, axes=[3], keep}\n%p: S = div %e, %l",
    ),
    (
        "shifted before masks",
        "%m: R = reduce %s {max, axes=[3], keep}\n%d: S = sub %x, %m\n%e: S = exp %d\n%l: R = reduce %e {sum, axes=[3], keep}\n%p: S = div %e, %l",
    ),
    (
        "operator of shifted",
        "%m: R = reduce %s {max, axes=[3], keep}\n%d: S = sub %x, %m\n%p: S = softmax %d {axis=3}",
    ),
    (
        "max or zero",
        "%m0: R = reduce %x {max, axes=[3], keep}\n%inf: B = isinf %m0\n%m: R = select %inf, %zero, %m0\n%d: S = sub %x, %m\n%e: S = exp %d\n%l: R = reduce %e {sum, axes=[3], keep}\n%p: S = div %e, %l",
    ),
    (
        "bounded sum",
        "%m0: R = reduce %x {max, axes=[3], keep}\n%inf: B = isinf %m0\n%m: R = select %inf, %zero, %m0\n%d: S = sub %x, %m\n%e: S = exp %d\n%l0: R = reduce %e {sum, axes=[3], keep}\n%l: R = max %l0, %tiny\n%p: S = div %e, %l",
    ),
    (
        "sum unless zero",
        "%m0: R = reduce %x {max, axes=[3], keep}\n%inf: B = isinf %m0\n%m: R = select %inf, %zero, %m0\n%d: S = sub %x, %m\n%e: S = exp %d\n%l0: R = reduce %e {sum, axes=[3], keep}\n%none: B = eq %l0, %zero\n%l: R = select %none, %one, %l0\n%p: S = div %e, %l",
    ),
    (
        "sum unless zero, without max",
        "%e: S = exp %x\n%l0: R = reduce %e {sum, axes=[3], keep}\n%none: B = eq %l0, %zero\n%l: R = select %none, %one, %l0\n%p: S = div %e, %l",
    ),
    (
        "log softmax",
        "%m: R = reduce %x {max, axes=[3], keep}\n%d: S = sub %x, %m\n%e: S = exp %d\n%l: R = reduce %e {sum, axes=[3], keep}\n%g: R = log %l\n%f: S = sub %d, %g\n%p: S = exp %f",
    ),
    (
        "log softmax before masks",
        "%m: R = reduce %s {max, axes=[3], keep}\n%d: S = sub %x, %m\n%e: S = exp %d\n%l: R = reduce %e {sum, axes=[3], keep}\n%g: R = log %l\n%f: S = sub %d, %g\n%p: S = exp %f",
    ),
    (
        "one more",
        "%m: R = reduce %x {max, axes=[3], keep}\n%d: S = sub %x, %m\n%e: S = exp %d\n%l0: R = reduce %e {sum, axes=[3], keep}\n%n0: R = neg %m\n%n1: R = exp %n0\n%l: R = add %l0, %n1\n%p: S = div %e, %l",
    ),
    (
        "one more, max or zero",
        "%m0: R = reduce %x {max, axes=[3], keep}\n%inf: B = isinf %m0\n%m: R = select %inf, %zero, %m0\n%d: S = sub %x, %m\n%e: S = exp %d\n%l0: R = reduce %e {sum, axes=[3], keep}\n%n0: R = neg %m\n%n1: R = exp %n0\n%l: R = add %l0, %n1\n%p: S = div %e, %l",
    ),
    (
        "one more, without max",
        "%e: S = exp %x\n%l0: R = reduce %e {sum, axes=[3], keep}\n%l: R = add %l0, %one\n%p: S = div %e, %l",
    ),
    (
        "times a mask",
        "%e0: S = exp %x\n%kf: f32[4,5] = cast %keep\n%e: S = mul %e0, %kf\n%l: R = reduce %e {sum, axes=[3], keep}\n%p: S = div %e, %l",
    ),
    ("zeros by a mask", "%p0: S = softmax %x {axis=3}\n%p: S = select %keep, %p0, %zero"),
];

/// What makes `%x` of the scores `%s`.
const MASKS: [(&str, &str); 13] = [
    ("none", "%x: S = mul %s, %one"),
    ("where −∞", "%x: S = select %keep, %s, %ninf"),
    ("where −10000", "%x: S = select %keep, %s, %fill"),
    ("where −∞ of an input", "%x: S = select %pad, %s, %ninf"),
    ("added −∞", "%b: f32[4,5] = select %keep, %zero, %ninf\n%x: S = add %s, %b"),
    ("added −10000", "%b: f32[4,5] = select %keep, %zero, %fill\n%x: S = add %s, %b"),
    ("an input is added", "%x: S = add %s, %bias"),
    ("+∞ is added", "%x: S = add %s, %above"),
    ("+∞ is added, then where −∞", "%y0: S = add %s, %above\n%x: S = select %keep, %y0, %ninf"),
    ("where −∞, then +∞ is added", "%y0: S = select %keep, %s, %ninf\n%x: S = add %y0, %above"),
    (
        "−∞ and an input are added",
        "%b: f32[4,5] = select %keep, %zero, %ninf\n%y0: S = add %s, %b\n%x: S = add %y0, %bias",
    ),
    ("where the least number", "%x: S = select %past, %s, %least"),
    (
        "capped",
        "%t0: S = mul %s, %tenth\n%t1: S = tanh %t0\n%t2: S = mul %t1, %ten\n%x: S = select %keep, %t2, %ninf",
    ),
];

/// Guards of a value `%X` of type T with truth values of type C: what they give is `%Y`.
const GUARDS: [(&str, &str); 9] = [
    ("isnan", "%Yn: C = isnan %X\n%Y: T = select %Yn, %zero, %X"),
    ("isnan to 7", "%Yn: C = isnan %X\n%Y: T = select %Yn, %seven, %X"),
    ("equal to itself", "%Yn: C = eq %X, %X\n%Y: T = select %Yn, %X, %zero"),
    (
        "nan to num",
        "%Yn: C = isnan %X\n%Y0: T = select %Yn, %zero, %X\n%Yi: C = eq %Y0, %pinf\n%Y1: T = select %Yi, %big, %Y0\n%Yj: C = eq %Y1, %ninf\n%Y: T = select %Yj, %fill, %Y1",
    ),
    ("clip", "%Y0: T = max %X, %fill\n%Y: T = min %Y0, %big"),
    ("isinf", "%Yn: C = isinf %X\n%Y: T = select %Yn, %seven, %X"),
    ("below a bound", "%Yn: C = lt %X, %big\n%Y: T = select %Yn, %X, %zero"),
    ("as integers", "%Yi: I = cast %X\n%Y: T = cast %Yi"),
    (
        "the greatest of a row",
        "%Yv, %Yi: U, V = topk %X {axis=3, k=1, largest}\n%Yf: U = cast %Yi\n%Y: T = add %X, %Yf",
    ),
];

/// Where a guard stands, if anywhere.
const PLACES: [&str; 8] = [
    "nowhere",
    "on P",
    "behind PV",
    "behind the projection",
    "behind the residual",
    "behind a norm",
    "on P of the next layer",
    "behind PV of the next layer",
];

#[derive(Clone, Debug)]
struct Model {
    softmax: usize,
    mask: usize,
    guard: usize,
    place: usize,
    /// The sum divides after the product with V, where there is one.
    after: bool,
    /// Whether the residual sum is kept.
    residual: bool,
    /// Whether only the last row is an output.
    last: bool,
    /// How the next layer, if there is one, masks: not at all, by a choice of −∞, or by an addition.
    next: usize,
    seed: u64,
    large: bool,
    /// An element of an input that is no number.
    odd: usize,
}

fn model() -> impl Strategy<Value = Model> {
    let flags = any::<[bool; 4]>();
    let kinds = (0..SOFTMAXES.len(), 0..MASKS.len(), 0..GUARDS.len(), 0..PLACES.len(), 0..3usize, 0..8usize);
    (kinds, flags, any::<u64>()).prop_map(|((softmax, mask, guard, place, next, odd), flags, seed)| {
        let [after, residual, last, large] = flags;
        // Which index NaN has, no model expects in the next layer: there tests and comparisons count.
        let guard = if PLACES[place].ends_with("next layer") { guard % 7 } else { guard };
        Model { softmax, mask, guard, place, after, residual, last, next, seed, large, odd }
    })
}

/// A guard of a value of a shape.
fn guarded(model: &Model, x: &str, y: &str, shape: &str) -> String {
    let cut = shape.rfind(',').unwrap();
    let one = format!("{},1", &shape[..cut]);
    GUARDS[model.guard]
        .1
        .replace("%X", x)
        .replace("%Y", y)
        .replace(": T", &format!(": f32[{shape}]"))
        .replace(": C", &format!(": bool[{shape}]"))
        .replace(": I", &format!(": i64[{shape}]"))
        .replace(": U, V", &format!(": f32[{one}], i64[{one}]"))
        .replace(": U", &format!(": f32[{one}]"))
}

impl Model {
    fn at(&self, place: &str) -> bool {
        PLACES[self.place] == place
    }

    fn text(&self) -> String {
        const OUT: &str = "1,2,4,3";
        let mut body = vec![
            "input %q: f32[1,2,4,3]\ninput %k: f32[1,2,5,3]\ninput %v: f32[1,2,5,3]\ninput %bias: f32[4,5]\ninput %pad: bool[1,1,1,5]".into(),
            "const %zero: f32[] = 0.0\nconst %one: f32[] = 1.0\nconst %seven: f32[] = 7.0\nconst %tenth: f32[] = 0.1\nconst %ten: f32[] = 10.0".into(),
            "const %ninf: f32[] = -inf\nconst %pinf: f32[] = inf\nconst %fill: f32[] = -10000.0\nconst %big: f32[] = 9000.0".into(),
            "const %tiny: f32[] = 0.0000001\nconst %least: f32[] = -3.4028235e38".into(),
            format!("const %past: bool[4,5] = {}", list((0..ROWS * KEYS).map(|n| n % KEYS < n / KEYS))),
            format!("const %keep: bool[4,5] = {}", self.keep()),
            format!("const %above: f32[4,5] = {}", self.above()),
            "const %w: f32[3,3] = [0.5, -0.25, 1.0, 0.75, 0.5, -1.0, 0.25, 1.5, 0.5]".into(),
            "%s: f32[1,2,4,5] = contract %q, %k {bhid,bhjd->bhij}".into(),
            MASKS[self.mask].1.into(),
        ];
        let (name, softmax) = SOFTMAXES[self.softmax];
        let quotient = "\n%p: S = div %e, %l";
        if self.after && softmax.ends_with(quotient) && !self.at("on P") && name != "times a mask" {
            body.push(softmax.replace(quotient, ""));
            body.push(
                "%oe: f32[1,2,4,3] = contract %e, %v {bhij,bhjd->bhid}\n%o: f32[1,2,4,3] = div %oe, %l"
                    .into(),
            );
        } else {
            body.push(softmax.into());
            let mut p = "%p";
            if self.at("on P") {
                body.push(guarded(self, "%p", "%pg", "1,2,4,5"));
                p = "%pg";
            }
            body.push(format!("%o: f32[1,2,4,3] = contract {p}, %v {{bhij,bhjd->bhid}}"));
        }
        let mut at = "%o";
        let guard = |body: &mut Vec<String>, at: &mut &'static str, place, name| {
            if self.at(place) {
                body.push(guarded(self, at, name, OUT));
                *at = name;
            }
        };
        guard(&mut body, &mut at, "behind PV", "%g1");
        body.push(format!("%z: f32[1,2,4,3] = contract {at}, %w {{bhid,de->bhie}}"));
        at = "%z";
        guard(&mut body, &mut at, "behind the projection", "%g2");
        if self.residual {
            body.push(format!("%r: f32[1,2,4,3] = add {at}, %q"));
            at = "%r";
        }
        guard(&mut body, &mut at, "behind the residual", "%g3");
        if self.at("behind a norm") {
            body.push(format!("%mean: f32[1,2,4,1] = reduce {at} {{mean, axes=[3], keep}}\n%c: f32[1,2,4,3] = sub {at}, %mean"));
            at = "%c";
            guard(&mut body, &mut at, "behind a norm", "%g4");
        }
        if PLACES[self.place].ends_with("next layer") {
            body.push(format!("%s2: f32[1,2,4,4] = contract {at}, {at} {{bhid,bhjd->bhij}}"));
            body.push(match self.next {
                0 => "%x2: f32[1,2,4,4] = mul %s2, %one".into(),
                1 => "const %c2: bool[4,4] = TRIANGLE\n%x2: f32[1,2,4,4] = select %c2, %s2, %ninf".into(),
                _ => "const %c2: bool[4,4] = TRIANGLE\n%b2: f32[4,4] = select %c2, %zero, %ninf\n%x2: f32[1,2,4,4] = add %s2, %b2".to_owned(),
            });
            body.push("%p2: f32[1,2,4,4] = softmax %x2 {axis=3}".into());
            let mut p = "%p2";
            if self.at("on P of the next layer") {
                body.push(guarded(self, "%p2", "%pg2", "1,2,4,4"));
                p = "%pg2";
            }
            body.push(format!("%o2: f32[1,2,4,3] = contract {p}, {at} {{bhij,bhjd->bhid}}"));
            at = "%o2";
            guard(&mut body, &mut at, "behind PV of the next layer", "%g5");
            if self.residual && self.seed.is_multiple_of(2) {
                body.push(format!("%r2: f32[1,2,4,3] = add {at}, {}", "%z"));
                at = "%r2";
            }
        }
        if self.last {
            body.push(format!("%end: f32[1,2,1,3] = slice {at} {{axis=2, start=3, len=1}}"));
            at = "%end";
        }
        body.push(format!("output \"y\" = {at}"));
        let all = body
            .join("\n")
            .replace(": S", ": f32[1,2,4,5]")
            .replace(": R", ": f32[1,2,4,1]")
            .replace(": B", ": bool[1,2,4,1]");
        let all = all.replace("TRIANGLE", &list((0..ROWS * ROWS).map(|n| n % ROWS <= n / ROWS)));
        format!("graph \"guarded\" {{\n  {}\n}}\n", all.replace('\n', "\n  "))
    }

    /// Which keys a constant mask keeps: of some rows none.
    fn keep(&self) -> String {
        let keeps = |n: usize| self.dice(100 + n / KEYS, 4) != 0 && self.dice(n, 3) != 0;
        list((0..ROWS * KEYS).map(keeps))
    }

    /// A constant that is added: small numbers, and now and then what is none.
    fn above(&self) -> String {
        let odd = ["inf", "inf", "-inf", "1.0"][self.dice(200, 4)];
        let number = |n| {
            if self.dice(300 + n, 11) == 0 {
                odd.to_owned()
            } else {
                format!("{:.2}", self.dice(n, 9) as f64 / 4.0 - 1.0)
            }
        };
        list((0..ROWS * KEYS).map(number))
    }

    /// A number below `sides`, another one for each `n`.
    fn dice(&self, n: usize, sides: u64) -> usize {
        let mut x = self.seed ^ (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for _ in 0..2 {
            x = (x ^ x >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        }
        ((x ^ x >> 29) % sides) as usize
    }

    fn inputs(&self, graph: &Graph) -> Vec<Tensor> {
        let mut all = super::cases::inputs(graph, self.seed);
        for (name, x) in ["q", "k", "v", "bias"].into_iter().zip(&mut all) {
            let mut numbers = x.to_f64();
            if name == "bias" {
                numbers.iter_mut().for_each(|x| *x = if *x < -0.5 { f64::NEG_INFINITY } else { *x });
                let at = self.dice(400, numbers.len() as u64);
                match self.odd {
                    0 => numbers[at] = f64::INFINITY,
                    1 => numbers[at] = f64::NAN,
                    _ => {}
                }
            } else if name != "v" && self.large {
                numbers.iter_mut().for_each(|x| *x *= 60.0);
            }
            *x = Tensor::from_f64(DType::F32, x.shape(), &numbers).unwrap();
        }
        all
    }
}

fn list(items: impl Iterator<Item = impl ToString>) -> String {
    let all: Vec<String> = items.map(|x| x.to_string()).collect();
    format!("[{}]", all.join(", "))
}

/// What happened, by kinds that must be met.
#[derive(Default)]
struct Met(BTreeMap<String, usize>);

/// Finds what a model has, and compares.
fn check(model: &Model, met: &Mutex<Met>) -> Result<(), String> {
    let text = model.text();
    let before = parse(&text).map_err(|e| format!("{e}\n{text}"))?;
    let found = find(&before, &FindOptions::default());
    let inputs = model.inputs(&before);
    let run = |g: &Graph| -> Result<Vec<Vec<f64>>, String> {
        let all = eval(g, &inputs, Precision::F64).map_err(|e| e.to_string())?;
        Ok(all.iter().map(Tensor::to_f64).collect())
    };
    // Where a sum of exponentials has lost its digits, or is not finite though they are, nothing is said.
    if text.contains("%l: ") {
        let text = text.replace("\n}", "\n  output \"e\" = %e\n  output \"l\" = %l\n}");
        let [_, e, l] = &run(&parse(&text).map_err(|e| e.to_string())?)?[..] else {
            return Err("three outputs".into());
        };
        let lost = |(e, l): (&[f64], &f64)| {
            (l.is_infinite() && e.iter().all(|e| e.is_finite())) || (*l != 0.0 && l.abs() < 1e-280)
        };
        if e.chunks(KEYS).zip(l).any(lost) {
            return Ok(());
        }
    }
    let (want, got) = (run(&before)?.remove(0), run(&found.graph)?.remove(0));
    let numbers = want.iter().all(|x| x.is_finite());
    let near = |(w, g): (&f64, &f64)| !w.is_finite() || (w - g).abs() <= 1e-6 * (1.0 + w.abs());
    if !want.iter().zip(&got).all(near) {
        return Err(format!("{want:?} became {got:?}\n{text}\n{}", found.graph));
    }
    let seen = found.missed.iter().any(|m| m.reason.contains("sees that and makes a number of it"));
    let (place, softmax) = (PLACES[model.place], SOFTMAXES[model.softmax].0);
    let first = found.attentions.iter().any(|a| a.name == "o");
    let mut met = met.lock().unwrap();
    let mut note = |what: String| *met.0.entry(what).or_default() += 1;
    if seen {
        note(format!("seen {place}"));
        note(format!("seen by {}", GUARDS[model.guard].0));
        note(format!("seen of {softmax}"));
    }
    if first {
        note(format!("found with a guard {place}"));
        note(format!("found {softmax}"));
        note(format!("found by {}", MASKS[model.mask].0));
    }
    if first && numbers && place != "nowhere" {
        note("found, with outputs of numbers".into());
    }
    Ok(())
}

/// What a guard saw, or a rewriting hid, of inputs with stored outputs: refused or right, also on several ranks.
#[test]
#[cfg_attr(not(test_data), ignore = "set ANNULUS_TEST_DATA to the folder of real models and goldens")]
fn guards_that_were_not_seen() {
    let root = data::folder("faults");
    let all = folders(&root, &["wrong-guard", "wrong-nan", "wrong-zero"]);
    assert_eq!(all.len(), 5, "{all:?}");
    for folder in all {
        let case = load(&folder, &Stored::default(), &ImportOptions::default()).unwrap();
        let inputs = case.ordered_inputs().unwrap();
        let found = find(&case.graph, &FindOptions::default());
        let whole = eval(&found.graph, &inputs, Precision::Declared).unwrap();
        let split = annulus::compile(&case.graph, &Options::new(3)).unwrap();
        let split = annulus::run(&split, &inputs, 0).unwrap().outputs;
        for got in [&whole, &split] {
            for (got, (_, want)) in got.iter().zip(&case.expected) {
                let c = compare(got, want, 1e-5, 1e-3, false).unwrap();
                assert!(c.within, "{}: {}", folder.display(), c.max_abs_error);
            }
        }
    }
}

/// Runs so many models; what was met.
fn sweep(runner: &mut TestRunner) -> BTreeMap<String, usize> {
    let met = Mutex::new(Met::default());
    let result =
        runner.run(&model(), |m| check(&m, &met).map_err(|e| TestCaseError::fail(format!("{m:?}: {e}"))));
    result.unwrap_or_else(|e| panic!("{e}"));
    met.into_inner().unwrap().0
}

#[test]
fn what_guards_see_is_never_hidden() {
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let met = sweep(&mut TestRunner::new_with_rng(config, rng));
    let places = PLACES[2..].iter().map(|p| format!("seen {p}"));
    let kinds = ["isnan", "equal to itself", "isinf", "nan to num", "as integers", "the greatest of a row"];
    let kinds = kinds.map(|kind| format!("seen by {kind}"));
    let spellings = ["without max", "shifted before masks", "one more", "log softmax before masks"];
    let spellings = spellings.map(|spelling| format!("seen of {spelling}"));
    let found = PLACES.map(|p| format!("found with a guard {p}"));
    let masks = MASKS.map(|(mask, _)| format!("found by {mask}"));
    let numbers = ["found, with outputs of numbers".to_owned()];
    for kind in places.chain(kinds).chain(spellings).chain(found).chain(masks).chain(numbers) {
        assert!(met.contains_key(&kind), "no model with {kind}: {met:#?}");
    }
}

#[test]
#[ignore = "a sweep that is run by hand"]
fn what_guards_see_is_never_hidden_in_many_models() {
    let config = ProptestConfig { cases: 40_000, failure_persistence: None, ..ProptestConfig::default() };
    println!("{:#?}", sweep(&mut TestRunner::new(config)));
}
