//! The site of an island: what the program says about one attention, checked once.

use super::error::RingError;
use crate::ir::infer::attention_sizes;
use crate::ir::{Attention, AttentionSizes, DType, Op, OpId, Type};
use crate::layout::Layout;
use crate::shard::{Placement, Program, by_sizes};

/// An attention and who owns which of its rows.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// Name of the attention's first result.
    pub(crate) name: String,
    /// The attention.
    pub(crate) attention: &'a Attention,
    /// Its sizes, whole.
    pub(crate) sizes: AttentionSizes,
    /// Type of q, k, v and the output.
    pub(crate) dtype: DType,
    /// Who owns which query rows.
    pub(crate) q_layout: &'a Layout,
    /// Who owns which key rows.
    pub(crate) kv_layout: &'a Layout,
    /// Operands from the fourth on.
    pub(crate) leaves: Vec<LeafSite>,
}

/// A mask, bias or sinks operand.
#[derive(Debug)]
pub(crate) struct LeafSite {
    /// Its whole type.
    pub(crate) ty: Type,
    /// The axis that goes with the query rows; `None` if it broadcasts over them.
    pub(crate) query_axis: Option<usize>,
    /// Whether a rank is handed its own query rows alone.
    pub(crate) by_query_rows: bool,
}

impl<'a> Site<'a> {
    /// Reads the site off the program.
    pub(crate) fn of(program: &'a Program, op: OpId) -> Result<Site<'a>, RingError> {
        let graph = &*program.graph;
        let Some(value) = graph.get(graph.result(op)) else {
            return Err(RingError { at: graph.name().to_owned(), reason: "it has no such operation".into() });
        };
        let name = value.name.clone();
        let refuse = |reason: String| RingError { at: name.clone(), reason };
        let Op::Attention(attention) = graph.op(op) else {
            return Err(refuse(format!("it is {}, no attention", graph.op(op).name())));
        };
        let operands = graph.operands(op);
        let [q, k, v, leaves @ ..] = operands.as_slice() else {
            return Err(refuse(format!("it has {} operands", operands.len())));
        };
        let sizes = attention_sizes(graph.ty(*q), graph.ty(*k), graph.ty(*v)).map_err(refuse)?;
        let Some(island) = program.islands.get(&op) else {
            return Err(refuse("the program does not split it".into()));
        };
        let q_layout = layout(program, island.q_layout, sizes.q_len).map_err(refuse)?;
        let kv_layout = layout(program, island.kv_layout, sizes.kv_len).map_err(refuse)?;
        let [in_q, in_k, in_v, handed @ ..] = island.operands.as_slice() else {
            return Err(refuse("the program does not say how it is handed q, k and v".into()));
        };
        for (what, handed, layout) in
            [("q", in_q, island.q_layout), ("k", in_k, island.kv_layout), ("v", in_v, island.kv_layout)]
        {
            if !by_rows(handed, 2, layout) {
                return Err(refuse(format!("a rank is not handed its own rows of {what}")));
            }
        }
        if handed.len() != leaves.len() {
            return Err(refuse(format!("it has {} leaves, and is handed {}", leaves.len(), handed.len())));
        }
        if let Some(reason) = by_sizes(&sizes) {
            return Err(refuse(reason));
        }
        let leaves = leaves
            .iter()
            .zip(handed)
            .enumerate()
            .map(|(i, (&leaf, handed))| {
                leaf_site(graph.ty(leaf), handed, island.q_layout, sizes.q_len)
                    .map_err(|why| format!("operand {}: {why}", i + 3))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(refuse)?;
        let dtype = graph.ty(*q).dtype;
        Ok(Site { name, attention, sizes, dtype, q_layout, kv_layout, leaves })
    }

    /// Number of ranks.
    pub(crate) fn ranks(&self) -> usize {
        self.q_layout.ranks()
    }

    /// The error that refuses this attention.
    pub(crate) fn refuse(&self, reason: String) -> RingError {
        RingError { at: self.name.clone(), reason }
    }

    /// The type of packed keys and values of so many rows.
    pub(crate) fn packed(&self, rows: usize) -> Type {
        let s = &self.sizes;
        Type::new(self.dtype, vec![s.batch, s.kv_heads, rows, s.head_dim + s.v_head_dim])
    }
}

fn layout(program: &Program, index: usize, rows: usize) -> Result<&Layout, String> {
    let layout = program.layouts.get(index).ok_or_else(|| format!("there is no layout {index}"))?;
    if (layout.ranks(), layout.length) != (program.ranks, rows) {
        return Err(format!(
            "the layout is of {} rows on {} ranks, not of {rows} on {}",
            layout.length,
            layout.ranks(),
            program.ranks
        ));
    }
    Ok(layout)
}

/// Whether a rank is handed its rows of `layout` along `axis`, which holds nothing but rows.
fn by_rows(handed: &Placement, axis: usize, layout: usize) -> bool {
    let Placement::Sharded(s) = handed else { return false };
    (s.axis, s.outer, s.inner, s.layout) == (axis, 1, 1, layout)
}

fn leaf_site(ty: &Type, handed: &Placement, q_layout: usize, q_len: usize) -> Result<LeafSite, String> {
    let axis = ty.rank().checked_sub(2);
    let with_queries = axis.filter(|&a| ty.shape[a] == q_len);
    if *handed == Placement::Whole {
        // One row broadcasts, as any extent of 1 does.
        let query_axis = with_queries.filter(|_| q_len != 1);
        return Ok(LeafSite { ty: ty.clone(), query_axis, by_query_rows: false });
    }
    match with_queries {
        Some(axis) if by_rows(handed, axis, q_layout) => {
            Ok(LeafSite { ty: ty.clone(), query_axis: Some(axis), by_query_rows: true })
        }
        _ => Err(format!("{ty} is not handed out by query rows")),
    }
}
