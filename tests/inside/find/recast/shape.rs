//! What varies from one shape to the next.

use annulus::ir::DType;
use proptest::prelude::*;

/// One attention, or two, in a shape of its own.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) dtype: DType,
    pub(super) batch: usize,
    pub(super) heads: usize,
    pub(super) rows: usize,
    /// Keys of each part; but for what puts parts together there is one.
    pub(super) parts: Vec<usize>,
    pub(super) depth: usize,
    pub(super) depth_v: usize,
    /// What happens to scores first.
    pub(super) inner: Inner,
    pub(super) kind: Kind,
}

impl Shape {
    pub(super) fn keys(&self) -> usize {
        self.parts.iter().sum()
    }
}

/// A mask or a bias on the scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Inner {
    None,
    /// −∞ where a mask drops.
    Infinity,
    /// −10⁹ where a mask drops.
    Fill,
    /// An input is added.
    Bias,
}

/// One of the products of a sum.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub(super) depth: usize,
    /// Whether all heads share its keys.
    pub(super) shared: bool,
    /// A number by which it is multiplied.
    pub(super) scale: Option<f64>,
    /// An input of each row by which it is multiplied.
    pub(super) by_row: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sum {
    /// ln(eᵃ + eᵇ) of what is left when the maximum is subtracted.
    Maximum,
    /// The same by the distance of a and b.
    Distance,
    /// As it stands.
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weight {
    /// e^(own − sum), of both.
    Exponentials,
    /// a − sigmoid(own difference)·(a − b).
    Sigmoid,
    /// a·w + b·(1 − w).
    Complement,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Guard {
    Added,
    Bounded,
    Above,
    Equal,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Scores are a sum of products; `cached` if keys come of a cache and new ones, `rows_first` if heads stand behind rows.
    Products { more: Vec<Product>, scale: Option<f64>, cached: bool, rows_first: bool },
    /// A softmax is multiplied by several values; `shared` if all heads share the last of them.
    Values { more: Vec<usize>, shared: bool },
    /// Two masks on the same scores.
    Masks,
    /// One softmax less another times λ; `pairs` if both are of one product of twice the heads.
    Difference { pairs: bool, by_head: bool },
    /// A running maximum; `nothing` if it begins with −∞, `guarded` if 0 is subtracted where a part has no key, `each` if it is divided
    /// at each step, `whole` if parts are slices.
    Online { nothing: bool, guarded: bool, each: bool, whole: bool },
    /// Results of softmaxes, merged by the logarithms of their sums.
    Merged { sum: Sum, weight: Weight, tree: bool, put_out: bool },
    /// The logarithm of the sum beside a softmax: against a sink, or put out.
    Log { sink: bool, written_out: bool },
    /// A mask behind the softmax, and a guarded sum; `last` if that divides behind the product with V.
    Masked { guard: Guard, last: bool, chosen: bool },
}

fn product() -> impl Strategy<Value = Product> {
    let scale =
        prop_oneof![2 => Just(None), 1 => Just(Some(0.5)), 1 => Just(Some(-0.3)), 1 => Just(Some(1.7))];
    (1usize..4, any::<bool>(), scale, prop::bool::weighted(0.2))
        .prop_map(|(depth, shared, scale, by_row)| Product { depth, shared, scale, by_row })
}

fn kind() -> impl Strategy<Value = Kind> {
    let sum = prop::sample::select(vec![Sum::Maximum, Sum::Distance, Sum::Plain]);
    let weight = prop::sample::select(vec![Weight::Exponentials, Weight::Sigmoid, Weight::Complement]);
    let guard = prop::sample::select(vec![Guard::Added, Guard::Bounded, Guard::Above, Guard::Equal]);
    let scale = prop_oneof![Just(None), Just(Some(0.4))];
    let flag = any::<bool>;
    prop_oneof![
        3 => (prop::collection::vec(product(), 1..3), scale, flag(), flag()).prop_map(
            |(more, scale, cached, rows_first)| Kind::Products { more, scale, cached, rows_first }
        ),
        1 => (prop::collection::vec(1usize..4, 1..3), flag()).prop_map(|(more, shared)| Kind::Values { more, shared }),
        1 => Just(Kind::Masks),
        1 => (flag(), flag()).prop_map(|(pairs, by_head)| Kind::Difference { pairs, by_head }),
        3 => (flag(), flag(), flag(), flag()).prop_map(
            |(nothing, guarded, each, whole)| Kind::Online { nothing, guarded, each, whole }
        ),
        3 => (sum, weight, flag(), flag()).prop_map(
            |(sum, weight, tree, put_out)| Kind::Merged { sum, weight, tree, put_out }
        ),
        1 => (flag(), flag()).prop_map(|(sink, written_out)| Kind::Log { sink, written_out }),
        2 => (guard, flag(), flag()).prop_map(|(guard, last, chosen)| Kind::Masked { guard, last, chosen }),
    ]
}

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    let dtype = prop_oneof![3 => Just(DType::F32), 1 => Just(DType::F64)];
    let inner = prop_oneof![
        2 => Just(Inner::None), 2 => Just(Inner::Infinity), 1 => Just(Inner::Fill), 1 => Just(Inner::Bias)
    ];
    let parts = prop::collection::vec(1usize..5, 2..6);
    let sizes = (1usize..3, 1usize..4, 1usize..6, 1usize..5, 1usize..5);
    (dtype, sizes, parts, inner, kind()).prop_map(|(dtype, sizes, parts, inner, kind)| {
        let (batch, heads, rows, depth, depth_v) = sizes;
        let parts = match kind {
            Kind::Online { .. } | Kind::Merged { .. } => parts,
            Kind::Products { cached: true, .. } => parts[..2].to_vec(),
            _ => vec![parts[0] + 1],
        };
        Shape { dtype, batch, heads, rows, parts, depth, depth_v, inner, kind }
    })
}
