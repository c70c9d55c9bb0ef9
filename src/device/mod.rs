//! device: what a group of ranks runs on, as numbers: the description that the cost model reads, and nothing else.
//!
//! In: the name of a bundled description or a text that a person wrote (TOML; the bundled ones are examples of it). Out: a
//! [`Device`].
//!
//! Invariants: every number is finite and in the range that its field states, so that every estimate is a finite time;
//! an error names the line and the field.

mod read;

use crate::ir::DType;
use std::collections::BTreeMap;

pub use read::DeviceError;

/// The bundled descriptions, smallest first.
const BUNDLED: [(&str, &str); 4] = [
    ("h100x8", include_str!("h100x8.toml")),
    ("h200x8", include_str!("h200x8.toml")),
    ("h200x8x8", include_str!("h200x8x8.toml")),
    ("cpu", include_str!("cpu.toml")),
];

/// What the ranks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// A rank is a GPU: there are as many as the description says.
    Gpu,
    /// A rank is a processor core or a process: there is always one more.
    Cpu,
}

/// One level of links. Each rank has its own way in and out, which its messages share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Bytes in 10⁹ a second and direction, of one rank.
    pub gb_s: f64,
    /// Time in µs from the begin of a group of transfers to its first byte.
    pub latency_us: f64,
    /// Time in µs that each message adds besides its bytes.
    pub message_us: f64,
}

/// A group of ranks, as numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name in reports.
    pub name: String,
    /// What the ranks are.
    pub kind: DeviceKind,
    /// Number of nodes.
    pub nodes: usize,
    /// Ranks in a node; rank r is in node r / ranks_per_node.
    pub ranks_per_node: usize,
    /// Time in µs that each kernel takes besides its work.
    pub launch_us: f64,
    /// Bytes in 10⁹ that a kernel moves a second where they limit it.
    pub memory_gb_s: f64,
    /// A kernel computes whole tiles of so many query rows by so many key rows.
    pub tile: [usize; 2],
    /// While transfers of a rank are under way its kernels take 1 + slowdown times as long.
    pub slowdown: f64,
    /// By element type and head size: 10¹² operations a second of attention without a mask.
    tflops: BTreeMap<DType, BTreeMap<usize, f64>>,
    /// Links within a node.
    pub node: Link,
    /// Links between nodes.
    pub network: Link,
}

impl Device {
    /// Names of the bundled descriptions.
    pub fn bundled() -> impl Iterator<Item = &'static str> {
        BUNDLED.iter().map(|&(name, _)| name)
    }

    /// The bundled description of that name.
    pub fn named(name: &str) -> Option<Device> {
        let (name, text) = BUNDLED.iter().find(|(n, _)| *n == name)?;
        Some(Device::parse(text, name).expect("bundled descriptions are right, as a test shows"))
    }

    /// Reads a description; `name` is that of the file, for errors.
    ///
    /// # Errors
    /// Names the line and the field.
    pub fn parse(text: &str, name: &str) -> Result<Device, DeviceError> {
        read::device(text, name)
    }

    /// What is taken where nobody names a device: the smallest of `h200x8` and `h200x8x8` that holds so many ranks; if
    /// none does, the larger, for its refusal to be told.
    pub fn default_for(ranks: usize) -> Device {
        let small = Device::named("h200x8").filter(|d| d.holds(ranks));
        small.or_else(|| Device::named("h200x8x8")).expect("both are bundled")
    }

    /// Whether it has so many ranks.
    pub fn holds(&self, ranks: usize) -> bool {
        self.kind == DeviceKind::Cpu || self.ranks().is_some_and(|n| ranks <= n)
    }

    /// How many ranks it has; `None`: any number.
    pub fn ranks(&self) -> Option<usize> {
        (self.kind == DeviceKind::Gpu).then_some(self.nodes * self.ranks_per_node)
    }

    /// The link between two ranks.
    pub fn link(&self, a: usize, b: usize) -> &Link {
        let node = |r: usize| r / self.ranks_per_node;
        if node(a) == node(b) || self.kind == DeviceKind::Cpu { &self.node } else { &self.network }
    }

    /// Operations a second of attention over elements of `dtype` with head size `head_dim`, the mean of Dk and Dv. Between
    /// two sizes that the description names, linear; below the first in proportion to the size, for the softmax then takes
    /// the time; beyond the last as the last.
    pub fn flops(&self, dtype: DType, head_dim: f64) -> f64 {
        let table = self.tflops.get(&dtype).or_else(|| self.tflops.get(&DType::F32));
        let Some(table) = table else { return 1e12 };
        let above = table.iter().find(|&(&d, _)| d as f64 >= head_dim);
        let below = table.iter().rfind(|&(&d, _)| (d as f64) < head_dim);
        let tera = match (below, above) {
            (Some((&d0, t0)), Some((&d1, t1))) => {
                t0 + (t1 - t0) * (head_dim - d0 as f64) / (d1 as f64 - d0 as f64)
            }
            (None, Some((&d, t))) => t * head_dim / d as f64,
            (Some((_, t)), None) => *t,
            (None, None) => 1.0,
        };
        tera * 1e12
    }
}

#[cfg(test)]
mod tests;
