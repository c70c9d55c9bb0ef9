//! dump: the DOT of graphs and the timeline of schedules, as snapshots and under odd input.

use crate::inside::check::corpus::travelling;
use crate::inside::support::cases::snapshot;
use annulus::device::Device;
use annulus::dump::dot;
use annulus::ir::{Attention, Binary, DType, Graph, Op, Tensor, Type};
use annulus::layout::LayoutKind;
use annulus::mask::Mask;
use annulus::ring::{Plan, Strategy, island};
use annulus::schedule::{Place, SLOTS, Schedule, StepOp, schedule};
use annulus::shard::{Segment, ShardOptions, rank_graph, shard};
use std::sync::Arc;

fn timeline_svg(schedule: &Schedule) -> String {
    annulus::dump::timeline_svg(schedule, &Device::named("h200x8").unwrap())
}

/// One attention of `length` rows, and its island graphs and schedule.
fn split(
    name: &str,
    mask: Mask,
    length: usize,
    ranks: usize,
    layout: LayoutKind,
    way: Strategy,
) -> (Vec<Graph>, Schedule) {
    let mut graph = Graph::new(name);
    let q = graph.input("q", Type::new(DType::F32, [1, 4, length, 16]));
    let k = graph.input("k", Type::new(DType::F32, [1, 2, length, 16]));
    let v = graph.input("v", Type::new(DType::F32, [1, 2, length, 16]));
    let attention = Attention::plain(0.25, DType::F32).masked(mask);
    let out = graph.add1(Op::Attention(Box::new(attention)), &[q, k, v], name, "").unwrap();
    graph.output("out", out);
    let program = shard(Arc::new(graph), &ShardOptions::new(ranks).layout(layout)).unwrap();
    let op = program.segments.iter().find_map(|s| if let Segment::Island(op) = s { Some(*op) } else { None });
    let op = op.unwrap();
    let graphs: Vec<Graph> = (0..ranks).map(|r| island(&program, op, way, r).unwrap()).collect();
    let schedule = schedule(&Plan::new(&program, op, way).unwrap(), SLOTS);
    (graphs, schedule)
}

#[test]
fn island_graph_as_dot() {
    let (graphs, _) = split("attn", Mask::causal(0), 8, 2, LayoutKind::Contiguous, Strategy::Ring);
    snapshot("dump", "ring-p2-rank1.dot", &dot(&graphs[1]));
}

#[test]
fn timelines() {
    let causal = Mask::causal(0);
    let cases = [
        ("ring-contiguous-p2", causal.clone(), 32, 2, LayoutKind::Contiguous, Strategy::Ring),
        ("ring-zigzag-p4", causal, 32, 4, LayoutKind::Zigzag, Strategy::Ring),
        ("all-gather-p2", Mask::none(), 32, 2, LayoutKind::Contiguous, Strategy::AllGather),
    ];
    for (name, mask, length, ranks, layout, way) in cases {
        let (_, schedule) = split("attn", mask, length, ranks, layout, way);
        snapshot("dump", &format!("{name}.svg"), &timeline_svg(&schedule));
    }
}

/// A rank's program: segments and islands are clusters, values pass in and out of them.
#[test]
fn program_as_dot() {
    let mut graph = Graph::new("model");
    let x = graph.input("x", Type::new(DType::F32, [1, 2, 8, 4]));
    let half = graph.constant("half", Tensor::scalar(DType::F32, 0.5));
    let table = graph.constant("table", Tensor::from_f64(DType::F32, [1, 2, 1, 4], &[0.25; 8]).unwrap());
    let q = graph.add1(Op::Binary(Binary::Mul), &[x, half], "q", "/scale/Mul").unwrap();
    let q = graph.add1(Op::Binary(Binary::Add), &[q, table], "q", "/bias/Add").unwrap();
    let attention = Attention::plain(0.5, DType::F32).masked(Mask::causal(0));
    let y = graph.add1(Op::Attention(Box::new(attention)), &[q, x, x], "attn", "").unwrap();
    let y = graph.add1(Op::Binary(Binary::Add), &[x, y], "y", "/Add").unwrap();
    graph.output("y", y);
    let program = shard(Arc::new(graph), &ShardOptions::new(2)).unwrap();
    let islands = program
        .islands
        .keys()
        .map(|&op| (op, (Strategy::Ring, Arc::new(island(&program, op, Strategy::Ring, 0).unwrap()))));
    snapshot("dump", "program-p2-rank0.dot", &dot(&rank_graph(&program, 0, &islands.collect()).unwrap()));
}

