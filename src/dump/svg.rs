//! The timeline of a schedule as a plain SVG: a band a rank, with a lane a stream, and an arrow a message.
//!
//! It is to be read without a legend: every bar says what it is where there is room for it, and in its tooltip in full.

use super::is_unsafe;
use super::simulate::{Flight, SHARE_TRANSFER, Span, Timeline, simulate};
use crate::layout::Progression;
use crate::mask::Tile;
use crate::schedule::{ExchangeKind, KvPiece, Schedule, Step, StepOp, Stream, Transfer};
use std::fmt::Write;

const WIDTH: f64 = 1280.0;
const LEFT: f64 = 160.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 64.0;
const COMPUTE: f64 = 34.0;
const COMM: f64 = 24.0;
const GAP: f64 = 26.0;
const BAND: f64 = COMPUTE + COMM + GAP;

const FULL: &str = "#9cc4ee";
/// Up to so many ranks the messages of an all-gather are drawn one by one.
const ARROWS: usize = 4;

const SEND: &str = "#f6c06d";
const WAIT: &str = "#fbe9e7";

/// Draws what happens when, by the model that the picture states. See `simulate`.
pub fn timeline_svg(schedule: &Schedule) -> String {
    let timeline = simulate(schedule);
    let span = if timeline.makespan > 0.0 && timeline.makespan.is_finite() { timeline.makespan } else { 1.0 };
    let mut p = Picture { out: String::new(), labels: String::new(), scale: (WIDTH - LEFT - RIGHT) / span };
    let height = TOP + BAND * schedule.ranks.len() as f64 + 78.0;
    p.head(schedule, height);
    for (rank, program) in schedule.ranks.iter().enumerate() {
        p.band(schedule, rank);
        for stream in Stream::ALL {
            for (i, step) in program.steps.iter().enumerate().filter(|(_, s)| s.stream == stream) {
                if let Some(span) = &timeline.spans[rank][i] {
                    p.wait(schedule, &timeline, rank, step, span);
                    p.step(schedule, rank, i, step, span);
                }
            }
            p.rest(schedule, &timeline, rank, stream);
        }
    }
    for f in &timeline.flights {
        p.arrow(schedule, f);
    }
    // Over bars and arrows, so that no arrow strikes a word out.
    let labels = std::mem::take(&mut p.labels);
    p.put(&format!("<g pointer-events=\"none\">\n{labels}</g>"));
    p.foot(schedule, &timeline, span, height);
    p.out
}

struct Picture {
    out: String,
    /// What stands in the bars.
    labels: String,
    /// Pixels in a unit of time.
    scale: f64,
}

/// A box of a lane.
struct Bar<'a> {
    rank: usize,
    stream: Stream,
    from: f64,
    to: f64,
    style: &'a str,
    /// In full, for the tooltip.
    title: String,
    /// Lines, each with shorter ways to say it.
    lines: Vec<Vec<String>>,
}

