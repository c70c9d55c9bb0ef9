//! Which step wrote the bytes that a step reads, and how long what is written is still to be read.
//!
//! In: the program of a rank, its steps in order of issue. Out: for each step those whose bytes it reads; and the lives of
//! what was written.

use crate::schedule::types::*;
use std::collections::BTreeMap;
use std::ops::Range;

/// Where the bytes of a rank come from.
pub(super) struct Flow {
    /// For each step the steps that wrote what it reads, ascending.
    pub(super) sources: Vec<Vec<usize>>,
    /// Everything that is written.
    pub(super) lives: Vec<Life>,
}

/// Bytes that one step wrote at one place.
pub(super) struct Life {
    pub(super) writer: usize,
    pub(super) bytes: usize,
    /// The last step in order of issue that reads any of them.
    pub(super) last_read: Option<usize>,
    /// The step that writes over them; a carry is read and replaced by the same step.
    pub(super) replaced: Option<usize>,
}

impl Flow {
    pub(super) fn of(program: &RankProgram) -> Flow {
        let mut written = Written::default();
        let mut flow = Flow { sources: vec![], lives: vec![] };
        for (i, step) in program.steps.iter().enumerate() {
            let mut sources = Vec::new();
            let at = |view: &View| {
                let slot = program.slots.get(view.slot).map_or(0, |s| s.offset);
                let start = slot.saturating_add(view.start);
                start..start.saturating_add(view.bytes)
            };
            let (reads, writes) = touched(&step.op);
            for view in reads {
                written.read(at(view), &mut flow.lives, i, &mut sources);
            }
            for view in writes {
                written.write(at(view), &mut flow.lives, i);
            }
            sources.sort_unstable();
            sources.dedup();
            flow.sources.push(sources);
        }
        flow
    }
}

/// Views that a step reads and writes.
fn touched(op: &StepOp) -> (Vec<&View>, Vec<&View>) {
    match op {
        StepOp::Pack { pieces } => (vec![], pieces.iter().map(|p| &p.at).collect()),
        StepOp::Exchange { sends, recvs, .. } => {
            (sends.iter().flat_map(|t| &t.views).collect(), recvs.iter().flat_map(|t| &t.views).collect())
        }
        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
            let carries = || q.iter().filter_map(|p| p.carry.as_ref());
            let mut reads: Vec<&View> = kv.iter().map(|p| &p.at).collect();
            reads.extend(carries().filter(|_| *carry_in));
            (reads, carries().filter(|_| !*cast_out).collect())
        }
    }
}

/// Ranges of the arena with what was written there last: by begin, the end and the index of the life.
#[derive(Default)]
struct Written {
    ranges: BTreeMap<usize, (usize, usize)>,
}

impl Written {
    /// The ranges that overlap one, whole.
    fn over(&self, at: &Range<usize>) -> Vec<(usize, usize, usize)> {
        let before = self.ranges.range(..at.start).next_back();
        let inside = self.ranges.range(at.start..at.end.max(at.start));
        let all = before.into_iter().chain(inside).map(|(&start, &(end, life))| (start, end, life));
        all.filter(|&(start, end, _)| start < at.end && end > at.start).collect()
    }

    fn read(&self, at: Range<usize>, lives: &mut [Life], step: usize, sources: &mut Vec<usize>) {
        for (_, _, life) in self.over(&at) {
            lives[life].last_read = Some(step);
            sources.push(lives[life].writer);
        }
    }

    fn write(&mut self, at: Range<usize>, lives: &mut Vec<Life>, step: usize) {
        if at.is_empty() {
            return;
        }
        for (start, end, life) in self.over(&at) {
            self.ranges.remove(&start);
            let over = end.min(at.end) - start.max(at.start);
            let Life { writer, last_read, .. } = lives[life];
            lives[life].bytes -= over;
            lives.push(Life { writer, bytes: over, last_read, replaced: Some(step) });
            if start < at.start {
                self.ranges.insert(start, (at.start, life));
            }
            if end > at.end {
                self.ranges.insert(at.end, (end, life));
            }
        }
        // What a step writes side by side is one.
        let beside = self.ranges.range(..at.start).next_back().map(|(&s, &v)| (s, v));
        if let Some((start, (end, life))) = beside
            && end == at.start
            && lives[life].writer == step
            && lives[life].last_read.is_none()
        {
            self.ranges.insert(start, (at.end, life));
            lives[life].bytes += at.len();
            return;
        }
        self.ranges.insert(at.start, (at.end, lives.len()));
        lives.push(Life { writer: step, bytes: at.len(), last_read: None, replaced: None });
    }
}
