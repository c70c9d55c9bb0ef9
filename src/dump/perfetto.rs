//! The timeline of a schedule for ui.perfetto.dev and chrome://tracing: their JSON of trace events.
//!
//! In: a schedule and a device. Out: JSON with a process a rank, a thread a stream, a slice a step, an arrow a message, and a
//! counter of the bytes of the arena that are still to be read. Times are those of the cost model.

use super::svg::words::{Owners, kv_rows, rows_of};
use crate::device::Device;
use crate::layout::Progression;
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
        let named = |what: &str, args: Value| json!({"ph": "M", "name": what, "pid": rank, "args": args});
        events.push(named("process_name", json!({"name": format!("rank {rank}")})));
        events.push(named("process_sort_index", json!({"sort_index": rank})));
        for stream in Stream::ALL {
            let mut name = named("thread_name", json!({"name": stream.name()}));
            name["tid"] = json!(thread(stream));
            events.push(name);
        }
        for (i, (step, span)) in program.steps.iter().zip(&timeline.spans[rank]).enumerate() {
            events.extend(span.iter().map(|span| slice(&mut owners, rank, i, step, span)));
        }
        for (time, bytes) in live_bytes(schedule, &timeline, rank) {
            let args = json!({"bytes": bytes});
            events.push(json!({"ph": "C", "name": "live bytes", "pid": rank, "ts": time, "args": args}));
        }
    }
    for (id, flight) in flights(schedule, device, &timeline).iter().enumerate() {
        let stream = |(rank, step): (usize, usize)| thread(schedule.ranks[rank].steps[step].stream);
        for (phase, end, time) in [("s", flight.from, flight.begin), ("f", flight.to, flight.end)] {
            let mut event = json!({
                "ph": phase, "id": id, "name": "message", "cat": "message",
                "pid": end.0, "tid": stream(end), "ts": time
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
    let about = json!({"schedule": schedule.name, "strategy": schedule.strategy, "device": device.name});
    format!(
        "{{\"displayTimeUnit\": \"ns\", \"otherData\": {about}, \"traceEvents\": [\n{}\n]}}\n",
        lines.join(",\n")
    )
}

fn thread(stream: Stream) -> usize {
    match stream {
        Stream::Compute => 1,
        Stream::Comm => 2,
    }
}

/// A step as a slice. Times are in µs, as the format has them.
fn slice(owners: &mut Owners<'_>, rank: usize, index: usize, step: &Step, span: &Span) -> Value {
    let (name, category, mut args) = match &step.op {
        StepOp::Pack { pieces } => ("pack".to_owned(), "pack", json!({"keys": kv_rows(pieces)})),
        StepOp::AttnPartial { q, kv, tile, carry_in, sinks_here, cast_out } => {
            let q: Vec<Progression> = q.iter().map(|p| p.rows).collect();
            let masked = if *tile == Tile::Partial { "partial" } else { "full" };
            let args = json!({
                "queries": rows_of(&q), "keys": kv_rows(kv), "tile": masked,
                "carry_in": carry_in, "sinks_here": sinks_here, "cast_out": cast_out
            });
            (format!("{masked}: {}", owners.name(rank, kv)[0]), masked, args)
        }
        StepOp::Exchange { group, kind, sends, recvs } => {
            let bytes = |ts: &[Transfer]| ts.iter().flat_map(|t| &t.views).map(|v| v.bytes).sum::<usize>();
            let peers = |ts: &[Transfer]| ts.iter().map(|t| t.peer).collect::<Vec<_>>();
            let args = json!({
                "to": peers(sends), "from": peers(recvs), "sent": bytes(sends), "received": bytes(recvs),
                "waits_for_peer_us": span.moving - span.begin
            });
            (format!("{} {group}", kind.name()), "transfer", args)
        }
    };
    args["step"] = json!(index);
    args["why"] = json!(step.reason);
    json!({
        "ph": "X", "name": name, "cat": category, "pid": rank, "tid": thread(step.stream),
        "ts": span.begin, "dur": span.end - span.begin, "args": args
    })
}
