//! Where records are kept, and how they are read again.

use super::record::Record;
use super::text::{Damage, MOST_BYTES, parse};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The most files of a folder that are looked at.
const MOST_FILES: usize = 65_536;
/// The most bytes of all records together.
const MOST_OF_ALL: usize = 256 << 20;
/// The ending of their names.
const ENDING: &str = "flight";

/// Where records go, and whether others may write there too, so that nobody else's folder is taken for it.
static FOLDER: OnceLock<(PathBuf, bool)> = OnceLock::new();
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// From here on each rank of this process that fails leaves its record in the folder, which is made if it is not there. It is set once for
/// the process; false where it was set before.
pub fn keep_in(folder: impl Into<PathBuf>) -> bool {
    FOLDER.set((folder.into(), false)).is_ok()
}

/// The same for a folder of the processes that one launcher started on this host, under the system's temporary one: nothing is made unless
/// a rank fails, and nothing is written to a folder of another user.
pub fn keep_in_own() -> bool {
    #[cfg(unix)]
    let name = format!("annulus-flight-{}", std::os::unix::process::parent_id());
    #[cfg(not(unix))]
    let name = "annulus-flight";
    FOLDER.set((std::env::temp_dir().join(name), true)).is_ok()
}

/// The folder to which this process has written a record.
pub fn kept_in() -> Option<&'static Path> {
    FOLDER.get().map(|f| f.0.as_path()).filter(|_| WRITTEN.load(Ordering::Relaxed))
}

/// Writes a record to the folder, if there is one, in the place of an earlier one of the rank. What does not succeed is not said: the run
/// has failed of something else.
pub fn keep(record: &Record) {
    if let Some((folder, own)) = FOLDER.get()
        && made(folder, *own).and_then(|()| write(folder, record)).is_ok()
    {
        WRITTEN.store(true, Ordering::Relaxed);
    }
}

/// The folder is there; one of our own is nobody else's.
fn made(folder: &Path, own: bool) -> io::Result<()> {
    if !own {
        return fs::create_dir_all(folder);
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let there = fs::symlink_metadata(folder)?;
    #[cfg(unix)]
    let ours = {
        use std::os::unix::fs::MetadataExt;
        // Links of the process belong to whom it runs as.
        there.uid() == fs::symlink_metadata("/proc/self/exe")?.uid() && there.mode() & 0o022 == 0
    };
    #[cfg(not(unix))]
    let ours = true;
    if there.is_dir() && ours { Ok(()) } else { Err(io::Error::other("it is another's")) }
}

fn write(folder: &Path, record: &Record) -> io::Result<()> {
    let name = format!("rank-{}.{ENDING}", record.rank);
    let part = folder.join(format!(".{name}.{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut text = record.to_string();
    if text.len() > MOST_BYTES {
        // Without the operations; the groups say where it was.
        let groups: Vec<_> = record.groups.iter().rev().take(64).rev().cloned().collect();
        let left_out = record.left_out + record.groups.len() - groups.len();
        let few = Record { notes: vec![], groups, left_out, ..record.clone() };
        text = few.to_string();
    }
    let written = options.open(&part).and_then(|mut file| file.write_all(text.as_bytes()));
    let placed = written.and_then(|()| fs::rename(&part, folder.join(name)));
    if placed.is_err() {
        let _ = fs::remove_file(&part);
    }
    placed
}

/// The records of a folder.
#[derive(Debug, Default)]
pub struct Kept {
    /// Those that can be read, by rank; a later file of a rank in the order of names goes before an earlier one.
    pub records: Vec<Record>,
    /// Files that are none, in the order of their names.
    pub damaged: Vec<(String, Damage)>,
}

/// Reads every file of a folder whose name ends in `.flight`.
///
/// # Errors
/// The folder cannot be read, or has too many files.
pub fn read_folder(folder: &Path) -> io::Result<Kept> {
    let mut paths = vec![];
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == ENDING) {
            paths.push(path);
        }
        if paths.len() > MOST_FILES {
            return Err(io::Error::other(format!("it has more than {MOST_FILES} records")));
        }
    }
    paths.sort();
    let (mut out, mut bytes) = (Kept::default(), 0usize);
    for path in paths {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match read(&path, &mut bytes) {
            Ok(record) => out.records.push(record),
            Err(damage) => out.damaged.push((name, damage)),
        }
        if bytes > MOST_OF_ALL {
            return Err(io::Error::other(format!("its records have more than {MOST_OF_ALL} bytes")));
        }
    }
    // The last one of a rank stays.
    out.records.reverse();
    out.records.sort_by_key(|r| r.rank);
    out.records.dedup_by_key(|r| r.rank);
    Ok(out)
}

fn read(path: &Path, all: &mut usize) -> Result<Record, Damage> {
    let unread = |e: io::Error| Damage::Unread(e.to_string());
    // A pipe would be waited for.
    if !fs::metadata(path).map_err(unread)?.is_file() {
        return Err(Damage::Unread("it is no file".into()));
    }
    let mut bytes = vec![];
    File::open(path).and_then(|f| f.take(MOST_BYTES as u64 + 1).read_to_end(&mut bytes)).map_err(unread)?;
    *all += bytes.len();
    if bytes.len() > MOST_BYTES {
        return Err(Damage::Unread(format!("it has more than {MOST_BYTES} bytes")));
    }
    parse(&String::from_utf8_lossy(&bytes))
}
