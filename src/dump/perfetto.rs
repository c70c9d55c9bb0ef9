//! The timeline of a schedule for ui.perfetto.dev and chrome://tracing: their JSON of trace events.
//!
//! In: a schedule and a device. Out: JSON with a process a rank, a thread a stream, a slice a step, an arrow a message, and a
//! counter of the bytes of the arena that are still to be read. Times are those of the cost model.
//!
//! What reads the file cuts times to whole ns, and lets a slice that begins before the one before it has ended lie inside it: so
//! times are whole ns here. Process 0 is the kernel's to it, and threads are told apart by their number alone: ranks count from
//! 1, and no two threads have one number.

use super::words::{Owners, kv_rows, packed_rows, packed_what, queries_of};
use crate::device::Device;
use crate::mask::Tile;
use crate::schedule::cost::{Span, flights, live_bytes, timeline};
use crate::schedule::{Schedule, Step, StepOp, Stream, Transfer};
use serde_json::{Value, json};

/// Writes the trace.
pub fn perfetto(schedule: &Schedule, device: &Device) -> String {
    let timeline = timeline(schedule, device);
    let mut owners = Owners::new(schedule);
    let mut events: Vec<Value> = Vec::new();
    for (rank, program) in schedule.ranks.iter().enumerate() {
        let pid = process(rank);
        let named = |what: &str, args: Value| json!({"ph": "M", "name": what, "pid": pid, "args": args});
        events.push(named("process_name", json!({"name": format!("rank {rank}")})));
        events.push(named("process_sort_index", json!({"sort_index": rank})));
        for stream in schedule.mesh.streams() {
            let name = schedule.mesh.stream_name(stream);
            let mut name = named("thread_name", json!({"name": name}));
            name["tid"] = json!(thread(schedule, rank, stream));
            events.push(name);
        }
        for (i, (step, span)) in program.steps.iter().zip(&timeline.spans[rank]).enumerate() {
            events.extend(span.iter().map(|span| {
                let mut slice = slice(schedule, &mut owners, (rank, i), step, span);
                slice["pid"] = json!(pid);
                slice["tid"] = json!(thread(schedule, rank, step.stream));
                slice
            }));
        }
        for (time, bytes) in live_bytes(schedule, &timeline, rank) {
            let args = json!({"bytes": bytes});
            let ts = us(ns(time));
            events.push(json!({"ph": "C", "name": "live bytes", "pid": pid, "ts": ts, "args": args}));
        }
    }
    for (id, flight) in flights(schedule, device, &timeline).iter().enumerate() {
        let stream =
            |(rank, step): (usize, usize)| thread(schedule, rank, schedule.ranks[rank].steps[step].stream);
        // An arrow is tied to the slice that is open at its time: when a step ends, the next one's may be.
        let last = (ns(flight.end) - 1).max(ns(flight.begin));
        for (phase, end, time) in [("s", flight.from, ns(flight.begin)), ("f", flight.to, last)] {
            let mut event = json!({
                "ph": phase, "id": id, "name": "message", "cat": "message",
                "pid": process(end.0), "tid": stream(end), "ts": us(time)
            });
            if phase == "f" {
                // It ends in the slice that is there then, not in the next one.
                event["bp"] = json!("e");
            }
            events.push(event);
        }
    }
    // One event a line, so that a text diff is readable.
    let lines: Vec<String> = events.iter().map(Value::to_string).collect();
    let about =
        json!({"schedule": schedule.name, "strategy": schedule.strategy.name(), "device": device.name});
    format!(
        "{{\"displayTimeUnit\": \"ns\", \"otherData\": {about}, \"traceEvents\": [\n{}\n]}}\n",
        lines.join(",\n")
    )
}

fn process(rank: usize) -> usize {
    rank + 1
}

fn thread(schedule: &Schedule, rank: usize, stream: Stream) -> usize {
    // Behind the numbers of the processes, for a thread with that of its process is its main thread.
    let streams = schedule.mesh.axes.len() + 1;
    schedule.ranks.len() + streams * rank + stream.lane() + 1
}

/// A time in whole ns.
fn ns(us: f64) -> i64 {
    (us * 1e3).round() as i64
}

/// A time in µs, as the format has it: the number of which a thousand times, cut to an integer, are these ns.
fn us(ns: i64) -> f64 {
    let us = ns as f64 / 1e3;
    if (us * 1e3) as i64 == ns { us } else { us.next_up() }
}

/// A step as a slice, still without its process and thread.
fn slice(
    schedule: &Schedule,
    owners: &mut Owners<'_>,
    (rank, index): (usize, usize),
    step: &Step,
    span: &Span,
) -> Value {
    let heads = schedule.attention.sizes.q_heads;
    let (name, category, mut args) = match &step.op {
        StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
            let word = if matches!(step.op, StepOp::Pack { .. }) { "pack" } else { "unpack" };
            (word.to_owned(), word, json!({"what": packed_what(pieces), "rows": packed_rows(pieces)}))
        }
        StepOp::Merge { q, carry_in, sinks_here, cast_out } => {
            let args = json!({
                "queries": queries_of(q.iter().map(|p| (p.rows, p.heads)), heads),
                "partials": q.iter().map(|p| p.partials.len()).max(),
                "carry_in": carry_in, "sinks_here": sinks_here, "cast_out": cast_out
            });
            ("merge".to_owned(), "merge", args)
        }
        StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
            let q = queries_of(q.iter().map(|p| (p.rows, p.heads)), heads);
            let masked = if *tile == Tile::Partial { "partial" } else { "full" };
            let args = json!({
                "queries": q, "keys": kv_rows(kv), "tile": masked,
                "carry_in": carry_in, "sinks_here": sinks_here, "cast_out": cast_out
            });
            (format!("{masked}: {}", owners.name(rank, kv)[0]), masked, args)
        }
        StepOp::Exchange { group, kind, sms, sends, recvs } => {
            let facts = &schedule.attention;
            let bytes = |ts: &[Transfer]| ts.iter().map(|t| t.bytes(facts)).sum::<usize>();
            let peers = |ts: &[Transfer]| ts.iter().map(|t| t.peer).collect::<Vec<_>>();
            let mut args = json!({
                "to": peers(sends), "from": peers(recvs), "sent": bytes(sends), "received": bytes(recvs),
                "waits_for_peer_us": us(ns(span.moving) - ns(span.begin))
            });
            if let Some(sms) = sms {
                args["sms"] = json!(sms);
            }
            (format!("{} {group}", kind.name()), "transfer", args)
        }
    };
    args["step"] = json!(index);
    args["why"] = json!(step.reason);
    json!({
        "ph": "X", "name": name, "cat": category, "ts": us(ns(span.begin)),
        "dur": us(ns(span.end) - ns(span.begin)), "args": args
    })
}
