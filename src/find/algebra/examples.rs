//! Random examples for the rules: both sides of every rule mean the same, in every type, for numbers of every size.

use super::condition::multiplied;
use super::rule::{Guard, Rule, rules};
use super::rules::all;
use super::semantics::{Matrix, epsilon, meaning};
use super::term::{Expr, Facts, LeafFacts, LeafId, Number};
use crate::find::axes::factors::Dim;
use crate::find::magnitude::Size;
use crate::find::types::Numerics;
use crate::ir::DType;
use egg::{AstSize, Extractor, Id, Language, RecExpr, Runner};

/// A term with its leaves: 0 q, 1 k, 2 bias, 3 condition (and 10, as a number), 4 a mask of 0 and 1, 5 zeros and a fill by that
/// mask, 6 v, 7 sinks, 8 a bias with −∞, 9 one number a row, 11 one less the mask of 0 and 1, 12 zeros
/// and −1e35, 13 zeros and −1e9, 14 one number a key, 15 a bias with +∞ and −∞.
pub(crate) struct Example {
    text: String,
    leaves: Vec<Matrix>,
    /// The size of the scores and of what is added to them.
    size: f64,
    /// Whether it converts to a half type on the way.
    rough: bool,
}

impl Example {
    /// An example whose sides differ by roundings of a half type.
    pub(crate) fn rough(self) -> Example {
        Example { rough: true, ..self }
    }
}

/// A source of random numbers, and the type and size of those that an example is made of.
pub(crate) struct Dice {
    state: u64,
    dtype: DType,
    large: bool,
}

