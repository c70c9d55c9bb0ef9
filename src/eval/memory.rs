//! What an evaluation holds at once, found before anything is computed.
//!
//! In: a graph. Out: nothing if there is memory for it, else where it would hold the most, and how much there is. Values are counted
//! from when they are made to their last use, inputs and constants not: those are there already. A reshape makes nothing.
//!
//! How much memory there is depends on the machine. It decides whether an evaluation begins, never what it gives.

use super::compute::MAX_VALUE;
use super::precision::{Precision, held};
use crate::ir::{Graph, Op, OpId, Topology, Type, ValueId};
use std::collections::HashMap;
use std::fmt;

/// Below this nobody asks how much memory there is.
const SMALL: u64 = 1 << 28;

/// Whether there is memory to evaluate a graph: at most 2^32 elements a value, and all that is held at once in what the machine has.
///
/// ```
/// use annulus::eval::{Precision, fits};
///
/// // 2^45 scores of 4 bytes.
/// let graph = annulus::ir::parse(
///     r#"graph "long" {
///   input %q: f32[32,1048576,128]
///   input %k: f32[32,1048576,128]
///   %s: f32[32,1048576,1048576] = contract %q, %k {hid,hjd->hij}  @"scores"
///   %p: f32[32,1048576,1048576] = softmax %s {axis=2}
///   %o: f32[32,1048576,128] = contract %p, %k {hij,hjd->hid}
///   output "o" = %o
/// }"#,
/// )?;
/// let why = fits(&graph, Precision::Declared).unwrap_err().to_string();
/// assert!(why.starts_with("contract s (node scores) would make f32[32,1048576,1048576], 128.0 TiB"), "{why}");
/// # Ok::<(), annulus::ir::ParseError>(())
/// ```
///
/// # Errors
/// The first operation whose result is too large, or where most is held.
pub fn fits(graph: &Graph, precision: Precision) -> Result<(), Box<Shortage>> {
    let Some(peak) = peak(graph, precision) else { return Ok(()) };
    let there = if peak.bytes > SMALL { available() } else { None };
    if peak.value.elements() <= MAX_VALUE && there.is_none_or(|there| peak.bytes <= there) {
        return Ok(());
    }
    let value = graph.results(peak.op).first().copied();
    Err(Box::new(Shortage {
        op: graph.op(peak.op).name(),
        name: value.map_or_else(String::new, |v| graph.value(v).name.clone()),
        source_node: graph.source(peak.op).to_owned(),
        value: peak.value,
        held: peak.bytes,
        there,
    }))
}

/// What there is no memory for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// Mnemonic of the operation.
    pub op: &'static str,
    /// Name of its first result.
    pub name: String,
    /// Node of the imported model.
    pub source_node: String,
    /// Type of its largest result, as it would be held.
    pub value: Type,
    /// Bytes of all values that would be held with it.
    pub held: u64,
    /// Bytes of memory that are there, if that is known.
    pub there: Option<u64>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let node =
            if self.source_node.is_empty() { String::new() } else { format!(" (node {})", self.source_node) };
        let own = self.value.bytes() as u64;
        write!(f, "{} {}{node} would make {}, {}", self.op, self.name, self.value, Bytes(own))?;
        if self.held > own {
            write!(f, ", with all that is held then {}", Bytes(self.held))?;
        }
        match self.there {
            _ if self.value.elements() > MAX_VALUE => {
                write!(f, ", and eval makes at most 2^32 elements of one value")?
            }
            Some(there) => write!(f, ", and there are {} of memory", Bytes(there))?,
            None => {}
        }
        f.write_str(
            ": to evaluate a graph as it stands makes every value whole, which find and compile do not; give smaller sizes (--dim), or \
             compare with stored outputs, for which the ranks hold only their parts of an attention that is found",
        )
    }
}

/// Bytes for people: `12.0 KiB`.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let (mut x, mut unit) = (self.0 as f64 / 1024.0, 0);
        while x >= 1024.0 && unit + 1 < UNITS.len() {
            (x, unit) = (x / 1024.0, unit + 1);
        }
        write!(f, "{x:.1} {}", UNITS[unit])
    }
}

/// Where most is held.
struct Peak {
    op: OpId,
    /// Type of the largest result there.
    value: Type,
    bytes: u64,
}