impl Picture {
    fn put(&mut self, text: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.out, "{text}");
    }

    fn x(&self, time: f64) -> f64 {
        LEFT + time * self.scale
    }

    fn text(&mut self, x: f64, y: f64, style: &str, text: &str) {
        self.put(&format!("<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{}</text>", escape(text)));
    }

    fn head(&mut self, schedule: &Schedule, height: f64) {
        let (a, s) = (&schedule.attention, &schedule.attention.sizes);
        self.put(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#222\">"
        ));
        self.put(&format!(
            "<defs><pattern id=\"masked\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#e3eefa\"/>\
             <rect width=\"2.5\" height=\"6\" fill=\"{FULL}\"/></pattern>\
             <marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
             orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#b36b00\"/></marker></defs>"
        ));
        self.put(&format!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>"));
        let layout = match schedule.q_layout.kind == schedule.kv_layout.kind {
            true => schedule.q_layout.kind.to_string(),
            false => format!("{} × {}", schedule.q_layout.kind, schedule.kv_layout.kind),
        };
        let title = format!(
            "{}: {} on {} rank{}, {layout} layout, mask {}",
            schedule.name,
            schedule.strategy,
            schedule.ranks.len(),
            if schedule.ranks.len() == 1 { "" } else { "s" },
            a.mask
        );
        self.text(LEFT, 26.0, "font-size=\"16\" font-weight=\"bold\"", &fit(&title, 1080.0, 8.6));
        let heads = match s.q_heads == s.kv_heads {
            true => format!("{} heads", s.q_heads),
            false => format!("{} query heads, {} key heads", s.q_heads, s.kv_heads),
        };
        let width = match s.head_dim == s.v_head_dim {
            true => format!("head size {}", s.head_dim),
            false => format!("head sizes {} and {}", s.head_dim, s.v_head_dim),
        };
        let sizes = format!(
            "batch {}, {heads}, {} query rows × {} key rows, {width}, {}",
            s.batch, s.q_len, s.kv_len, a.dtype
        );
        self.text(LEFT, 44.0, "fill=\"#555\"", &sizes);
    }

    fn top(rank: usize, stream: Stream) -> f64 {
        TOP + rank as f64 * BAND + if stream == Stream::Compute { 0.0 } else { COMPUTE }
    }

    fn height(stream: Stream) -> f64 {
        if stream == Stream::Compute { COMPUTE } else { COMM }
    }

    fn band(&mut self, schedule: &Schedule, rank: usize) {
        let y = Picture::top(rank, Stream::Compute);
        for stream in Stream::ALL {
            let (y, h) = (Picture::top(rank, stream), Picture::height(stream));
            let width = WIDTH - LEFT - RIGHT;
            self.put(&format!(
                "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"{h}\" fill=\"#f7f7f7\" stroke=\"#dddddd\"/>"
            ));
            let name = stream.name();
            self.text(LEFT - 6.0, y + h / 2.0 + 4.0, "text-anchor=\"end\" fill=\"#777\"", name);
        }
        self.text(12.0, y + 14.0, "font-size=\"13\" font-weight=\"bold\"", &format!("rank {rank}"));
        let rows = schedule.q_layout.rows.get(rank).map_or(&[][..], |r| r);
        let more = if rows.len() > 2 { ", …" } else { "" };
        let lines = match rows {
            [] => vec!["no rows".to_owned()],
            [one] => vec![format!("rows {}", rows_of(&[*one]))],
            [one, two, ..] => {
                vec![format!("rows {},", rows_of(&[*one])), format!("{}{more}", rows_of(&[*two]))]
            }
        };
        for (i, line) in lines.iter().enumerate() {
            let y = y + 29.0 + 13.0 * i as f64;
            self.text(12.0, y, "font-size=\"10\" fill=\"#777\"", &fit(line, 94.0, 5.2));
        }
    }

    fn bar(&mut self, bar: Bar<'_>) {
        let (x, y) = (self.x(bar.from), Picture::top(bar.rank, bar.stream) + 1.5);
        let (w, h) = (((bar.to - bar.from) * self.scale).max(1.0), Picture::height(bar.stream) - 3.0);
        self.put(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{w:.1}\" height=\"{h:.1}\" rx=\"2\" {}>\
             <title>{}</title></rect>",
            bar.style,
            escape(&bar.title)
        ));
        let fitting: Vec<&String> = bar
            .lines
            .iter()
            .filter_map(|ways| ways.iter().find(|t| t.chars().count() as f64 * 5.6 + 4.0 <= w))
            .collect();
        let middle = y + h / 2.0 + 4.0;
        for (i, line) in fitting.iter().enumerate() {
            let shift = (i as f64 - (fitting.len() as f64 - 1.0) / 2.0) * 12.5;
            let style = match i {
                0 => "",
                _ => " font-size=\"9.5\" fill=\"#444\"",
            };
            let (x, y) = (x + w / 2.0, middle + shift);
            let line = escape(line);
            // First a pale outline: arrows and hatching stay behind the words, in every viewer.
            for halo in [" stroke=\"white\" stroke-width=\"3\" stroke-opacity=\"0.7\"", ""] {
                let _ = writeln!(
                    self.labels,
                    "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\"{style}{halo}>{line}</text>"
                );
            }
        }
    }

    /// The time between the end of what came before on the stream and the begin of the step.
    fn wait(&mut self, schedule: &Schedule, timeline: &Timeline, rank: usize, step: &Step, span: &Span) {
        if span.begin - span.free <= 1e-9 {
            return;
        }
        // Which of the events came last.
        let steps = &schedule.ranks[rank].steps;
        let last = step
            .waits
            .iter()
            .filter_map(|e| steps.iter().position(|s| s.records == Some(*e)))
            .filter_map(|i| timeline.spans[rank][i].map(|s| (i, s.end)))
            .max_by(|a, b| a.1.total_cmp(&b.1));
        let for_what = last.map_or("an event".into(), |(i, _)| short(&steps[i].op));
        self.bar(Bar {
            rank,
            stream: step.stream,
            from: span.free,
            to: span.begin,
            style: &format!("fill=\"{WAIT}\" stroke=\"#d9a29b\" stroke-dasharray=\"3 2\""),
            title: format!("waits for {for_what}"),
            lines: vec![vec![format!("waits for {for_what}"), "waits".into()]],
        });
    }

    fn step(&mut self, schedule: &Schedule, rank: usize, index: usize, step: &Step, span: &Span) {
        let why = if step.reason.is_empty() { String::new() } else { format!("\n{}", step.reason) };
        let title =
            |what: String| format!("step {index}: {what}, from {:.2} to {:.2}{why}", span.begin, span.end);
        let bar =
            |from, to, style, title, lines| Bar { rank, stream: step.stream, from, to, style, title, lines };
        match &step.op {
            StepOp::Pack { pieces } => {
                let title = title(format!("packs rows {} of keys and values", kv_rows(pieces)));
                let lines = vec![vec!["pack own keys".into(), "pack".into()]];
                self.bar(bar(span.begin, span.end, "fill=\"#bdbdbd\"", title, lines));
            }
            StepOp::AttnPartial { q, kv, tile, sinks_here, cast_out, .. } => {
                let q: Vec<Progression> = q.iter().map(|p| p.rows).collect();
                let (q, k) = (rows_of(&q), kv_rows(kv));
                let owner = owners(schedule, rank, kv);
                let masked = if *tile == Tile::Partial { ", masked pair by pair" } else { "" };
                let sinks = if *sinks_here { ", and the sinks" } else { "" };
                let out = if *cast_out { ", then writes the output" } else { "" };
                let title = title(format!("rows {q} × keys {k} ({owner}){masked}{sinks}{out}"));
                let brief = owner.replace("ranks ", "").replace("rank ", "");
                let mut first = vec![owner.clone(), brief.clone(), brief.replace("keys of ", "k ")];
                if *tile == Tile::Partial {
                    first.insert(0, format!("{owner}, masked"));
                }
                let lines = vec![first, vec![format!("rows {q} × {k}"), format!("{q} × {k}")]];
                let fill = if *tile == Tile::Full { FULL } else { "url(#masked)" };
                let style = format!("fill=\"{fill}\" stroke=\"#4f81b8\"");
                self.bar(bar(span.begin, span.end, &style, title, lines));
            }
            StepOp::Exchange { group, kind, sends, recvs } => {
                let name = exchange_name(*kind, *group);
                let others = schedule.ranks.len().saturating_sub(1);
                let peers = |ts: &[Transfer]| -> String {
                    let names: Vec<String> = ts.iter().map(|t| t.peer.to_string()).collect();
                    if names.len() > 1 && names.len() == others { "all".into() } else { names.join(",") }
                };
                let bytes = |ts: &[Transfer]| -> u128 {
                    ts.iter().flat_map(|t| &t.views).map(|v| v.bytes as u128).sum()
                };
                let (to, from) = (peers(sends), peers(recvs));
                let mut long = Vec::new();
                let mut middle = Vec::new();
                let mut title_parts = vec![name.clone()];
                if !sends.is_empty() {
                    long.push(format!("to {to}"));
                    middle.push(format!("→{to}"));
                    title_parts.push(format!("sends {} bytes to {to}", bytes(sends)));
                }
                if !recvs.is_empty() {
                    long.push(format!("from {from}"));
                    middle.push(format!("←{from}"));
                    title_parts.push(format!("receives {} bytes from {from}", bytes(recvs)));
                }
                if span.moving - span.begin > 1e-9 && span.moving.is_finite() {
                    let style = "fill=\"#fff6e5\" stroke=\"#d9a441\" stroke-dasharray=\"3 2\"";
                    let what = "waits for its peer";
                    let lines = vec![vec![what.into(), "waits".into()]];
                    self.bar(bar(span.begin, span.moving, style, format!("{name} {what}"), lines));
                }
                let from = if span.moving.is_finite() { span.moving } else { span.begin };
                let style = format!("fill=\"{SEND}\" stroke=\"#b36b00\"");
                let lines = vec![vec![
                    format!("{name}: {}", long.join(", ")),
                    long.join(", "),
                    middle.join(" "),
                    format!("{group}"),
                ]];
                self.bar(bar(from, span.end, &style, title(title_parts.join(", ")), lines));
            }
        }
    }

    /// The time after the last step of a stream.
    fn rest(&mut self, schedule: &Schedule, timeline: &Timeline, rank: usize, stream: Stream) {
        if stream == Stream::Comm {
            return;
        }
        let steps = &schedule.ranks[rank].steps;
        let ends = steps.iter().zip(&timeline.spans[rank]).filter(|(s, _)| s.stream == stream);
        let end = ends.map(|(_, span)| span.map_or(f64::INFINITY, |s| s.end)).fold(0.0, f64::max);
        if timeline.makespan - end > 1e-9 {
            self.bar(Bar {
                rank,
                stream,
                from: end,
                to: timeline.makespan,
                style: "fill=\"none\"",
                title: "done, idle until the slowest rank is done".into(),
                lines: vec![vec!["done, idle".into(), "idle".into()]],
            });
        }
    }

    fn arrow(&mut self, schedule: &Schedule, flight: &Flight) {
        let &Flight { from, to, step, begin, end } = flight;
        let gathered = matches!(
            schedule.ranks[from].steps[step].op,
            StepOp::Exchange { kind: ExchangeKind::AllGather, .. }
        );
        if gathered && schedule.ranks.len() > ARROWS {
            return;
        }
        let (x1, x2) = (self.x(begin), self.x(end));
        let (a, b) = (Picture::top(from, Stream::Comm), Picture::top(to, Stream::Comm));
        let (y1, y2) = if to > from { (a + COMM - 1.5, b + 1.5) } else { (a + 1.5, b + COMM - 1.5) };
        let far = from.abs_diff(to) > 1;
        let style = if far { "stroke-dasharray=\"2 3\" opacity=\"0.45\"" } else { "opacity=\"0.85\"" };
        self.put(&format!(
            "<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" stroke=\"#b36b00\" fill=\"none\" \
             marker-end=\"url(#head)\" {style}/>"
        ));
    }

    fn foot(&mut self, schedule: &Schedule, timeline: &Timeline, span: f64, height: f64) {
        let y = height - 70.0;
        let right = WIDTH - RIGHT;
        self.put(&format!("<path d=\"M{LEFT} {y}H{right}\" stroke=\"#777\"/>"));
        let tick = nice(span / 8.0);
        let mut i = 0;
        while f64::from(i) * tick <= span * 1.0001 && i < 100 {
            let x = self.x(f64::from(i) * tick);
            self.put(&format!("<path d=\"M{x:.1} {y}v5\" stroke=\"#777\"/>"));
            let label = format!("{}", (f64::from(i) * tick * 1000.0).round() / 1000.0);
            self.text(x, y + 17.0, "text-anchor=\"middle\" fill=\"#555\"", &label);
            i += 1;
        }
        let caption = format!(
            "relative time, by a simple model: 1 is an average share of query rows against an average share of key rows, \
             masked pairs included; sending such a share of keys and values takes {SHARE_TRANSFER}."
        );
        self.text(LEFT, y + 36.0, "fill=\"#555\"", &caption);
        let arrows = match schedule.ranks.len() > ARROWS && schedule.strategy == "all-gather" {
            true => "each rank sends to every other (not drawn)",
            false => "arrows are messages",
        };
        let key = format!(
            "Compute: plain where no pair is masked, hatched where pairs are masked one by one; grey: packing keys and \
             values. Comm: a bar is a transfer, {arrows}. Dashed boxes: waiting."
        );
        self.text(LEFT, y + 52.0, "fill=\"#555\"", &key);
        if timeline.stuck() > 0 {
            let text = format!("{} steps can never run", timeline.stuck());
            self.text(LEFT, 60.0, "fill=\"#b00020\" font-weight=\"bold\"", &text);
        }
        self.put("</svg>");
    }
}

