//! Copies operations of a program into a graph of one rank, with the rank's extents.
//!
//! In: a program, a place in it and a rank; then operations, one after another. Out: a graph, well typed because every type is
//! inferred anew, and where the program's values are in it. A value that is held whole is cut where rows of it are read.

use super::axes;
use super::factor::Factor;
use super::types::{Placement, Program, Segment, Sharding};
use crate::ir::{Graph, Op, OpId, Type, ValueId};
use crate::layout::row_count;
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
        let gathered = program.segments[..segment].iter().filter_map(|s| match s {
            Segment::Gather { value, .. } => Some(*value),
            _ => None,
        });
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
    pub(crate) fn add(&mut self, id: OpId) {
        let program = self.program;
        let whole = &program.graph;
        let (op, operands, first) = (whole.op(id), whole.operands(id), whole.result(id));
        let name = &whole.value(first).name;
        let local = match program.placements.get(&first) {
            Some(Placement::Sharded(s)) => {
                let length = program.layouts[s.layout].length;
                let f = Factor::of(s, length);
                let rows = row_count(program.rows(s, self.rank));
                let types: Vec<&Type> = operands.iter().map(|&v| whole.ty(v)).collect();
                let held: Vec<Option<Factor>> = operands.iter().map(|v| self.carried(*v)).collect();
                let rows_of = |m: Factor, layout: usize| Sharding {
                    axis: m.axis,
                    outer: m.outer,
                    inner: m.inner,
                    layout,
                };
                let reads: Vec<Option<Sharding>> = match (op, program.joined.get(&s.layout)) {
                    (Op::Concat { axis }, Some(parts)) if *axis == f.axis => {
                        parts.iter().map(|&part| Some(rows_of(f, part))).collect()
                    }
                    _ => axes::operands(op, f, &types, whole.ty(first), &held)
                        .expect("a split operation has a map")
                        .into_iter()
                        .map(|map| map.map(|m| rows_of(m, s.layout)))
                        .collect(),
                };
                let read = |(&v, read): (&ValueId, Option<Sharding>)| match read {
                    None => self.whole(v),
                    Some(s) => self.rows(v, &s),
                };
                let own: Vec<ValueId> = operands.iter().zip(reads).map(read).collect();
                match op {
                    Op::Iota { axis, .. } if *axis == f.axis => {
                        let all = self.insert(op.clone(), &[], &format!("{name}.all"), whole.source(id));
                        let all = self.graph.result(all);
                        self.insert(self.rows_op(s), &[all], name, whole.source(id))
                    }
                    _ => self.insert(localized(op, f, rows), &own, name, whole.source(id)),
                }
            }
            _ => {
                let own: Vec<ValueId> = operands.iter().map(|&v| self.whole(v)).collect();
                self.insert(op.clone(), &own, name, whole.source(id))
            }
        };
        for (v, here) in whole.results(id).into_iter().zip(self.graph.results(local)) {
            self.define(v, here, program.placements.get(&v).cloned().unwrap_or(Placement::Whole));
        }
    }

    /// States where a value of the program is, and how it is held.
    pub(crate) fn define(&mut self, v: ValueId, here: ValueId, form: Placement) {
        debug_assert_eq!(
            self.graph.ty(here),
            &local_type(self.program, &form, self.program.graph.ty(v), self.rank),
            "{} is not what its placement says",
            self.program.graph.value(v).name
        );
        self.form.insert(v, form);
        if self.here.insert(v, here).is_some() {
            self.picked.retain(|(w, _, _), _| *w != v);
        }
    }

    /// The value in the graph as the rank holds it; a constant is copied in, anything else becomes an input.
    pub(crate) fn held(&mut self, v: ValueId) -> ValueId {
        if let Some(&here) = self.here.get(&v) {
            return here;
        }
        let program = self.program;
        let name = &program.graph.value(v).name;
        if let Some(constant) = program.graph.as_constant(v) {
            let here = self.graph.weight(name, constant.clone());
            self.define(v, here, Placement::Whole);
            return here;
        }
        let form = self.form_of(v);
        let ty = local_type(program, &form, program.graph.ty(v), self.rank);
        let here = self.graph.input(name, ty);
        self.inputs.push(v);
        self.define(v, here, form);
        here
    }

    /// The rank's rows of a value: held, or picked from the whole.
    pub(crate) fn rows(&mut self, v: ValueId, s: &Sharding) -> ValueId {
        let here = self.held(v);
        if let Some(Placement::Sharded(held)) = self.form.get(&v) {
            assert_eq!(held, s, "the rows of {} are read otherwise", self.program.graph.value(v).name);
            return here;
        }
        let f = Factor::of(s, self.program.layouts[s.layout].length);
        if let Some(&rows) = self.picked.get(&(v, f, s.layout)) {
            return rows;
        }
        let name = format!("{}.rows", self.program.graph.value(v).name);
        let op = self.insert(self.rows_op(s), &[here], &name, "");
        let rows = self.graph.result(op);
        self.picked.insert((v, f, s.layout), rows);
        rows
    }

    /// All of a value.
    pub(crate) fn whole(&mut self, v: ValueId) -> ValueId {
        let here = self.held(v);
        assert_eq!(
            self.form.get(&v),
            Some(&Placement::Whole),
            "a split value is read whole before its gather"
        );
        here
    }

    /// How a value is held when it is first read here.
    fn form_of(&self, v: ValueId) -> Placement {
        match (self.form.get(&v), self.program.placements.get(&v)) {
            (Some(form), _) => form.clone(),
            (None, Some(p)) if !self.gathered.contains(&v) => p.clone(),
            _ => Placement::Whole,
        }
    }

    fn carried(&self, v: ValueId) -> Option<Factor> {
        match self.form_of(v) {
            Placement::Whole => None,
            Placement::Sharded(s) => Some(Factor::of(&s, self.program.layouts[s.layout].length)),
        }
    }

    fn rows_op(&self, s: &Sharding) -> Op {
        let rows = self.program.rows(s, self.rank).to_vec();
        Op::Rows { axis: s.axis, outer: s.outer, inner: s.inner, rows }
    }

    fn insert(&mut self, op: Op, operands: &[ValueId], name: &str, source: &str) -> OpId {
        self.graph
            .add(op, operands, name, source)
            .expect("what is well typed whole is well typed on a rank's rows")
    }
}

/// The type of a rank's part of a value.
pub(crate) fn local_type(program: &Program, form: &Placement, whole: &Type, rank: usize) -> Type {
    match form {
        Placement::Whole => whole.clone(),
        Placement::Sharded(s) => {
            let layout = &program.layouts[s.layout];
            let shape = Factor::of(s, layout.length).local(&whole.shape, layout.share(rank));
            Type::new(whole.dtype, shape)
        }
    }
}

/// The operation where the results hold `rows` rows of the sequence.
fn localized(op: &Op, f: Factor, rows: usize) -> Op {
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
        _ => op.clone(),
    }
}
