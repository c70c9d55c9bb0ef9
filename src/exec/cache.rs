//! A cache of bytes on disk, for machine code: what is read is what was written, or nothing.
//!
//! In: a key, a hash over everything that the bytes depend on. Out: the bytes, verified. Invariants: the folder is ours alone and no
//! link, else it is not used at all; a file that is damaged, cut or another key's is removed and counts as missing; a file
//! appears as a whole or not at all, whoever writes it at the same time; the folder stays below a size. A hash without a secret
//! finds damage, not malice: the owner of the folder is what keeps others out.

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Changes with the format of an entry.
const SCHEMA: u32 = 1;
const MAGIC: &[u8; 8] = b"annulus\x01";
/// Magic, key, length; behind the payload its hash.
const HEAD: usize = 8 + 32 + 8;
const HASH: usize = 32;
/// An entry is never larger.
const MOST_ENTRY: usize = 64 << 20;
/// The folder is kept below this, unless told otherwise.
const MOST: u64 = 256 << 20;

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The folder is not to be trusted.
    #[error("the cache {} is not used: {reason}; remove it, or set XDG_CACHE_HOME", .folder.display())]
    Refused {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        reason: String,
    },
    /// The folder cannot be made or read.
    #[error("the cache {}: {source}", .folder.display())]
    Io {
        /// Which folder.
        folder: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Names an entry.
pub type Key = [u8; 32];

/// An open cache.
#[derive(Debug)]
pub struct Cache {
    folder: OwnedFd,
    /// The folder is kept below so many bytes.
    most: u64,
}

/// A key over these parts; where one ends and the next begins counts.
pub fn key(parts: &[&[u8]]) -> Key {
    let mut hash = Sha256::new();
    hash.update(SCHEMA.to_le_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// `$XDG_CACHE_HOME/annulus`, else `~/.cache/annulus`; `None` where neither is known.
pub fn standard_folder() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let root = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|h| h.join(".cache")))?;
    Some(root.join("annulus"))
}

impl Cache {
    /// Opens the cache in this folder, which is made if it is not there.
    ///
    /// # Errors
    /// The folder, or the one of the schema inside, is a link, another user's, or writable by others.
    pub fn open(folder: &Path) -> Result<Cache, CacheError> {
        let inner = folder.join(format!("v{SCHEMA}"));
        let parent = folder.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).map_err(|source| CacheError::Io { folder: parent.into(), source })?;
        ours(folder)?;
        Ok(Cache { folder: ours(&inner)?, most: MOST })
    }

    /// The same cache, kept below so many bytes: the oldest entries go first.
    #[must_use]
    pub fn below(self, bytes: u64) -> Cache {
        Cache { most: bytes, ..self }
    }

    /// The bytes under this key.
    pub fn get(&self, key: &Key) -> Option<Vec<u8>> {
        let name = name(key);
        let file = self.file(&name, OFlags::RDONLY, Mode::empty()).ok()?;
        let payload = read(file, key);
        if payload.is_none() {
            let _ = rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty());
        }
        payload
    }

    /// Keeps bytes under this key. A cache that cannot write is a slow one, not a fault: the caller goes on.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, key: &Key, payload: &[u8]) -> std::io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let whole = (HEAD + payload.len() + HASH) as u64;
        if payload.len() > MOST_ENTRY || whole > self.most {
            return Ok(());
        }
        self.make_room(whole)?;
        let part = format!("{}.{}.part", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // One that a process of this number left behind.
        let _ = rustix::fs::unlinkat(&self.folder, &part, AtFlags::empty());
        let written = self.write(&part, key, payload).and_then(|()| {
            rustix::fs::renameat(&self.folder, &part, &self.folder, name(key)).map_err(Into::into)
        });
        if written.is_err() {
            let _ = rustix::fs::unlinkat(&self.folder, &part, AtFlags::empty());
        }
        written
    }

    fn write(&self, part: &str, key: &Key, payload: &[u8]) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = self.file(part, flags, Mode::RUSR | Mode::WUSR)?;
        let length = (payload.len() as u64).to_le_bytes();
        for bytes in [MAGIC.as_slice(), key, &length, payload, &Sha256::digest(payload)] {
            file.write_all(bytes)?;
        }
        file.sync_all()
    }

    fn file(&self, name: &str, flags: OFlags, mode: Mode) -> Result<File, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(&self.folder, name, flags, mode).map(File::from)
    }

    /// Removes the oldest entries until so many bytes more fit.
    fn make_room(&self, more: u64) -> std::io::Result<()> {
        let mut entries: Vec<(i64, OsString, u64)> = vec![];
        for entry in rustix::fs::Dir::read_from(&self.folder)? {
            use std::os::unix::ffi::OsStringExt;
            let name = OsString::from_vec(entry?.file_name().to_bytes().to_vec());
            let Ok(stat) = rustix::fs::statat(&self.folder, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                entries.push((stat.st_mtime, name, stat.st_size as u64));
            }
        }
        entries.sort();
        let mut used: u64 = entries.iter().map(|e| e.2).sum();
        for (_, name, size) in entries {
            if used + more <= self.most {
                break;
            }
            let _ = rustix::fs::unlinkat(&self.folder, &name, AtFlags::empty());
            used -= size;
        }
        Ok(())
    }
}

fn name(key: &Key) -> String {
    key.iter().map(|b| format!("{b:02x}")).collect()
}

/// The payload of an entry, if all of it is as it was written.
fn read(file: File, key: &Key) -> Option<Vec<u8>> {
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = vec![];
    file.take((HEAD + MOST_ENTRY + HASH + 1) as u64).read_to_end(&mut bytes).ok()?;
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let length = u64::from_le_bytes(head[40..48].try_into().ok()?);
    let right = &head[..8] == MAGIC
        && &head[8..40] == key
        && Some(rest.len()) == usize::try_from(length).ok()?.checked_add(HASH);
    if !right {
        return None;
    }
    let (payload, hash) = rest.split_at(rest.len() - HASH);
    (Sha256::digest(payload).as_slice() == hash).then(|| payload.to_vec())
}

/// A folder that is nobody else's, made if it is not there.
fn ours(folder: &Path) -> Result<OwnedFd, CacheError> {
    let io = |e: Errno| CacheError::Io { folder: folder.into(), source: e.into() };
    let refused = |reason: &str| CacheError::Refused { folder: folder.into(), reason: reason.into() };
    match rustix::fs::mkdir(folder, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(io(e)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = rustix::fs::open(folder, flags, Mode::empty()).map_err(|e| match e {
        Errno::LOOP | Errno::NOTDIR => refused("it is a link or no folder"),
        e => io(e),
    })?;
    // Of what was opened, whatever the path names by now.
    let stat = rustix::fs::fstat(&open).map_err(io)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(refused("it belongs to another user"));
    }
    if stat.st_mode & 0o022 != 0 {
        return Err(refused("others may write to it"));
    }
    Ok(open)
}