/// The first operation that makes more than eval makes of one value; else the first at which most is held.
fn peak(graph: &Graph, precision: Precision) -> Option<Peak> {
    let topology = Topology::new(graph);
    let mut uses: HashMap<ValueId, usize> = HashMap::new();
    let live = || topology.order().iter().copied().filter(|&id| topology.is_live(id));
    for id in live() {
        graph.operands(id).iter().for_each(|&v| *uses.entry(v).or_default() += 1);
    }
    // Outputs stay.
    graph.outputs().iter().for_each(|o| *uses.entry(o.value).or_default() += 1);
    let counts = |id: OpId| !matches!(graph.op(id), Op::Input(_) | Op::Constant(_) | Op::Reshape(_));
    let bytes = |v: ValueId| if counts(v.op) { held(graph.ty(v), precision).bytes() as u64 } else { 0 };
    let (mut now, mut most) = (0u64, None::<Peak>);
    for id in live().filter(|&id| !matches!(graph.op(id), Op::Input(_) | Op::Constant(_))) {
        let results = graph.results(id);
        let largest = results.iter().map(|&v| held(graph.ty(v), precision)).max_by_key(Type::elements)?;
        now = results.iter().fold(now, |n, &v| n.saturating_add(bytes(v)));
        let too_large = largest.elements() > MAX_VALUE;
        if too_large || most.as_ref().is_none_or(|m| now > m.bytes) {
            most = Some(Peak { op: id, value: largest, bytes: now });
        }
        if too_large {
            break;
        }
        let unused = results.into_iter().filter(|v| !uses.contains_key(v));
        let mut gone: Vec<ValueId> = unused.collect();
        for v in graph.operands(id) {
            if let Some(n) = uses.get_mut(&v) {
                *n -= 1;
                if *n == 0 {
                    gone.push(v);
                }
            }
        }
        now = gone.into_iter().fold(now, |n, v| n.saturating_sub(bytes(v)));
    }
    most
}

/// Bytes of memory that can be had: of the machine, or of the group of processes that this one is in, whichever is less.
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let machine = read("/proc/meminfo").and_then(|text| of_machine(&text));
    let group = read("/proc/self/cgroup").and_then(|text| {
        let own = format!("/sys/fs/cgroup{}", text.lines().find_map(|l| l.strip_prefix("0::"))?);
        let number = |name: &str| read(&format!("{own}/{name}"))?.trim().parse::<u64>().ok();
        // What was read of files is given back when it is asked for.
        let files =
            read(&format!("{own}/memory.stat")).and_then(|text| field(&text, "file ", 1)).unwrap_or(0);
        Some(number("memory.max")?.saturating_sub(number("memory.current")?.saturating_sub(files)))
    });
    machine.into_iter().chain(group).min()
}

/// What `/proc/meminfo` says can be had, swap included.
fn of_machine(text: &str) -> Option<u64> {
    let free = field(text, "MemAvailable:", 1024)?;
    Some(free.saturating_add(field(text, "SwapFree:", 1024).unwrap_or(0)))
}

/// The number behind a name in a file of lines, times `unit`.
fn field(text: &str, name: &str, unit: u64) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::parse;

    fn peak_of(body: &str) -> (String, u64) {
        let graph =
            parse(&format!("graph \"g\" {{\n  input %x: f32[1000]\n  {}\n}}", body.replace("; ", "\n  ")))
                .unwrap();
        let peak = peak(&graph, Precision::Declared).unwrap();
        (graph.value(graph.result(peak.op)).name.clone(), peak.bytes)
    }

    #[test]
    fn a_value_is_held_to_its_last_use() {
        // One after the other, of which two live at a time.
        assert_eq!(
            peak_of("%a: f32[1000] = neg %x; %b: f32[1000] = neg %a; output \"b\" = %b"),
            ("b".into(), 8000)
        );
        // %a is read at the end, so that three live.
        let (at, bytes) = peak_of(
            "%a: f32[1000] = neg %x; %b: f32[1000] = neg %a; %c: f32[1000] = neg %b; %d: f32[1000] = add %a, %c; output \"d\" = %d",
        );
        assert_eq!((at.as_str(), bytes), ("c", 12_000));
        // A reshape makes nothing, and what no output needs is not made.
        let (at, bytes) = peak_of(
            "%a: f32[1000] = neg %x; %r: f32[10,100] = reshape %a; %dead: f32[1000,1000] = broadcast %x; \
             output \"r\" = %r",
        );
        assert_eq!((at.as_str(), bytes), ("a", 4000));
    }

    #[test]
    fn what_the_machine_says_is_read() {
        let text = "MemTotal:       16384 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\nSwapFree:  1024 kB\n";
        assert_eq!(of_machine(text), Some(3 << 20));
        assert_eq!(of_machine("MemTotal: 3 kB\n"), None);
        assert_eq!(of_machine("MemAvailable: many kB\n"), None);
        assert_eq!(of_machine(&format!("MemAvailable: {} kB\n", u64::MAX)), None);
    }

    #[test]
    fn more_than_there_is_is_refused_by_name() {
        let body = "graph \"g\" {\n  input %x: f32[4194304]\n  %y: f32[1048576,4194304] = broadcast %x\n  output \"y\" = %y\n}";
        let graph = parse(body).unwrap();
        let why = fits(&graph, Precision::Declared).unwrap_err().to_string();
        assert!(
            why.starts_with(
                "broadcast y would make f32[1048576,4194304], 16.0 TiB, and eval makes at most 2^32"
            ),
            "{why}"
        );
        let wide = fits(&graph, Precision::F64).unwrap_err().to_string();
        assert!(wide.contains("f64[1048576,4194304], 32.0 TiB"), "{wide}");
    }
}
