//! What `find` is asked and what it answers: options, attentions with their reasons, near misses, and the work that it took.

use crate::ir::{Graph, OpId, Tensor, ValueId};
use crate::mask;
use std::fmt;

/// How far a rewriting may change numbers. Ordered: a later class changes more. [`guide::numerics`](crate::guide::numerics) has an
/// example of each.
///
/// ```
/// use annulus::find::Numerics;
///
/// assert!(Numerics::Exact < Numerics::Domain);
/// let names = Numerics::ALL.map(Numerics::name);
/// assert_eq!(names, ["exact", "reassociation", "rounding", "precision", "domain"]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Numerics {
    /// Same bits, where Q, K and V are finite.
    Exact,
    /// Sums and products in another order.
    Reassociation,
    /// Roundings left out or added.
    Rounding,
    /// A more precise type on the way.
    MorePrecision,
    /// Different only where a value is not finite or a sum of exponentials leaves the numbers of its type, or where no row
    /// can be empty.
    Domain,
}

impl Numerics {
    /// Every class, in order.
    pub const ALL: [Numerics; 5] = [
        Numerics::Exact,
        Numerics::Reassociation,
        Numerics::Rounding,
        Numerics::MorePrecision,
        Numerics::Domain,
    ];

    /// The name on the command line: `exact`, `reassociation`, `rounding`, `precision`, `domain`.
    pub fn name(self) -> &'static str {
        match self {
            Numerics::Exact => "exact",
            Numerics::Reassociation => "reassociation",
            Numerics::Rounding => "rounding",
            Numerics::MorePrecision => "precision",
            Numerics::Domain => "domain",
        }
    }
}

/// What is admitted.
///
/// ```
/// use annulus::find::{FindOptions, Numerics};
///
/// let mut options = FindOptions::default(); // every class, no input bound to its value
/// options.numerics.retain(|&class| class <= Numerics::Rounding);
/// assert_eq!(options.numerics.len(), 3);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FindOptions {
    /// Classes of rewriting that may be used.
    pub numerics: Vec<Numerics>,
    /// Inputs whose values may shape what is found, each with its value; what comes of it is right for these values alone,
    /// and [`Found::guards`] says so. One that is no input of the graph, or of another type, is not used
    /// ([`crate::find_attentions`] refuses it).
    pub bound: Vec<Bound>,
    /// Dropout for every attention that has none of its own: exporters leave that of attention out.
    pub dropout: Option<AskedDropout>,
}

/// Dropout that is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AskedDropout {
    /// The part of the weights that is dropped, from 0 up to but not 1.
    pub ratio: f64,
    /// That of the first attention; each further one has the next.
    pub seed: i64,
}

/// An input and the value that it is bound to.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Bound {
    /// Name of the input.
    pub input: String,
    /// Its value.
    pub value: Tensor,
}

impl Bound {
    /// An input of that name, bound to a value.
    pub fn new(input: impl Into<String>, value: Tensor) -> Bound {
        Bound { input: input.into(), value }
    }

    /// The input of that name and type.
    pub fn of(&self, graph: &Graph) -> Option<ValueId> {
        let fits = |v: &ValueId| graph.value(*v).name == self.input && *graph.ty(*v) == self.value.ty();
        graph.inputs().into_iter().find(fits)
    }
}

impl Default for FindOptions {
    fn default() -> FindOptions {
        FindOptions { numerics: Numerics::ALL.to_vec(), bound: vec![], dropout: None }
    }
}

impl FindOptions {
    /// Only these classes of rewriting.
    #[must_use]
    pub fn numerics(mut self, classes: impl IntoIterator<Item = Numerics>) -> FindOptions {
        self.numerics = classes.into_iter().collect();
        self
    }

    /// One more input whose value may shape what is found.
    ///
    /// ```
    /// use annulus::Options;
    /// use annulus::find::{Bound, FindOptions, Numerics};
    /// use annulus::ir::Tensor;
    ///
    /// let mask = Tensor::vector_i64(&[0, 0, 1, 1]);
    /// let find = FindOptions::default().numerics([Numerics::Exact]).bind(Bound::new("documents", mask));
    /// assert_eq!(find.bound[0].input, "documents");
    /// let options = Options::new(2).find(find);
    /// # assert!(options.check().is_ok());
    /// ```
    #[must_use]
    pub fn bind(mut self, bound: Bound) -> FindOptions {
        self.bound.push(bound);
        self
    }

