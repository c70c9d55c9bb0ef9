//! What launches are handed for the scores, and which kernel computes them: found out once for launches that are alike.

use super::args::{KernelScoring, LeafArg, Scoring, SeenKeys, StepArg, TableArg};
use super::bytes::{Address, Base};
use super::error::Why;
use super::place::Places;
use super::types::Target;
use crate::ir::{Factor, ScoreStep};
use crate::lower::{Arch, KernelKey, KernelScores, Launch, Refusal, kernel, sight};
use crate::mask::{Fill, Mask, Term, Tile};
use crate::schedule::{AttentionFacts, Leaf};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of a table, over all batch entries: half a gigabyte.
const MOST_ROWS: usize = 1 << 26;

/// Where the leaves of a launch lie.
#[derive(Clone, Copy, Debug)]
pub(super) enum Site<'v> {
    /// Where the rank is handed them.
    Own,
    /// Blocks in the arena of those that are handed out by query rows, in their order, of so many rows and heads.
    Received { at: &'v [Address], rows: usize, heads: usize },
}

/// What a kernel does with the scores under a tile, its tensors by argument.
struct Form {
    scale: f32,
    softcap: f32,
    fill: f32,
    seen: SeenKeys,
    bias: Option<usize>,
    mask: Option<usize>,
    steps: Vec<(f32, SeenKeys, Vec<usize>)>,
}

/// What decides over the kernel of a launch.
type Choice = (bool, usize, [bool; 4], usize);

/// The scores of an attention, for all its launches.
pub(super) struct Scorings<'a> {
    facts: &'a AttentionFacts,
    target: Target,
    tables: Vec<i32>,
    /// By whether fills act.
    forms: [Option<Form>; 2],
    /// Of the rank's own leaves, by whether fills act and the first head.
    own: BTreeMap<(bool, usize), Scoring>,
    keys: BTreeMap<Choice, KernelKey>,
    /// Whether a leaf of the scores is handed out by query rows.
    pub(super) by_rows: bool,
}