impl Dice {
    fn new(seed: u64) -> Dice {
        const TYPES: [DType; 4] = [DType::F32, DType::F64, DType::F16, DType::BF16];
        let dtype = TYPES[seed as usize % 4];
        let large = seed / 4 % 2 == 1 && matches!(dtype, DType::F32 | DType::F64);
        Dice { state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), dtype, large }
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, n: u64) -> usize {
        (self.next() % n) as usize
    }

    /// A number between −2 and 2, not close to 0.
    pub(crate) fn number(&mut self) -> f64 {
        // Exact in f32, so that widening rules are exact.
        let x = self.below(1 << 11) as f64 / 1024.0;
        if self.below(2) == 0 { x + 0.0078125 } else { -x - 0.0078125 }
    }

    /// One of them.
    pub(crate) fn pick(&mut self, from: &[f64]) -> f64 {
        from[self.below(from.len() as u64)]
    }

    /// One of them.
    pub(crate) fn pick_term(&mut self, from: &[&'static str]) -> &'static str {
        from[self.below(from.len() as u64)]
    }

    /// Numbers of the example's type, now and then times a power of two.
    fn matrix(&mut self, rows: usize, cols: usize) -> Matrix {
        let by = if self.large { 0.5f64.powi(-(self.below(8) as i32)) } else { 1.0 };
        let data: Vec<f64> = (0..rows * cols).map(|_| by * self.number()).collect();
        Matrix::new(rows, cols, |i, j| data[i * cols + j]).cast(self.dtype)
    }

    /// Truth values, or 0 and 1.
    fn truths(&mut self, rows: usize, cols: usize) -> Matrix {
        let data: Vec<f64> = (0..rows * cols).map(|_| self.below(2) as f64).collect();
        Matrix::new(rows, cols, |i, j| data[i * cols + j])
    }

    /// An example of a term over query rows × keys.
    pub(crate) fn scores(&mut self, term: &str) -> Example {
        let (s, t, d) = (1 + self.below(4), 2 + self.below(4), 1 + self.below(4));
        let broadcast = |dice: &mut Dice, n: usize| if dice.below(3) == 0 { 1 } else { n };
        let (r, c) = (broadcast(self, s), broadcast(self, t));
        let mut bias = self.matrix(r, c);
        let size = bias.data.iter().fold(0.0, |n: f64, x| n.max(x.abs()));
        if self.below(3) == 0 {
            bias.data[0] = f64::NEG_INFINITY;
        }
        let (r, c) = (broadcast(self, s), broadcast(self, t));
        let keep = self.truths(r, c);
        let mut ones = self.truths(s, t);
        ones.data[0] = 0.0;
        let fill = ones.map(|m| if m == 1.0 { 0.0 } else { -1e4 }).cast(self.dtype);
        let r = broadcast(self, s);
        let mut sinks = self.matrix(r, 1);
        if self.below(3) == 0 {
            sinks.data[0] = f64::NEG_INFINITY;
        }
        let (q, k, v) = (self.matrix(s, d), self.matrix(t, d), self.matrix(t, 3));
        let largest = |m: &Matrix| m.data.iter().fold(0.0, |n: f64, x| n.max(x.abs()));
        let size = 1.0 + size + d as f64 * largest(&q) * largest(&k);
        let mut holes = self.matrix(s, t);
        let size = size + largest(&holes) + largest(&v);
        let empty = self.below(s as u64);
        for (at, x) in holes.data.iter_mut().enumerate() {
            if at / t == empty || self.below(3) == 0 {
                *x = f64::NEG_INFINITY;
            }
        }
        let r = broadcast(self, s);
        let column = self.matrix(r, 1);
        let number = keep.clone();
        let others = ones.map(|m| 1.0 - m);
        let swallowing = self.truths(s, t).map(|m| -1e35 * m).cast(self.dtype);
        let key = self.matrix(1, t);
        let low = self.truths(s, t).map(|m| -1e9 * m).cast(self.dtype);
        let mut infinite = holes.clone();
        let above = self.below((s * t) as u64);
        infinite.data[above] = f64::INFINITY;
        let leaves = vec![
            q, k, bias, keep, ones, fill, v, sinks, holes, column, number, others, swallowing, low, key,
            infinite,
        ];
        Example { text: term.into(), leaves, size, rough: false }
    }

    /// Scores, and one number a row that is subtracted from them: most often about their maximum, now and then one that rounds
    /// them away. No finite fills unless `fills`.
    pub(crate) fn shift(&mut self, fills: bool) -> (String, String) {
        let plain = "(scores $0 $1 0.5)";
        let masked = "(keep (scores $0 $1 0.5) $3)";
        let filled = "(replace (scores $0 $1 0.5) $3 -1e9)";
        let (x, m) = match self.below(if fills { 10 } else { 7 }) {
            0 => (plain, "(rmean X)"),
            1 => (plain, "(rmin X)"),
            2 => (plain, "(max (rmax X) -10000)"),
            3 => (masked, "(rmax-or-zero X)"),
            // Of scores before they are masked.
            4 => (masked, "(rmax (scores $0 $1 0.5))"),
            5 => (masked, "(rmax X)"),
            7 => (filled, "(rmax X)"),
            8 => (filled, "(rmean X)"),
            9 => (filled, "(rmin X)"),
            _ => (masked, "(where (isinf (rmax X)) 0 (rmax X))"),
        };
        (x.to_owned(), m.replace('X', x))
    }

    /// As [`Dice::shift`], now and then of scores of +∞.
    pub(crate) fn shift_by_any(&mut self) -> (String, String) {
        if self.below(4) > 0 {
            return self.shift(true);
        }
        ("(keep (bias (scores $0 $1 0.5) $15) $3)".into(), "(rmax (bias (scores $0 $1 0.5) $15))".into())
    }

    /// Scores and their maximum.
    pub(crate) fn top(&mut self, fills: bool) -> (String, String) {
        let x = match self.below(if fills { 3 } else { 2 }) {
            0 => "(keep (scores $0 $1 0.5) $3)",
            1 => "(scores $0 $1 0.5)",
            _ => "(replace (scores $0 $1 0.5) $3 -1e9)",
        };
        let m = self.pick_term(&["rmax", "rmax-or-zero"]);
        (x.to_owned(), format!("({m} {x})"))
    }

    /// An example of a term over query rows × output columns.
    pub(crate) fn output(&mut self, term: &str) -> Example {
        self.scores(term)
    }
}

/// Facts of the leaves of an example; the fill of a multiplied mask is a constant, or known by how it is spelled.
fn facts(leaves: &[Matrix], spelled: bool) -> Facts {
    let of = |(n, m): (usize, &Matrix)| LeafFacts {
        constant: (!spelled || n != 5).then(|| (vec![vec![Dim(m.rows)], vec![Dim(m.cols)]], m.data.clone())),
        row: m.cols == 1,
        column: m.rows == 1,
        truth: (n == 10).then_some(LeafId(3)),
        binary: n == 10,
        switch: (n == 10).then(|| Number::new(1.0)),
        size: match () {
            () if m.data.iter().all(|&x| x.abs() <= 4.0 || x == f64::NEG_INFINITY) => Size::Tame,
            () if m.data.iter().all(|&x| x.abs() <= 1e3 || x == f64::NEG_INFINITY) => Size::Moderate,
            () if m.data.iter().all(|&x| x.abs() <= 1e3 || x <= -1e30) => Size::Swallowing,
            () => Size::Unknown,
        },
        finite: m.data.iter().all(|x| x.is_finite()),
        inverse: match n {
            5 if spelled => Some((LeafId(4), m.data[0])),
            11 => Some((LeafId(4), 1.0)),
            _ => None,
        },
    };
    Facts {
        leaves: leaves.iter().enumerate().map(of).collect(),
        swallowed: 1e-17,
        small: 1e4,
        f16: false,
        conflict: None,
    }
}

/// A term with something else in it: scores that were masked or biased, another number, another leaf.
fn mutated(text: &str, dice: &mut Dice) -> String {
    let x = if text.contains("(scores $0 $1 0.5)") { "(scores $0 $1 0.5)" } else { "(qk $0 $1)" };
    let other = |dice: &mut Dice| {
        dice.pick_term(&[
            "(keep (scores $0 $1 0.5) $3)",
            "(keep (scores $0 $1 0.5) (not $3))",
            "(bias (scores $0 $1 0.5) $2)",
            "(bias (scores $0 $1 0.5) $8)",
            "(bias (scores $0 $1 0.5) $12)",
            "(bias (scores $0 $1 0.5) $13)",
            "(bias (bias (scores $0 $1 0.5) $12) $12)",
            "(replace (scores $0 $1 0.5) $3 -1e9)",
            "(replace (scores $0 $1 0.5) $3 -1e35)",
            "(replace (scores $0 $1 0.5) (nonzero $4) -10000)",
            "(floor (bias (scores $0 $1 0.5) $8) -1e35)",
        ])
    };
    let mut out = text.to_owned();
    if dice.below(4) > 0 {
        out = out.replace(x, other(dice));
    }
    if dice.below(3) == 0 {
        // A number that stands alone, not an operand of the scores.
        let words: Vec<&str> = out.split(' ').collect();
        let is_number = |w: &&str| w.trim_end_matches(')').parse::<f64>().is_ok();
        let places: Vec<usize> = (0..words.len())
            .filter(|&i| is_number(&words[i]) && (i < 3 || words[i - 3] != "(scores"))
            .collect();
        if !places.is_empty() {
            let at = places[dice.below(places.len() as u64)];
            let new = dice.pick_term(&[
                "0", "1", "-1", "0.5", "3", "-0.25", "-1e9", "-1e35", "-inf", "0.001", "1e-20", "11",
            ]);
            let close: String = words[at].chars().filter(|&c| c == ')').collect();
            let all: Vec<String> = words
                .iter()
                .enumerate()
                .map(|(i, w)| if i == at { format!("{new}{close}") } else { (*w).to_owned() })
                .collect();
            out = all.join(" ");
        }
    }
    if dice.below(3) == 0 {
        let (from, to) = match dice.below(6) {
            0 => ("$2", "$12"),
            1 => ("$2", "$13"),
            2 => ("$8", "$2"),
            3 => ("$10", "$4"),
            4 => ("$4", "$9"),
            _ => ("$11", "$10"),
        };
        out = out
            .replace(&format!("{from} "), &format!("{to} "))
            .replace(&format!("{from})"), &format!("{to})"));
    }
    out
}

/// Both sides: whether what a term became is allowed for what it was.
struct Judge<'a> {
    text: &'a str,
    want: Matrix,
    lost: Vec<bool>,
    /// How far numbers may differ that need not be the same bits.
    near: f64,
    numerics: Numerics,
    /// Whether what is no number may become one.
    hides: bool,
    dtype: DType,
}

