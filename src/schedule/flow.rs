//! Which step wrote the bytes that a step reads, and until when what is written is still to be read.
//!
//! In: the program of a rank, its steps in order of issue. Out: a [`Flow`]. It follows bytes of the arena, not slots or rows.

use super::blocks::View;
use super::types::RankProgram;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the bytes of a rank come from.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// For each step the steps that wrote what it reads, ascending: one step behind the other, and where each ends.
    sources: Vec<usize>,
    ends: Vec<usize>,
    /// Everything that is written.
    pub(crate) lives: Vec<Life>,
}

/// Bytes that one step wrote side by side and the same steps read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    /// Where they lie in the arena.
    pub(crate) at: Range<usize>,
    pub(crate) writer: usize,
    /// Ascending.
    pub(crate) readers: Vec<usize>,
    /// The step that writes over them; a carry is read and replaced by the same step.
    pub(crate) replaced: Option<usize>,
}

impl Flow {
    pub(crate) fn of(program: &RankProgram) -> Flow {
        let mut flow = Flow::default();
        let mut held = Held::default();
        let mut sources = Vec::new();
        for (i, step) in program.steps.iter().enumerate() {
            let at = |view: &View| {
                let slot = program.slots.get(view.slot).map_or(0, |s| s.offset);
                let start = slot.saturating_add(view.start);
                start..start.saturating_add(view.bytes)
            };
            sources.clear();
            step.op.touched(|view, writes| match writes {
                false => held.read(at(view), i, &mut sources),
                true => held.write(at(view), i, &mut flow.lives),
            });
            sources.sort_unstable();
            sources.dedup();
            flow.sources.extend_from_slice(&sources);
            flow.ends.push(flow.sources.len());
        }
        flow.lives.extend(held.lives.into_values());
        flow
    }

    /// The steps that wrote what a step reads, ascending.
    pub(crate) fn sources(&self, step: usize) -> &[usize] {
        let from = step.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.sources[from..self.ends[step]]
    }
}

/// What lies in the arena now, by first byte; lives do not overlap.
#[derive(Default)]
struct Held {
    lives: BTreeMap<usize, Life>,
}

impl Held {
    /// Cuts the life that reaches over a byte in two.
    fn cut(&mut self, byte: usize) {
        let Some((&start, life)) = self.lives.range_mut(..byte).next_back() else { return };
        if life.at.end > byte {
            let behind = Life { at: byte..life.at.end, ..life.clone() };
            life.at = start..byte;
            self.lives.insert(byte, behind);
        }
    }

    fn read(&mut self, at: Range<usize>, step: usize, sources: &mut Vec<usize>) {
        if at.is_empty() {
            return;
        }
        self.cut(at.start);
        self.cut(at.end);
        for (_, life) in self.lives.range_mut(at) {
            if life.readers.last() != Some(&step) {
                life.readers.push(step);
            }
            sources.push(life.writer);
        }
    }

    fn write(&mut self, at: Range<usize>, step: usize, lives: &mut Vec<Life>) {
        if at.is_empty() {
            return;
        }
        self.cut(at.start);
        self.cut(at.end);
        let over: Vec<usize> = self.lives.range(at.clone()).map(|(&start, _)| start).collect();
        for start in over {
            lives.extend(self.lives.remove(&start).map(|life| Life { replaced: Some(step), ..life }));
        }
        // What a step writes side by side is one.
        if let Some((_, life)) = self.lives.range_mut(..at.start).next_back()
            && life.at.end == at.start
            && life.writer == step
            && life.readers.is_empty()
        {
            life.at.end = at.end;
            return;
        }
        self.lives.insert(at.start, Life { at, writer: step, readers: vec![], replaced: None });
    }
}
