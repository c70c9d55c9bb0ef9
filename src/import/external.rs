//! Tensors that a model keeps in other files.
//!
//! In: the folder that may be read, and what a tensor says of its place: `location`, `offset`, `length`. Out: its bytes.
//! A model is untrusted, so that a place may be anything: only a regular file with one name, which the kernel finds beneath
//! the folder without following any link, is read, and never beyond its end. Where the kernel cannot promise that, nothing is.

use super::error::ImportError;
use super::flat::MAX_DEPTH;
use super::proto::{AttributeProto, GraphProto, ModelProto, StringStringEntryProto, TensorProto};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How many times over the bytes of a file may be read: tensors may share some, but no small model becomes a large one.
const SHARES: u64 = 4;

/// How much may be read beside that.
const SPARE_BYTES: u64 = 1 << 26;

/// Where the elements of a tensor are.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

/// Reads what the entries say. Only keys of the format are taken, each once.
fn place(entries: &[StringStringEntryProto]) -> Result<Place<'_>, String> {
    let mut found: BTreeMap<&str, &str> = BTreeMap::new();
    for e in entries {
        if !["location", "offset", "length", "checksum", "basepath"].contains(&e.key.as_str()) {
            return Err(format!("an external tensor has no {:?}", e.key));
        }
        if found.insert(&e.key, &e.value).is_some() {
            return Err(format!("two entries say the {} of its elements", e.key));
        }
    }
    if found.get("basepath").is_some_and(|b| !b.is_empty()) {
        return Err("its elements are given a folder of their own".into());
    }
    let Some(&location) = found.get("location") else {
        return Err("no entry says which file holds it".into());
    };
    let number = |key: &str| -> Result<Option<u64>, String> {
        let Some(text) = found.get(key) else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = text.parse().ok().filter(|&n| digits && n <= i64::MAX as u64);
        number.map(Some).ok_or_else(|| format!("its {key} is {text:?}"))
    };
    let (offset, length) = (number("offset")?.unwrap_or(0), number("length")?);
    // Said here by name; the kernel would refuse it all the same.
    let parts: Vec<&str> = location.split('/').collect();
    let odd = location.is_empty()
        || location.contains(['\\', '\0'])
        || parts.iter().enumerate().any(|(i, p)| *p == ".." || p.is_empty() || *p == "." && i > 0);
    if odd {
        return Err(format!("{location:?} names no file within the model's folder"));
    }
    Ok(Place { location, offset, length })
}

/// Puts the elements of every tensor that keeps them in another file into its message: initializers and tensors in attributes,
/// those of functions and of graphs inside nodes included.
///
/// # Errors
/// If a tensor names a file that must not or cannot be read, or one that does not hold it.
pub(super) fn load(model: &mut ModelProto, folder: &Path) -> Result<(), ImportError> {
    let mut reader = Reader { folder, root: None, files: BTreeSet::new(), all: 0, total: 0 };
    if let Some(graph) = &mut model.graph {
        reader.graph(graph, 0)?;
    }
    for f in &mut model.functions {
        let inside = f.node.iter_mut().flat_map(|n| &mut n.attribute);
        for a in inside.chain(&mut f.attribute_proto) {
            reader.attribute(a, 0)?;
        }
    }
    Ok(())
}

/// What has been read beneath a folder.
struct Reader<'f> {
    folder: &'f Path,
    /// The folder, once something is read.
    root: Option<files::Root>,
    files: BTreeSet<String>,
    /// Bytes that the files have, and that were read.
    all: u64,
    total: u64,
}

