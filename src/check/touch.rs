//! Which bytes of its arena a step reads and writes.

use crate::schedule::{StepOp, View};

/// Why a step touches bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Touch {
    /// It reads them.
    Reads,
    /// It copies own rows there.
    Packs,
    /// It receives them.
    Receives,
    /// It writes a carry there; one that it goes on from it has read there too.
    Carries,
    /// It writes results there.
    Gives,
}

/// Tells of every view that a step reads, and then of those that it writes; a carry that is read and written in place is one
/// write.
pub(super) fn touches<'a>(op: &'a StepOp, mut tell: impl FnMut(&'a View, Touch)) {
    match op {
        StepOp::Pack { pieces } => pieces.iter().for_each(|p| tell(&p.at, Touch::Packs)),
        StepOp::Unpack { pieces } => pieces.iter().for_each(|p| tell(&p.at, Touch::Reads)),
        StepOp::Exchange { sends, recvs, .. } => {
            let sent = sends.iter().flat_map(|t| &t.parts).filter_map(|p| p.view());
            sent.for_each(|v| tell(v, Touch::Reads));
            let received = recvs.iter().flat_map(|t| &t.parts).filter_map(|p| p.view());
            received.for_each(|v| tell(v, Touch::Receives));
        }
        StepOp::AttnPartial { q, kv, carry_in, cast_out, .. } => {
            kv.iter().filter_map(|p| p.at.as_ref()).for_each(|v| tell(v, Touch::Reads));
            q.iter().flat_map(|p| &p.at).for_each(|v| tell(v, Touch::Reads));
            q.iter().for_each(|p| ends(&p.carry, &p.out, (*carry_in, *cast_out), &mut tell));
        }
        StepOp::Merge { q, carry_in, cast_out, .. } => {
            q.iter().flat_map(|p| &p.partials).for_each(|v| tell(v, Touch::Reads));
            q.iter().for_each(|p| ends(&p.carry, &p.out, (*carry_in, *cast_out), &mut tell));
        }
    }
}

fn ends<'a>(
    carry: &'a Option<View>,
    out: &'a [View],
    (carry_in, cast_out): (bool, bool),
    tell: &mut impl FnMut(&'a View, Touch),
) {
    if !cast_out {
        carry.iter().for_each(|v| tell(v, Touch::Carries));
        return;
    }
    carry.iter().filter(|_| carry_in).for_each(|v| tell(v, Touch::Reads));
    out.iter().for_each(|v| tell(v, Touch::Gives));
}
