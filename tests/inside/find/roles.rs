//! Rows, heads and the query heads that share a key head, in every order in which Q may have them, and keys repeated in every way: each is
//! found under its right name, computes what it did, and is split by its rows.

use super::cases::inputs;
use annulus::eval::{Precision, compare, eval};
use annulus::find::report::record;
use annulus::find::{FindOptions, find};
use annulus::ir::{Binary, Contract, DType, Graph, Op, Tensor, Type, ValueId};
use annulus::{Options, compile, run};
use proptest::prelude::*;

/// How key heads come to be as many as query heads.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Repeat {
    /// They do not: query heads stand in groups, (key head, group).
    Grouped,
    /// Each beside itself: a broadcast over an axis behind the heads.
    Expanded,
    /// All of them again: a broadcast over an axis before the heads.
    Tiled,
    /// Looked up by a constant, each beside itself.
    Gathered,
    /// Looked up by a constant, all of them again.
    GatheredTiled,
    /// One beside the other.
    Joined,
    /// The same, but made anew for each, under an axis of its own before the heads.
    Stacked,
    /// Slices of one head, each several times, joined.
    Slices,
    /// The same, each repeated by a broadcast.
    WideSlices,
}

const REPEATS: [Repeat; 9] = [
    Repeat::Grouped,
    Repeat::Expanded,
    Repeat::Tiled,
    Repeat::Gathered,
    Repeat::GatheredTiled,
    Repeat::Joined,
    Repeat::Stacked,
    Repeat::Slices,
    Repeat::WideSlices,
];

impl Repeat {
    /// Whether query head h shares key head h mod Hkv, not h / (Hq / Hkv).
    fn tiles(self) -> bool {
        matches!(self, Repeat::Tiled | Repeat::GatheredTiled | Repeat::Joined | Repeat::Stacked)
    }
}

/// How Q came to have its axes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    /// It is an input with them.
    Own,
    /// Cut from one of (batch, rows, heads · size).
    Projected,
    /// Cut from one of (batch, rows, heads, size).
    Heads,
    /// Cut from one of (batch, heads, rows, size).
    HeadsFirst,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Keep {
    All,
    /// By positions.
    Causal,
    /// A truth value for each row and key.
    Input,
}

#[derive(Clone, Debug)]
struct Shape {
    /// Batch, key heads, query heads of each, query rows, key rows, sizes.
    b: usize,
    k: usize,
    g: usize,
    t: usize,
    s: usize,
    d: usize,
    e: usize,
    repeat: Repeat,
    origin: Origin,
    keep: Keep,
    /// Orders of `bkgt` in Q and in the scores, and of `bks` in K and V.
    q: String,
    scores: String,
    kv: String,
    ranks: usize,
}

fn order(letters: &'static str) -> impl Strategy<Value = String> {
    let letters: Vec<char> = letters.chars().collect();
    Just(letters).prop_shuffle().prop_map(|l| l.into_iter().collect())
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1usize..3, 1usize..4, 1usize..4, 1usize..8, 1usize..8, 2usize..5, 1usize..5);
    let how = (
        prop::sample::select(&REPEATS[..]),
        prop::sample::select(vec![Origin::Own, Origin::Projected, Origin::Heads, Origin::HeadsFirst]),
        prop::sample::select(vec![Keep::All, Keep::Causal, Keep::Input]),
        prop::sample::select(vec![1usize, 2, 3, 4, 8]),
    );
    // The batch comes first where scores are.
    let scores = order("kgt").prop_map(|l| format!("b{l}"));
    (sizes, how, order("bkgt"), scores, order("bks")).prop_map(
        |((b, k, g, t, s, d, e), (repeat, origin, keep, ranks), q, scores, kv)| Shape {
            b,
            k,
            g,
            t,
            s,
            d,
            e,
            repeat,
            origin,
            keep,
            q,
            scores,
            kv,
            ranks,
        },
    )
}

