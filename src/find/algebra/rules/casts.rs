//! Conversions between floating types on the way from Q and K to the product with V.

use crate::find::algebra::rule::rules;

rules! {
    /// The rules of this topic.
    RULES:

    "widened-q" Exact "(scores (to-f32 ?q) ?k ?s)" => "(scores ?q ?k ?s)";
    "QKᵀ is accumulated in f32 whether or not Q and K are converted before";
    |d| d.scores("(scores (to-f32 $0) $1 0.5)");

    "widened-q-to-f64" Exact "(scores (to-f64 ?q) ?k ?s)" => "(scores ?q ?k ?s)";
    "a conversion to a wider type loses nothing";
    |d| d.scores("(scores (to-f64 $0) $1 0.5)");

    "widened-k" Exact "(scores ?q (to-f32 ?k) ?s)" => "(scores ?q ?k ?s)";
    "QKᵀ is accumulated in f32 whether or not Q and K are converted before";
    |d| d.scores("(scores $0 (to-f32 $1) 0.5)");

    "widened-k-to-f64" Exact "(scores ?q (to-f64 ?k) ?s)" => "(scores ?q ?k ?s)";
    "a conversion to a wider type loses nothing";
    |d| d.scores("(scores $0 (to-f64 $1) 0.5)");

    "no-cast-to-f64" MorePrecision "(to-f64 ?x)" => "?x",
        if |v| v.fact("?x").real;
    "scores and probabilities stay in the type of accumulation, without conversions between";
    |d| d.scores("(to-f64 (qk $0 $1))");

    "no-cast-to-f32" MorePrecision "(to-f32 ?x)" => "?x",
        if |v| v.fact("?x").real;
    "scores and probabilities stay in the type of accumulation, without conversions between";
    |d| d.scores("(to-f32 (softmax (qk $0 $1)))").rough();

    "no-narrowing" MorePrecision "(narrow ?x ?d)" => "?x",
        if |v| v.holds("?x", "?d");
    "scores and probabilities stay in the type of accumulation, without conversions between";
    |d| { let n = d.pick(&[24.0, 11.0, 8.0]); d.scores(&format!("(narrow (softmax (qk $0 $1)) {n})")).rough() };

    "rounded" Exact "(narrow ?x ?d)" => "(round ?x ?d)",
        if |v| v.normal("?x") && v.is_number("?d") && !v.holds("?x", "?d");
    "scores that a conversion rounds beside large addends are rounded by the attention";
    |d| { let n = d.pick(&[11.0, 8.0]); d.scores(&format!("(narrow (bias (scores $0 $1 0.5) $8) {n})")) };
}
