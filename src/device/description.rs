//! What a device is, and what follows from its numbers.

use crate::ir::DType;
use std::collections::BTreeMap;

/// What the ranks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DeviceKind {
    /// A rank is a GPU: there are as many as the description says.
    Gpu,
    /// A rank is a processor core or a process: there is always one more.
    Cpu,
}

/// One level of links. Each rank has its own way in and out, which its messages share.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Link {
    /// Bytes in 10⁹ a second and direction, of one rank.
    pub gb_s: f64,
    /// Time in µs from the begin of a group of transfers to its first byte.
    pub latency_us: f64,
    /// Time in µs that each message adds besides its bytes.
    pub message_us: f64,
    /// Multiprocessors of a GPU that messages hold where they are as fast as this, a power of two; with fewer they are slower in
    /// proportion. 0: none, for copy engines move the bytes.
    pub sms: usize,
}

impl Link {
    /// Bytes in 10⁹ a second with so many multiprocessors, or with as many as it wants.
    pub fn rate(&self, sms: Option<usize>) -> f64 {
        match sms {
            Some(sms) if 0 < sms && sms < self.sms => self.gb_s * sms as f64 / self.sms as f64,
            _ => self.gb_s,
        }
    }
}

/// A group of ranks, as numbers. Every field may be read and changed; [`Device::check`] says whether it is in its range.
///
/// ```
/// use annulus::device::Device;
/// use annulus::ir::DType;
///
/// let device = Device::named("h200x8x8").expect("it is bundled");
/// assert_eq!(device.ranks(), Some(64));
/// // Ranks 0 and 1 are in one node, ranks 0 and 8 are not.
/// assert!(device.link(0, 1).gb_s > device.link(0, 8).gb_s);
/// assert!(device.flops(DType::BF16, 128.0) > device.flops(DType::F32, 128.0));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
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
    /// While transfers of a rank are under way its kernels take 1 + slowdown times as long, besides what they lose by the
    /// multiprocessors that transfers hold.
    pub slowdown: f64,
    /// Multiprocessors (SMs) of a GPU. 0: nobody says, and schedules say nothing of how many transfers hold.
    pub sms: usize,
    /// By element type and head size: 10¹² operations a second of attention without a mask.
    pub tflops: BTreeMap<DType, BTreeMap<usize, f64>>,
    /// Links within a node.
    pub node: Link,
    /// Links between nodes.
    pub network: Link,
}

impl Device {
    /// Whether it has so many ranks.
    pub fn holds(&self, ranks: usize) -> bool {
        self.kind == DeviceKind::Cpu || self.ranks().is_some_and(|n| ranks <= n)
    }

    /// How many ranks it has; `None`: any number.
    pub fn ranks(&self) -> Option<usize> {
        (self.kind == DeviceKind::Gpu).then_some(self.nodes.saturating_mul(self.ranks_per_node))
    }

    /// On how many nodes so many ranks stand, equally many on each: 1 where one holds them all, where the last would have fewer, and
    /// where ranks are processors.
    ///
    /// ```
    /// use annulus::device::Device;
    ///
    /// let device = Device::named("h200x8x8").expect("it is bundled");
    /// assert_eq!([8, 16, 20, 64].map(|ranks| device.nodes_of(ranks)), [1, 2, 1, 8]);
    /// ```
    pub fn nodes_of(&self, ranks: usize) -> usize {
        let size = self.ranks_per_node.max(1);
        let levels = self.kind == DeviceKind::Gpu && size > 1 && ranks > size && ranks.is_multiple_of(size);
        if levels { ranks / size } else { 1 }
    }

    /// How many multiprocessors transfers may hold: the powers of two up to what the link wants that wants most; 0 alone where copy
    /// engines move everything, and nothing where nobody says how many the GPU has.
    ///
    /// ```
    /// use annulus::device::Device;
    ///
    /// let device = Device::named("h200x8").expect("it is bundled");
    /// assert_eq!(device.budgets(), [1, 2, 4, 8, 16]);
    /// ```
    pub fn budgets(&self) -> Vec<usize> {
        let most = self.node.sms.max(self.network.sms);
        match (self.sms, most) {
            (0, _) => vec![],
            (_, 0) => vec![0],
            _ => (0..=most.ilog2()).map(|power| 1 << power).collect(),
        }
    }

    /// The link between two ranks.
    pub fn link(&self, a: usize, b: usize) -> &Link {
        let node = |r: usize| r / self.ranks_per_node.max(1);
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
