//! The rules that lead a written-out attention to its normal form.
//!
//! Each rewrites in one direction, towards the normal form of [`lang`](crate::find::algebra::term), and says how far it changes numbers.
//! Each carries a generator of random examples; a test evaluates both sides of every example.

use super::rule::{
    ALWAYS, Rule, at_most_one, binary, complementary, multiplied, power_of_two, rules, swallowed,
};
use crate::find::magnitude::HUGE;

rules! {
    /// Every rule, in the order in which they run.
    RULES:

    "raw-scores" Exact "(qk ?q ?k)" => "(scores ?q ?k 1)" if ALWAYS;
    "QKᵀ is scores of scale 1";
    |d| d.scores("(qk $0 $1)");

    "scale-of-q" Reassociation "(scores (mul ?q ?c) ?k ?s)" => "(scores ?q ?k ?n)"
        if |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on Q is one on the scores";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(scores (mul $0 {c}) $1 {s})")) };

    "scale-of-k" Reassociation "(scores ?q (mul ?k ?c) ?s)" => "(scores ?q ?k ?n)"
        if |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on K is one on the scores";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(scores $0 (mul $1 {c}) {s})")) };

    "scale-of-scores" Reassociation "(mul (scores ?q ?k ?s) ?c)" => "(scores ?q ?k ?n)"
        if |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on the scores joins their scale";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(mul (scores $0 $1 {s}) {c})")) };

    "div-by-power-of-two" Exact "(div ?x ?c)" => "(mul ?x ?n)"
        if |v| v.number("?c").filter(|&c| power_of_two(c)).map(f64::recip).filter(|&r| power_of_two(r));
    "division by a power of two is a product";
    |d| { let c = d.pick(&[0.25, 2.0, -8.0]); d.scores(&format!("(div (qk $0 $1) {c})")) };

    "div-to-mul" Rounding "(div ?x ?c)" => "(mul ?x ?n)"
        if |v| v.number("?c").filter(|&c| !power_of_two(c)).map(f64::recip).filter(|r| r.is_normal());
    "division by a number is a product with its reciprocal";
    |d| { let c = d.pick(&[3.0, 11.313708498984761, -0.7]); d.scores(&format!("(div (qk $0 $1) {c})")) };

    "neg-to-mul" Exact "(neg ?x)" => "(mul ?x -1)" if |v| v.fact("?x").score.then_some(0.0);
    "negation is a product with −1";
    |d| d.scores("(neg (qk $0 $1))");

    "widened-q" Exact "(scores (to-f32 ?q) ?k ?s)" => "(scores ?q ?k ?s)" if ALWAYS;
    "products are accumulated in f32 anyway";
    |d| d.scores("(scores (to-f32 $0) $1 0.5)");

    "widened-q-to-f64" Exact "(scores (to-f64 ?q) ?k ?s)" => "(scores ?q ?k ?s)" if ALWAYS;
    "a wider type loses nothing";
    |d| d.scores("(scores (to-f64 $0) $1 0.5)");

    "widened-k" Exact "(scores ?q (to-f32 ?k) ?s)" => "(scores ?q ?k ?s)" if ALWAYS;
    "products are accumulated in f32 anyway";
    |d| d.scores("(scores $0 (to-f32 $1) 0.5)");

    "widened-k-to-f64" Exact "(scores ?q (to-f64 ?k) ?s)" => "(scores ?q ?k ?s)" if ALWAYS;
    "a wider type loses nothing";
    |d| d.scores("(scores $0 (to-f64 $1) 0.5)");

    "no-cast-to-f64" MorePrecision "(to-f64 ?x)" => "?x" if |v| v.fact("?x").real.then_some(0.0);
    "scores and probabilities stay in the type of accumulation";
    |d| d.scores("(to-f64 (qk $0 $1))");

    "no-cast-to-f32" MorePrecision "(to-f32 ?x)" => "?x" if |v| v.fact("?x").real.then_some(0.0);
    "scores and probabilities stay in the type of accumulation";
    |d| d.scores("(to-f32 (softmax (qk $0 $1)))").rough();

    "no-narrowing" MorePrecision "(narrow ?x ?d)" => "?x" if |v| v.holds("?x", "?d");
    "scores and probabilities stay in the type of accumulation";
    |d| { let n = d.pick(&[24.0, 11.0, 8.0]); d.scores(&format!("(narrow (softmax (qk $0 $1)) {n})")).rough() };

    "softcap" Reassociation "(mul (tanh (scores ?q ?k ?s)) ?c)" => "(cap (scores ?q ?k ?n) ?c)"
        if |v| Some(v.number("?c").filter(|&c| c > 0.0)? * v.number("?s")?);
    "c·tanh(s/c) is a softcap";
    |d| { let s = d.number(); d.scores(&format!("(mul (tanh (scores $0 $1 {s})) 3.5)")) };

    "add-bias" Exact "(add ?x ?b)" => "(bias ?x ?b)" if |v| v.normal("?x").and(v.outside("?b"));
    "an addend that does not depend on the scores is a bias or a mask";
    |d| d.scores("(add (scores $0 $1 0.5) $2)");

    "sub-bias" Exact "(sub ?x ?b)" => "(bias ?x (neg ?b))" if |v| v.normal("?x").and(v.outside("?b"));
    "subtracting a bias adds its negation";
    |d| d.scores("(sub (scores $0 $1 0.5) $2)");

    "sub-from-bias" Exact "(sub ?b ?x)" => "(bias (mul ?x -1) ?b)" if |v| v.normal("?x").and(v.outside("?b"));
    "scores subtracted from a bias are its addend, negated";
    |d| d.scores("(sub $2 (scores $0 $1 0.5))");

    "add-negated" Exact "(add ?x (mul ?m -1))" => "(sub ?x ?m)"
        if |v| v.fact("?x").score.then_some(0.0).and(v.of_rows("?m"));
    "adding a negation subtracts";
    |d| d.scores("(add (qk $0 $1) (mul (rmax (qk $0 $1)) -1))");

    "negated-add" Exact "(add (mul ?m -1) ?x)" => "(sub ?x ?m)"
        if |v| v.fact("?x").score.then_some(0.0).and(v.of_rows("?m"));
    "adding to a negation subtracts";
    |d| d.scores("(add (mul (rmax (qk $0 $1)) -1) (qk $0 $1))");

    "where-keep" Domain "(where ?c ?x -inf)" => "(keep ?x ?c)" if |v| v.normal("?x").and(v.outside("?c"));
    "a score replaced by −∞ takes no part";
    |d| d.scores("(where $3 (scores $0 $1 0.5) -inf)");

    "where-drop" Domain "(where ?c -inf ?x)" => "(keep ?x (not ?c))"
        if |v| v.normal("?x").and(v.outside("?c"));
    "a score replaced by −∞ takes no part";
    |d| d.scores("(where $3 -inf (scores $0 $1 0.5))");

    "where-else-fill" Exact "(where ?c ?x ?f)" => "(replace ?x ?c ?f)"
        if |v| v.normal("?x").and(v.outside("?c")).and(v.number("?f"));
    "a score replaced by a finite number";
    |d| d.scores("(where $3 (scores $0 $1 0.5) -10000)");

    "where-fill" Exact "(where ?c ?f ?x)" => "(replace ?x (not ?c) ?f)"
        if |v| v.normal("?x").and(v.outside("?c")).and(v.number("?f"));
    "a score replaced by a finite number";
    |d| d.scores("(where $3 -10000 (scores $0 $1 0.5))");

    "least-score" Exact "(max ?x ?c)" => "(floor ?x ?c)"
        if |v| v.normal("?x").and(v.number("?c").filter(|&c| c <= HUGE));
    "the least number that masked scores may fall to";
    |d| d.scores("(max (bias (scores $0 $1 0.5) $8) -1e35)");

    "multiplied-mask" Domain "(add (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)"
        if |v| v.finite("?x").and(multiplied(v, 1.0));
    "s·m + (1−m)·f with m of 0 and 1 replaces finite scores by f";
    |d| d.scores("(add (mul (scores $0 $1 0.5) $4) $5)");

    "multiplied-mask-sub" Domain "(sub (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)"
        if |v| v.finite("?x").and(multiplied(v, -1.0));
    "s·m − (1−m)·f with m of 0 and 1 replaces finite scores by −f";
    |d| d.scores("(sub (mul (scores $0 $1 0.5) $4) $5)");

    "multiplied-choice" Domain "(add (mul ?x ?m) (mul ?y ?k))" => "(where (nonzero ?m) ?x ?y)"
        if |v| v.finite("?x").and(v.finite("?y")).and(complementary(v));
    "x·m + y·(1−m) with m of 0 and 1 chooses between finite numbers";
    |d| d.scores("(add (mul (bias (scores $0 $1 0.5) $9) $4) (mul (scores $0 $1 0.5) $11))");

    "bias-where" Exact "(where ?c (bias ?x ?b) ?x)" => "(bias ?x (only ?b ?c))"
        if |v| v.normal("?x").and(v.outside("?c"));
    "an addend for some scores is 0 for the others";
    |d| d.scores("(where $3 (bias (scores $0 $1 0.5) $2) (scores $0 $1 0.5))");

    "bias-unless" Exact "(where ?c ?x (bias ?x ?b))" => "(bias ?x (only ?b (not ?c)))"
        if |v| v.normal("?x").and(v.outside("?c"));
    "an addend for some scores is 0 for the others";
    |d| d.scores("(where $3 (scores $0 $1 0.5) (bias (scores $0 $1 0.5) $2))");

    "factor-on-q" Reassociation "(mul (scores ?q ?k ?s) ?m)" => "(scores (scaled ?q ?m) ?k ?s)"
        if |v| v.row_leaf("?m");
    "a factor that all scores of a row share goes on Q";
    |d| d.scores("(mul (scores $0 $1 0.5) $9)");

    "divisor-on-q" Rounding "(div (scores ?q ?k ?s) ?m)" => "(scores (scaled ?q (reciprocal ?m)) ?k ?s)"
        if |v| v.row_leaf("?m");
    "a divisor that all scores of a row share goes on Q";
    |d| d.scores("(div (scores $0 $1 0.5) $9)");

    "scale-of-biased" Reassociation "(mul (bias ?x ?b) ?c)" => "(bias (mul ?x ?c) (times ?b ?c))"
        if |v| v.outside("?b").and(v.factor_of_both("?x", "?b", "?c"));
    "a factor on scores and bias is one on each";
    |d| { let c = d.number(); d.scores(&format!("(mul (bias (scores $0 $1 0.5) $2) {c})")) };

    "scale-of-masked" Exact "(mul (keep ?x ?m) ?c)" => "(keep (mul ?x ?c) ?m)" if |v| v.number("?c").filter(|&c| c > 0.0);
    "−∞ stays −∞ under a positive factor";
    |d| d.scores("(mul (keep (scores $0 $1 0.5) $3) 0.25)");

    "scale-of-joined" Reassociation "(mul (join ?x ?b) ?c)" => "(join (mul ?x ?c) (times ?b ?c))"
        if |v| v.number("?c").filter(|&c| c != 1.0).and(v.outside("?b"));
    "a factor on scores and a column beside them is one on each";
    |d| { let c = d.number(); d.scores(&format!("(mul (join (scores $0 $1 0.5) $7) {c})")) };

    "scale-of-filled" Reassociation "(mul (replace ?x ?m ?f) ?c)" => "(replace (mul ?x ?c) ?m ?n)"
        if |v| Some(v.number("?f")? * v.number("?c")?).filter(|x| x.abs() <= f64::from(f32::MAX));
    "a factor on scores and their fill is one on each";
    |d| d.scores("(mul (replace (scores $0 $1 0.5) $3 -10000) 0.25)");

    "multiplied-by-its-mask" Exact "(mul (softmax (keep ?x ?c)) ?m)" => "(softmax (keep ?x ?c))"
        if |v| (v.egraph.analysis.leaf(v.fact("?m"))?.truth == Some(v.fact("?c").leaf?)).then_some(0.0);
    "masked keys are 0 after the softmax, and stay 0";
    |d| d.scores("(mul (softmax (keep (scores $0 $1 0.5) $3)) $10)");

    "equal-to-itself" Exact "(eq ?x ?x)" => "(not (isnan ?x))" if |v| v.fact("?x").score.then_some(0.0);
    "NaN alone is not equal to itself";
    |d| d.scores("(eq (softmax (keep (qk $0 $1) $3)) (softmax (keep (qk $0 $1) $3)))");

    "where-not" Exact "(where (not ?c) ?a ?b)" => "(where ?c ?b ?a)" if |v| v.fact("?c").score.then_some(0.0);
    "a choice by a negation is the other choice";
    |d| d.scores("(where (not (isnan (qk $0 $1))) $2 $8)");

    "zero-where-max-infinite" Domain "(where (eq (rmax ?x) -inf) 0 (softmax ?x))" => "(zero-empty ?x)"
        if |v| v.ready("?x");
    "zeros where the largest score is −∞ make a row without a key zero";
    |d| d.scores("(where (eq (rmax (keep (qk $0 $1) $3)) -inf) 0 (softmax (keep (qk $0 $1) $3)))");

    "zero-where-all-infinite" Domain "(where (rmin (eq ?x -inf)) 0 (softmax ?x))" => "(zero-empty ?x)"
        if |v| v.ready("?x");
    "zeros where every score is −∞ make a row without a key zero";
    |d| d.scores("(where (rmin (eq (keep (qk $0 $1) $3) -inf)) 0 (softmax (keep (qk $0 $1) $3)))");

    "zero-where-none-finite" Domain "(where (rmax (not (eq ?x -inf))) (softmax ?x) 0)" => "(zero-empty ?x)"
        if |v| v.ready("?x");
    "zeros where no score is above −∞ make a row without a key zero";
    |d| d.scores("(where (rmax (not (eq (keep (qk $0 $1) $3) -inf))) (softmax (keep (qk $0 $1) $3)) 0)");

    "zero-where-masked" Domain "(where ?c (softmax (keep ?x ?c)) 0)" => "(zero-empty (keep ?x ?c))"
        if |v| v.normal("?x");
    "zeros for masked keys after the softmax change a row without a key alone";
    |d| d.scores("(where $3 (softmax (keep (scores $0 $1 0.5) $3)) 0)");

    "zero-where-dropped" Domain "(where ?c 0 (softmax (keep ?x (not ?c))))" => "(zero-empty (keep ?x (not ?c)))"
        if |v| v.normal("?x");
    "zeros for masked keys after the softmax change a row without a key alone";
    |d| d.scores("(where $3 0 (softmax (keep (scores $0 $1 0.5) (not $3))))");

    "zero-where-filled" Domain "(where ?c (softmax (replace ?x ?c ?f)) 0)" => "(zero-empty (keep ?x ?c))"
        if |v| v.above_fills("?x").and(v.number("?f").filter(|&f| f <= HUGE));
    "zeros for keys whose fill leaves nothing of them make that fill −∞";
    |d| d.scores("(where $3 (softmax (replace (scores $0 $1 0.5) $3 -1e35)) 0)");

    "zero-where-refilled" Domain "(where ?c 0 (softmax (replace ?x (not ?c) ?f)))" => "(zero-empty (keep ?x (not ?c)))"
        if |v| v.above_fills("?x").and(v.number("?f").filter(|&f| f <= HUGE));
    "zeros for keys whose fill leaves nothing of them make that fill −∞";
    |d| d.scores("(where $3 0 (softmax (replace (scores $0 $1 0.5) (not $3) -1e35)))");

    "zero-empty" Domain "(where (isnan (softmax ?x)) 0 (softmax ?x))" => "(zero-empty ?x)"
        if |v| v.ready_or_joined("?x");
    "zeros instead of NaN make a row without a key zero";
    |d| d.scores("(where (isnan (softmax (scores $0 $1 0.5))) 0 (softmax (scores $0 $1 0.5)))");

    "no-infinite-probability" Exact "(where (eq ?p inf) ?c ?y)" => "?y"
        if |v| v.fact("?p").probabilities.then_some(0.0);
    "no probability is infinite";
    |d| d.scores("(where (eq (softmax (scores $0 $1 0.5)) inf) 1 (softmax (scores $0 $1 0.5)))");

    "no-probability-below" Exact "(where (eq ?p -inf) ?c ?y)" => "?y"
        if |v| v.fact("?p").probabilities.then_some(0.0);
    "no probability is infinite";
    |d| d.scores("(where (eq (softmax (scores $0 $1 0.5)) -inf) 1 (softmax (scores $0 $1 0.5)))");

    "no-infinite-probability-of-sign" Exact "(where (op:and (isinf ?p) ?g) ?c ?y)" => "?y"
        if |v| v.fact("?p").probabilities.then_some(0.0);
    "no probability is infinite";
    |d| d.scores("(where (op:and (isinf (softmax (scores $0 $1 0.5))) (op:gt (softmax (scores $0 $1 0.5)) 0)) 1 (softmax (scores $0 $1 0.5)))");

    "masked-afterwards" Domain "(div (mul (softmax ?x) ?k) (rsum (mul (softmax ?x) ?k)))" => "(loose (keep ?x (nonzero ?k)))"
        if |v| v.normal("?x").and(binary(v));
    "what a mask leaves of the probabilities, over its sum, is the softmax of what it leaves of the scores";
    |d| d.scores("(div (mul (softmax (scores $0 $1 0.5)) $10) (rsum (mul (softmax (scores $0 $1 0.5)) $10)))");

    "zero-empty-twice" Domain "(where (isnan (zero-empty ?x)) 0 (zero-empty ?x))" => "(zero-empty ?x)" if ALWAYS;
    "rows without a key are zeros already";
    |d| d.scores("(where (isnan (zero-empty (keep (scores $0 $1 0.5) $3))) 0 (zero-empty (keep (scores $0 $1 0.5) $3)))");

    "zero-where-all-masked" Domain "(where (row-empty ?b) 0 (softmax (bias ?x ?b)))" => "(zero-empty (bias ?x ?b))"
        if |v| v.fact("?x").plain.then_some(0.0);
    "zeros for a row whose bias is −∞ throughout";
    |d| d.scores("(where (row-empty $8) 0 (softmax (bias (scores $0 $1 0.5) $8)))");

    "sinks" Reassociation "(drop (softmax (join ?x ?b)))" => "(softmax (sink ?x ?b))"
        if |v| v.normal("?x").and(v.outside("?b"));
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (softmax (join (scores $0 $1 0.5) $7)))");

    "sinks-zero-empty" Reassociation "(drop (zero-empty (join ?x ?b)))" => "(zero-empty (sink ?x ?b))"
        if |v| v.normal("?x").and(v.outside("?b"));
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (zero-empty (join (keep (scores $0 $1 0.5) $3) $7)))");

    "sinks-loose" Reassociation "(drop (loose (join ?x ?b)))" => "(loose (sink ?x ?b))"
        if |v| v.normal("?x").and(v.outside("?b"));
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (loose (join (scores $0 $1 0.5) $7)))");

    "dropped-column" Exact "(drop (join ?x ?b))" => "?x" if ALWAYS;
    "a column that is added and dropped again";
    |d| d.scores("(drop (join (softmax (qk $0 $1)) $7))");

    "softmax-written-out" Rounding "(div (exp (sub ?x (rmax ?x))) (rsum (exp (sub ?x (rmax ?x)))))" => "(softmax ?x)"
        if |v| v.fact("?x").score.then_some(0.0);
    "exp(x − max) over its sum is softmax";
    |d| d.scores("(div (exp (sub (qk $0 $1) (rmax (qk $0 $1)))) (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))))");

    "softmax-without-max" Domain "(div (exp ?x) (rsum (exp ?x)))" => "(loose ?x)" if |v| v.normal("?x");
    "exp(x) over its sum is softmax, where it does not overflow";
    |d| d.scores("(div (exp (scores $0 $1 0.5)) (rsum (exp (scores $0 $1 0.5))))");

    "mul-by-reciprocal" Rounding "(mul ?x (reciprocal ?y))" => "(div ?x ?y)"
        if |v| v.fact("?y").score.then_some(0.0);
    "a product with a reciprocal is a quotient";
    |d| d.scores("(mul (qk $0 $1) (reciprocal (rsum (exp (qk $0 $1)))))");

    "one-over" Exact "(div 1 ?y)" => "(reciprocal ?y)" if |v| v.fact("?y").score.then_some(0.0);
    "1 over a number is its reciprocal";
    |d| d.scores("(div 1 (rsum (exp (qk $0 $1))))");

    "shifted-softmax" Rounding "(softmax (sub ?x (rmax ?x)))" => "(softmax ?x)"
        if |v| v.fact("?x").score.then_some(0.0);
    "softmax subtracts the maximum itself";
    |d| d.scores("(softmax (sub (qk $0 $1) (rmax (qk $0 $1))))");

    "shift-by-row" Domain "(softmax (sub ?x ?m))" => "(softmax ?x)"
        if |v| v.peak("?x", "?m");
    "what all scores of a row lose alike the softmax does not see, while it is finite";
    |d| { let (x, m) = d.shift(true); d.scores(&format!("(softmax (sub {x} {m}))")) };

    "shifted-quotient" Domain "(div (exp (sub ?x ?m)) (rsum (exp (sub ?x ?m))))" => "(loose ?x)"
        if |v| v.peak_alone("?x", "?m");
    "exp(x − m) over its sum is softmax, whatever finite number m is for a row";
    |d| { let (x, m) = d.shift(true); d.scores(&format!("(div (exp (sub {x} {m})) (rsum (exp (sub {x} {m}))))")) };

    "quotient-of-max" Rounding "(div (exp (sub ?x ?m)) (rsum (exp (sub ?x ?m))))" => "(softmax ?x)"
        if |v| v.top("?x", "?m");
    "exp(x − m) over its sum is softmax, whatever finite number m is for a row";
    |d| { let (x, m) = d.top(true); d.scores(&format!("(div (exp (sub {x} {m})) (rsum (exp (sub {x} {m}))))")) };

    // Where the sum overflows, its logarithm makes a finite 0: the shift must not be below any score.
    "exp-of-log-softmax" Domain "(exp (sub (sub ?x ?m) (log (rsum (exp (sub ?x ?m))))))" => "(loose ?x)"
        if |v| v.crest_alone("?x", "?m");
    "exp(x − ln Σ exp(x)) is exp(x) over its sum";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub (sub {x} {m}) (log (rsum (exp (sub {x} {m}))))))")) };

    "exp-of-log-softmax-of-max" Rounding "(exp (sub (sub ?x ?m) (log (rsum (exp (sub ?x ?m))))))" => "(softmax ?x)"
        if |v| v.top("?x", "?m");
    "exp(x − ln Σ exp(x)) is exp(x) over its sum";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub (sub {x} {m}) (log (rsum (exp (sub {x} {m}))))))")) };

    // Not beside a finite fill, which loses the logarithm: that is asked where the fill is known.
    "exp-less-lse" Domain "(exp (sub ?x (add ?m (log (rsum (exp (sub ?x ?m)))))))" => "(loose ?x)"
        if |v| v.crest_alone("?x", "?m");
    "exp(x − lse) is softmax";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub {x} (add {m} (log (rsum (exp (sub {x} {m})))))))")) };

    "exp-less-lse-of-max" Rounding "(exp (sub ?x (add ?m (log (rsum (exp (sub ?x ?m)))))))" => "(softmax ?x)"
        if |v| v.top("?x", "?m");
    "exp(x − lse) is softmax";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub {x} (add {m} (log (rsum (exp (sub {x} {m})))))))")) };

    "exp-less-sum" Domain "(exp (sub ?x (add (log (rsum (exp (sub ?x ?m)))) ?m)))" => "(loose ?x)"
        if |v| v.crest_alone("?x", "?m");
    "exp(x − lse) is softmax";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub {x} (add (log (rsum (exp (sub {x} {m})))) {m})))")) };

    "exp-less-sum-of-max" Rounding "(exp (sub ?x (add (log (rsum (exp (sub ?x ?m)))) ?m)))" => "(softmax ?x)"
        if |v| v.top("?x", "?m");
    "exp(x − lse) is softmax";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub {x} (add (log (rsum (exp (sub {x} {m})))) {m})))")) };

    "power" Rounding "(pow ?c ?x)" => "(exp (mul ?x ?n))"
        if |v| v.fact("?x").score.then_some(0.0).and(v.number("?c")).filter(|&c| c > 0.0 && c != 1.0).map(f64::ln);
    "c to the power of x is exp(x·ln c)";
    |d| d.scores("(pow 2 (sub (qk $0 $1) (rmax (qk $0 $1))))");

    "scale-of-shifted" Reassociation "(mul (sub ?x ?m) ?c)" => "(sub (mul ?x ?c) (mul ?m ?c))"
        if |v| v.fact("?x").score.then_some(0.0).and(v.of_rows("?m")).and(v.factor_of_shifted("?x", "?c"));
    "a factor on a difference is one on both";
    |d| { let c = d.number(); d.scores(&format!("(mul (sub (qk $0 $1) (rmax (qk $0 $1))) {c})")) };

    "scale-of-max" Exact "(mul (rmax ?x) ?c)" => "(rmax (mul ?x ?c))"
        if |v| v.fact("?x").score.then_some(0.0).and(v.number("?c")).filter(|&c| c > 0.0);
    "a positive factor on a maximum is one on what it is of";
    |d| d.scores("(mul (rmax (qk $0 $1)) 0.75)");

    "scale-of-max-or-zero" Exact "(mul (rmax-or-zero ?x) ?c)" => "(rmax-or-zero (mul ?x ?c))"
        if |v| v.fact("?x").score.then_some(0.0).and(v.number("?c")).filter(|&c| c > 0.0);
    "a positive factor on a maximum is one on what it is of";
    |d| d.scores("(mul (rmax-or-zero (keep (qk $0 $1) $3)) 0.75)");

    "times-one" Exact "(mul ?x 1)" => "?x" if |v| v.fact("?x").score.then_some(0.0);
    "a factor of 1";
    |d| d.scores("(mul (exp (qk $0 $1)) 1)");

    "masked-exp" Domain "(mul (exp (sub ?x ?m)) ?k)" => "(exp (sub (keep ?x (nonzero ?k)) ?m))"
        if |v| v.normal("?x").and(v.of_rows("?m")).and(binary(v));
    "exp times 0 is exp(−∞), times 1 it stays";
    |d| d.scores("(mul (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))) $10)");

    "masked-plain-exp" Domain "(mul (exp ?x) ?k)" => "(exp (keep ?x (nonzero ?k)))"
        if |v| v.normal("?x").and(binary(v));
    "exp times 0 is exp(−∞), times 1 it stays";
    |d| d.scores("(mul (exp (scores $0 $1 0.5)) $10)");

    "kept-exp" Domain "(where ?c (exp (sub ?x ?m)) 0)" => "(exp (sub (keep ?x ?c) ?m))"
        if |v| v.normal("?x").and(v.above_infinity("?m")).and(v.outside("?c"));
    "0 is exp(−∞)";
    |d| d.scores("(where $3 (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))) 0)");

    "dropped-exp" Domain "(where ?c 0 (exp (sub ?x ?m)))" => "(exp (sub (keep ?x (not ?c)) ?m))"
        if |v| v.normal("?x").and(v.above_infinity("?m")).and(v.outside("?c"));
    "0 is exp(−∞)";
    |d| d.scores("(where $3 0 (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))))");

    "kept-plain-exp" Domain "(where ?c (exp ?x) 0)" => "(exp (keep ?x ?c))"
        if |v| v.normal("?x").and(v.outside("?c"));
    "0 is exp(−∞)";
    |d| d.scores("(where $3 (exp (scores $0 $1 0.5)) 0)");

    "dropped-plain-exp" Domain "(where ?c 0 (exp ?x))" => "(exp (keep ?x (not ?c)))"
        if |v| v.normal("?x").and(v.outside("?c"));
    "0 is exp(−∞)";
    |d| d.scores("(where $3 0 (exp (scores $0 $1 0.5)))");

    "masked-twice" Exact "(keep (keep ?x ?c) (nonzero ?k))" => "(keep ?x ?c)"
        if |v| (v.egraph.analysis.leaf(v.fact("?k"))?.truth == Some(v.fact("?c").leaf?)).then_some(0.0);
    "a mask once more masks nothing more";
    |d| d.scores("(keep (keep (scores $0 $1 0.5) $3) (nonzero $10))");

    "kept-twice" Exact "(keep (keep ?x ?c) ?c)" => "(keep ?x ?c)" if |v| v.normal("?x");
    "a mask once more masks nothing more";
    |d| d.scores("(keep (keep (scores $0 $1 0.5) $3) $3)");

    "max-or-zero" Domain "(where (isinf (rmax ?x)) 0 (rmax ?x))" => "(rmax-or-zero ?x)"
        if |v| v.fact("?x").score.then_some(0.0);
    "the maximum, but 0 for a row without a key";
    |d| d.scores("(where (isinf (rmax (keep (qk $0 $1) $3))) 0 (rmax (keep (qk $0 $1) $3)))");

    "max-or-zero-by-value" Exact "(where (eq (rmax ?x) -inf) 0 (rmax ?x))" => "(rmax-or-zero ?x)"
        if |v| v.fact("?x").score.then_some(0.0);
    "the maximum, but 0 for a row without a key";
    |d| d.scores("(where (eq (rmax (keep (qk $0 $1) $3)) -inf) 0 (rmax (keep (qk $0 $1) $3)))");

    "bounded-sum" Domain "(max (rsum (exp (sub ?x (rmax ?x)))) ?c)" => "(rsum (exp (sub ?x (rmax ?x))))"
        if |v| v.fact("?x").score.then_some(0.0).and(at_most_one(v));
    "the sum of exp(x − max) is at least 1, or there is no key";
    |d| d.scores("(max (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))) 0.001)");

    "sum-and-a-little" Rounding "(add (rsum (exp (sub ?x (rmax ?x)))) ?c)" => "(rsum (exp (sub ?x (rmax ?x))))"
        if |v| v.fact("?x").score.then_some(0.0).and(swallowed(v));
    "the sum of exp(x − max) is at least 1, and swallows so small a number";
    |d| d.scores("(add (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))) 1e-20)");

    "bounded-sum-of-empty" Domain
        "(div (exp (sub ?x (rmax-or-zero ?x))) (max (rsum (exp (sub ?x (rmax-or-zero ?x)))) ?c))" => "(zero-empty ?x)"
        if |v| v.ready_or_joined("?x").and(at_most_one(v));
    "the sum of exp(x − max) is at least 1, or 0 for a row without a key, whose quotients the bound makes 0";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (max (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 1e-6))");

    "sum-and-a-little-of-empty" Rounding
        "(div (exp (sub ?x (rmax-or-zero ?x))) (add (rsum (exp (sub ?x (rmax-or-zero ?x)))) ?c))" => "(zero-empty ?x)"
        if |v| v.ready_or_joined("?x").and(swallowed(v));
    "the sum of exp(x − max) swallows the number, or is 0 for a row without a key, whose quotients are then 0";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (add (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 1e-20))");

    "sum-unless-zero" Domain
        "(div (exp (sub ?x (rmax-or-zero ?x))) (where (eq (rsum (exp (sub ?x (rmax-or-zero ?x)))) 0) ?c (rsum (exp (sub ?x (rmax-or-zero ?x))))))"
        => "(zero-empty ?x)"
        if |v| v.ready_or_joined("?x").and(v.number("?c").filter(|&c| c != 0.0));
    "a row without a key has a sum of 0, instead of which another number makes its quotients 0";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (where (eq (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 0) 1 \
        (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))))))");

    "one-more-in-sum" Domain "(div (exp ?x) (add (rsum (exp ?x)) ?c))" => "(loose (sink ?x ?n))"
        if |v| v.normal("?x").and(v.number("?c")).filter(|&c| c > 0.0).map(f64::ln);
    "a number beside the sum of exp is a sink, of its logarithm";
    |d| d.scores("(div (exp (scores $0 $1 0.5)) (add (rsum (exp (scores $0 $1 0.5))) 2))");

    "one-more-in-shifted-sum" Domain
        "(div (exp (sub ?x ?m)) (add (rsum (exp (sub ?x ?m))) (exp (mul ?m -1))))" => "(loose (sink ?x ?n))"
        if |v| v.normal("?x").and(v.peak("?x", "?m"));
    "exp(−m) beside the sum of exp(x − m) is a sink of 0";
    |d| d.scores("(div (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))) \
        (add (rsum (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5))))) (exp (mul (rmax (scores $0 $1 0.5)) -1))))");

    "sum-second" Exact "(add (exp ?m) (rsum ?x))" => "(add (rsum ?x) (exp ?m))" if |v| v.of_rows("?m");
    "the terms of a sum change places";
    |d| d.scores("(add (exp (rmax (qk $0 $1))) (rsum (qk $0 $1)))");

    "reciprocal-first" Exact "(mul (reciprocal ?y) ?x)" => "(mul ?x (reciprocal ?y))"
        if |v| v.fact("?y").score.then_some(0.0).and(v.fact("?x").score.then_some(0.0));
    "the factors of a product change places";
    |d| d.scores("(mul (reciprocal (rsum (exp (qk $0 $1)))) (qk $0 $1))");

    "divided-before-values" Rounding "(div (pv ?e ?v) ?r)" => "(pv (div ?e ?r) ?v)"
        if |v| v.fact("?e").score.then_some(0.0).and(v.of_rows("?r"));
    "a divisor that all of a row share divides before the product with the values";
    |d| d.output("(div (pv (exp (qk $0 $1)) $6) (rsum (exp (qk $0 $1))))");

    "factor-of-probabilities" Reassociation "(pv (mul ?p ?m) ?v)" => "(times (pv ?p ?v) ?m)"
        if |v| v.fact("?p").score.then_some(0.0).and(v.number("?m").or(v.row_leaf("?m")));
    "a factor that all probabilities of a row share goes on the result";
    |d| { let m = d.pick_term(&["0.75", "$9"]); d.output(&format!("(pv (mul (softmax (qk $0 $1)) {m}) $6)")) };

    "factor-of-keys" Reassociation "(pv (mul ?p ?m) ?v)" => "(pv ?p (weighted ?v ?m))"
        if |v| v.fact("?p").weights.then_some(0.0).and(v.column_leaf("?m"));
    "a factor that all probabilities of a key share goes on its row of V";
    |d| d.output("(pv (mul (softmax (qk $0 $1)) $14) $6)");

    "attention" Reassociation "(pv (softmax ?x) ?v)" => "(attention ?x ?v)" if |v| v.ready("?x");
    "softmax of scores in normal form, times V";
    |d| d.output("(pv (softmax (scores $0 $1 0.5)) $6)");

    "attention-loose" Domain "(pv (loose ?x) ?v)" => "(attention ?x ?v)" if |v| v.ready("?x");
    "softmax of scores in normal form, times V";
    |d| d.output("(pv (loose (scores $0 $1 0.5)) $6)");

    "attention-zero" Reassociation "(pv (zero-empty ?x) ?v)" => "(attention-zero ?x ?v)" if |v| v.ready("?x");
    "the same with zeros for a row without a key";
    |d| d.output("(pv (zero-empty (keep (scores $0 $1 0.5) $3)) $6)");
}
