//! Factors, on whichever side of a product they stand, and the softcap.

use crate::find::algebra::condition::power_of_two;
use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "raw-scores" Exact "(qk ?q ?k)" => "(scores ?q ?k 1)";
    "QKᵀ gives scores with a scale of 1";
    |d| d.scores("(qk $0 $1)");

    "scale-of-q" Reassociation "(scores (mul ?q ?c) ?k ?s)" => "(scores ?q ?k ?n)",
        n = |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on Q is a factor on the scores";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(scores (mul $0 {c}) $1 {s})")) };

    "scale-of-k" Reassociation "(scores ?q (mul ?k ?c) ?s)" => "(scores ?q ?k ?n)",
        n = |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on K is a factor on the scores";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(scores $0 (mul $1 {c}) {s})")) };

    "scale-of-scores" Reassociation "(mul (scores ?q ?k ?s) ?c)" => "(scores ?q ?k ?n)",
        n = |v| Some(v.number("?c")? * v.number("?s")?);
    "a factor on the scores becomes part of their scale";
    |d| { let (c, s) = (d.number(), d.number()); d.scores(&format!("(mul (scores $0 $1 {s}) {c})")) };

    "div-by-power-of-two" Exact "(div ?x ?c)" => "(mul ?x ?n)",
        n = |v| v.number("?c").filter(|&c| power_of_two(c)).map(f64::recip).filter(|&r| power_of_two(r));
    "division by a power of two is a product with its reciprocal, without rounding";
    |d| { let c = d.pick(&[0.25, 2.0, -8.0]); d.scores(&format!("(div (qk $0 $1) {c})")) };

    "div-to-mul" Rounding "(div ?x ?c)" => "(mul ?x ?n)",
        n = |v| v.number("?c").filter(|&c| !power_of_two(c)).map(f64::recip).filter(|r| r.is_normal());
    "division by a number is a product with its reciprocal";
    |d| { let c = d.pick(&[3.0, 11.313708498984761, -0.7]); d.scores(&format!("(div (qk $0 $1) {c})")) };

    "neg-to-mul" Exact "(neg ?x)" => "(mul ?x -1)",
        if |v| v.scores("?x");
    "negation is a product with −1";
    |d| d.scores("(neg (qk $0 $1))");

    "softcap" Reassociation "(mul (tanh (scores ?q ?k ?s)) ?c)" => "(cap (scores ?q ?k ?n) ?c)",
        n = |v| Some(v.number("?c").filter(|&c| c > 0.0)? * v.number("?s")?);
    "c·tanh(s/c) is a softcap";
    |d| { let s = d.number(); d.scores(&format!("(mul (tanh (scores $0 $1 {s})) 3.5)")) };

    "factor-on-q" Reassociation "(mul (scores ?q ?k ?s) ?m)" => "(scores (scaled ?q ?m) ?k ?s)",
        if |v| v.row_leaf("?m");
    "a factor that all scores of a row share is applied to Q";
    |d| d.scores("(mul (scores $0 $1 0.5) $9)");

    "divisor-on-q" Rounding "(div (scores ?q ?k ?s) ?m)" => "(scores (scaled ?q (reciprocal ?m)) ?k ?s)",
        if |v| v.row_leaf("?m");
    "a divisor that all scores of a row share is applied to Q";
    |d| d.scores("(div (scores $0 $1 0.5) $9)");

    "scale-of-biased" Reassociation "(mul (bias ?x ?b) ?c)" => "(bias (mul ?x ?c) (times ?b ?c))",
        if |v| v.outside("?b") && v.factor_of_both("?x", "?b", "?c");
    "a factor on biased scores is a factor on the scores and on the bias";
    |d| { let c = d.number(); d.scores(&format!("(mul (bias (scores $0 $1 0.5) $2) {c})")) };

    "scale-of-masked" Exact "(mul (keep ?x ?m) ?c)" => "(keep (mul ?x ?c) ?m)",
        if |v| v.positive("?c");
    "−∞ stays −∞ under a positive factor";
    |d| d.scores("(mul (keep (scores $0 $1 0.5) $3) 0.25)");

    "scale-of-joined" Reassociation "(mul (join ?x ?b) ?c)" => "(join (mul ?x ?c) (times ?b ?c))",
        if |v| v.number("?c").is_some_and(|c| c != 1.0) && v.outside("?b");
    "a factor on scores and the column beside them is a factor on each";
    |d| { let c = d.number(); d.scores(&format!("(mul (join (scores $0 $1 0.5) $7) {c})")) };

    "scale-of-filled" Reassociation "(mul (replace ?x ?m ?f) ?c)" => "(replace (mul ?x ?c) ?m ?n)",
        n = |v| Some(v.number("?f")? * v.number("?c")?).filter(|x| x.abs() <= f64::from(f32::MAX));
    "a factor on filled scores is a factor on the scores and on the fill";
    |d| d.scores("(mul (replace (scores $0 $1 0.5) $3 -10000) 0.25)");

    "factor-of-probabilities" Reassociation "(pv (mul ?p ?m) ?v)" => "(times (pv ?p ?v) ?m)",
        if |v| v.scores("?p") && (v.is_number("?m") || v.row_leaf("?m"));
    "a factor that all probabilities of a row share is applied to the result";
    |d| { let m = d.pick_term(&["0.75", "$9"]); d.output(&format!("(pv (mul (softmax (qk $0 $1)) {m}) $6)")) };

    "factor-of-keys" Reassociation "(pv (mul ?p ?m) ?v)" => "(pv ?p (weighted ?v ?m))",
        if |v| v.fact("?p").weights && v.column_leaf("?m");
    "a factor that all probabilities of a key share is applied to its row of V";
    |d| d.output("(pv (mul (softmax (qk $0 $1)) $14) $6)");
}
