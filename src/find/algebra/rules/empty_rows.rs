//! What a row without a key gives, and the guards that models put around it.

use crate::find::algebra::condition::{at_most_one, swallowed};
use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "equal-to-itself" Exact "(eq ?x ?x)" => "(not (isnan ?x))",
        if |v| v.scores("?x");
    "only NaN is not equal to itself";
    |d| d.scores("(eq (softmax (keep (qk $0 $1) $3)) (softmax (keep (qk $0 $1) $3)))");

    "where-not" Exact "(where (not ?c) ?a ?b)" => "(where ?c ?b ?a)",
        if |v| v.scores("?c");
    "a choice by a negated condition is a choice by the condition with both sides exchanged";
    |d| d.scores("(where (not (isnan (qk $0 $1))) $2 $8)");

    "zero-where-max-infinite" Domain "(where (eq (rmax ?x) -inf) 0 (softmax ?x))" => "(zero-empty ?x)",
        if |v| v.ready("?x");
    "a row whose largest score is −∞ has no key, and gives zeros";
    |d| d.scores("(where (eq (rmax (keep (qk $0 $1) $3)) -inf) 0 (softmax (keep (qk $0 $1) $3)))");

    "zero-where-all-infinite" Domain "(where (rmin (eq ?x -inf)) 0 (softmax ?x))" => "(zero-empty ?x)",
        if |v| v.ready("?x");
    "a row whose scores are all −∞ has no key, and gives zeros";
    |d| d.scores("(where (rmin (eq (keep (qk $0 $1) $3) -inf)) 0 (softmax (keep (qk $0 $1) $3)))");

    "zero-where-none-finite" Domain "(where (rmax (not (eq ?x -inf))) (softmax ?x) 0)" => "(zero-empty ?x)",
        if |v| v.ready("?x");
    "a row without a score above −∞ has no key, and gives zeros";
    |d| d.scores("(where (rmax (not (eq (keep (qk $0 $1) $3) -inf))) (softmax (keep (qk $0 $1) $3)) 0)");

    "zero-where-masked" Domain "(where ?c (softmax (keep ?x ?c)) 0)" => "(zero-empty (keep ?x ?c))",
        if |v| v.normal("?x"),
        hides RowsOfOthers;
    "zeros for masked keys after the softmax change only rows without a key";
    |d| d.scores("(where $3 (softmax (keep (scores $0 $1 0.5) $3)) 0)");

    "zero-where-dropped" Domain "(where ?c 0 (softmax (keep ?x (not ?c))))" => "(zero-empty (keep ?x (not ?c)))",
        if |v| v.normal("?x"),
        hides RowsOfOthers;
    "zeros for masked keys after the softmax change only rows without a key";
    |d| d.scores("(where $3 0 (softmax (keep (scores $0 $1 0.5) (not $3))))");

    "zero-where-filled" Domain "(where ?c (softmax (replace ?x ?c ?f)) 0)" => "(zero-empty (keep ?x ?c))",
        if |v| v.above_fills("?x") && v.huge_beside("?f", "?x"),
        hides RowsOfOthers;
    "the fill leaves nothing of a masked key, and zeros after the softmax make it as good as −∞";
    |d| d.scores("(where $3 (softmax (replace (scores $0 $1 0.5) $3 -1e35)) 0)");

    "zero-where-refilled" Domain "(where ?c 0 (softmax (replace ?x (not ?c) ?f)))" => "(zero-empty (keep ?x (not ?c)))",
        if |v| v.above_fills("?x") && v.huge_beside("?f", "?x"),
        hides RowsOfOthers;
    "the fill leaves nothing of a masked key, and zeros after the softmax make it as good as −∞";
    |d| d.scores("(where $3 0 (softmax (replace (scores $0 $1 0.5) (not $3) -1e35)))");

    "filled-times-mask" Domain "(mul (softmax (replace ?x ?c ?f)) ?m)" => "(zero-empty (keep ?x ?c))",
        if |v| v.above_fills("?x") && v.huge_beside("?f", "?x") && v.truth_of("?m", "?c"),
        hides RowsOfOthers;
    "the fill leaves nothing of a masked key, and multiplying by the mask after the softmax makes it as good as −∞";
    |d| d.scores("(mul (softmax (replace (scores $0 $1 0.5) $3 -1e35)) $10)");

    "zero-nan" Exact "(where (isnan (softmax ?x)) 0 (softmax ?x))" => "(zero-nan ?x)",
        if |v| v.ready_or_joined("?x");
    "zeros replace the NaN that a row without a key gives, or one with a score of NaN or +∞";
    |d| d.scores("(where (isnan (softmax (bias (scores $0 $1 0.5) $15))) 0 (softmax (bias (scores $0 $1 0.5) $15)))");

    "no-infinite-probability" Exact "(where (eq ?p inf) ?c ?y)" => "?y",
        if |v| v.fact("?p").probabilities;
    "no probability is infinite";
    |d| d.scores("(where (eq (softmax (scores $0 $1 0.5)) inf) 1 (softmax (scores $0 $1 0.5)))");

    "no-probability-below" Exact "(where (eq ?p -inf) ?c ?y)" => "?y",
        if |v| v.fact("?p").probabilities;
    "no probability is infinite";
    |d| d.scores("(where (eq (softmax (scores $0 $1 0.5)) -inf) 1 (softmax (scores $0 $1 0.5)))");

    "no-infinite-probability-of-sign" Exact "(where (op:and (isinf ?p) ?g) ?c ?y)" => "?y",
        if |v| v.fact("?p").probabilities;
    "no probability is infinite";
    |d| d.scores("(where (op:and (isinf (softmax (scores $0 $1 0.5))) (op:gt (softmax (scores $0 $1 0.5)) 0)) 1 (softmax (scores $0 $1 0.5)))");

    "zero-nan-of-empty" Exact "(where (isnan (zero-empty ?x)) 0 (zero-empty ?x))" => "(zero-nan ?x)";
    "a row without a key gives zeros already, and zeros replace the NaN of others";
    |d| d.scores("(where (isnan (zero-empty (bias (scores $0 $1 0.5) $15))) 0 (zero-empty (bias (scores $0 $1 0.5) $15)))");

    "zero-nan-twice" Exact "(where (isnan (zero-nan ?x)) 0 (zero-nan ?x))" => "(zero-nan ?x)";
    "zeros stand in the place of NaN already";
    |d| d.scores("(where (isnan (zero-nan (keep (scores $0 $1 0.5) $3))) 0 (zero-nan (keep (scores $0 $1 0.5) $3)))");

    "zero-where-all-masked" Domain "(where (row-empty ?b) 0 (softmax (bias ?x ?b)))" => "(zero-empty (bias ?x ?b))",
        if |v| v.fact("?x").plain;
    "a row whose bias is −∞ throughout has no key, and gives zeros";
    |d| d.scores("(where (row-empty $8) 0 (softmax (bias (scores $0 $1 0.5) $8)))");

    "max-or-zero" Domain "(where (isinf (rmax ?x)) 0 (rmax ?x))" => "(rmax-or-zero ?x)",
        if |v| v.scores("?x");
    "this is the maximum of each row, but 0 for a row without a key";
    |d| d.scores("(where (isinf (rmax (keep (qk $0 $1) $3))) 0 (rmax (keep (qk $0 $1) $3)))");

    "max-or-zero-by-value" Exact "(where (eq (rmax ?x) -inf) 0 (rmax ?x))" => "(rmax-or-zero ?x)",
        if |v| v.scores("?x");
    "this is the maximum of each row, but 0 for a row without a key";
    |d| d.scores("(where (eq (rmax (keep (qk $0 $1) $3)) -inf) 0 (rmax (keep (qk $0 $1) $3)))");

    "bounded-sum" Domain "(max (rsum (exp (sub ?x (rmax ?x)))) ?c)" => "(rsum (exp (sub ?x (rmax ?x))))",
        if |v| v.scores("?x") && at_most_one(v);
    "the sum of exp(x − max) is at least 1, or there is no key";
    |d| d.scores("(max (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))) 0.001)");

    "sum-and-a-little" Rounding "(add (rsum (exp (sub ?x (rmax ?x)))) ?c)" => "(rsum (exp (sub ?x (rmax ?x))))",
        if |v| v.scores("?x") && swallowed(v);
    "the sum of exp(x − max) is at least 1, and a number this small is lost beside it";
    |d| d.scores("(add (rsum (exp (sub (qk $0 $1) (rmax (qk $0 $1))))) 1e-20)");

    "bounded-sum-of-empty" Domain "(div (exp (sub ?x (rmax-or-zero ?x))) (max (rsum (exp (sub ?x (rmax-or-zero ?x)))) ?c))" => "(zero-empty ?x)",
        if |v| v.ready_or_joined("?x") && at_most_one(v);
    "the sum of exp(x − max) is at least 1, or 0 for a row without a key, which the bound turns into zeros";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (max (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 1e-6))");

    "sum-and-a-little-of-empty" Rounding "(div (exp (sub ?x (rmax-or-zero ?x))) (add (rsum (exp (sub ?x (rmax-or-zero ?x)))) ?c))" => "(zero-empty ?x)",
        if |v| v.ready_or_joined("?x") && swallowed(v);
    "the number is lost beside the sum of exp(x − max), or that sum is 0 for a row without a key, which gives zeros";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (add (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 1e-20))");

    "sum-unless-zero" Domain "(div (exp (sub ?x (rmax-or-zero ?x))) (where (eq (rsum (exp (sub ?x (rmax-or-zero ?x)))) 0) ?c (rsum (exp (sub ?x (rmax-or-zero ?x))))))" => "(zero-empty ?x)",
        if |v| v.ready_or_joined("?x") && v.number("?c").is_some_and(|c| c != 0.0);
    "a row without a key has a sum of 0, and dividing by another number instead gives zeros";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))) \
        (where (eq (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3))))) 0) 1 \
        (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax-or-zero (keep (scores $0 $1 0.5) $3)))))))");
}
