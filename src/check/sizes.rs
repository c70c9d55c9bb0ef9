//! sizes: every number of elements and every offset that a kernel or a transfer is given fits a signed 64-bit integer: of the
//! arena, of each message, and of a rank's rows of q, k, v, the leaves and the results.

use super::bytes::message_bytes;
use super::log::Log;
use crate::layout::Progression;
use crate::schedule::{Schedule, StepOp};

pub(super) fn sizes(schedule: &Schedule, log: &mut Log<'_>) {
    let (a, s) = (&schedule.attention, schedule.attention.sizes);
    let product = |extents: &[usize]| {
        extents.iter().try_fold(1i64, |n, &e| i64::try_from(e).ok().and_then(|e| n.checked_mul(e)))
    };
    let rows = |own: &[Progression]| own.iter().map(|p| p.len).sum::<usize>();
    for (r, program) in schedule.ranks.iter().enumerate() {
        let (q, k) = (rows(&schedule.q_layout.rows[r]), rows(&schedule.kv_layout.rows[r]));
        let wide = a.dtype.bytes().max(a.acc.bytes());
        let mut tensors = vec![
            ("q", [s.batch, s.q_heads, q, s.head_dim], a.dtype.bytes()),
            ("k", [s.batch, s.kv_heads, k, s.head_dim], a.dtype.bytes()),
            ("v", [s.batch, s.kv_heads, k, s.v_head_dim], a.dtype.bytes()),
            ("the output", [s.batch, s.q_heads, q, s.v_head_dim], wide),
            ("the log-sum-exp", [s.batch, s.q_heads, q, 1], wide),
        ];
        for leaf in &a.leaves {
            let mut shape = leaf.shape;
            if leaf.by_query_rows {
                shape[2] = q;
            }
            tensors.push(("a mask, bias or sinks", shape, leaf.dtype.bytes()));
        }
        for (what, shape, bytes) in tensors {
            let fits = product(&[shape.as_slice(), &[bytes]].concat()).is_some();
            if fits {
                log.fact();
            } else {
                log.fail_at(r, 0, "attention".to_owned(), || {
                    format!("{what} of shape {shape:?} has more bytes than a signed 64-bit integer counts")
                });
            }
        }
        if i64::try_from(program.arena_bytes).is_ok() {
            log.fact();
        } else {
            log.fail_at(r, 0, "arena".to_owned(), || {
                format!("{} bytes are more than a signed 64-bit integer counts", program.arena_bytes)
            });
        }
        for (i, step) in program.steps.iter().enumerate() {
            let StepOp::Exchange { sends, recvs, .. } = &step.op else { continue };
            for t in sends.iter().chain(recvs) {
                let total = message_bytes(a, t).and_then(|n| i64::try_from(n).ok());
                log.want(total.is_some(), r, i, || {
                    format!(
                        "its message with rank {} has more bytes than a signed 64-bit integer counts",
                        t.peer
                    )
                });
            }
        }
    }
}
