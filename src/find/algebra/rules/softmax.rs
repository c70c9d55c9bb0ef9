//! Softmaxes that are written out, shifted or put together otherwise, and the attention that they make.

use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "add-negated" Exact "(add ?x (mul ?m -1))" => "(sub ?x ?m)",
        if |v| v.scores("?x") && v.of_rows("?m");
    "adding a negated number subtracts it";
    |d| d.scores("(add (qk $0 $1) (mul (rmax (qk $0 $1)) -1))");

    "negated-add" Exact "(add (mul ?m -1) ?x)" => "(sub ?x ?m)",
        if |v| v.scores("?x") && v.of_rows("?m");
    "adding to a negated number subtracts it";
    |d| d.scores("(add (mul (rmax (qk $0 $1)) -1) (qk $0 $1))");

    "softmax-written-out" Rounding "(div (exp (sub ?x (rmax ?x))) (rsum (exp (sub ?x (rmax ?x)))))" => "(softmax ?x)",
        if |v| v.scores("?x");
    "exp(x − max) divided by its sum is softmax";
    |d| d.scores("(div (exp (sub (qk $0 $1) (rmax (qk $0 $1)))) (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))))");

    "softmax-without-max" Domain "(div (exp ?x) (rsum (exp ?x)))" => "(loose ?x)",
        if |v| v.normal("?x"),
        guard ExponentialsInRange,
        hides Exponentials;
    "exp(x) divided by its sum is softmax, where it does not overflow";
    |d| d.scores("(div (exp (scores $0 $1 0.5)) (rsum (exp (scores $0 $1 0.5))))");

    "mul-by-reciprocal" Rounding "(mul ?x (reciprocal ?y))" => "(div ?x ?y)",
        if |v| v.scores("?y");
    "a product with a reciprocal is a quotient";
    |d| d.scores("(mul (qk $0 $1) (reciprocal (rsum (exp (qk $0 $1)))))");

    "one-over" Exact "(div 1 ?y)" => "(reciprocal ?y)",
        if |v| v.scores("?y");
    "1 divided by a number is its reciprocal";
    |d| d.scores("(div 1 (rsum (exp (qk $0 $1))))");

    "shifted-softmax" Rounding "(softmax (sub ?x (rmax ?x)))" => "(softmax ?x)",
        if |v| v.scores("?x");
    "softmax subtracts the maximum of each row itself";
    |d| d.scores("(softmax (sub (qk $0 $1) (rmax (qk $0 $1))))");

    "shifted-by-max-or-zero" Rounding "(softmax (sub ?x (rmax-or-zero ?x)))" => "(softmax ?x)",
        if |v| v.scores("?x");
    "softmax subtracts the maximum of each row itself";
    |d| d.scores("(softmax (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))");

    "shift-by-row" Domain "(softmax (sub ?x ?m))" => "(softmax ?x)",
        if |v| v.peak_alone("?x", "?m"),
        hides Infinities;
    "a finite number that is subtracted from all scores of a row does not change their softmax";
    |d| { let (x, m) = d.shift_by_any(); d.scores(&format!("(softmax (sub {x} {m}))")) };

    "shifted-quotient" Domain "(div (exp (sub ?x ?m)) (rsum (exp (sub ?x ?m))))" => "(loose ?x)",
        if |v| v.peak_alone("?x", "?m"),
        hides Exponentials;
    "exp(x − m) divided by its sum is softmax, for any finite m of each row";
    |d| { let (x, m) = d.shift(true); d.scores(&format!("(div (exp (sub {x} {m})) (rsum (exp (sub {x} {m}))))")) };

    "quotient-of-max" Rounding "(div (exp (sub ?x ?m)) (rsum (exp (sub ?x ?m))))" => "(softmax ?x)",
        if |v| v.top("?x", "?m");
    "exp(x − m) divided by its sum is softmax, for any finite m of each row";
    |d| { let (x, m) = d.top(true); d.scores(&format!("(div (exp (sub {x} {m})) (rsum (exp (sub {x} {m}))))")) };

    // Where the sum overflows, its logarithm makes a finite 0: the shift must not be below any score.
    "exp-of-log-softmax" Domain "(exp (sub (sub ?x ?m) (log (rsum (exp (sub ?x ?m))))))" => "(loose ?x)",
        if |v| v.crest_alone("?x", "?m"),
        hides Logarithms;
    "exp(x − ln Σ exp(x)) is exp(x) divided by its sum";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub (sub {x} {m}) (log (rsum (exp (sub {x} {m}))))))")) };

    "exp-of-log-softmax-of-max" Rounding "(exp (sub (sub ?x ?m) (log (rsum (exp (sub ?x ?m))))))" => "(softmax ?x)",
        if |v| v.top("?x", "?m");
    "exp(x − ln Σ exp(x)) is exp(x) divided by its sum";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub (sub {x} {m}) (log (rsum (exp (sub {x} {m}))))))")) };

    // Not beside a finite fill, which loses the logarithm: that is asked where the fill is known.
    "exp-less-lse" Domain "(exp (sub ?x (add ?m (log (rsum (exp (sub ?x ?m)))))))" => "(loose ?x)",
        if |v| v.crest_alone("?x", "?m"),
        guard KeepsLogarithm,
        hides Logarithms;
    "exp(x − lse) is softmax, where lse is the logarithm of the sum of exp(x)";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub {x} (add {m} (log (rsum (exp (sub {x} {m})))))))")) };

    "exp-less-lse-of-max" Rounding "(exp (sub ?x (add ?m (log (rsum (exp (sub ?x ?m)))))))" => "(softmax ?x)",
        if |v| v.top("?x", "?m"),
        guard KeepsLogarithm;
    "exp(x − lse) is softmax, where lse is the logarithm of the sum of exp(x)";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub {x} (add {m} (log (rsum (exp (sub {x} {m})))))))")) };

    "exp-less-sum" Domain "(exp (sub ?x (add (log (rsum (exp (sub ?x ?m)))) ?m)))" => "(loose ?x)",
        if |v| v.crest_alone("?x", "?m"),
        guard KeepsLogarithm,
        hides Logarithms;
    "exp(x − lse) is softmax, where lse is the logarithm of the sum of exp(x)";
    |d| { let (x, m) = d.shift(false); d.scores(&format!("(exp (sub {x} (add (log (rsum (exp (sub {x} {m})))) {m})))")) };

    "exp-less-sum-of-max" Rounding "(exp (sub ?x (add (log (rsum (exp (sub ?x ?m)))) ?m)))" => "(softmax ?x)",
        if |v| v.top("?x", "?m"),
        guard KeepsLogarithm;
    "exp(x − lse) is softmax, where lse is the logarithm of the sum of exp(x)";
    |d| { let (x, m) = d.top(false); d.scores(&format!("(exp (sub {x} (add (log (rsum (exp (sub {x} {m})))) {m})))")) };

    "power" Rounding "(pow ?c ?x)" => "(exp (mul ?x ?n))",
        n = |v| v.number("?c").filter(|&c| c > 0.0 && c != 1.0).map(f64::ln),
        if |v| v.scores("?x");
    "c to the power of x is exp(x·ln c)";
    |d| d.scores("(pow 2 (sub (qk $0 $1) (rmax (qk $0 $1))))");

    "power-of-log" Rounding "(pow ?c (mul ?x ?a))" => "(exp ?x)",
        if |v| v.scores("?x") && v.near_one("?c", "?a");
    "c to the power of x·log_c(e) is exp(x), but for the last digit of that logarithm in f32";
    |d| d.scores("(pow 2 (mul (sub (qk $0 $1) (rmax (qk $0 $1))) 1.4426950216293335))").rough();

    "twice-shifted" Exact "(sub (mul (sub ?x (rmax ?x)) ?c) (rmax (mul (sub ?x (rmax ?x)) ?c)))" => "(mul (sub ?x (rmax ?x)) ?c)",
        if |v| v.scores("?x") && v.positive("?c");
    "the maximum of what a row's maximum was subtracted from is 0";
    |d| { let c = d.pick(&[0.25, 1.5]); let y = format!("(mul (sub (qk $0 $1) (rmax (qk $0 $1))) {c})");
        d.scores(&format!("(sub {y} (rmax {y}))")) };

    "scale-of-shifted" Reassociation "(mul (sub ?x ?m) ?c)" => "(sub (mul ?x ?c) (mul ?m ?c))",
        if |v| v.scores("?x") && v.of_rows("?m") && v.factor_of_shifted("?x", "?c");
    "a factor on a difference is a factor on both of its sides";
    |d| { let c = d.number(); d.scores(&format!("(mul (sub (qk $0 $1) (rmax (qk $0 $1))) {c})")) };

    "scale-of-max" Exact "(mul (rmax ?x) ?c)" => "(rmax (mul ?x ?c))",
        if |v| v.scores("?x") && v.positive("?c");
    "a positive factor on a maximum is a factor on everything that the maximum is taken of";
    |d| d.scores("(mul (rmax (qk $0 $1)) 0.75)");

    "scale-of-max-or-zero" Exact "(mul (rmax-or-zero ?x) ?c)" => "(rmax-or-zero (mul ?x ?c))",
        if |v| v.scores("?x") && v.positive("?c");
    "a positive factor on a maximum is a factor on everything that the maximum is taken of";
    |d| d.scores("(mul (rmax-or-zero (keep (qk $0 $1) $3)) 0.75)");

    "times-one" Exact "(mul ?x 1)" => "?x",
        if |v| v.scores("?x");
    "a factor of 1 changes nothing";
    |d| d.scores("(mul (exp (qk $0 $1)) 1)");

    "reciprocal-first" Exact "(mul (reciprocal ?y) ?x)" => "(mul ?x (reciprocal ?y))",
        if |v| v.scores("?y") && v.scores("?x");
    "the factors of a product may change places";
    |d| d.scores("(mul (reciprocal (rsum (exp (qk $0 $1)))) (qk $0 $1))");

    "divided-before-values" Rounding "(div (pv ?e ?v) ?r)" => "(pv (div ?e ?r) ?v)",
        if |v| v.scores("?e") && v.of_rows("?r");
    "a divisor that a whole row shares may divide before the product with V";
    |d| d.output("(div (pv (exp (qk $0 $1)) $6) (rsum (exp (qk $0 $1))))");

    "attention" Reassociation "(pv (softmax ?x) ?v)" => "(attention ?x ?v)",
        if |v| v.ready("?x");
    "the softmax of scores in normal form, times V, is attention";
    |d| d.output("(pv (softmax (scores $0 $1 0.5)) $6)");

    "attention-loose" Domain "(pv (loose ?x) ?v)" => "(attention ?x ?v)",
        if |v| v.ready("?x");
    "the softmax of scores in normal form, times V, is attention";
    |d| d.output("(pv (loose (scores $0 $1 0.5)) $6)");

    "attention-zero-nan" Reassociation "(pv (zero-nan ?x) ?v)" => "(attention-zero-nan ?x ?v)",
        if |v| v.ready("?x");
    "the softmax of scores in normal form, with zeros instead of NaN, times V, is attention";
    |d| d.output("(pv (zero-nan (keep (scores $0 $1 0.5) $3)) $6)");

    "attention-zero" Reassociation "(pv (zero-empty ?x) ?v)" => "(attention-zero ?x ?v)",
        if |v| v.ready("?x");
    "the softmax of scores in normal form, with zeros for rows without a key, times V, is attention";
    |d| d.output("(pv (zero-empty (keep (scores $0 $1 0.5) $3)) $6)");
}
