//! Copies operations of a program into a graph of one rank, with the rank's extents.
//!
//! In: a program, a place in it and a rank; then operations, one after another. Out: a graph, well typed because every type is
//! inferred anew, and where the program's values are in it. A value that is held whole is cut where rows of it are read; a fold
//! over the rows that the ranks share out is the rank's part of it.

use super::error::ShardError;
use super::factor::Factor;
use super::reads::{factor, reads};
use super::types::{Placement, Program, Segment, Sharding};
use crate::ir::{Attention, Binary, Graph, Op, OpId, Reduction, Tensor, Type, ValueId};
use crate::layout::{Progression, row_count};
use std::collections::{HashMap, HashSet};

/// Copies operations of the program into a graph of one rank.
pub(crate) struct RankOps<'a> {
    program: &'a Program,
    rank: usize,
    pub(crate) graph: Graph,
    /// The program's values that the graph's inputs hold, in order.
    pub(crate) inputs: Vec<ValueId>,
    /// Where the program's values are in the graph.
    pub(crate) here: HashMap<ValueId, ValueId>,
    /// How they are held there.
    form: HashMap<ValueId, Placement>,
    /// Rows picked from whole values.
    picked: HashMap<(ValueId, Factor, usize), ValueId>,
    gathered: HashSet<ValueId>,
}

