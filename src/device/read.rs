//! Reads a device description. Every fault is told by its line and field.

use super::description::{Device, DeviceKind, Link};
use super::error::DeviceError;
use super::range;
use crate::ir::DType;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    kind: DeviceKind,
    nodes: Option<Spanned<usize>>,
    ranks_per_node: Option<Spanned<usize>>,
    launch_us: Spanned<f64>,
    memory_gb_s: Spanned<f64>,
    tile: Spanned<[usize; 2]>,
    slowdown: Spanned<f64>,
    sms: Option<Spanned<usize>>,
    tflops: Spanned<BTreeMap<String, BTreeMap<String, Spanned<f64>>>>,
    link: Spanned<Links>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Links {
    node: LinkFile,
    network: Option<LinkFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinkFile {
    gb_s: Spanned<f64>,
    latency_us: Spanned<f64>,
    message_us: Spanned<f64>,
    sms: Option<Spanned<usize>>,
}

impl Device {
    /// Reads a description; `name` is that of the file, for errors.
    ///
    /// # Errors
    /// Names the line and the field.
    pub fn parse(text: &str, name: &str) -> Result<Device, DeviceError> {
        device(text, name)
    }
}

fn device(text: &str, file: &str) -> Result<Device, DeviceError> {
    let source = Source { text, file };
    let parsed: File = toml::from_str(text).map_err(|e| {
        let at = e.span().map_or(0, |s| s.start);
        let lacks = e.message().strip_prefix("missing field `").and_then(|m| m.split('`').next());
        match lacks {
            Some(field) => source.missing(at, field),
            None => source.error(at, e.message().trim().to_owned()),
        }
    })?;
    let gpu = parsed.kind == DeviceKind::Gpu;
    let count = |name: &str, n: &Option<Spanned<usize>>| match n {
        None if gpu => Err(source.missing(0, name)),
        None => Ok(1),
        Some(n) => source.held(n, range::count),
    };
    let tile = source.held(&parsed.tile, range::tile)?;
    let nodes = count("nodes", &parsed.nodes)?;
    let links = parsed.link.get_ref();
    let sms = source.sms(&parsed.sms, range::sms)?;
    let node = source.link(&links.node, sms)?;
    let network = match &links.network {
        Some(link) => source.link(link, sms)?,
        None if nodes > 1 => return Err(source.missing(parsed.link.span().start, "link.network")),
        None => node,
    };
    Ok(Device {
        name: parsed.name,
        kind: parsed.kind,
        nodes,
        ranks_per_node: count("ranks_per_node", &parsed.ranks_per_node)?,
        launch_us: source.held(&parsed.launch_us, range::time)?,
        memory_gb_s: source.held(&parsed.memory_gb_s, range::rate)?,
        tile,
        slowdown: source.held(&parsed.slowdown, range::slowdown)?,
        sms,
        tflops: source.tflops(&parsed.tflops)?,
        node,
        network,
    })
}

struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

impl Source<'_> {
    /// An error at a byte of the text. The field is read off the text: the table above, and what stands before `=`.
    fn error(&self, at: usize, why: String) -> DeviceError {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line = before.matches('\n').count();
        let lines: Vec<&str> = self.text.lines().collect();
        let shown = lines.get(line).copied().unwrap_or_default();
        let key = shown.split_once('=').map_or("", |(key, _)| key.trim());
        let above = lines.iter().take(line + 1).rev().find_map(|l| {
            let l = l.split('#').next().unwrap_or_default().trim();
            l.starts_with('[').then(|| l.trim_matches(['[', ']']))
        });
        let field = match (above, key) {
            (Some(table), "") => table.to_owned(),
            (Some(table), key) => format!("{table}.{key}"),
            (None, key) => key.to_owned(),
        };
        DeviceError { file: self.file.to_owned(), line: Some(line + 1), field, why }
    }

    fn missing(&self, at: usize, field: &str) -> DeviceError {
        DeviceError { field: field.to_owned(), ..self.error(at, "it is missing".into()) }
    }

    /// A figure that is in its range.
    fn held<T: Copy>(&self, x: &Spanned<T>, fits: fn(T) -> Result<(), String>) -> Result<T, DeviceError> {
        fits(*x.get_ref()).map_err(|why| self.error(x.span().start, why))?;
        Ok(*x.get_ref())
    }

    /// A number of multiprocessors; 0 where it is not given.
    fn sms(
        &self,
        sms: &Option<Spanned<usize>>,
        fits: impl FnOnce(usize) -> Result<(), String>,
    ) -> Result<usize, DeviceError> {
        let Some(sms) = sms else { return Ok(0) };
        fits(*sms.get_ref()).map_err(|why| self.error(sms.span().start, why))?;
        Ok(*sms.get_ref())
    }

    fn link(&self, link: &LinkFile, sms: usize) -> Result<Link, DeviceError> {
        Ok(Link {
            gb_s: self.held(&link.gb_s, range::rate)?,
            latency_us: self.held(&link.latency_us, range::time)?,
            message_us: self.held(&link.message_us, range::time)?,
            sms: self.sms(&link.sms, |n| range::held_sms(n, sms))?,
        })
    }

    /// Rates by element type, of which each floating one must be there, and head size.
    fn tflops(
        &self,
        tables: &Spanned<BTreeMap<String, BTreeMap<String, Spanned<f64>>>>,
    ) -> Result<BTreeMap<DType, BTreeMap<usize, f64>>, DeviceError> {
        let at = tables.span().start;
        let floats = || DType::ALL.into_iter().filter(|d| d.is_float());
        let mut out = BTreeMap::new();
        for (name, table) in tables.get_ref() {
            let Some(dtype) = floats().find(|d| d.name() == name) else {
                let known: Vec<&str> = floats().map(DType::name).collect();
                let at = table.values().next().map_or(at, |x| x.span().start);
                return Err(self.error(at, format!("want a table of {}, not of {name}", known.join(", "))));
            };
            let mut sizes = BTreeMap::new();
            for (size, rate) in table {
                let number = size.parse::<usize>().ok().filter(|&s| range::is_head_size(s));
                let none = || self.error(rate.span().start, range::no_head_size(size));
                sizes.insert(number.ok_or_else(none)?, self.held(rate, range::rate)?);
            }
            out.insert(dtype, sizes);
        }
        let lacks = |d: &DType| out.get(d).is_none_or(BTreeMap::is_empty);
        match floats().find(lacks) {
            Some(dtype) => Err(self.missing(at, &format!("tflops.{}", dtype.name()))),
            None => Ok(out),
        }
    }
}