impl Shape {
    fn extent(&self, letter: char) -> usize {
        match letter {
            'b' => self.b,
            'k' => self.k,
            'g' => self.g,
            't' => self.t,
            's' => self.s,
            'd' => self.d,
            'e' => self.e,
            // All query heads.
            _ => self.k * self.g,
        }
    }

    fn shape(&self, letters: &str) -> Vec<usize> {
        letters.chars().map(|l| self.extent(l)).collect()
    }

    /// Letters with one axis for all query heads, in the place of that of key heads, where keys are repeated.
    fn merged(&self, letters: &str) -> String {
        match self.repeat {
            Repeat::Grouped => letters.to_owned(),
            _ => letters.replace('g', "").replace('k', "h"),
        }
    }

    /// Whether something tells rows from groups: a mask, how Q was made, or the usual order, in which groups stand beside key heads.
    fn told_apart(&self) -> bool {
        if self.repeat != Repeat::Grouped || (self.t == 1 && self.g == 1) {
            return true;
        }
        // What stands before the heads is taken for rows if it is as long as the keys.
        let before = ["btgk", "tbgk"].contains(&self.q.as_str()) && self.g != self.s;
        let usual = before || ["btkg", "tbkg", "bkgt"].contains(&self.q.as_str());
        let cut = match self.origin {
            Origin::Own => false,
            Origin::Projected => self.k * self.g > 1,
            Origin::Heads | Origin::HeadsFirst => self.k > 1 && self.g > 1,
        };
        let made = cut && self.t > 1;
        let masked = self.keep == Keep::Input && self.t > 1 && self.s > 1;
        usual || made || masked
    }
}

struct Write {
    g: Graph,
}

impl Write {
    fn op(&mut self, op: Op, x: &[ValueId], name: &str) -> ValueId {
        self.g.add1(op, x, name, name).unwrap()
    }

    fn shape(&self, v: ValueId) -> Vec<usize> {
        self.g.ty(v).shape.clone()
    }

    fn reshape(&mut self, v: ValueId, shape: &[usize]) -> ValueId {
        if self.shape(v) == shape { v } else { self.op(Op::Reshape(shape.to_vec()), &[v], "cut") }
    }

    /// From letters in one order to the same in another.
    fn permute(&mut self, v: ValueId, from: &str, to: &str) -> ValueId {
        let perm: Vec<usize> = to.chars().map(|l| from.find(l).unwrap()).collect();
        if from == to { v } else { self.op(Op::Permute(perm), &[v], "turned") }
    }

    fn contract(&mut self, x: [ValueId; 2], letters: [&str; 3], name: &str) -> ValueId {
        let [lhs, rhs, out] = letters.map(str::to_owned);
        self.op(Op::Contract(Contract { lhs, rhs, out }), &x, name)
    }

    /// Q, with its letters.
    fn query(&mut self, s: &Shape) -> (ValueId, String) {
        let order = s.merged(&s.q);
        let wanted = format!("{order}d");
        let (kg, ty) =
            (if s.repeat.tiles() { "gk" } else { "kg" }, |shape: Vec<usize>| Type::new(DType::F64, shape));
        let heads = if s.repeat == Repeat::Grouped { kg } else { "h" };
        let (made, whole) = match s.origin {
            Origin::Own => return (self.g.input("q", ty(s.shape(&wanted))), wanted),
            Origin::Projected => (format!("bt{heads}d"), vec![s.b, s.t, s.k * s.g * s.d]),
            Origin::Heads => (format!("bt{heads}d"), vec![s.b, s.t, s.k * s.g, s.d]),
            Origin::HeadsFirst => (format!("b{heads}td"), vec![s.b, s.k * s.g, s.t, s.d]),
        };
        let x = self.g.input("q", ty(whole));
        let x = self.reshape(x, &s.shape(&made));
        (self.permute(x, &made, &wanted), wanted)
    }

