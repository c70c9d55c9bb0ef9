//! Messages of a timeline: an arrow to the rank below, and of any other message its two ends, by name where there is room.

use super::Picture;
use crate::schedule::Stream;
use crate::schedule::cost::Flight;

/// One end of a message that has no arrow.
struct Stub {
    rank: usize,
    leaves: bool,
    x: f64,
    /// The rank at the other end.
    other: usize,
}

/// Where a message is shown by a stub, its length, and the room that its name takes.
const STUB: f64 = 13.0;
const NAME: f64 = 44.0;

impl Picture<'_> {
    /// An arrow to the next rank; of any other message its two ends.
    pub(super) fn arrows(&mut self, flights: &[Flight], drawn: usize) {
        if self.lanes.low() {
            return;
        }
        let neighbours = |f: &Flight| f.to.0 == f.from.0 + 1 && f.to.0 < drawn;
        let (arrows, others): (Vec<&Flight>, Vec<&Flight>) = flights.iter().partition(|f| neighbours(f));
        let style = "stroke=\"#b36b00\" fill=\"none\" marker-end=\"url(#head)\"";
        let into: Vec<(usize, f64)> = arrows.iter().map(|f| (f.to.0, self.x(f.end))).collect();
        for f in arrows {
            let y1 = self.top(f.from.0, Stream::Comm(0)) + self.lanes.transfers() - 1.5;
            let y2 = self.top(f.to.0, Stream::Comm(0));
            let (x1, x2) = (self.x(f.begin), self.x(f.end));
            self.put(&format!("<path d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\" {style}/>"));
        }
        // Where something ends or begins above each rank: words must not lie over it.
        let mut taken: Vec<Vec<f64>> = vec![vec![]; drawn];
        into.iter().for_each(|&(rank, x)| taken[rank].push(x));
        let mut stubs: Vec<Stub> = Vec::new();
        for f in others {
            // A message that leaves stands beside one that arrives at the same time.
            let leaves = Stub { rank: f.from.0, leaves: true, x: self.x(f.begin) + 3.0, other: f.to.0 };
            let arrives = Stub { rank: f.to.0, leaves: false, x: self.x(f.end), other: f.from.0 };
            stubs.extend([leaves, arrives].into_iter().filter(|s| s.rank < drawn));
        }
        stubs.iter().for_each(|s| taken[s.rank].push(s.x));
        // Which side of a stub has room for its name: first behind one that leaves, before one that arrives.
        let side = |s: &Stub| {
            let right = (s.x + 0.5, s.x + NAME, "start", 4.0);
            let left = (s.x - NAME, s.x - 0.5, "end", -4.0);
            let sides = if s.leaves { [right, left] } else { [left, right] };
            let free = |&(from, to, ..): &(f64, f64, &str, f64)| {
                !taken[s.rank].iter().any(|x| (from..to).contains(x))
            };
            let found = sides.into_iter().find(free);
            (found.is_some(), found.unwrap_or(sides[0]))
        };
        for (i, stub) in stubs.iter().enumerate() {
            let y = self.top(stub.rank, Stream::Comm(0));
            let ([y1, y2], name) = match stub.leaves {
                true => ([y, y - STUB], format!("to {}", stub.other)),
                false => ([y - STUB, y], format!("from {}", stub.other)),
            };
            self.put(&format!("<path d=\"M{x:.1} {y1:.1}V{y2:.1}\" {style}/>", x = stub.x));
            let (free, (_, _, anchor, gap)) = side(stub);
            // If there is no room for any, the first of a rank all the same.
            let alike = |s: &&Stub| (s.rank, s.leaves) == (stub.rank, stub.leaves);
            let first =
                !stubs[..i].iter().any(|s| alike(&s)) && !stubs.iter().filter(alike).any(|s| side(s).0);
            if free || first {
                let style = format!("text-anchor=\"{anchor}\" font-size=\"9.5\" fill=\"#8a5200\"");
                self.text(stub.x + gap, y - 5.0, &style, &name);
            }
        }
    }
}
