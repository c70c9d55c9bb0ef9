//! One more column that joins the softmax and takes no value.

use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "sinks" Reassociation "(drop (softmax (join ?x ?b)))" => "(softmax (sink ?x ?b))",
        if |v| v.normal("?x") && v.outside("?b");
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (softmax (join (scores $0 $1 0.5) $7)))");

    "sinks-zero-empty" Reassociation "(drop (zero-empty (join ?x ?b)))" => "(zero-empty (sink ?x ?b))",
        if |v| v.normal("?x") && v.outside("?b");
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (zero-empty (join (keep (scores $0 $1 0.5) $3) $7)))");

    "sinks-zero-nan" Reassociation "(drop (zero-nan (join ?x ?b)))" => "(zero-nan (sink ?x ?b))",
        if |v| v.normal("?x") && v.outside("?b");
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (zero-nan (join (keep (scores $0 $1 0.5) $3) $7)))");

    "sinks-loose" Reassociation "(drop (loose (join ?x ?b)))" => "(loose (sink ?x ?b))",
        if |v| v.normal("?x") && v.outside("?b");
    "a column that joins the softmax and is dropped after it is a sink";
    |d| d.scores("(drop (loose (join (scores $0 $1 0.5) $7)))");

    "dropped-column" Exact "(drop (join ?x ?b))" => "?x";
    "a column that joins the scores and is dropped again changes nothing";
    |d| d.scores("(drop (join (softmax (qk $0 $1)) $7))");

    "one-more-in-sum" Domain "(div (exp ?x) (add (rsum (exp ?x)) ?c))" => "(loose (sink ?x ?n))",
        n = |v| v.number("?c").filter(|&c| c > 0.0).map(f64::ln),
        if |v| v.normal("?x"),
        hides Exponentials;
    "a number that is added to the sum of exp(x) is a sink, whose score is the logarithm of that number";
    |d| d.scores("(div (exp (scores $0 $1 0.5)) (add (rsum (exp (scores $0 $1 0.5))) 2))");

    "one-more-in-shifted-sum" Domain "(div (exp (sub ?x ?m)) (add (rsum (exp (sub ?x ?m))) (exp (mul ?m -1))))" => "(loose (sink ?x ?n))",
        n = |_| Some(0.0),
        if |v| v.normal("?x") && v.peak_alone("?x", "?m"),
        hides Exponentials EmptyRows;
    "exp(−m) that is added to the sum of exp(x − m) is a sink, whose score is 0";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (scores $0 $1 0.5)))) \
        (add (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (scores $0 $1 0.5))))) (exp (mul (rmax (scores $0 $1 0.5)) -1))))");

    "one-more-beside-max" Domain "(div (exp (sub ?x ?m)) (add (rsum (exp (sub ?x ?m))) (exp (mul ?m -1))))" => "(softmax (sink ?x ?n))",
        n = |_| Some(0.0),
        if |v| v.normal("?x") && v.top("?x", "?m") && !v.above_infinity("?m"),
        hides EmptyRows;
    "exp(−max) that is added to the sum of exp(x − max) is a sink, whose score is 0";
    |d| d.scores("(div (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (keep (scores $0 $1 0.5) $3)))) \
        (add (rsum (exp (sub (keep (scores $0 $1 0.5) $3) (rmax (keep (scores $0 $1 0.5) $3))))) (exp (mul (rmax (keep (scores $0 $1 0.5) $3)) -1))))");

    "one-more-beside-finite-max" Rounding "(div (exp (sub ?x ?m)) (add (rsum (exp (sub ?x ?m))) (exp (mul ?m -1))))" => "(softmax (sink ?x ?n))",
        n = |_| Some(0.0),
        if |v| v.normal("?x") && v.top("?x", "?m") && v.above_infinity("?m");
    "exp(−max) that is added to the sum of exp(x − max) is a sink, whose score is 0";
    |d| { let (x, m) = (d.pick_term(&["(scores $0 $1 0.5)", "(keep (scores $0 $1 0.5) $3)"]), "rmax-or-zero");
        d.scores(&format!("(div (exp (sub {x} ({m} {x}))) (add (rsum (exp (sub {x} ({m} {x})))) (exp (mul ({m} {x}) -1))))")) };

    "sum-second" Exact "(add (exp ?m) (rsum ?x))" => "(add (rsum ?x) (exp ?m))",
        if |v| v.of_rows("?m");
    "the terms of a sum may change places";
    |d| d.scores("(add (exp (rmax (qk $0 $1))) (rsum (qk $0 $1)))");
}