    /// K or V of a size, repeated as it is said, with its letters.
    fn keys(&mut self, s: &Shape, name: &str, size: char) -> (ValueId, String) {
        let letters = format!("{}{size}", s.kv);
        let x = self.g.input(name, Type::new(DType::F64, s.shape(&letters)));
        let (at, shape) = (letters.find('k').unwrap(), s.shape(&letters));
        let mut all = shape.clone();
        all[at] = s.k * s.g;
        let wide = |w: &mut Write, x: ValueId, at: usize| {
            let mut one = w.shape(x);
            one.insert(at, 1);
            let x = w.reshape(x, &one);
            one[at] = s.g;
            w.op(Op::Broadcast(one), &[x], "wide")
        };
        let slice =
            |w: &mut Write, start: usize| w.op(Op::Slice { axis: at, start, len: 1, step: 1 }, &[x], "head");
        let index = |w: &mut Write, of: &dyn Fn(usize) -> usize| {
            let places: Vec<i64> = (0..s.k * s.g).map(|h| of(h) as i64).collect();
            let places = w.g.constant("index", Tensor::vector_i64(&places));
            w.op(Op::Gather { axis: at }, &[x, places], "picked")
        };
        let x = match s.repeat {
            Repeat::Grouped => return (x, letters),
            Repeat::Expanded => {
                let x = wide(self, x, at + 1);
                self.reshape(x, &all)
            }
            Repeat::Tiled => {
                let x = wide(self, x, at);
                self.reshape(x, &all)
            }
            Repeat::Gathered => index(self, &|h| h / s.g),
            Repeat::GatheredTiled => index(self, &|h| h % s.k),
            Repeat::Joined => self.op(Op::Concat { axis: at }, &vec![x; s.g], "joined"),
            Repeat::Stacked => {
                let mut one = shape;
                one.insert(at, 1);
                let parts: Vec<ValueId> =
                    (0..s.g).map(|_| self.op(Op::Reshape(one.clone()), &[x], "one")).collect();
                let x = self.op(Op::Concat { axis: at }, &parts, "stacked");
                self.reshape(x, &all)
            }
            Repeat::Slices => {
                let heads: Vec<ValueId> = (0..s.k).map(|h| slice(self, h)).collect();
                let all: Vec<ValueId> = heads.into_iter().flat_map(|h| vec![h; s.g]).collect();
                self.op(Op::Concat { axis: at }, &all, "joined")
            }
            Repeat::WideSlices => {
                let mut wide = shape;
                wide[at] = s.g;
                let one = |h| {
                    let head = slice(self, h);
                    self.op(Op::Broadcast(wide.clone()), &[head], "wide")
                };
                let all: Vec<ValueId> = (0..s.k).map(one).collect();
                self.op(Op::Concat { axis: at }, &all, "joined")
            }
        };
        (x, letters.replace('k', "h"))
    }

    fn attention(&mut self, s: &Shape) {
        let (q, q_letters) = self.query(s);
        let (k, k_letters) = self.keys(s, "k", 'd');
        let (v, v_letters) = self.keys(s, "v", 'e');
        let rows = s.merged(&s.scores);
        let letters = format!("{rows}s");
        let mut x = self.contract([q, k], [&q_letters, &k_letters, &letters], "qk");
        let scale = self.g.constant("scale", Tensor::scalar(DType::F64, 0.5));
        x = self.op(Op::Binary(Binary::Mul), &[x, scale], "scaled");
        let keep = match s.keep {
            Keep::All => None,
            Keep::Input => Some(self.g.input("keep", Type::new(DType::Bool, [s.t, s.s]))),
            Keep::Causal => {
                let iota = |w: &mut Write, axis: usize, shape: Vec<usize>| {
                    w.op(Op::Iota { ty: Type::new(DType::I64, shape), axis }, &[], "position")
                };
                let (i, j) = (iota(self, 0, vec![s.t, 1]), iota(self, 1, vec![1, s.s]));
                Some(self.op(Op::Binary(Binary::Le), &[j, i], "causal"))
            }
        };
        if let Some(keep) = keep {
            let laid: Vec<usize> =
                letters.chars().map(|l| if "ts".contains(l) { s.extent(l) } else { 1 }).collect();
            let keep = self.reshape(keep, &laid);
            let never = self.g.constant("never", Tensor::scalar(DType::F64, f64::NEG_INFINITY));
            x = self.op(Op::Select, &[keep, x, never], "masked");
        }
        let p = self.op(Op::Softmax { axis: letters.len() - 1 }, &[x], "softmax");
        let o = self.contract([p, v], [&letters, &v_letters, &format!("{rows}e")], "pv");
        self.g.output("o", o);
    }
}

