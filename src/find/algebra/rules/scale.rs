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

    // What a half type rounds between two factors is not lost, should it count; one that is a power of two changes no digit.
    "scale-of-scores" Reassociation "(mul (scores ?q ?k ?s) ?c)" => "(scores ?q ?k ?n)",
        n = |v| Some(v.number("?c")? * v.number("?s")?),
        if |v| v.number("?c").is_some_and(|c| power_of_two(c.abs())) || !v.half_product("?q", "?k", "?s");
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

    "factor" Exact "(mul ?x ?m)" => "(factor ?x ?m)",
        if |v| v.normal("?x") && (v.positive("?m") || (v.alike("?x") && (v.is_number("?m") || v.outside("?m"))));
    "what scores are multiplied by is a factor, wherever it stands";
    |d| { let m = d.pick_term(&["0.75", "-3", "$2", "$9"]); d.scores(&format!("(mul (scores $0 $1 0.5) {m})")) };

    "factor-of-masked" Domain "(mul ?x ?m)" => "(factor ?x ?m)",
        if |v| v.normal("?x") && !v.alike("?x") && !v.positive("?m") && (v.is_number("?m") || v.outside("?m")),
        hides Factors;
    "what scores are multiplied by is a factor, and −∞ stays what it is";
    |d| { let m = d.pick_term(&["-3", "$10"]); d.scores(&format!("(mul (keep (scores $0 $1 0.5) $3) {m})")) };

    "divisor" Rounding "(div ?x ?m)" => "(factor ?x (reciprocal ?m))",
        if |v| v.normal("?x") && v.alike("?x") && v.outside("?m");
    "what scores are divided by is a factor, its reciprocal";
    |d| d.scores("(div (scores $0 $1 0.5) $9)");

    "divisor-of-masked" Domain "(div ?x ?m)" => "(factor ?x (reciprocal ?m))",
        if |v| v.normal("?x") && !v.alike("?x") && v.outside("?m"),
        hides Factors;
    "what scores are divided by is a factor, its reciprocal, and −∞ stays what it is";
    |d| d.scores("(div (keep (scores $0 $1 0.5) $3) $2)");

    // What a half type rounds between them decides rows of a huge addend alone: where it does not count, the plan makes them one.
    "factors" Reassociation "(factor (factor ?x ?a) ?b)" => "(factor ?x ?n)",
        n = |v| Some(v.number("?a")? * v.number("?b")?).filter(|n| n.is_finite()),
        if |v| !v.half_factor("?x", "?a") && v.new_factor("?x", "?a", "?b");
    "two factors are one";
    |d| { let (a, b) = (d.number(), d.number()); d.scores(&format!("(factor (factor (bias (scores $0 $1 0.5) $2) {a}) {b})")) };

    "factor-of-one" Exact "(factor ?x 1)" => "?x",
        if |v| v.normal("?x");
    "a factor of 1 changes nothing";
    |d| d.scores("(factor (bias (scores $0 $1 0.5) $2) 1)");

    "capped" Reassociation "(mul (tanh (factor ?x ?d)) ?c)" => "(cap (factor ?x ?n) ?c)",
        n = |v| Some(v.number("?c").filter(|&c| c > 0.0)? * v.number("?d")?).filter(|n| n.is_finite()),
        if |v| v.normal("?x");
    "c·tanh(s/c) is a softcap, of whatever scores";
    |d| d.scores("(mul (tanh (factor (bias (scores $0 $1 0.5) $2) 0.25)) 4)");

    "capped-by-one" Exact "(tanh ?x)" => "(cap ?x 1)",
        if |v| v.normal("?x");
    "tanh is a softcap of 1";
    |d| d.scores("(tanh (scores $0 $1 0.5))");

    "switched" Domain "(mul ?x ?m)" => "(replace (factor ?x ?n) (nonzero ?m) 0)",
        n = |v| v.switch("?m"),
        if |v| v.finite("?x");
    "a factor that is 0 or one number is a mask and a factor";
    |d| d.scores("(mul (scores $0 $1 0.5) $10)");

    "switched-of-masked" Domain "(mul ?x ?m)" => "(replace (factor ?x ?n) (nonzero ?m) 0)",
        n = |v| v.switch("?m"),
        if |v| v.normal("?x") && !v.finite("?x"),
        hides Factors;
    "a factor that is 0 or one number is a mask and a factor, but for −∞·0";
    |d| d.scores("(mul (bias (scores $0 $1 0.5) $2) $10)");

    "neg-to-mul" Exact "(neg ?x)" => "(mul ?x -1)",
        if |v| v.scores("?x");
    "negation is a product with −1";
    |d| d.scores("(neg (qk $0 $1))");

    "softcap" Reassociation "(mul (tanh (scores ?q ?k ?s)) ?c)" => "(cap (scores ?q ?k ?n) ?c)",
        n = |v| Some(v.number("?c").filter(|&c| c > 0.0)? * v.number("?s")?);
    "c·tanh(s/c) is a softcap";
    |d| { let s = d.number(); d.scores(&format!("(mul (tanh (scores $0 $1 {s})) 3.5)")) };

    "scale-of-joined" Reassociation "(mul (join ?x ?b) ?c)" => "(join (mul ?x ?c) (times ?b ?c))",
        if |v| v.number("?c").is_some_and(|c| c != 1.0) && v.outside("?b");
    "a factor on scores and the column beside them is a factor on each";
    |d| { let c = d.number(); d.scores(&format!("(mul (join (scores $0 $1 0.5) $7) {c})")) };

    "factor-of-probabilities" Reassociation "(pv (mul ?p ?m) ?v)" => "(times (pv ?p ?v) ?m)",
        if |v| v.scores("?p") && (v.is_number("?m") || v.row_leaf("?m"));
    "a factor that all probabilities of a row share is applied to the result";
    |d| { let m = d.pick_term(&["0.75", "$9"]); d.output(&format!("(pv (mul (softmax (qk $0 $1)) {m}) $6)")) };

    // Of a mask that was applied before, each V would make another.
    "factor-of-keys" Reassociation "(pv (mul ?p ?m) ?v)" => "(pv ?p (weighted ?v ?m))",
        if |v| v.fact("?p").weights && v.column_leaf("?m") && !v.unchanged_by("?p", "?m");
    "a factor that all probabilities of a key share is applied to its row of V";
    |d| d.output("(pv (mul (softmax (qk $0 $1)) $14) $6)");
}
