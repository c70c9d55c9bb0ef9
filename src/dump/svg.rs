//! The timeline of a schedule on a device as a plain SVG: a band a rank, with a lane a stream, and an arrow a message.
//!
//! Times are those of the cost model, in µs. Where a rank computes nothing before it is done, the time is marked as exposed; a
//! line through all bands is the lower bound.
//! Every box says what it is as far as the picture has room, and in its tooltip in full; boxes of a kind are labelled
//! alike. Of many ranks the first are drawn, and the picture says how many are not.

mod arrows;
mod boxes;

use super::report::{figures, figures_line, time};
use super::words::{
    Owners, escape, exchange_name, fit, kv_rows, packed_rows, packed_what, peers, queries_of, rows_of, short,
    width,
};
use crate::device::Device;
use crate::mask::Tile;
use crate::schedule::cost::{Estimate, Flight, Span, Timeline, estimate, flights, timeline};
use crate::schedule::{ExchangeKind, Schedule, Step, StepOp, Stream, Transfer};
use boxes::{Bar, Class, Kind, Line};
use std::fmt::Write;

/// At most so many ranks are drawn,
const RANKS: usize = 64;
/// and of them so many that they have about so many steps.
const STEPS: usize = 10_000;

const WIDTH: f64 = 1280.0;
const LEFT: f64 = 160.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 106.0;
/// Room for axis and legend.
const FOOT: f64 = 88.0;

/// Heights of a band.
#[derive(Clone, Copy)]
struct Band {
    compute: f64,
    /// Of the lane of one axis.
    comm: f64,
    axes: usize,
    gap: f64,
}

impl Band {
    /// Of many ranks the bands are low, so that the picture can be looked at as a whole.
    fn of(ranks: usize, axes: usize) -> Band {
        match ranks {
            0..=16 => Band { compute: 34.0, comm: 24.0, axes, gap: 28.0 },
            _ => Band { compute: 16.0, comm: 8.0, axes, gap: 5.0 },
        }
    }

    fn low(self) -> bool {
        self.compute < 30.0
    }

    fn height(self) -> f64 {
        self.compute + self.transfers() + self.gap
    }

    /// Of the lanes of all axes.
    fn transfers(self) -> f64 {
        self.comm * self.axes as f64
    }
}

/// Draws what happens when, by the cost model.
pub fn timeline_svg(schedule: &Schedule, device: &Device) -> String {
    let drawn = drawn(schedule);
    let estimate = estimate(schedule, device);
    let timeline = timeline(schedule, device);
    let span = if timeline.makespan > 0.0 && timeline.makespan.is_finite() { timeline.makespan } else { 1.0 };
    let mut p = Picture {
        out: String::new(),
        bars: vec![],
        owners: Owners::new(schedule),
        lanes: Band::of(drawn, schedule.mesh.axes.len()),
        scale: (WIDTH - LEFT - RIGHT) / span,
    };
    let note = if drawn < schedule.ranks.len() { 20.0 } else { 0.0 };
    let height = TOP + p.lanes.height() * drawn as f64 + note + FOOT;
    p.head(schedule, device, &estimate, height);
    // Under the lanes, so that they strike no word out: they are seen between the ranks.
    p.arrows(&shown(schedule, flights(schedule, device, &timeline), drawn), drawn);
    for (rank, program) in schedule.ranks.iter().enumerate().take(drawn) {
        p.band(schedule, rank);
        for stream in schedule.mesh.streams() {
            for (i, step) in program.steps.iter().enumerate().filter(|(_, s)| s.stream == stream) {
                if let Some(span) = &timeline.spans[rank][i] {
                    p.wait(schedule, &timeline, rank, step, span);
                    p.step(schedule, rank, i, step, span);
                }
            }
        }
        p.rest(schedule, &timeline, rank);
    }
    let bands = TOP + p.lanes.height() * drawn as f64 - p.lanes.gap;
    let ways = Class::ALL.map(|class| class.way(&p.bars));
    p.boxes(&ways);
    p.bound(&estimate, bands);
    if drawn < schedule.ranks.len() {
        let (left_out, all) = (schedule.ranks.len() - drawn, schedule.ranks.len());
        let text = format!("{left_out} of {all} ranks, from rank {drawn} on, are left out of the picture");
        p.text(LEFT, height - FOOT - 6.0, "font-weight=\"bold\"", &text);
    }
    p.foot(schedule, &timeline, &ways, span, height);
    p.out
}