fn right(s: &Shape) -> Result<(), TestCaseError> {
    let mut w = Write { g: Graph::new("roles") };
    w.attention(s);
    let graph = w.g;
    let found = find(&graph, &FindOptions::default());
    prop_assert_eq!(found.attentions.len(), 1, "{:?}\n{}", found.missed, graph);
    let r = record(&found.graph, &found.attentions[0]);
    if s.told_apart() {
        let has = (r.q_heads, r.kv_heads, r.q_len, r.kv_len);
        prop_assert_eq!(has, (s.k * s.g, s.k, s.t, s.s), "{:?}\n{}\n{}", s, graph, found.graph);
    }
    if s.keep == Keep::Causal && s.told_apart() && s.t > 1 && s.s > 1 {
        prop_assert!(r.causal, "{} {:?}\n{}", r.mask, s, graph);
    }
    let inputs = inputs(&graph, 7);
    let want = eval(&graph, &inputs, Precision::F64).unwrap();
    let compiled = compile(&graph, &Options::new(s.ranks)).map_err(|e| TestCaseError::fail(e.to_string()))?;
    let got = run(&compiled, &inputs, 3).unwrap().outputs;
    let c = compare(&got[0], &want[0], 1e-12, 1e-12, true).unwrap();
    prop_assert!(c.within, "{:?} {:?}\n{}", c, s, graph);
    if s.told_apart() && s.t > 1 && s.ranks > 1 {
        prop_assert_eq!(compiled.program.islands.len(), 1, "{:?}", s);
        prop_assert_eq!(compiled.program.layouts[0].length, s.t, "{:?}", s);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn rows_and_heads_have_their_names(s in shapes()) {
        right(&s)?;
    }
}

/// The sizes of the two exports that were read amiss, on every number of ranks: 6 rows of 4 key heads with 2 query heads each, over 9 keys.
#[test]
fn query_rows_beside_groups() {
    for keep in [Keep::All, Keep::Causal, Keep::Input] {
        for origin in [Origin::Own, Origin::Projected, Origin::Heads, Origin::HeadsFirst] {
            for ranks in [1, 2, 3, 4, 8] {
                let [q, scores, kv] = ["btkg", "bktg", "bsk"].map(str::to_owned);
                let (b, k, g, t, s) = (2, 4, 2, 6, 9);
                right(&Shape {
                    b,
                    k,
                    g,
                    t,
                    s,
                    d: 8,
                    e: 8,
                    repeat: Repeat::Grouped,
                    origin,
                    keep,
                    q,
                    scores,
                    kv,
                    ranks,
                })
                .unwrap();
            }
        }
    }
}

/// Each way of repeating keys on every number of ranks.
#[test]
fn keys_are_unrepeated_however_they_were_repeated() {
    for repeat in REPEATS {
        for (k, ranks) in [(2, 1), (2, 2), (2, 3), (2, 4), (2, 8), (1, 2), (3, 3)] {
            let [q, scores, kv] = ["bkgt", "bkgt", "bks"].map(str::to_owned);
            let (origin, keep) = (Origin::Own, Keep::Causal);
            right(&Shape {
                b: 1,
                k,
                g: 2,
                t: 7,
                s: 7,
                d: 4,
                e: 3,
                repeat,
                origin,
                keep,
                q,
                scores,
                kv,
                ranks,
            })
            .unwrap();
        }
    }
}
