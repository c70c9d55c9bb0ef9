//! What is added to scores, chosen for them or left of them, before the softmax and after it.

use crate::find::algebra::condition::{binary, complementary, multiplied};
use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "add-bias" Exact "(add ?x ?b)" => "(bias ?x ?b)",
        if |v| v.normal("?x") && v.outside("?b");
    "an addend that does not depend on the scores is a bias or a mask";
    |d| d.scores("(add (scores $0 $1 0.5) $2)");

    "sub-bias" Exact "(sub ?x ?b)" => "(bias ?x (neg ?b))",
        if |v| v.normal("?x") && v.outside("?b");
    "subtracting a bias adds its negation";
    |d| d.scores("(sub (scores $0 $1 0.5) $2)");

    "sub-from-bias" Exact "(sub ?b ?x)" => "(bias (mul ?x -1) ?b)",
        if |v| v.normal("?x") && v.outside("?b");
    "subtracting scores from a bias adds the negated scores to it";
    |d| d.scores("(sub $2 (scores $0 $1 0.5))");

    "where-keep" Domain "(where ?c ?x -inf)" => "(keep ?x ?c)",
        if |v| v.normal("?x") && v.outside("?c");
    "a score that −∞ replaces takes no part in the softmax";
    |d| d.scores("(where $3 (scores $0 $1 0.5) -inf)");

    "where-drop" Domain "(where ?c -inf ?x)" => "(keep ?x (not ?c))",
        if |v| v.normal("?x") && v.outside("?c");
    "a score that −∞ replaces takes no part in the softmax";
    |d| d.scores("(where $3 -inf (scores $0 $1 0.5))");

    "where-else-fill" Exact "(where ?c ?x ?f)" => "(replace ?x ?c ?f)",
        if |v| v.normal("?x") && v.outside("?c") && v.is_number("?f");
    "a mask replaces scores by a finite number";
    |d| d.scores("(where $3 (scores $0 $1 0.5) -10000)");

    "where-fill" Exact "(where ?c ?f ?x)" => "(replace ?x (not ?c) ?f)",
        if |v| v.normal("?x") && v.outside("?c") && v.is_number("?f");
    "a mask replaces scores by a finite number";
    |d| d.scores("(where $3 -10000 (scores $0 $1 0.5))");

    "least-score" Exact "(max ?x ?c)" => "(floor ?x ?c)",
        if |v| v.normal("?x") && v.huge("?c");
    "masked scores do not fall below this number";
    |d| d.scores("(max (bias (scores $0 $1 0.5) $8) -1e35)");

    "multiplied-mask" Domain "(add (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)",
        n = |v| multiplied(v, 1.0),
        if |v| v.finite("?x");
    "s·m + (1−m)·f with m of 0 and 1 replaces finite scores by f";
    |d| d.scores("(add (mul (scores $0 $1 0.5) $4) $5)");

    "multiplied-mask-sub" Domain "(sub (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)",
        n = |v| multiplied(v, -1.0),
        if |v| v.finite("?x");
    "s·m − (1−m)·f with m of 0 and 1 replaces finite scores by −f";
    |d| d.scores("(sub (mul (scores $0 $1 0.5) $4) $5)");

    "multiplied-mask-of-masked" Domain "(add (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)",
        n = |v| multiplied(v, 1.0),
        if |v| v.normal("?x") && !v.finite("?x"),
        hides Factors;
    "s·m + (1−m)·f with m of 0 and 1 replaces scores by f, but for −∞·0";
    |d| d.scores("(add (mul (bias (scores $0 $1 0.5) $2) $4) $5)");

    "multiplied-mask-sub-of-masked" Domain "(sub (mul ?x ?m) ?a)" => "(replace ?x (nonzero ?m) ?n)",
        n = |v| multiplied(v, -1.0),
        if |v| v.normal("?x") && !v.finite("?x"),
        hides Factors;
    "s·m − (1−m)·f with m of 0 and 1 replaces scores by −f, but for −∞·0";
    |d| d.scores("(sub (mul (bias (scores $0 $1 0.5) $2) $4) $5)");

    "multiplied-choice" Domain "(add (mul ?x ?m) (mul ?y ?k))" => "(where (nonzero ?m) ?x ?y)",
        if |v| v.finite("?x") && v.finite("?y") && complementary(v);
    "x·m + y·(1−m) with m of 0 and 1 chooses between finite numbers";
    |d| d.scores("(add (mul (bias (scores $0 $1 0.5) $9) $4) (mul (scores $0 $1 0.5) $11))");

    "bias-where" Exact "(where ?c (bias ?x ?b) ?x)" => "(bias ?x (only ?b ?c))",
        if |v| v.normal("?x") && v.outside("?c");
    "a bias that is added to some scores only is 0 for the others";
    |d| d.scores("(where $3 (bias (scores $0 $1 0.5) $2) (scores $0 $1 0.5))");

    "bias-unless" Exact "(where ?c ?x (bias ?x ?b))" => "(bias ?x (only ?b (not ?c)))",
        if |v| v.normal("?x") && v.outside("?c");
    "a bias that is added to some scores only is 0 for the others";
    |d| d.scores("(where $3 (scores $0 $1 0.5) (bias (scores $0 $1 0.5) $2))");

    "multiplied-by-its-mask" Exact "(mul (softmax (keep ?x ?c)) ?m)" => "(softmax (keep ?x ?c))",
        if |v| v.truth_of("?m", "?c");
    "masked keys are 0 after the softmax, and multiplying by the mask leaves them 0";
    |d| d.scores("(mul (softmax (keep (scores $0 $1 0.5) $3)) $10)");

    "masked-afterwards" Domain "(div (mul (softmax ?x) ?k) (rsum (mul (softmax ?x) ?k)))" => "(loose (keep ?x (nonzero ?k)))",
        if |v| v.normal("?x") && binary(v),
        hides Exponentials;
    "masked probabilities divided by their sum are the softmax of the masked scores";
    |d| d.scores("(div (mul (softmax (scores $0 $1 0.5)) $10) (rsum (mul (softmax (scores $0 $1 0.5)) $10)))");

    "masked-exp" Domain "(mul (exp (sub ?x ?m)) ?k)" => "(exp (sub (keep ?x (nonzero ?k)) ?m))",
        if |v| v.normal("?x") && v.of_rows("?m") && binary(v),
        hides Exponentials;
    "exp(x) times 0 is exp(−∞), and times 1 it stays what it is";
    |d| { let of = d.pick_term(&["(scores $0 $1 0.5)", "(keep (scores $0 $1 0.5) (nonzero $10))"]);
        d.scores(&format!("(mul (exp (sub (scores $0 $1 0.5) (rmax {of}))) $10)")) };

    "masked-plain-exp" Domain "(mul (exp ?x) ?k)" => "(exp (keep ?x (nonzero ?k)))",
        if |v| v.normal("?x") && binary(v),
        hides Exponentials;
    "exp(x) times 0 is exp(−∞), and times 1 it stays what it is";
    |d| d.scores("(mul (exp (scores $0 $1 0.5)) $10)");

    "kept-exp" Domain "(where ?c (exp (sub ?x ?m)) 0)" => "(exp (sub (keep ?x ?c) ?m))",
        if |v| v.normal("?x") && v.above_infinity("?m") && v.outside("?c");
    "0 in the place of an exponential is exp(−∞)";
    |d| d.scores("(where $3 (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))) 0)");

    "dropped-exp" Domain "(where ?c 0 (exp (sub ?x ?m)))" => "(exp (sub (keep ?x (not ?c)) ?m))",
        if |v| v.normal("?x") && v.above_infinity("?m") && v.outside("?c");
    "0 in the place of an exponential is exp(−∞)";
    |d| d.scores("(where $3 0 (exp (sub (scores $0 $1 0.5) (rmax (scores $0 $1 0.5)))))");

    "kept-quotient" Domain "(div (where ?c (exp (sub ?x ?m)) 0) (rsum (where ?c (exp (sub ?x ?m)) 0)))" => "(loose (keep ?x ?c))",
        if |v| v.normal("?x") && v.peak("?x", "?m") && !v.above_infinity("?m") && v.outside("?c"),
        hides Exponentials;
    "0 in the place of an exponential is exp(−∞), and a row without a number has none in its quotient either";
    |d| d.scores("(div (where $3 (exp (sub (bias (scores $0 $1 0.5) $8) (rmax (bias (scores $0 $1 0.5) $8)))) 0) \
        (rsum (where $3 (exp (sub (bias (scores $0 $1 0.5) $8) (rmax (bias (scores $0 $1 0.5) $8)))) 0)))");

    "kept-plain-exp" Domain "(where ?c (exp ?x) 0)" => "(exp (keep ?x ?c))",
        if |v| v.normal("?x") && v.outside("?c");
    "0 in the place of an exponential is exp(−∞)";
    |d| d.scores("(where $3 (exp (scores $0 $1 0.5)) 0)");

    "dropped-plain-exp" Domain "(where ?c 0 (exp ?x))" => "(exp (keep ?x (not ?c)))",
        if |v| v.normal("?x") && v.outside("?c");
    "0 in the place of an exponential is exp(−∞)";
    |d| d.scores("(where $3 0 (exp (scores $0 $1 0.5)))");

    "masked-twice" Exact "(keep (keep ?x ?c) (nonzero ?k))" => "(keep ?x ?c)",
        if |v| v.truth_of("?k", "?c");
    "the mask that is applied twice masks nothing more the second time";
    |d| d.scores("(keep (keep (scores $0 $1 0.5) $3) (nonzero $10))");

    "filled-then-kept" Exact "(keep (replace ?x ?c ?f) ?c)" => "(keep ?x ?c)",
        if |v| v.normal("?x");
    "what a number replaces takes no part where −∞ replaces it by the same mask";
    |d| d.scores("(keep (replace (scores $0 $1 0.5) $3 -10000) $3)");

    "kept-twice" Exact "(keep (keep ?x ?c) ?c)" => "(keep ?x ?c)",
        if |v| v.normal("?x");
    "the mask that is applied twice masks nothing more the second time";
    |d| d.scores("(keep (keep (scores $0 $1 0.5) $3) $3)");
}