/// Floats in their shortest form, of every width; of a long name both ends, and the whole in the tooltip.
#[test]
fn labels_are_short() {
    let mut graph = Graph::new("g");
    let long = format!("/model/layers.0/{}/MatMul_output_0", "self_attn".repeat(9));
    let x = graph.input(&long, Type::new(DType::F32, [1]));
    let types = [DType::F16, DType::BF16, DType::F32, DType::F64];
    for (ty, i) in types.into_iter().zip(0..) {
        let data = Tensor::from_f64(ty, [3], &[1e-6, 0.1, 2.0]).unwrap();
        graph.constant(&format!("c{i}"), data);
    }
    graph.output(&long, x);
    let text = dot(&graph);
    let constants: Vec<&str> = text.split("const ").skip(1).filter_map(|t| t.split("\\n").next()).collect();
    assert_eq!(constants, ["1e-6, 0.1, 2"; 4]);
    let elided = |l: &&str| l.contains("…") && l.contains(&format!("tooltip=\"{long}"));
    assert_eq!(text.lines().filter(elided).count(), 2, "{text}");
    assert_eq!(text.matches(&long).count(), 2, "only in tooltips: {text}");
}

/// Merges, unpacking, heads and streams of several axes are drawn; one of each as snapshots.
#[test]
fn what_travels_is_drawn() {
    let mut seen = [false; 2];
    for (name, _, schedule) in travelling() {
        let svg = timeline_svg(&schedule);
        well_formed(&svg);
        let trace = annulus::dump::perfetto(&schedule, &Device::named("h200x8").unwrap());
        assert!(trace.len() > 100, "{name}");
        for (way, seen) in ["Queries", "Heads"].into_iter().zip(&mut seen) {
            if !*seen && name.starts_with(way) && schedule.ranks.len() == 4 {
                *seen = true;
                snapshot("dump", &format!("{}-p4.svg", way.to_lowercase()), &svg);
                snapshot("dump", &format!("{}-p4.perfetto", way.to_lowercase()), &trace);
            }
        }
    }
    assert_eq!(seen, [true; 2]);
}

/// Of many ranks, or of many steps, the first are drawn, and the picture says so.
#[test]
fn a_picture_of_many_ranks_stays_small() {
    let (_, few) = split("attn", Mask::causal(0), 64, 64, LayoutKind::Contiguous, Strategy::AllGather);
    assert!(!timeline_svg(&few).contains("left out"));
    // The whole of a causal zigzag ring on eight nodes.
    let (_, ring) = split("attn", Mask::causal(0), 256, 64, LayoutKind::Zigzag, Strategy::Ring);
    assert!(!timeline_svg(&ring).contains("left out"));
    let (_, many) = split("attn", Mask::causal(0), 5, 100, LayoutKind::Contiguous, Strategy::Ring);
    let svg = timeline_svg(&many);
    well_formed(&svg);
    assert!(svg.contains("36 of 100 ranks, from rank 64 on, are left out"));
    assert!(svg.contains(">rank 63<") && !svg.contains(">rank 64<"));
    let (_, mut long) = split("attn", Mask::none(), 12, 4, LayoutKind::Zigzag, Strategy::Ring);
    for rank in &mut long.ranks {
        let step = rank.steps[0].clone();
        rank.steps.extend(std::iter::repeat_n(step, 4000));
    }
    let svg = timeline_svg(&long);
    assert!(svg.contains("2 of 4 ranks, from rank 2 on, are left out"));
    assert!(svg.len() < 4_000_000, "{}", svg.len());
}

