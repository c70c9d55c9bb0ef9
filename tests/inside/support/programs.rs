//! Random score programs: up to six steps of every kind in any order, and the tensors that they read.

use crate::inside::support::scores::nearest;
use annulus::ir::{DType, Factor, ScoreStep, Scores};
use annulus::mask::{Fill, Mask, Term};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// A step whose tensors have no number yet: each spans the axes (batch, heads, query rows, key rows) whose bit is set.
#[derive(Clone, Debug)]
pub(crate) enum Draft {
    Factor(f64),
    FactorOf(u8),
    Softcap(f64),
    Add(u8, Addend),
    Fill { terms: Vec<Term>, truth: Option<u8>, fill: Fill },
    Round(DType),
}

/// What is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Addend {
    /// Numbers.
    Finite,
    /// Numbers, and −∞ here and there.
    Holes,
    /// 0, and a number that hides a score here and there.
    Hiding(f64),
}

/// What a tensor holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Truth,
    Factor,
    Addend(Addend),
}

impl Kind {
    /// An element, made of a number in −1..1.
    pub(crate) fn element(self, x: f64) -> f64 {
        match self {
            Kind::Truth => f64::from(u8::from(x > -0.4)),
            // Some are 0, some negative.
            Kind::Factor if x.abs() < 0.1 => 0.0,
            Kind::Factor => 1.5 * x,
            Kind::Addend(Addend::Finite) => 3.0 * x,
            Kind::Addend(Addend::Holes) if x > 0.7 => f64::NEG_INFINITY,
            Kind::Addend(Addend::Holes) => 3.0 * x,
            Kind::Addend(Addend::Hiding(least)) => {
                if x > 0.3 {
                    least
                } else {
                    0.0
                }
            }
        }
    }
}

/// A tensor that a step reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeafDraft {
    pub(crate) shape: [usize; 4],
    pub(crate) kind: Kind,
    pub(crate) dtype: DType,
}

impl LeafDraft {
    /// An element, made of a number in −1..1, as its type holds it.
    pub(crate) fn element(&self, x: f64) -> f64 {
        nearest(self.kind.element(x), self.dtype)
    }
}

fn half() -> impl Strategy<Value = DType> {
    select(vec![DType::F16, DType::BF16])
}

fn fill() -> impl Strategy<Value = Fill> {
    let finite = || prop_oneof![3 => Just(-1e4), 2 => Just(f64::from(f32::MIN)), 2 => Just(-65504.0), 1 => Just(-1e9), 1 => Just(0.5)];
    prop_oneof![3 => Just(Fill::NegInf), 1 => finite().prop_map(Fill::Add), 1 => finite().prop_map(Fill::Replace)]
}

/// What a fill does not keep by position is of `terms`.
fn filled(terms: impl Strategy<Value = Vec<Term>> + Clone + 'static) -> impl Strategy<Value = Draft> + Clone {
    let both = (terms, option::weighted(0.4, 0u8..16), fill());
    both.prop_map(|(terms, truth, fill)| Draft::Fill { terms, truth, fill }).boxed()
}

fn added() -> impl Strategy<Value = Draft> + Clone {
    let addend = prop_oneof![
        2 => Just(Addend::Finite),
        2 => Just(Addend::Holes),
        1 => Just(Addend::Hiding(-1e4)),
        1 => Just(Addend::Hiding(f64::from(f32::MIN))),
    ];
    (0u8..16, addend).prop_map(|(spans, addend)| Draft::Add(spans, addend)).boxed()
}

fn factor() -> impl Strategy<Value = f64> {
    prop_oneof![4 => Just(0.35), 2 => Just(0.5), 1 => Just(1.0), 1 => Just(-0.5), 1 => 0.01f64..3.0, 1 => Just(0.0)]
}

/// Many of them in the usual order.
pub(crate) fn drafts(
    terms: impl Strategy<Value = Vec<Term>> + Clone + 'static,
) -> impl Strategy<Value = Vec<Draft>> {
    let cap = || prop_oneof![2 => Just(2.0), 1 => 0.5f64..30.0].prop_map(Draft::Softcap);
    let usual = (
        prop_oneof![4 => Just(0.35), 1 => factor()].prop_map(Draft::Factor),
        option::weighted(0.3, cap()),
        option::weighted(0.4, added()),
        option::weighted(0.8, filled(terms.clone())),
    );
    let usual = usual.prop_map(|(a, b, c, d)| [Some(a), b, c, d].into_iter().flatten().collect());
    let step = prop_oneof![
        2 => factor().prop_map(Draft::Factor),
        2 => (0u8..16).prop_map(Draft::FactorOf),
        1 => cap(),
        3 => added(),
        5 => filled(terms.clone()),
        2 => half().prop_map(Draft::Round),
    ];
    // As models in halves have them.
    let halves = (half(), added(), filled(terms), any::<bool>()).prop_map(|(t, add, fill, first)| {
        let (a, b) = if first { (add, fill) } else { (fill, add) };
        let round = || Draft::Round(t);
        vec![round(), Draft::Factor(0.5), round(), a, round(), b, round()]
    });
    prop_oneof![3 => usual, 4 => vec(step, 0..7), 1 => halves]
}

/// The program over tensors from operand `first` on, broadcast to `full`, and those tensors. Where `shared`, two steps that want tensors
/// of a kind with the same extents read one.
pub(crate) fn build(
    drafts: &[Draft],
    full: [usize; 4],
    first: usize,
    shared: bool,
) -> (Scores, Vec<LeafDraft>) {
    let mut leaves: Vec<LeafDraft> = vec![];
    let mut leaf = |spans: u8, kind: Kind| {
        let shape = std::array::from_fn(|i| if spans >> i & 1 == 1 { full[i] } else { 1 });
        let finite = |k: Kind| matches!(k, Kind::Factor | Kind::Addend(Addend::Finite));
        let same = |l: &LeafDraft| l.shape == shape && (l.kind == kind || (finite(l.kind) && finite(kind)));
        let at = leaves.iter().position(|l| shared && same(l)).unwrap_or(leaves.len());
        if at == leaves.len() {
            let types = [DType::F32, DType::F16, DType::BF16];
            let dtype = if kind == Kind::Truth { DType::Bool } else { types[usize::from(spans) % 3] };
            leaves.push(LeafDraft { shape, kind, dtype });
        }
        first + at
    };
    let steps = drafts.iter().map(|draft| match draft {
        Draft::Factor(x) => ScoreStep::Factor(Factor::Number(*x)),
        Draft::FactorOf(spans) => ScoreStep::Factor(Factor::Leaf(leaf(*spans, Kind::Factor))),
        Draft::Softcap(c) => ScoreStep::Softcap(*c),
        Draft::Add(spans, addend) => ScoreStep::Add(leaf(*spans, Kind::Addend(*addend))),
        Draft::Fill { terms, truth, fill } => {
            let mut terms = terms.clone();
            for term in &mut terms {
                // One list for each batch entry.
                if let Term::Batch { entries } = term {
                    *entries = entries[..full[0].min(entries.len())].into();
                }
            }
            terms.extend(truth.map(|spans| Term::Tensor { operand: leaf(spans, Kind::Truth) }));
            ScoreStep::Fill(Mask { terms, fill: *fill })
        }
        Draft::Round(t) => ScoreStep::Round(*t),
    });
    let scores = Scores::new(steps);
    (scores, leaves)
}