impl<'a> RankOps<'a> {
    /// A graph that stands at `segment` of the program.
    pub(crate) fn new(program: &'a Program, segment: usize, rank: usize, graph: Graph) -> RankOps<'a> {
        let gathered = program.segments[..segment].iter().filter_map(Segment::makes_whole);
        RankOps {
            program,
            rank,
            graph,
            inputs: vec![],
            here: HashMap::new(),
            form: HashMap::new(),
            picked: HashMap::new(),
            gathered: gathered.collect(),
        }
    }

    /// Adds an operation of the program, as this rank computes it.
    ///
    /// # Errors
    /// [`ShardError::Fault`] if an operand is not held as it is read, or the operation is not well typed on the rank's rows.
    pub(crate) fn add(&mut self, id: OpId) -> Result<(), ShardError> {
        let program = self.program;
        let whole = &program.graph;
        let (op, operands, first) = (whole.op(id), whole.operands(id), whole.result(id));
        let (name, source) = (&whole.value(first).name, whole.source(id));
        let mut own = Vec::new();
        for (v, read) in operands.into_iter().zip(reads(program, id, |v| self.form_of(v))?) {
            own.push(match read {
                Placement::Sharded(s) => self.rows(v, &s)?,
                Placement::Whole | Placement::Parts(_) => self.whole(v)?,
            });
        }
        let local = match program.placements.get(&first) {
            Some(Placement::Sharded(s)) => {
                let f = factor(program, s).map_err(|why| ShardError::fault(name, why))?;
                match op {
                    Op::Iota { axis, .. } if *axis == f.axis => {
                        let all = self.insert(op.clone(), &[], &format!("{name}.all"), source)?;
                        let all = self.graph.result(all);
                        self.insert(self.rows_op(s), &[all], name, source)?
                    }
                    _ => {
                        let op = localized(op, f, program.rows(s, self.rank));
                        self.insert(op, &own, name, source)?
                    }
                }
            }
            Some(Placement::Parts(_)) => self.part(id, &own)?,
            _ => self.insert(op.clone(), &own, name, source)?,
        };
        for (v, here) in whole.results(id).into_iter().zip(self.graph.results(local)) {
            self.define(v, here, program.placements.get(&v).cloned().unwrap_or(Placement::Whole))?;
        }
        Ok(())
    }

    /// The rank's part of a fold over the rows: what the fold is of the rank's rows, wide enough to be folded with the others;
    /// of a mean the sum, divided by the number of all elements.
    fn part(&mut self, id: OpId, own: &[ValueId]) -> Result<OpId, ShardError> {
        let whole = &self.program.graph;
        let (name, source) = (&whole.value(whole.result(id)).name, whole.source(id));
        let (Op::Reduce { kind, axes, keep }, &[mut x]) = (whole.op(id), own) else {
            return Err(ShardError::fault(name, "it is held in parts, and is no fold"));
        };
        let ty = whole.ty(whole.operands(id)[0]);
        if ty.dtype.part() != ty.dtype {
            let wide = self.insert(Op::Cast(ty.dtype.part()), &[x], &format!("{name}.wide"), source)?;
            x = self.graph.result(wide);
        }
        let fold = |kind| Op::Reduce { kind, axes: axes.clone(), keep: *keep };
        if *kind != Reduction::Mean {
            return self.insert(fold(*kind), &[x], name, source);
        }
        let sum = self.insert(fold(Reduction::Sum), &[x], &format!("{name}.sum"), source)?;
        let sum = self.graph.result(sum);
        let count = axes.iter().fold(1.0, |n, &a| n * ty.shape[a] as f64);
        let count = self.graph.constant(&format!("{name}.count"), Tensor::scalar(ty.dtype.part(), count));
        self.insert(Op::Binary(Binary::Div), &[sum, count], name, source)
    }

    /// States where a value of the program is, and how it is held.
    ///
    /// # Errors
    /// [`ShardError::Fault`] if its type is not what its placement says.
    pub(crate) fn define(&mut self, v: ValueId, here: ValueId, form: Placement) -> Result<(), ShardError> {
        let (is, wants) =
            (self.graph.ty(here), local_type(self.program, &form, self.program.graph.ty(v), self.rank));
        if *is != wants {
            return Err(
                self.fault(v, format!("it is {is} on rank {}, and its placement says {wants}", self.rank))
            );
        }
        self.form.insert(v, form);
        if self.here.insert(v, here).is_some() {
            self.picked.retain(|(w, _, _), _| *w != v);
        }
        Ok(())
    }

    /// The value in the graph as the rank holds it; a constant is copied in, anything else becomes an input.
    ///
    /// # Errors
    /// As [`define`](RankOps::define).
    pub(crate) fn held(&mut self, v: ValueId) -> Result<ValueId, ShardError> {
        if let Some(&here) = self.here.get(&v) {
            return Ok(here);
        }
        let program = self.program;
        let name = &program.graph.value(v).name;
        if let Some(constant) = program.graph.as_constant(v) {
            let here = self.graph.weight(name, constant.clone());
            self.define(v, here, Placement::Whole)?;
            return Ok(here);
        }
        let form = self.form_of(v);
        let ty = local_type(program, &form, program.graph.ty(v), self.rank);
        let here = self.graph.input(name, ty);
        self.inputs.push(v);
        self.define(v, here, form)?;
        Ok(here)
    }

    /// The rank's rows of a value: held, or picked from the whole.
    ///
    /// # Errors
    /// [`ShardError::Fault`] if other rows are held.
    pub(crate) fn rows(&mut self, v: ValueId, s: &Sharding) -> Result<ValueId, ShardError> {
        let here = self.held(v)?;
        if let Some(Placement::Sharded(held)) = self.form.get(&v) {
            return if held == s { Ok(here) } else { Err(otherwise(self.program, v, held, s)) };
        }
        let f = factor(self.program, s).map_err(|why| self.fault(v, why))?;
        if let Some(&rows) = self.picked.get(&(v, f, s.layout)) {
            return Ok(rows);
        }
        let name = format!("{}.rows", self.program.graph.value(v).name);
        let op = self.insert(self.rows_op(s), &[here], &name, "")?;
        let rows = self.graph.result(op);
        self.picked.insert((v, f, s.layout), rows);
        Ok(rows)
    }

    /// All of a value.
    ///
    /// # Errors
    /// [`ShardError::Fault`] if only rows of it are held.
    pub(crate) fn whole(&mut self, v: ValueId) -> Result<ValueId, ShardError> {
        let here = self.held(v)?;
        match self.form.get(&v) {
            Some(Placement::Sharded(_) | Placement::Parts(_)) => Err(read_whole(self.program, v)),
            _ => Ok(here),
        }
    }

    /// How a value is held when it is first read here.
    fn form_of(&self, v: ValueId) -> Placement {
        match (self.form.get(&v), self.program.placements.get(&v)) {
            (Some(form), _) => form.clone(),
            (None, Some(p)) if !self.gathered.contains(&v) => p.clone(),
            _ => Placement::Whole,
        }
    }

    fn rows_op(&self, s: &Sharding) -> Op {
        let rows = self.program.rows(s, self.rank).to_vec();
        Op::Rows { axis: s.axis, outer: s.outer, inner: s.inner, rows }
    }

    fn insert(&mut self, op: Op, operands: &[ValueId], name: &str, source: &str) -> Result<OpId, ShardError> {
        let fault = |e| {
            ShardError::fault(name, format!("it is not well typed on the rows of rank {}: {e}", self.rank))
        };
        self.graph.add(op, operands, name, source).map_err(fault)
    }

    fn fault(&self, v: ValueId, why: impl Into<String>) -> ShardError {
        ShardError::fault(&self.program.graph.value(v).name, why)
    }
}

/// The fault of a value that is split and read whole.
pub(super) fn read_whole(program: &Program, v: ValueId) -> ShardError {
    ShardError::fault(&program.graph.value(v).name, "it is split, and is read whole before it is gathered")
}

/// The fault of a value whose rows are held in one way and read in another.
pub(super) fn otherwise(program: &Program, v: ValueId, held: &Sharding, read: &Sharding) -> ShardError {
    let words =
        |s: &Sharding| format!("axis {} ({} × rows × {}) by layout {}", s.axis, s.outer, s.inner, s.layout);
    let why = format!("its rows are held along {}, and read along {}", words(held), words(read));
    ShardError::fault(&program.graph.value(v).name, why)
}

/// The type of a rank's part of a value.
pub(crate) fn local_type(program: &Program, form: &Placement, whole: &Type, rank: usize) -> Type {
    match form {
        Placement::Whole => whole.clone(),
        Placement::Parts(_) => Type::new(whole.dtype.part(), whole.shape.clone()),
        Placement::Sharded(s) => {
            let layout = &program.layouts[s.layout];
            let shape = Factor::of(s, layout.length).local(&whole.shape, layout.share(rank));
            Type::new(whole.dtype, shape)
        }
    }
}

/// The operation where the results hold these rows of the sequence.
fn localized(op: &Op, f: Factor, own: &[Progression]) -> Op {
    let rows = row_count(own);
    match op {
        Op::Reshape(shape) => Op::Reshape(f.local(shape, rows)),
        Op::Broadcast(shape) => Op::Broadcast(f.local(shape, rows)),
        Op::Iota { ty, axis } => Op::Iota { ty: Type::new(ty.dtype, f.local(&ty.shape, rows)), axis: *axis },
        Op::Slice { axis, start, step, .. } if *axis == f.axis => {
            Op::Slice { axis: *axis, start: *start, len: f.extent(rows), step: *step }
        }
        Op::Opaque(o) => {
            let mut o = (**o).clone();
            o.results.iter_mut().for_each(|t| t.shape = f.local(&t.shape, rows));
            Op::Opaque(o.into())
        }
        // Its batch runs along: of what the mask says of each batch entry, the rank needs that of its own.
        Op::Attention(a) if f.axis == 0 && a.scores.by_entry() => {
            let scores = a.scores.of_entries(&f.places(own));
            Op::Attention(Box::new(Attention { scores, ..(**a).clone() }))
        }
        _ => op.clone(),
    }
}
