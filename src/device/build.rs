//! A description from Rust: built figure by figure, checked, and written as the text that is read.
//!
//! In: figures. Out: a [`Device`] whose figures are in the ranges that a file is held to, or which is not and why.

use super::description::{Device, DeviceKind, Link};
use super::error::DeviceError;
use super::range;
use crate::ir::DType;
use std::collections::BTreeMap;
use std::fmt::Write;

/// A description under construction; see [`Device::builder`].
#[derive(Clone, Debug)]
pub struct DeviceBuilder {
    name: String,
    kind: DeviceKind,
    nodes: Option<usize>,
    ranks_per_node: Option<usize>,
    launch_us: Option<f64>,
    memory_gb_s: Option<f64>,
    tile: Option<[usize; 2]>,
    slowdown: Option<f64>,
    sms: usize,
    tflops: BTreeMap<DType, BTreeMap<usize, f64>>,
    node: Option<Link>,
    network: Option<Link>,
}

impl Device {
    /// A description from Rust, of which every figure has to be given: those that a file has, in the same ranges.
    ///
    /// ```
    /// use annulus::device::{Device, DeviceKind, Link};
    /// use annulus::ir::DType;
    ///
    /// let device = Device::builder("lab", DeviceKind::Gpu)
    ///     .nodes(2)
    ///     .ranks_per_node(4)
    ///     .launch_us(3.0)
    ///     .memory_gb_s(3000.0)
    ///     .tile([128, 128])
    ///     .slowdown(0.01)
    ///     .sms(132)
    ///     .tflops(DType::BF16, 128, 600.0)
    ///     .tflops(DType::F16, 128, 600.0)
    ///     .tflops(DType::F32, 128, 35.0)
    ///     .tflops(DType::F64, 128, 25.0)
    ///     .node(Link::new(370.0, 9.0, 1.0).sms(16))
    ///     .network(Link::new(45.0, 14.0, 2.0).sms(4))
    ///     .build()?;
    /// assert_eq!(device.ranks(), Some(8));
    /// assert_eq!(device.link(3, 4).gb_s, 45.0);
    /// // What is written is what is read.
    /// assert_eq!(Device::parse(&device.to_toml(), "lab.toml")?, device);
    ///
    /// // A bundled description with another link is one more way.
    /// let mut slow = Device::named("h200x8").expect("it is bundled");
    /// slow.node.gb_s = 64.0;
    /// slow.check()?;
    /// # Ok::<(), annulus::device::DeviceError>(())
    /// ```
    pub fn builder(name: impl Into<String>, kind: DeviceKind) -> DeviceBuilder {
        DeviceBuilder {
            name: name.into(),
            kind,
            nodes: None,
            ranks_per_node: None,
            launch_us: None,
            memory_gb_s: None,
            tile: None,
            slowdown: None,
            sms: 0,
            tflops: BTreeMap::new(),
            node: None,
            network: None,
        }
    }

    /// Whether every figure is in its range, as those of a file are; [`compile`](crate::compile) asks.
    ///
    /// # Errors
    /// Names the first field that is not.
    pub fn check(&self) -> Result<(), DeviceError> {
        let at = |field: &str| {
            let field = field.to_owned();
            move |why: String| DeviceError { file: self.name.clone(), line: None, field, why }
        };
        range::count(self.nodes).map_err(at("nodes"))?;
        range::count(self.ranks_per_node).map_err(at("ranks_per_node"))?;
        range::time(self.launch_us).map_err(at("launch_us"))?;
        range::rate(self.memory_gb_s).map_err(at("memory_gb_s"))?;
        range::tile(self.tile).map_err(at("tile"))?;
        range::slowdown(self.slowdown).map_err(at("slowdown"))?;
        range::sms(self.sms).map_err(at("sms"))?;
        for dtype in DType::ALL {
            let field = format!("tflops.{dtype}");
            let Some(sizes) = self.tflops.get(&dtype).filter(|sizes| !sizes.is_empty()) else {
                let missing = dtype.is_float().then(|| at(&field)("it is missing".into()));
                missing.map_or(Ok(()), Err)?;
                continue;
            };
            if !dtype.is_float() {
                return Err(at(&field)("only floating types have a rate".into()));
            }
            for (&size, &rate) in sizes {
                let field = format!("{field}.{size}");
                if !range::is_head_size(size) {
                    return Err(at(&field)(range::no_head_size(&size.to_string())));
                }
                range::rate(rate).map_err(at(&field))?;
            }
        }
        for (name, link) in [("node", &self.node), ("network", &self.network)] {
            range::rate(link.gb_s).map_err(at(&format!("link.{name}.gb_s")))?;
            range::time(link.latency_us).map_err(at(&format!("link.{name}.latency_us")))?;
            range::time(link.message_us).map_err(at(&format!("link.{name}.message_us")))?;
            range::held_sms(link.sms, self.sms).map_err(at(&format!("link.{name}.sms")))?;
        }
        Ok(())
    }