    /// Every attention that has no dropout of its own drops this part of its weights; the n-th of them, from 0, with the seed `seed + n`.
    /// The part is from 0 up to but not 1.
    #[must_use]
    pub fn drop_weights(mut self, ratio: f64, seed: i64) -> FindOptions {
        self.dropout = Some(AskedDropout { ratio, seed });
        self
    }
}

/// One step of an explanation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Name of the rule.
    pub rule: &'static str,
    /// What it did here, for the reader.
    pub what: String,
    /// Its class.
    pub numerics: Numerics,
}

impl Applied {
    /// A note for the reader.
    pub(crate) fn new(rule: &'static str, what: String, numerics: Numerics) -> Applied {
        Applied { rule, what, numerics }
    }
}

/// One attention that was found.
#[derive(Clone, Debug)]
pub struct FoundAttention {
    /// The attention operation in [`Found::graph`].
    pub op: OpId,
    /// A name for people: the source node that computes its result.
    pub name: String,
    /// Whether the rows of q, k and v come from one sequence axis.
    pub is_self: bool,
    /// Whether it is a step of decoding: self-attention of a single row, all others of whose sequence are past keys.
    pub is_step: bool,
    /// Of what is added to its scores, by operand index, what is no bias but a mask of numbers, with what positions say of it.
    pub added: Vec<(usize, Vec<mask::Term>)>,
    /// The same of masks of numbers in what is a bias as well.
    pub in_bias: Vec<(usize, Vec<mask::Term>)>,
    /// Whether it was one operator in the source, not written out.
    pub explicit: bool,
    /// Source nodes of the region: QKᵀ, softmax, PV, or the one operator.
    pub nodes: Vec<String>,
    /// The rules that led here, in order.
    pub applied: Vec<Applied>,
    /// Whether the ring splits it.
    pub ring: Ring,
}

/// Whether the ring splits an attention. It depends on the graph around it, but neither on the number of ranks nor on the device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ring {
    /// Nobody has asked the split yet: what [`find`](super::find) itself says. [`crate::find_attentions`] and [`crate::compile`] ask.
    Unasked,
    /// It does.
    Splits,
    /// Every rank computes the attention whole, for this reason.
    Refused(String),
}

/// `yes`, the reason against it, or `not asked`.
impl fmt::Display for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ring::Unasked => "not asked",
            Ring::Splits => "yes",
            Ring::Refused(reason) => reason,
        })
    }
}

/// A region that looks like attention and is not, as far as can be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The node at which it was given up.
    pub at: String,
    /// The condition that failed.
    pub reason: String,
}

/// Most rounds of the rules over one region.
pub(crate) const ITERATION_LIMIT: usize = 96;
/// Most nodes of one e-graph.
pub(crate) const NODE_LIMIT: usize = 8192;

/// What the algebra took. Limits count the same, never time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Distinct regions, each saturated once.
    pub regions: usize,
    /// Nodes of the largest e-graph.
    pub nodes: usize,
    /// Rounds of the rules over the region that took the most.
    pub rounds: usize,
}

impl Work {
    /// Beyond these nodes or rounds a region is given up.
    pub const LIMIT: Work = Work { regions: usize::MAX, nodes: NODE_LIMIT, rounds: ITERATION_LIMIT };
}

/// What was found.
///
/// ```
/// use annulus::find::{FindOptions, find};
///
/// let graph = annulus::ir::parse(
///     r#"graph "g" {
///   input %q: f32[1,2,4,8]
///   input %k: f32[1,2,4,8]
///   %s: f32[1,2,4,4] = contract %q, %k {bhid,bhjd->bhij}  @"scores"
///   %p: f32[1,2,4,4] = softmax %s {axis=3}  @"probabilities"
///   %o: f32[1,2,4,8] = contract %p, %k {bhij,bhjd->bhid}  @"out"
///   output "o" = %o
/// }"#,
/// )?;
/// let found = find(&graph, &FindOptions::default());
/// let attention = &found.attentions[0];
/// assert_eq!(attention.nodes, ["scores", "probabilities", "out"]);
/// assert!(attention.applied.iter().any(|step| step.rule == "attention"));
/// assert!(found.missed.is_empty() && found.graph.to_string().contains("= attention %q, %k, %k {scores=[factor 1.0],"));
/// # Ok::<(), annulus::ir::ParseError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Found {
    /// The graph with attention nodes. Byte-identical in text if nothing was found.
    pub graph: Graph,
    /// In topological order.
    pub attentions: Vec<FoundAttention>,
    /// Near misses, in topological order.
    pub missed: Vec<Miss>,
    /// The values of inputs for which the graph computes what it did. Empty if it does for all.
    pub guards: Vec<Bound>,
    /// What the algebra took.
    pub work: Work,
}