impl Judge<'_> {
    /// The first element that differs more than its class allows.
    fn fault(&self, got: &Matrix) -> Option<String> {
        let want = &self.want;
        if (got.rows, got.cols) != (want.rows, want.cols) {
            return Some("another shape".into());
        }
        let wide = matches!(self.dtype, DType::F32 | DType::F64);
        let bits = self.numerics == Numerics::Exact && wide;
        // The logarithm of a sum that overflowed makes a finite 0.
        let logarithm = self.text.contains("(log ");
        let apart = |(at, (g, w)): (usize, (&f64, &f64))| {
            let same = g == w
                || (g.is_nan() && w.is_nan())
                || (self.numerics != Numerics::Exact && !g.is_finite() && !w.is_finite());
            // −∞ of f16 is a number of a wider type.
            let overflow = self.dtype == DType::F16 && (w.is_infinite() || g.is_infinite());
            let lost = !logarithm && self.lost.get(at / want.cols).is_some_and(|&l| l);
            let hidden = !w.is_finite() && (self.hides || !g.is_finite());
            let free = self.numerics == Numerics::Domain && (hidden || lost);
            let fits = same || overflow || free || (!bits && (g - w).abs() <= self.near * (1.0 + w.abs()));
            (!fits).then(|| format!("{w:?} became {g:?}"))
        };
        got.data.iter().zip(&want.data).enumerate().find_map(apart)
    }

    /// Whether a number stands where there was none.
    fn hidden(&self, got: &Matrix) -> bool {
        // A score of −∞ is one that a softmax leaves out.
        let number = |g: f64, w: f64| g.is_finite() || (g == f64::NEG_INFINITY && w != g);
        got.data.iter().zip(&self.want.data).any(|(&g, &w)| number(g, w) && !w.is_finite())
    }
}