impl Reader<'_> {
    fn graph(&mut self, graph: &mut GraphProto, depth: usize) -> Result<(), ImportError> {
        for t in &mut graph.initializer {
            self.tensor(t)?;
        }
        for a in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
            self.attribute(a, depth)?;
        }
        Ok(())
    }

    fn attribute(&mut self, a: &mut AttributeProto, depth: usize) -> Result<(), ImportError> {
        for t in a.t.iter_mut().chain(&mut a.tensors) {
            self.tensor(t)?;
        }
        // What is no graph, or nests too deep, is refused where it is used.
        for bytes in a.g.iter_mut().chain(&mut a.graphs).filter(|_| depth < MAX_DEPTH) {
            if let Ok(mut graph) = GraphProto::decode(bytes.as_slice()) {
                let before = self.total;
                self.graph(&mut graph, depth + 1)?;
                if self.total > before {
                    *bytes = graph.encode_to_vec();
                }
            }
        }
        Ok(())
    }

    fn tensor(&mut self, t: &mut TensorProto) -> Result<(), ImportError> {
        // One of a type that annulus lacks is refused where it is used.
        if t.data_location == 0 && t.external_data.is_empty() || super::data::dtype(t.data_type).is_none() {
            return Ok(());
        }
        let fault = |why: String| ImportError::Malformed(format!("tensor {:?}: {why}", t.name));
        let place = place(&t.external_data).map_err(fault)?;
        if t.data_location != 1 {
            return Err(fault(format!("its elements are in place {}", t.data_location)));
        }
        let filled = t.float_data.len() + t.int32_data.len() + t.int64_data.len() + t.double_data.len();
        if t.raw_data.as_ref().is_some_and(|r| !r.is_empty()) || filled > 0 {
            return Err(fault("its elements are here and in another file".into()));
        }
        let want = match (super::data::byte_size(t), place.length) {
            (Some(size), Some(said)) if size != said => {
                return Err(fault(format!("its length is {said}, and its type and shape want {size} bytes")));
            }
            (Some(size), _) => size,
            (None, _) => return Err(fault("its type or shape is none".into())),
        };
        let root = match self.root.take() {
            Some(root) => root,
            None => files::Root::open(self.folder).map_err(fault)?,
        };
        let file = self.root.insert(root).file(place.location).map_err(fault)?;
        let (size, at) = (file.size, place.offset);
        if at.checked_add(want).is_none_or(|end| end > size) {
            return Err(fault(format!("{:?} has {size} bytes, not {want} from {at} on", place.location)));
        }
        if self.files.insert(place.location.to_owned()) {
            self.all = self.all.saturating_add(size);
        }
        self.total = self.total.saturating_add(want.max(1));
        if self.total > self.all.saturating_mul(SHARES).saturating_add(SPARE_BYTES) {
            return Err(fault(format!("tensors read {} bytes of files that have {}", self.total, self.all)));
        }
        let bytes = file.read(at, want).map_err(|why| fault(format!("{:?}: {why}", place.location)))?;
        t.external_data.clear();
        t.data_location = 0;
        t.raw_data = Some(bytes);
        Ok(())
    }
}

/// Reading beneath a folder, as the kernel of Linux promises it.
#[cfg(target_os = "linux")]
mod files {
    use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2};
    use std::io::{Read, Seek, SeekFrom};
    use std::os::fd::OwnedFd;
    use std::path::Path;

    /// A folder, held open: what is read lies beneath this one, whatever its path comes to mean later.
    pub(super) struct Root(OwnedFd);

    /// A file that may be read, and how many bytes it has.
    pub(super) struct File {
        file: std::fs::File,
        pub(super) size: u64,
    }

    impl Root {
        pub(super) fn open(folder: &Path) -> Result<Root, String> {
            let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = open(here, flags, Mode::empty());
            root.map(Root).map_err(|e| format!("folder {}: {e}", folder.display()))
        }

        pub(super) fn file(&self, location: &str) -> Result<File, String> {
            // A pipe must not make the opening wait.
            let flags =
                OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let fd = openat2(&self.0, location, flags, Mode::empty(), resolve)
                .map_err(|e| format!("{location:?} cannot be opened beneath the model's folder: {e}"))?;
            let facts = fstat(&fd).map_err(|e| format!("{location:?}: {e}"))?;
            if FileType::from_raw_mode(facts.st_mode) != FileType::RegularFile {
                return Err(format!("{location:?} is no regular file"));
            }
            if facts.st_nlink != 1 {
                return Err(format!(
                    "{location:?} has {} names: one may lie outside the folder",
                    facts.st_nlink
                ));
            }
            Ok(File { file: fd.into(), size: u64::try_from(facts.st_size).unwrap_or(0) })
        }
    }

    impl File {
        /// `len` bytes from `offset` on.
        pub(super) fn read(mut self, offset: u64, len: u64) -> Result<Vec<u8>, String> {
            self.file.seek(SeekFrom::Start(offset)).map_err(|e| e.to_string())?;
            let mut bytes = Vec::new();
            let room = usize::try_from(len).ok().and_then(|n| bytes.try_reserve_exact(n).ok());
            room.ok_or_else(|| format!("there is no memory for {len} bytes"))?;
            self.file.take(len).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
            if bytes.len() as u64 == len { Ok(bytes) } else { Err("it became shorter".into()) }
        }
    }
}

/// Elsewhere nothing promises it.
#[cfg(not(target_os = "linux"))]
mod files {
    use std::path::Path;

    const REFUSED: &str = "tensors in other files are read on Linux only";

    pub(super) struct Root;

    pub(super) struct File {
        pub(super) size: u64,
    }

    impl Root {
        pub(super) fn open(_: &Path) -> Result<Root, String> {
            Err(REFUSED.into())
        }

        pub(super) fn file(&self, _: &str) -> Result<File, String> {
            Err(REFUSED.into())
        }
    }

    impl File {
        pub(super) fn read(self, _: u64, _: u64) -> Result<Vec<u8>, String> {
            Err(REFUSED.into())
        }
    }
}