/// Every `&` begins an entity, every `<` a tag that this room writes, tags are closed, and XML's forbidden characters are
/// not there.
fn well_formed(svg: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends");
        assert!(!text.contains('>'), "{text}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
            continue;
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = tag.split([' ', '/']).next().unwrap();
        let known = ["svg", "defs", "pattern", "marker", "path", "rect", "g", "title", "text"];
        assert!(known.contains(&name), "{name}");
        if !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    for rest in svg.split('&').skip(1) {
        let entity = rest.split(';').next().unwrap();
        assert!(["amp", "lt", "gt", "quot", "apos"].contains(&entity), "{entity}");
    }
    assert!(svg.chars().all(|c| !c.is_control() || c == '\n'), "a control character");
}

#[test]
fn hostile_names_stay_text() {
    let name = "</text><script>&'\"\u{0}\u{1b}]\\n\u{202e}";
    let (graphs, mut schedule) = split(name, Mask::causal(0), 8, 2, LayoutKind::Zigzag, Strategy::Ring);
    schedule.name = name.to_owned();
    for step in schedule.ranks.iter_mut().flat_map(|r| &mut r.steps) {
        step.reason = name.to_owned();
    }
    let svg = timeline_svg(&schedule);
    well_formed(&svg);
    assert!(!svg.contains("<script") && !svg.contains('\u{202e}'));
    let text = dot(&graphs[0]);
    for line in text.lines() {
        let bare = line.replace("\\\\", "").replace("\\\"", "");
        assert_eq!(bare.matches('"').count() % 2, 0, "{line}");
        assert!(!line.chars().any(char::is_control), "{line}");
    }
}

/// What cannot run is drawn as far as it gets, and the picture says so.
#[test]
fn a_schedule_that_is_stuck_says_so() {
    let (_, good) = split("attn", Mask::none(), 8, 3, LayoutKind::Contiguous, Strategy::Ring);
    assert!(!timeline_svg(&good).contains("can never run"));
    let mut bad = good.clone();
    bad.ranks[1].steps[0].records = None;
    let svg = timeline_svg(&bad);
    well_formed(&svg);
    assert!(svg.contains("steps can never run"));
}

/// Numbers from untrusted text neither panic nor grow the picture.
#[test]
fn absurd_numbers_are_drawn_or_left_out() {
    let (_, good) = split("attn", Mask::none(), 8, 3, LayoutKind::Contiguous, Strategy::Ring);
    let big = usize::MAX;
    for which in 0..6 {
        let mut bad = good.clone();
        for step in bad.ranks.iter_mut().flat_map(|r| &mut r.steps) {
            match &mut step.op {
                StepOp::Pack { pieces } if which == 0 => {
                    pieces.iter_mut().for_each(|p| p.block.rows.len = big)
                }
                StepOp::AttnPartial { kv, .. } if which == 1 => {
                    kv.iter_mut().for_each(|p| (p.rows.start, p.rows.step, p.rows.len) = (big, big, big));
                }
                StepOp::Exchange { sends, .. } if which == 2 => sends.iter_mut().for_each(|t| t.peer = big),
                StepOp::Exchange { recvs, .. } if which == 3 => {
                    for part in recvs.iter_mut().flat_map(|t| &mut t.parts) {
                        if let Place::Arena(view) = part {
                            view.bytes = big;
                        }
                    }
                }
                _ => {}
            }
        }
        match which {
            4 => (bad.attention.sizes.batch, bad.attention.sizes.q_len) = (big, 0),
            5 => bad.ranks.push(bad.ranks[0].clone()),
            _ => {}
        }
        let svg = timeline_svg(&bad);
        well_formed(&svg);
        assert!(svg.len() < 200_000, "{}", svg.len());
    }
    let nothing = Schedule { ranks: vec![], ..good };
    well_formed(&timeline_svg(&nothing));
}

/// The trace is JSON, its slices are the steps, its arrows the messages, and its times those of the cost model.
#[test]
fn a_trace_says_what_the_picture_says() {
    let device = Device::named("h200x8").unwrap();
    for (ranks, way) in [(1, Strategy::Ring), (4, Strategy::Ring), (3, Strategy::AllGather)] {
        let (_, schedule) = split("attn \"<&\u{1b}", Mask::causal(0), 40, ranks, LayoutKind::Zigzag, way);
        let trace = annulus::dump::perfetto(&schedule, &device);
        let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |phase: &str| events.iter().filter(|e| e["ph"] == phase).collect::<Vec<_>>();
        let steps: usize = schedule.ranks.iter().map(|r| r.steps.len()).sum();
        assert_eq!(of("X").len(), steps);
        let slices = of("X");
        let end = slices.iter().map(|e| e["ts"].as_f64().unwrap() + e["dur"].as_f64().unwrap());
        let makespan = annulus::schedule::cost::estimate(&schedule, &device).makespan_us;
        assert!((end.fold(0.0, f64::max) - makespan).abs() < 1e-3);
        read_as_its_readers_do(&schedule, events);
        let messages: usize = schedule
            .ranks
            .iter()
            .flat_map(|r| &r.steps)
            .map(|s| if let StepOp::Exchange { sends, .. } = &s.op { sends.len() } else { 0 })
            .sum();
        assert_eq!((of("s").len(), of("f").len()), (messages, messages));
        for rank in 0..ranks {
            let live: Vec<u64> = of("C")
                .iter()
                .filter(|e| e["pid"] == rank + 1)
                .map(|e| e["args"]["bytes"].as_u64().unwrap())
                .collect();
            assert!(live.iter().max() <= Some(&(schedule.ranks[rank].arena_bytes as u64)));
            assert_eq!(live.last().copied().unwrap_or(0), 0, "all is read in the end");
        }
    }
    let (_, schedule) = split("attn", Mask::causal(0), 16, 2, LayoutKind::Zigzag, Strategy::Ring);
    snapshot("dump", "ring-zigzag-p2.perfetto", &annulus::dump::perfetto(&schedule, &device));
}

/// Times are cut to ns, threads are told apart by number, and an arrow belongs to the slice that is open at its time: slices of a
/// thread do not overlap, and every arrow goes from the step that sends to the step that receives.
fn read_as_its_readers_do(schedule: &Schedule, events: &[serde_json::Value]) {
    let number = |e: &serde_json::Value, key: &str| e[key].as_u64().unwrap();
    let ns = |e: &serde_json::Value, key: &str| (e[key].as_f64().unwrap() * 1e3) as i64;
    let of = |phase: &str| events.iter().filter(|e| e["ph"] == phase).cloned().collect::<Vec<_>>();
    let slices = of("X");
    assert!(events.iter().all(|e| number(e, "pid") > 0));
    let open = |e: &serde_json::Value| {
        let here = |s: &&serde_json::Value| number(s, "tid") == number(e, "tid");
        let at = ns(e, "ts");
        let mut open =
            slices.iter().filter(here).filter(|s| ns(s, "ts") <= at && at < ns(s, "ts") + ns(s, "dur"));
        let one = open.next().expect("a slice");
        assert!(open.next().is_none());
        (number(one, "pid") as usize - 1, number(&one["args"], "step") as usize)
    };
    for e in &slices {
        assert!(ns(e, "dur") > 0);
        assert_eq!(open(e), (number(e, "pid") as usize - 1, number(&e["args"], "step") as usize));
    }
    for (from, to) in of("s").iter().zip(&of("f")) {
        assert_eq!((number(from, "id"), &to["bp"]), (number(to, "id"), &"e".into()));
        let ((from, step), (to, there)) = (open(from), open(to));
        let (StepOp::Exchange { group, sends, .. }, StepOp::Exchange { group: g, recvs, .. }) =
            (&schedule.ranks[from].steps[step].op, &schedule.ranks[to].steps[there].op)
        else {
            panic!("an arrow between steps that are no transfers");
        };
        assert_eq!(group, g);
        assert!(sends.iter().any(|t| t.peer == to) && recvs.iter().any(|t| t.peer == from));
    }
}
