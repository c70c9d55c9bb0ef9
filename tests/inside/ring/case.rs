//! Attentions split by hand: a graph of one attention, its layouts, and a generator of awkward ones.

use crate::inside::support::layouts::layout_of;
use crate::inside::support::programs::{Kind, build, drafts};
use crate::inside::support::scores::kept;
use annulus::ir::verify::verify;
use annulus::ir::{Attention, AttentionSizes, DType, EmptyRow, Graph, Op, OpId, Type};
use annulus::layout::{LayoutKind, Progression};
use annulus::mask::{Mask, Term};
use annulus::ring::{Plan, Strategy as Way};
use annulus::schedule::{SLOTS, Schedule, schedule};
use annulus::shard::{IslandSharding, Placement, Program, Segment, Sharding};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A mask, bias or sinks operand.
#[derive(Clone, Debug)]
pub(crate) struct LeafCase {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) by_query_rows: bool,
}

/// One attention and how it is split.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) sizes: AttentionSizes,
    pub(crate) dtype: DType,
    pub(crate) ranks: usize,
    /// On how many nodes they stand, for strategies that use levels.
    pub(crate) nodes: usize,
    pub(crate) q_kind: LayoutKind,
    pub(crate) kv_kind: LayoutKind,
    pub(crate) attention: Attention,
    pub(crate) leaves: Vec<LeafCase>,
}

/// The split program, and what becomes of it.
pub(crate) struct Split {
    pub(crate) program: Program,
    pub(crate) op: OpId,
}

impl Case {
    /// Self attention of one batch entry, two heads over one, Dk 4, Dv 3, f32.
    pub(crate) fn new(rows: usize, ranks: usize, kind: LayoutKind, mask: Mask) -> Case {
        let sizes = AttentionSizes {
            batch: 1,
            q_heads: 2,
            kv_heads: 1,
            q_len: rows,
            kv_len: rows,
            head_dim: 4,
            v_head_dim: 3,
        };
        let attention = Attention::plain(0.5, DType::F32).masked(mask);
        Case {
            sizes,
            dtype: DType::F32,
            ranks,
            nodes: 1,
            q_kind: kind,
            kv_kind: kind,
            attention,
            leaves: vec![],
        }
    }

    /// Four heads over two, ten causal rows, the log-sum-exp beside: on three ranks neither heads nor rows divide evenly.
    pub(crate) fn travelling(ranks: usize, kind: LayoutKind) -> Case {
        let mut case = Case::new(10, ranks, kind, Mask::causal(0));
        (case.sizes.q_heads, case.sizes.kv_heads) = (4, 2);
        case.attention.lse = true;
        case
    }

    pub(crate) fn q_rows(&self) -> Vec<Vec<Progression>> {
        layout_of(self.q_kind, &self.sizes, self.ranks, &self.attention.scores.mask(), true).rows
    }

    /// Whether queries and keys have one layout.
    fn one_sequence(&self) -> bool {
        self.q_kind == self.kv_kind && self.sizes.q_len == self.sizes.kv_len
    }

    pub(crate) fn kv_rows(&self) -> Vec<Vec<Progression>> {
        layout_of(self.kv_kind, &self.sizes, self.ranks, &self.attention.scores.mask(), self.one_sequence())
            .rows
    }

    /// Whether the pair takes part, by the position terms alone: written down again, apart from the library's.
    pub(crate) fn sees(&self, q: usize, k: usize) -> bool {
        (0..self.sizes.batch).any(|b| self.sees_in(b, q, k))
    }

    /// The same in one batch entry.
    pub(crate) fn sees_in(&self, b: usize, q: usize, k: usize) -> bool {
        self.attention.scores.masks().all(|m| kept(&m.terms, [b, q, k], &|_| 1.0))
    }