    /// The description as the text of a file, which [`Device::parse`] reads back as it was.
    pub fn to_toml(&self) -> String {
        let kind = match self.kind {
            DeviceKind::Gpu => "gpu",
            DeviceKind::Cpu => "cpu",
        };
        let [rows, keys] = self.tile;
        let mut out = format!(
            "name = {}\nkind = \"{kind}\"\nnodes = {}\nranks_per_node = {}\nlaunch_us = {:?}\nmemory_gb_s = {:?}\n\
             tile = [{rows}, {keys}]\nslowdown = {:?}\n",
            quoted(&self.name),
            self.nodes,
            self.ranks_per_node,
            self.launch_us,
            self.memory_gb_s,
            self.slowdown
        );
        // What nobody says is not written.
        let says = |out: &mut String, sms: usize| {
            let _ = if sms > 0 { writeln!(out, "sms = {sms}") } else { Ok(()) };
        };
        says(&mut out, self.sms);
        for (dtype, sizes) in &self.tflops {
            let _ = writeln!(out, "\n[tflops.{dtype}]");
            for (size, rate) in sizes {
                let _ = writeln!(out, "{size} = {rate:?}");
            }
        }
        for (name, link) in [("node", &self.node), ("network", &self.network)] {
            let Link { gb_s, latency_us, message_us, sms } = *link;
            let _ = writeln!(
                out,
                "\n[link.{name}]\ngb_s = {gb_s:?}\nlatency_us = {latency_us:?}\nmessage_us = {message_us:?}"
            );
            says(&mut out, sms);
        }
        out
    }
}

impl Link {
    /// Bytes in 10⁹ a second and direction; µs to the first byte of a group of transfers; µs that each message adds.
    pub fn new(gb_s: f64, latency_us: f64, message_us: f64) -> Link {
        Link { gb_s, latency_us, message_us, sms: 0 }
    }

    /// The same where messages hold so many multiprocessors of a GPU if they are as fast as that.
    #[must_use]
    pub fn sms(self, sms: usize) -> Link {
        Link { sms, ..self }
    }
}

impl DeviceBuilder {
    /// Number of nodes; of a CPU 1 if it is not given.
    #[must_use]
    pub fn nodes(mut self, nodes: usize) -> DeviceBuilder {
        self.nodes = Some(nodes);
        self
    }

    /// Ranks in a node; of a CPU 1 if it is not given.
    #[must_use]
    pub fn ranks_per_node(mut self, ranks: usize) -> DeviceBuilder {
        self.ranks_per_node = Some(ranks);
        self
    }

    /// Time in µs that each kernel takes besides its work.
    #[must_use]
    pub fn launch_us(mut self, us: f64) -> DeviceBuilder {
        self.launch_us = Some(us);
        self
    }

    /// Bytes in 10⁹ that a kernel moves a second where they limit it.
    #[must_use]
    pub fn memory_gb_s(mut self, gb_s: f64) -> DeviceBuilder {
        self.memory_gb_s = Some(gb_s);
        self
    }

    /// Query rows and key rows of the tiles that a kernel computes whole.
    #[must_use]
    pub fn tile(mut self, sizes: [usize; 2]) -> DeviceBuilder {
        self.tile = Some(sizes);
        self
    }

    /// While transfers of a rank are under way its kernels take 1 + slowdown times as long.
    #[must_use]
    pub fn slowdown(mut self, part: f64) -> DeviceBuilder {
        self.slowdown = Some(part);
        self
    }

    /// Multiprocessors of a GPU; 0, as if it were not given: nobody says.
    #[must_use]
    pub fn sms(mut self, sms: usize) -> DeviceBuilder {
        self.sms = sms;
        self
    }

    /// 10¹² operations a second of attention without a mask over elements of a type, at one head size; each floating type
    /// needs at least one.
    #[must_use]
    pub fn tflops(mut self, dtype: DType, head_size: usize, tera: f64) -> DeviceBuilder {
        self.tflops.entry(dtype).or_default().insert(head_size, tera);
        self
    }

    /// Links within a node.
    #[must_use]
    pub fn node(mut self, link: Link) -> DeviceBuilder {
        self.node = Some(link);
        self
    }

    /// Links between nodes; of one node those within it if they are not given.
    #[must_use]
    pub fn network(mut self, link: Link) -> DeviceBuilder {
        self.network = Some(link);
        self
    }

    /// The description.
    ///
    /// # Errors
    /// Names the first field that is missing or not in its range.
    pub fn build(self) -> Result<Device, DeviceError> {
        let name = self.name.clone();
        let missing = |field: &str| DeviceError {
            file: name.clone(),
            line: None,
            field: field.to_owned(),
            why: "it is missing".into(),
        };
        let one = (self.kind == DeviceKind::Cpu).then_some(1);
        let nodes = self.nodes.or(one).ok_or_else(|| missing("nodes"))?;
        let node = self.node.ok_or_else(|| missing("link.node"))?;
        let inside = (nodes <= 1).then_some(node);
        let device = Device {
            nodes,
            ranks_per_node: self.ranks_per_node.or(one).ok_or_else(|| missing("ranks_per_node"))?,
            launch_us: self.launch_us.ok_or_else(|| missing("launch_us"))?,
            memory_gb_s: self.memory_gb_s.ok_or_else(|| missing("memory_gb_s"))?,
            tile: self.tile.ok_or_else(|| missing("tile"))?,
            slowdown: self.slowdown.ok_or_else(|| missing("slowdown"))?,
            sms: self.sms,
            tflops: self.tflops,
            node,
            network: self.network.or(inside).ok_or_else(|| missing("link.network"))?,
            name: self.name,
            kind: self.kind,
        };
        device.check()?;
        Ok(device)
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