/// On how many examples of a rule it fired.
///
/// # Errors
/// An example of which it changes more than its class allows, or that it says to hide something and no example shows it.
fn check(rule: &Rule, seeds: u64) -> Result<usize, String> {
    let (mut fired, mut hidden) = (0, false);
    for seed in 1..=seeds {
        let mut dice = Dice::new(seed);
        let Example { mut text, mut leaves, mut size, rough } = (rule.example)(&mut dice);
        // Scores so large that exponentials over- and underflow, which a rule may hide if it says so.
        if seed % 5 == 4 && matches!(dice.dtype, DType::F32 | DType::F64) {
            let by = if dice.dtype == DType::F32 { 100.0 } else { 800.0 };
            text = text.replace("(scores $0 $1 0.5)", &format!("(scores $0 $1 {by})"));
            size *= 2.0 * by;
        }
        // Now and then another term than the rule is for: it does not fire, or is right there too. Beside fills a logarithm is
        // lost: that is asked when the fill is known.
        let other = seed % 4 == 3 && rule.guard != Some(Guard::KeepsLogarithm);
        let text = if other { mutated(&text, &mut dice) } else { text };
        let term: RecExpr<Expr> = text.parse().unwrap();
        if rule.name == "multiplied-mask-sub" {
            leaves[5] = leaves[5].map(|x| -x);
        }
        let (want, lost) = meaning(&term, &leaves);
        let near = if rough { 2e-2 } else { 8.0 * epsilon(dice.dtype) * size };
        let (numerics, hides) = (rule.numerics, !rule.hides.is_empty());
        let judge = Judge { text: &text, want, lost, near, numerics, hides, dtype: dice.dtype };
        // Everything that leads to the left side's own shape must hold first: normal terms are facts.
        let runner = Runner::<Expr, Facts>::new(facts(&leaves, seed % 3 == 0))
            .with_expr(&term)
            .with_iter_limit(1)
            .run(&[rule.rewrite()]);
        let root = runner.egraph.find(runner.roots[0]);
        let extractor = Extractor::new(&runner.egraph, AstSize);
        let class = &runner.egraph[root];
        // A cast is removed by making two classes one.
        fired += usize::from(class.nodes.len() > 1);
        for node in &class.nodes {
            if node.children().iter().any(|&c| runner.egraph.find(c) == root) {
                continue;
            }
            let mut expr = RecExpr::default();
            let other = node.clone().map_children(|c| {
                let (_, part) = extractor.find_best(c);
                append(&mut expr, &part)
            });
            expr.add(other);
            let got = meaning(&expr, &leaves).0;
            if let Some(fault) = judge.fault(&got) {
                return Err(format!("{} ({}, seed {seed}): {text}: {expr}: {fault}", rule.name, dice.dtype));
            }
            hidden |= judge.hidden(&got);
        }
    }
    if !hidden && !rule.hides.is_empty() {
        return Err(format!("{} is said to hide something, and hides nothing", rule.name));
    }
    Ok(fired)
}