    pub(crate) fn split(&self) -> Split {
        let s = &self.sizes;
        let mut graph = Graph::new("case");
        let mut operands = vec![
            graph.input("q", Type::new(self.dtype, [s.batch, s.q_heads, s.q_len, s.head_dim])),
            graph.input("k", Type::new(self.dtype, [s.batch, s.kv_heads, s.kv_len, s.head_dim])),
            graph.input("v", Type::new(self.dtype, [s.batch, s.kv_heads, s.kv_len, s.v_head_dim])),
        ];
        let rows = |axis, layout| Placement::Sharded(Sharding { axis, outer: 1, inner: 1, layout });
        let mut handed = vec![rows(2, 0), rows(2, 1), rows(2, 1)];
        for (i, leaf) in self.leaves.iter().enumerate() {
            operands.push(graph.input(&format!("leaf{i}"), Type::new(leaf.dtype, leaf.shape.clone())));
            let axis = leaf.shape.len().saturating_sub(2);
            handed.push(if leaf.by_query_rows { rows(axis, 0) } else { Placement::Whole });
        }
        let op = graph.add(Op::Attention(Box::new(self.attention.clone())), &operands, "attn", "").unwrap();
        for (port, v) in graph.results(op).into_iter().enumerate() {
            graph.output(&format!("out{port}"), v);
        }
        let placements =
            operands.iter().copied().zip(handed.iter().cloned()).collect::<BTreeMap<_, Placement>>();
        let island = IslandSharding { q_layout: 0, kv_layout: 1, operands: handed };
        let program = Program {
            graph: Arc::new(graph),
            ranks: self.ranks,
            layouts: vec![
                layout_of(self.q_kind, s, self.ranks, &self.attention.scores.mask(), true),
                layout_of(self.kv_kind, s, self.ranks, &self.attention.scores.mask(), self.one_sequence()),
            ],
            placements,
            segments: vec![Segment::Island(op)],
            islands: BTreeMap::from([(op, island)]),
            joined: BTreeMap::new(),
            refused: vec![],
        };
        Split { program, op }
    }

    pub(crate) fn islands(&self, way: Way) -> Vec<Graph> {
        let split = self.split();
        let plan = Plan::on_nodes(&split.program, split.op, way, self.nodes).unwrap();
        let graph = |r| {
            let graph = plan.island(r).unwrap();
            verify(&graph).unwrap();
            graph
        };
        (0..self.ranks).map(graph).collect()
    }

    pub(crate) fn schedule(&self, way: Way) -> Schedule {
        self.schedule_with(way, SLOTS)
    }

    /// With so many receive slots.
    pub(crate) fn schedule_with(&self, way: Way, slots: usize) -> Schedule {
        let split = self.split();
        schedule(&Plan::on_nodes(&split.program, split.op, way, self.nodes).unwrap(), slots)
    }
}

fn kind() -> impl Strategy<Value = LayoutKind> {
    proptest::sample::select(&LayoutKind::ALL[..])
}

fn terms() -> impl Strategy<Value = Vec<Term>> + Clone {
    let offset = prop_oneof![3 => Just(0i64), 1 => -6i64..7];
    let causal = offset.clone().prop_map(|offset| vec![Term::Causal { offset }]);
    let bound = || proptest::option::weighted(0.7, 0u64..9);
    let window = (bound(), bound(), offset)
        .prop_map(|(left, right, offset)| vec![Term::Window { left, right, offset }]);
    let documents =
        (proptest::collection::btree_set(1usize..34, 0..5), -3i64..4).prop_map(|(starts, offset)| {
            Term::Segments { starts: starts.into_iter().collect(), offset: offset.max(0) }
        });
    let packed = (documents, proptest::option::of(Just(Term::Causal { offset: 0 })))
        .prop_map(|(d, causal)| causal.into_iter().chain([d]).collect());
    let both = (causal.clone(), window.clone()).prop_map(|(a, b)| [a, b].concat());
    let prefix = (0usize..20, -3i64..4).prop_map(|(length, offset)| vec![Term::Prefix { length, offset }]);
    let keys = (0usize..6, 0usize..34).prop_map(|(start, n)| Term::Keys { start, end: start + n });
    let entry = prop_oneof![causal.clone(), window.clone(), prefix.clone(), keys.prop_map(|k| vec![k])];
    // One list too many where there is one batch entry: see `cases`.
    let batch = (entry.clone(), entry.clone(), any::<bool>()).prop_map(|(a, b, causal)| {
        let causal = causal.then_some(Term::Causal { offset: 0 });
        causal.into_iter().chain([Term::Batch { entries: [a, b].into() }]).collect()
    });
    let terms = prop_oneof![2 => Just(vec![]), 4 => causal, 3 => window, 1 => both, 3 => packed, 1 => entry, 2 => batch];
    terms.boxed()
}