/// Messages of hops of which an end is drawn.
fn shown(schedule: &Schedule, flights: Vec<Flight>, drawn: usize) -> Vec<Flight> {
    let hop = |f: &Flight| {
        let op = &schedule.ranks[f.from.0].steps[f.from.1].op;
        matches!(op, StepOp::Exchange { kind: ExchangeKind::SendRecv, .. })
    };
    flights.into_iter().filter(|f| f.from.0.min(f.to.0) < drawn && hop(f)).collect()
}

/// How many ranks are drawn.
fn drawn(schedule: &Schedule) -> usize {
    let mut steps = 0;
    let room = |r: &&crate::schedule::RankProgram| {
        steps += r.steps.len();
        steps <= STEPS
    };
    let ranks = schedule.ranks.iter().take(RANKS).take_while(room).count();
    ranks.max(1).min(schedule.ranks.len())
}

struct Picture<'a> {
    out: String,
    bars: Vec<Bar>,
    owners: Owners<'a>,
    lanes: Band,
    /// Pixels in a unit of time.
    scale: f64,
}

impl Picture<'_> {
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

    fn head(&mut self, schedule: &Schedule, device: &Device, estimate: &Estimate, height: f64) {
        let (a, s) = (&schedule.attention, &schedule.attention.sizes);
        self.put(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#222\">"
        ));
        self.put(
            "<defs><pattern id=\"masked\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#e3eefa\"/>\
             <rect width=\"2.5\" height=\"6\" fill=\"#9cc4ee\"/></pattern>\
             <marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"6\" markerHeight=\"6\" \
             orient=\"auto\"><path d=\"M0 0L8 4L0 8z\" fill=\"#b36b00\"/></marker></defs>",
        );
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
            a.scores.mask()
        );
        self.text(
            LEFT,
            26.0,
            "font-size=\"16\" font-weight=\"bold\"",
            &fit(&title, WIDTH - LEFT - RIGHT, 17.0),
        );
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
        self.text(LEFT, 61.0, "font-weight=\"bold\"", &figures_line(&device.name, &figures(estimate)));
    }

    /// Upper edge of a lane. Transfers are above, where the arrows of the rank before arrive.
    fn top(&self, rank: usize, stream: Stream) -> f64 {
        let above = match stream {
            Stream::Compute => self.lanes.transfers(),
            Stream::Comm(axis) => self.lanes.comm * axis as f64,
        };
        TOP + rank as f64 * self.lanes.height() + above
    }

    fn height(&self, stream: Stream) -> f64 {
        if stream == Stream::Compute { self.lanes.compute } else { self.lanes.comm }
    }

    fn band(&mut self, schedule: &Schedule, rank: usize) {
        let y = self.top(rank, Stream::Comm(0));
        for stream in schedule.mesh.streams() {
            let (y, h) = (self.top(rank, stream), self.height(stream));
            let width = WIDTH - LEFT - RIGHT;
            let style = Kind::Idle.style();
            self.put(&format!("<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width}\" height=\"{h}\" {style}/>"));
            if self.lanes.low() {
                continue;
            }
            let name = schedule.mesh.stream_name(stream);
            self.text(LEFT - 6.0, y + h / 2.0 + 4.0, "text-anchor=\"end\" fill=\"#777\"", &name);
        }
        let rows = schedule.q_layout.rows.get(rank).map_or(&[][..], |r| r);
        if self.lanes.low() {
            let y = y + self.lanes.transfers() + 11.0;
            self.text(12.0, y, "font-weight=\"bold\"", &format!("rank {rank}"));
            let rows = if rows.is_empty() { "no rows".to_owned() } else { rows_of(rows) };
            // Smaller before it is cut.
            let size = if width(&rows, 9.0) <= LEFT - 72.0 { 9.0 } else { 7.5 };
            let style = format!("font-size=\"{size}\" fill=\"#777\"");
            return self.text(66.0, y, &style, &fit(&rows, LEFT - 72.0, size));
        }
        self.text(12.0, y + 14.0, "font-size=\"13\" font-weight=\"bold\"", &format!("rank {rank}"));
        let more = if rows.len() > 2 { ", …" } else { "" };
        // Numbers before words, where there is no room for both.
        let named = |numbers: String| {
            let long = format!("rows {numbers}");
            if width(&long, 10.0) <= 92.0 { long } else { numbers }
        };
        let lines = match rows {
            [] => vec!["no rows".to_owned()],
            [one] => vec![named(rows_of(&[*one]))],
            [one, two, ..] => {
                vec![named(format!("{},", rows_of(&[*one]))), format!("{}{more}", rows_of(&[*two]))]
            }
        };
        for (i, line) in lines.iter().enumerate() {
            let y = y + 29.0 + 13.0 * i as f64;
            self.text(12.0, y, "font-size=\"10\" fill=\"#777\"", &fit(line, 92.0, 10.0));
        }
    }

    fn bar(&mut self, kind: Kind, at: (usize, Stream), time: (f64, f64), title: String, lines: Vec<Line>) {
        let (x, w) = (self.x(time.0), ((time.1 - time.0) * self.scale).max(1.0));
        self.bars.push(Bar { kind, rank: at.0, stream: at.1, x, w, title, lines });
    }

    /// The boxes, and then what stands in them.
    fn boxes(&mut self, ways: &[usize; Class::ALL.len()]) {
        let bars = std::mem::take(&mut self.bars);
        let mut labels = String::new();
        for bar in &bars {
            let (y, h) = (self.top(bar.rank, bar.stream) + 1.5, self.height(bar.stream) - 3.0);
            self.put(&format!(
                "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{h:.1}\" rx=\"2\" {}>\
                 <title>{}</title></rect>",
                bar.x,
                bar.w,
                bar.kind.style(),
                escape(&bar.title)
            ));
            let way = |class: Class| ways[class as usize];
            let room =
                |class: Class| !self.lanes.low() || (class != Class::Rows && bar.stream == Stream::Compute);
            let lines: Vec<&Line> =
                bar.lines.iter().filter(|l| room(l.class) && l.class.fits(l, way(l.class), bar.w)).collect();
            for (i, line) in lines.iter().enumerate() {
                let size = line.class.size(way(line.class));
                let shift = (i as f64 - (lines.len() as f64 - 1.0) / 2.0) * 12.5;
                let (x, y) = (bar.x + bar.w / 2.0, y + h / 2.0 + 4.0 + shift);
                let style = match line.class {
                    Class::Rows => format!(" font-size=\"{size}\" fill=\"#444\""),
                    _ => String::new(),
                };
                let text = escape(&line.ways[way(line.class)]);
                // First a pale outline where there is hatching: it stays behind the words, in every viewer.
                let halo = " stroke=\"white\" stroke-width=\"3\" stroke-opacity=\"0.7\"";
                for halo in [Some(halo).filter(|_| bar.kind == Kind::Masked), Some("")].into_iter().flatten()
                {
                    let _ = writeln!(
                        labels,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\"{style}{halo}>{text}</text>"
                    );
                }
            }
        }
        self.put(&format!("<g pointer-events=\"none\">\n{labels}</g>"));
    }

    /// A line through all bands: no schedule of the same work is done before it.
    fn bound(&mut self, estimate: &Estimate, bottom: f64) {
        let x = self.x(estimate.lower_bound_us);
        let (y, end) = (TOP - 20.0, bottom + 8.0);
        self.put(&format!(
            "<path d=\"M{x:.1} {y}V{end:.1}\" stroke=\"#1b7a3d\" stroke-width=\"1.6\" stroke-dasharray=\"7 3\"/>"
        ));
        let bound = time(estimate.lower_bound_us);
        let label = match estimate.lower_bound_us < estimate.makespan_us {
            true => format!("lower bound {bound}"),
            false => format!("lower bound {bound}, reached"),
        };
        let fits = x - LEFT > width(&label, 11.0);
        let (anchor, x) = if fits { ("end", x) } else { ("start", x) };
        let style = format!("text-anchor=\"{anchor}\" fill=\"#1b7a3d\" font-weight=\"bold\"");
        self.text(x, y - 3.0, &style, &label);
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
        let what = format!("waits for {}", last.map_or("an event".into(), |(i, _)| short(&steps[i].op)));
        let at = (rank, step.stream);
        if step.stream == Stream::Compute {
            return self.exposed(at, (span.free, span.begin), &what);
        }
        let lines = vec![Line { class: Class::Data, ways: vec![what.clone(), "waits".into()] }];
        self.bar(Kind::Data, at, (span.free, span.begin), what, lines);
    }

    /// Time in which a rank that is not done computes nothing.
    fn exposed(&mut self, at: (usize, Stream), span: (f64, f64), what: &str) {
        let long = time(span.1 - span.0);
        let ways = vec![format!("exposed {long}"), long.clone(), format!("{:.1}", span.1 - span.0)];
        let lines = vec![Line { class: Class::Exposed, ways }];
        self.bar(Kind::Exposed, at, span, format!("exposed {long}: {what}"), lines);
    }

    fn step(&mut self, schedule: &Schedule, rank: usize, index: usize, step: &Step, span: &Span) {
        let why = if step.reason.is_empty() { String::new() } else { format!("\n{}", step.reason) };
        let title =
            |what: String| format!("step {index}: {what}, from {:.2} to {:.2} µs{why}", span.begin, span.end);
        let at = (rank, step.stream);
        let heads = schedule.attention.sizes.q_heads;
        match &step.op {
            StepOp::Pack { pieces } | StepOp::Unpack { pieces } => {
                let word = if matches!(step.op, StepOp::Pack { .. }) { "pack" } else { "unpack" };
                let what = packed_what(pieces);
                let title = title(format!("{word}s rows {} of {what}", packed_rows(pieces)));
                let ways = vec![format!("{word} {what}"), word.into()];
                let lines = vec![Line { class: Class::Pack, ways }];
                self.bar(Kind::Pack, at, (span.begin, span.end), title, lines);
            }
            StepOp::Merge { q, sinks_here, cast_out, .. } => {
                let rows = queries_of(q.iter().map(|p| (p.rows, p.heads)), heads);
                let partials = q.iter().map(|p| p.partials.len()).max().unwrap_or(0);
                let sinks = if *sinks_here { ", and the sinks" } else { "" };
                let out = if *cast_out { ", then writes the output" } else { "" };
                let title = title(format!("merges {partials} partial results of rows {rows}{sinks}{out}"));
                let lines = vec![Line { class: Class::Pack, ways: vec!["merge".into()] }];
                self.bar(Kind::Pack, at, (span.begin, span.end), title, lines);
            }
            StepOp::AttnPartial { q, kv, tile, sinks_here, cast_out, .. } => {
                let q = queries_of(q.iter().map(|p| (p.rows, p.heads)), heads);
                let k = kv_rows(kv);
                let mut keys = self.owners.name(rank, kv);
                let masked = if *tile == Tile::Partial { ", masked pair by pair" } else { "" };
                let sinks = if *sinks_here { ", and the sinks" } else { "" };
                let out = if *cast_out { ", then writes the output" } else { "" };
                let title = title(format!("rows {q} × keys {k} ({}){masked}{sinks}{out}", keys[0]));
                let rows = format!("{q} × {k}");
                let rows = vec![format!("rows {rows}"), rows.clone(), rows.clone(), rows];
                if *tile == Tile::Partial {
                    keys[..2].iter_mut().for_each(|k| k.push_str(", masked"));
                }
                let lines = vec![
                    Line { class: Class::Keys, ways: keys.into() },
                    Line { class: Class::Rows, ways: rows },
                ];
                let kind = if *tile == Tile::Full { Kind::Full } else { Kind::Masked };
                self.bar(kind, at, (span.begin, span.end), title, lines);
            }
            StepOp::Exchange { group, kind, sms, sends, recvs } => {
                let name = exchange_name(*kind, *group);
                let others = schedule.ranks.len().saturating_sub(1);
                let facts = &schedule.attention;
                let bytes = |ts: &[Transfer]| ts.iter().map(|t| t.bytes(facts) as u128).sum::<u128>();
                let (to, from) = (peers(sends, others), peers(recvs, others));
                let mut long = Vec::new();
                let mut middle = Vec::new();
                let mut title_parts = vec![name.clone()];
                title_parts.extend(sms.map(|sms| format!("holds {sms} multiprocessors")));
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
                    let what = format!("{name} waits for its peer");
                    let ways = vec!["waits for its peer".into(), "waits".into()];
                    let lines = vec![Line { class: Class::Peer, ways }];
                    self.bar(Kind::Peer, at, (span.begin, span.moving), what, lines);
                }
                let from = if span.moving.is_finite() { span.moving } else { span.begin };
                let ways = vec![
                    format!("{name}: {}", long.join(", ")),
                    long.join(", "),
                    middle.join(" "),
                    format!("{group}"),
                ];
                let lines = vec![Line { class: Class::Transfer, ways }];
                self.bar(Kind::Transfer, at, (from, span.end), title(title_parts.join(", ")), lines);
            }
        }
    }

    /// The time after the last computation.
    fn rest(&mut self, schedule: &Schedule, timeline: &Timeline, rank: usize) {
        let steps = &schedule.ranks[rank].steps;
        let ends = steps.iter().zip(&timeline.spans[rank]).filter(|(s, _)| s.stream == Stream::Compute);
        let end = ends.map(|(_, span)| span.map_or(f64::INFINITY, |s| s.end)).fold(0.0, f64::max);
        if timeline.makespan - end > 1e-9 {
            let lines = vec![Line { class: Class::Idle, ways: vec!["done, idle".into(), "idle".into()] }];
            let title = "done, idle until the slowest rank is done".into();
            self.bar(Kind::Idle, (rank, Stream::Compute), (end, timeline.makespan), title, lines);
        }
    }

    fn foot(
        &mut self,
        schedule: &Schedule,
        timeline: &Timeline,
        ways: &[usize; Class::ALL.len()],
        span: f64,
        height: f64,
    ) {
        let y = height - FOOT + 8.0;
        let right = WIDTH - RIGHT;
        self.put(&format!("<path d=\"M{LEFT} {y}H{right}\" stroke=\"#777\"/>"));
        let tick = nice(span / 8.0);
        let mut i = 0;
        while f64::from(i) * tick <= span * 1.0001 && i < 100 {
            let x = self.x(f64::from(i) * tick);
            self.put(&format!("<path d=\"M{x:.1} {y}v5\" stroke=\"#777\"/>"));
            let (unit, us) = if span < 1e4 { ("µs", 1.0) } else { ("ms", 1e3) };
            let label = format!("{} {unit}", (f64::from(i) * tick / us * 1000.0).round() / 1000.0);
            self.text(x, y + 17.0, "text-anchor=\"middle\" fill=\"#555\"", &label);
            i += 1;
        }
        let mut x = LEFT;
        for kind in Kind::ALL {
            let (y, style) = (y + 30.0, kind.style());
            self.put(&format!("<rect x=\"{x:.1}\" y=\"{y}\" width=\"20\" height=\"12\" rx=\"2\" {style}/>"));
            self.text(x + 25.0, y + 10.0, "", kind.name());
            x += 25.0 + width(kind.name(), 11.5) + 18.0;
        }
        let keys = match ways[Class::Keys as usize] {
            2 => "k 3 is keys of rank 3; ",
            3 => "in a compute box, a number is the rank whose keys they are; ",
            _ => "",
        };
        let rows = if ways[Class::Rows as usize] < 4 && !self.lanes.low() {
            "below, query rows × key rows; "
        } else {
            ""
        };
        let any = |which: fn(ExchangeKind) -> bool| {
            let of = |s: &Step| matches!(&s.op, StepOp::Exchange { kind, .. } if which(*kind));
            schedule.ranks.iter().flat_map(|r| &r.steps).any(of)
        };
        let gathers = any(|kind| kind == ExchangeKind::AllGather);
        let others = any(|kind| !matches!(kind, ExchangeKind::AllGather | ExchangeKind::SendRecv));
        let messages = match gathers {
            _ if self.lanes.low() => "the low lane above a rank's computation is its transfers.",
            _ if others => "an exchange with several ranks has no arrows.",
            true => "an all-gather sends from every rank to every other, without arrows.",
            false => "an arrow is a message, from the begin of its transfer to the end, behind the boxes.",
        };
        let hops = match ways[Class::Transfer as usize] {
            3 if !self.lanes.low() => "a transfer has the number of its hop; ",
            _ => "",
        };
        self.text(LEFT, y + 62.0, "fill=\"#555\"", &format!("In the boxes: {keys}{rows}{hops}{messages}"));
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