/// All rules together, on what each is for and on other terms, guarded now and then: what one leaves free another may not use.
#[test]
fn all_rules_together_mean_the_same() {
    const SEEDS: u64 = 40;
    let rules: Vec<_> = all().map(Rule::rewrite).collect();
    let mut faults = vec![];
    for (number, rule) in all().enumerate().filter(|(_, r)| r.guard != Some(Guard::KeepsLogarithm)) {
        for seed in 1..=SEEDS {
            let mut dice = Dice::new(seed + SEEDS * number as u64);
            dice.large = false;
            let Example { mut text, leaves, size, .. } = (rule.example)(&mut dice);
            if seed % 3 > 0 {
                text = mutated(&text, &mut dice);
            }
            // Of whole numbers alone it is a number, and what is whole is decided by rounding.
            if text.contains("(pow -") {
                continue;
            }
            if seed % 2 == 0 && (text.contains("exp") || text.contains("softmax")) {
                text = format!("(where (isnan {text}) 0 {text})");
            }
            let term: RecExpr<Expr> = text.parse().unwrap();
            let (want, lost) = meaning(&term, &leaves);
            let near = 64.0 * epsilon(dice.dtype).max(0.5f64.powi(8)) * size;
            let numerics = Numerics::Domain;
            let judge = Judge { text: &text, want, lost, near, numerics, hides: true, dtype: dice.dtype };
            let runner = Runner::<Expr, Facts>::new(facts(&leaves, seed % 3 == 0))
                .with_expr(&term)
                .with_iter_limit(24)
                .with_node_limit(2000)
                .run(&rules);
            assert_eq!(runner.egraph.analysis.conflict, None, "{text}");
            let (_, best) =
                Extractor::new(&runner.egraph, crate::find::algebra::saturate::Cost(&runner.egraph))
                    .find_best(runner.roots[0]);
            if let Some(fault) = judge.fault(&meaning(&best, &leaves).0) {
                faults.push(format!("{} ({}, seed {seed}): {text}: {best}: {fault}", rule.name, dice.dtype));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_rule_means_the_same_on_both_sides() {
    const SEEDS: u64 = 240;
    let wrong = |rule: &Rule| match check(rule, SEEDS) {
        Ok(fired) if fired as u64 > SEEDS / 5 => None,
        Ok(fired) => Some(format!("{} fired on {fired} of {SEEDS} examples", rule.name)),
        Err(e) => Some(e),
    };
    let all: Vec<String> = all().filter_map(wrong).collect();
    assert!(all.is_empty(), "{}", all.join("\n"));
}

rules! {
    /// Rules that are wrong.
    WRONG:

    "any-shift" Domain "(softmax (sub ?x ?m))" => "(softmax ?x)", if |v| v.of_rows("?m");
    "rounds scores away where the shift is large";
    |d| { let (x, m) = d.shift(true); d.scores(&format!("(softmax (sub {x} {m}))")) };

    "any-sum-and-a-little" Rounding "(add (rsum ?x) ?c)" => "(rsum ?x)", if |v| v.is_number("?c");
    "the sum of exp may be as small";
    |d| d.scores("(add (rsum (exp (qk $0 $1))) 0.001)");

    "scale-of-masked-by-any" Exact "(mul (keep ?x ?m) ?c)" => "(keep (mul ?x ?c) ?m)", if |v| v.is_number("?c");
    "−∞ becomes +∞";
    |d| d.scores("(mul (keep (scores $0 $1 0.5) $3) -0.25)");

    "div-is-exact" Exact "(div ?x ?c)" => "(mul ?x ?n)", n = |v| v.number("?c").map(f64::recip);
    "a reciprocal rounds";
    |d| d.scores("(div (qk $0 $1) 3)");

    "reassociation-is-exact" Exact "(mul (scores ?q ?k ?s) ?c)" => "(scores ?q ?k ?n)",
        n = |v| Some(v.number("?c")? * v.number("?s")?);
    "a product of three rounds as it is ordered";
    |d| d.scores("(mul (scores $0 $1 0.7) 0.3)");

    "fill-is-infinity" Domain "(replace ?x ?c ?f)" => "(keep ?x ?c)";
    "a row without a key was a mean";
    |d| d.scores("(softmax (replace (scores $0 $1 0.5) $3 -10000))");

    "arms-swapped" Domain "(where ?c ?x -inf)" => "(keep ?x (not ?c))", if |v| v.normal("?x");
    "what was kept is masked";
    |d| d.scores("(where $3 (scores $0 $1 0.5) -inf)");

    "softcap-after-mask" Reassociation "(tanh (keep ?x ?m))" => "(keep (tanh ?x) ?m)";
    "tanh(−∞) is −1";
    |d| d.scores("(tanh (keep (scores $0 $1 0.5) $3))");

    "narrowed-for-nothing" Exact "(narrow ?x ?d)" => "?x", if |v| v.fact("?x").real;
    "f64 is rounded";
    |d| d.scores("(narrow (softmax (qk $0 $1)) 24)");

    "guard-is-for-empty-rows" Domain "(where (isnan (softmax ?x)) 0 (softmax ?x))" => "(zero-empty ?x)";
    "a row with a score of +∞ is NaN as well, and is made zeros";
    |d| d.scores("(where (isnan (softmax (bias (scores $0 $1 0.5) $15))) 0 (softmax (bias (scores $0 $1 0.5) $15)))");

    "nothing-is-hidden" Domain "(div (exp ?x) (rsum (exp ?x)))" => "(loose ?x)";
    "where exponentials underflow the quotient is NaN";
    |d| d.scores("(div (exp (scores $0 $1 0.5)) (rsum (exp (scores $0 $1 0.5))))");

    "sink-of-no-key" Domain "(div (exp (sub ?x (rmax ?x))) (add (rsum (exp (sub ?x (rmax ?x)))) (exp (mul (rmax ?x) -1))))" => "(softmax (sink ?x 0))";
    "the maximum of a row without a key is −∞";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (keep (scores $0 $1 0.5) $3)))) \
        (add (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (keep (scores $0 $1 0.5) $3))))) (exp (mul (rmax (keep (scores $0 $1 0.5) $3)) -1))))");

    "zero-times-infinity" Exact "(mul ?x ?m)" => "(factor ?x ?m)", if |v| v.normal("?x");
    "−∞·0 is NaN";
    |d| d.scores("(mul (keep (scores $0 $1 0.5) $3) $10)");

    "rounding-dropped" Exact "(round ?x ?d)" => "?x", if |v| v.normal("?x");
    "f16 rounds away what tells scores apart";
    |d| d.scores("(round (bias (scores $0 $1 0.5) $8) 11)");

    "factor-under-cap" Reassociation "(factor (cap ?x ?c) ?n)" => "(cap (factor ?x ?n) ?c)";
    "tanh is not linear";
    |d| d.scores("(factor (cap (scores $0 $1 0.5) 2) 3)");

    "any-switch" Domain "(mul ?x ?m)" => "(replace ?x (nonzero ?m) 0)", if |v| v.normal("?x") && v.outside("?m");
    "a factor that is not 0 need not be 1";
    |d| d.scores("(mul (scores $0 $1 0.5) $2)");

    "fill-of-another-sign" Domain "(sub (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)", n = |v| multiplied(v, 1.0);
    "the fill is subtracted";
    |d| d.scores("(sub (mul (scores $0 $1 0.5) $4) $5)");
}

#[test]
fn a_wrong_rule_is_caught() {
    for rule in WRONG {
        assert!(check(rule, 160).is_err(), "{} is not caught: {}", rule.name, rule.what);
    }
}

/// Appends a term and gives the place of its root.
fn append(to: &mut RecExpr<Expr>, part: &RecExpr<Expr>) -> Id {
    let base = to.as_ref().len();
    for node in part.as_ref() {
        to.add(node.clone().map_children(|c| Id::from(usize::from(c) + base)));
    }
    Id::from(to.as_ref().len() - 1)
}