impl<'a> Scorings<'a> {
    pub(super) fn new(facts: &'a AttentionFacts, target: Target) -> Scorings<'a> {
        let leaf = |n: usize| n.checked_sub(3).and_then(|i| facts.leaves.get(i));
        let by_rows = facts.scores.leaves().any(|(n, _)| leaf(n).is_some_and(|l| l.by_query_rows));
        Scorings {
            facts,
            target,
            tables: vec![],
            forms: [None, None],
            own: BTreeMap::new(),
            keys: BTreeMap::new(),
            by_rows,
        }
    }

    /// Begins with another rank, whose leaves have other rows.
    pub(super) fn enter(&mut self) {
        self.own.clear();
    }

    pub(super) fn into_tables(self) -> Vec<i32> {
        self.tables
    }

    /// The kernel of a launch.
    pub(super) fn kernel(&mut self, launch: Launch, arch: Arch) -> Result<KernelKey, Refusal> {
        let Launch { tile, keys, carry_in, sinks_here, cast_out, even_heads, align } = launch;
        let choice = (tile == Tile::Full, keys, [carry_in, sinks_here, cast_out, even_heads], align);
        if let Some(key) = self.keys.get(&choice) {
            return Ok(*key);
        }
        let key = kernel(self.facts, launch, arch)?;
        self.keys.insert(choice, key);
        Ok(key)
    }

    /// What a launch is handed, for query heads from `head` on.
    pub(super) fn scoring(
        &mut self,
        places: &Places<'_>,
        tile: Tile,
        head: usize,
        site: Site<'_>,
    ) -> Result<Scoring, Why> {
        let cached = !self.by_rows || matches!(site, Site::Own);
        let name = (tile == Tile::Full, head);
        if let Some(known) = self.own.get(&name).filter(|_| cached) {
            return Ok(known.clone());
        }
        let scoring = match self.target {
            Target::Cpu => {
                let all = self.facts.scores.leaves();
                let leaves = all.map(|(n, _)| self.leaf(places, n, head, site)).collect::<Result<_, _>>()?;
                Scoring::Reference { tile, leaves: Arc::new(leaves) }
            }
            Target::Cuda(_) => self.of_kernel(places, tile, head, site)?,
        };
        if cached {
            self.own.insert(name, scoring.clone());
        }
        Ok(scoring)
    }

    fn of_kernel(
        &mut self,
        places: &Places<'_>,
        tile: Tile,
        head: usize,
        site: Site<'_>,
    ) -> Result<Scoring, Why> {
        let which = usize::from(tile != Tile::Full);
        let form = match self.forms[which].take() {
            Some(form) => form,
            None => self.form(tile)?,
        };
        let one = |n: &usize| self.leaf(places, *n, head, site);
        let many = |all: &[usize]| all.iter().map(one).collect::<Result<Vec<LeafArg>, String>>();
        let step = |(number, seen, leaves): &(f32, SeenKeys, Vec<usize>)| {
            Ok(StepArg { number: *number, seen: *seen, leaves: many(leaves)? })
        };
        let steps = form.steps.iter().map(step).collect::<Result<Vec<_>, String>>()?;
        let scoring = KernelScoring {
            scale: form.scale,
            softcap: form.softcap,
            fill: form.fill,
            seen: form.seen,
            bias: form.bias.as_ref().map(one).transpose()?,
            mask: form.mask.as_ref().map(one).transpose()?,
            steps,
        };
        self.forms[which] = Some(form);
        Ok(Scoring::Kernel(Arc::new(scoring)))
    }

    fn form(&mut self, tile: Tile) -> Result<Form, Why> {
        let number = |mask: &Mask| match mask.fill {
            Fill::NegInf => 0.0,
            Fill::Replace(x) | Fill::Add(x) => x as f32,
        };
        let tensors = |mask: &Mask| -> Vec<usize> {
            let of = |t: &Term| if let Term::Tensor { operand } = t { Some(*operand) } else { None };
            mask.terms.iter().filter_map(of).collect()
        };
        let none = SeenKeys::default();
        Ok(match KernelScores::of(&self.facts.scores, tile) {
            KernelScores::Usual { scale, softcap, bias, mask } => Form {
                scale: scale as f32,
                softcap: softcap as f32,
                fill: number(&mask),
                seen: self.seen(&mask)?,
                bias,
                mask: tensors(&mask).first().copied(),
                steps: vec![],
            },
            KernelScores::Steps { steps, seen } => {
                let mut all = Vec::with_capacity(steps.len());
                for step in &steps {
                    all.push(match step {
                        ScoreStep::Factor(Factor::Number(c)) | ScoreStep::Softcap(c) => {
                            (*c as f32, none, vec![])
                        }
                        ScoreStep::Factor(Factor::Leaf(n)) | ScoreStep::Add(n) => (0.0, none, vec![*n]),
                        ScoreStep::Round(_) => (0.0, none, vec![]),
                        ScoreStep::Fill(mask) => (number(mask), self.seen(mask)?, tensors(mask)),
                    });
                }
                let seen = self.seen(&seen)?;
                Form { scale: 1.0, softcap: 0.0, fill: 0.0, seen, bias: None, mask: None, steps: all }
            }
        })
    }

    /// The window of a mask, and its table.
    fn seen(&mut self, mask: &Mask) -> Result<SeenKeys, Why> {
        let rows = self.facts.sizes.q_len;
        let entries = if mask.by_entry() { self.facts.sizes.batch } else { 1 };
        // A table is made and handed over as a whole, whatever is behind the numbers of a text.
        if rows.saturating_mul(entries) > MOST_ROWS {
            return Err(Why::TooMany { what: "rows of a table", count: rows.saturating_mul(entries) });
        }
        let sight = sight(mask, rows, self.facts.sizes.batch);
        let table = sight.documents.map(|rows| {
            let first = self.tables.len();
            self.tables.extend(rows.iter().map(|r| r[0]));
            self.tables.extend(rows.iter().map(|r| r[1]));
            TableArg { first, len: rows.len(), entry_rows: sight.entry_rows }
        });
        Ok(SeenKeys { window: sight.window, table })
    }

    /// A leaf for query heads from `head` on.
    pub(super) fn leaf(
        &self,
        places: &Places<'_>,
        argument: usize,
        head: usize,
        site: Site<'_>,
    ) -> Result<LeafArg, String> {
        let leaves = &self.facts.leaves;
        let lacking = || format!("there is no argument {argument}");
        let at = argument.checked_sub(3).ok_or_else(lacking)?;
        let leaf: &Leaf = leaves.get(at).ok_or_else(lacking)?;
        let mut extents = leaf.shape;
        let (mut from, mut local_rows) = (Address { base: Base::Argument(argument), offset: 0 }, false);
        if leaf.by_query_rows {
            local_rows = true;
            match site {
                Site::Own => extents[2] = places.q_count,
                Site::Received { at: blocks, rows, heads } => {
                    let nth = leaves[..at].iter().filter(|l| l.by_query_rows).count();
                    from = *blocks.get(nth).ok_or_else(lacking)?;
                    extents[2] = rows;
                    extents[1] = if leaf.shape[1] == 1 { 1 } else { heads };
                }
            }
        }
        let mut strides = [0; 4];
        let mut stride = 1usize;
        for axis in (0..4).rev() {
            strides[axis] = if leaf.shape[axis] == 1 { 0 } else { stride };
            stride = stride.saturating_mul(extents[axis]);
        }
        // Blocks that were received begin with the first head.
        let whole = from.base != Base::Arena;
        let skipped = if whole { head * strides[1] * leaf.dtype.bytes() } else { 0 };
        Ok(LeafArg { argument, at: from.plus(skipped), dtype: leaf.dtype, strides, local_rows })
    }
}