/// 1, 2 or 5 times a power of ten, at least `x`.
fn nice(x: f64) -> f64 {
    let power = 10f64.powf(x.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|&t| t >= x).unwrap_or(10.0 * power)
}

/// What one waits for, in few words.
fn short(op: &StepOp) -> String {
    match op {
        StepOp::Pack { .. } => "packing".into(),
        StepOp::Exchange { group, kind, .. } => exchange_name(*kind, *group),
        StepOp::AttnPartial { .. } => "compute".into(),
    }
}

fn exchange_name(kind: ExchangeKind, group: usize) -> String {
    match kind {
        ExchangeKind::SendRecv => format!("hop {group}"),
        ExchangeKind::AllGather => format!("all-gather {group}"),
    }
}

/// Whose keys these are.
fn owners(schedule: &Schedule, rank: usize, kv: &[KvPiece]) -> String {
    let owns =
        |own: &[Progression], p: &Progression| own.iter().any(|o| p.start >= o.start && last(p) <= last(o));
    let mut ranks: Vec<usize> =
        kv.iter().filter_map(|p| schedule.kv_layout.rows.iter().position(|own| owns(own, &p.rows))).collect();
    ranks.sort_unstable();
    ranks.dedup();
    let holders = schedule.kv_layout.rows.iter().filter(|own| !own.is_empty()).count();
    match ranks.as_slice() {
        [] => "no keys".into(),
        [one] => format!("keys of rank {one}"),
        many if many.len() == holders => "keys of all ranks".into(),
        many if many.len() + 1 == holders && !many.contains(&rank) => "keys of all others".into(),
        [first, .., last] if last - first + 1 == ranks.len() => format!("keys of ranks {first}–{last}"),
        many => {
            let names: Vec<String> = many.iter().map(ToString::to_string).collect();
            format!("keys of ranks {}", names.join(","))
        }
    }
}

fn last(p: &Progression) -> usize {
    p.start.saturating_add(p.len.saturating_sub(1).saturating_mul(p.step))
}

fn kv_rows(kv: &[KvPiece]) -> String {
    let rows: Vec<Progression> = kv.iter().map(|p| p.rows).collect();
    rows_of(&rows)
}

fn rows_of(rows: &[Progression]) -> String {
    if rows.is_empty() {
        return "none".into();
    }
    let one = |p: &Progression| match (p.len, p.step) {
        (0 | 1, _) => p.start.to_string(),
        (_, 1) => format!("{}–{}", p.start, last(p)),
        (_, step) => format!("{}–{} by {step}", p.start, last(p)),
    };
    let parts: Vec<String> = rows.iter().map(one).collect();
    parts.join(", ")
}

/// The text, cut to a width in pixels.
fn fit(text: &str, width: f64, per_char: f64) -> String {
    let most = (width / per_char) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// Text for XML: its five special characters, and no character that XML forbids.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&apos;"),
            '\n' | '\t' => out.push(c),
            c if is_unsafe(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}