/// Attentions of every awkward kind: uneven and empty shares, grouped heads, Dv ≠ Dk, rows without keys, one rank; any steps in any order.
pub(crate) fn cases() -> impl Strategy<Value = Case> {
    let rows = prop_oneof![4 => 0usize..34, 1 => 0usize..5];
    let heads = (1usize..3, 1usize..3, 1usize..3, 1usize..4, 1usize..4);
    let lengths = (rows.clone(), proptest::option::weighted(0.3, rows));
    // Of each tensor whether leading axes of 1 are left away, and whether query rows are handed out.
    let handed = proptest::collection::vec(any::<[bool; 2]>(), 8);
    let rest = (any::<[bool; 3]>(), proptest::option::weighted(0.3, 0u8..8));
    let ranks = (1usize..10, proptest::sample::select(&[1, 2, 3, 4][..]));
    (heads, lengths, ranks, kind(), kind(), drafts(terms()), handed, rest).prop_map(
        |(
            heads,
            (q_len, kv_len),
            (ranks, nodes),
            q_kind,
            kv_kind,
            drafts,
            handed,
            ([lse, nan, shared], sinks),
        )| {
            let (batch, kv_heads, group, head_dim, v_head_dim) = heads;
            let sizes = AttentionSizes {
                batch,
                q_heads: kv_heads * group,
                kv_heads,
                q_len,
                kv_len: kv_len.unwrap_or(q_len),
                head_dim,
                v_head_dim,
            };
            let full = [batch, sizes.q_heads, q_len, sizes.kv_len];
            let (scores, of_steps) = build(&drafts, full, 3, shared);
            let mut shapes: Vec<([usize; 4], DType)> = of_steps
                .iter()
                .map(|l| (l.shape, if l.kind == Kind::Truth { DType::Bool } else { DType::F64 }))
                .collect();
            let spans = |bits: u8| std::array::from_fn(|i| if bits >> i & 1 == 1 { full[i] } else { 1 });
            shapes.extend(sinks.map(|bits| (spans(bits & 7), DType::F64)));
            let leaf = |(&(whole, dtype), [short, by_rows]): (&([usize; 4], DType), [bool; 2])| {
                let mut shape = whole.to_vec();
                while short && shape.first() == Some(&1) {
                    shape.remove(0);
                }
                let axis = shape.len().checked_sub(2);
                let by_query_rows = by_rows && axis.is_some_and(|a| shape[a] == q_len);
                LeafCase { dtype, shape, by_query_rows }
            };
            let leaves: Vec<LeafCase> = shapes.iter().zip(handed.into_iter().cycle()).map(leaf).collect();
            let attention = Attention {
                scores,
                sinks: sinks.map(|_| 2 + leaves.len()),
                acc: DType::F64,
                dropout: None,
                empty_row: if nan { EmptyRow::Nan } else { EmptyRow::Zero },
                lse,
                stats: false,
            };
            // Where queries and keys are one sequence they have one layout.
            let kv_kind = if kv_len.is_some() { kv_kind } else { q_kind };
            let nodes = if ranks % nodes == 0 { nodes } else { 1 };
            Case { sizes, dtype: DType::F64, ranks, nodes, q_kind, kv_kind, attention, leaves }
        },
    )
}
