//! The cache of machine code: damage, other people's folders, and races.

#![cfg(target_os = "linux")]
use crate::inside::support::scratch;
use annulus::exec::cache::{Cache, CacheError, Key, key};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// An empty folder of this test.
fn place(name: &str) -> PathBuf {
    let folder = scratch().join("cache").join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The only entry.
fn entry(folder: &Path) -> PathBuf {
    let all: Vec<PathBuf> = fs::read_dir(folder.join("v1")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(all.len(), 1, "{all:?}");
    all[0].clone()
}

#[test]
fn what_is_read_is_what_was_written() {
    let folder = place("round").join("annulus");
    let cache = Cache::open(&folder).unwrap();
    let (a, b) = (key(&[b"ab", b"c"]), key(&[b"a", b"bc"]));
    assert_ne!(a, b);
    assert_eq!(cache.get(&a), None);
    for payload in [b"".as_slice(), b"code", &[7; 100_000]] {
        cache.put(&a, payload).unwrap();
        assert_eq!(cache.get(&a).as_deref(), Some(payload));
        assert_eq!(cache.get(&b), None);
    }
    let mode = |p: &Path| fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("v1")), mode(&entry(&folder))), (0o700, 0o700, 0o600));
}

/// The folder stays below its size: the oldest entries go, and one that is larger than all of it is not kept.
#[test]
fn the_oldest_entries_go_when_there_is_no_room() {
    let folder = place("room").join("annulus");
    let cache = Cache::open(&folder).unwrap().below(10_000);
    let used = || -> u64 {
        fs::read_dir(folder.join("v1")).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum()
    };
    let keys: Vec<Key> = (0..12u8).map(|i| key(&[&[i]])).collect();
    for (i, key) in keys.iter().enumerate() {
        cache.put(key, &[i as u8; 2000]).unwrap();
        assert!(used() <= 10_000, "{}", used());
        // Ages in whole seconds, as the file system may count them.
        let (name, age) = (key.iter().map(|b| format!("{b:02x}")).collect::<String>(), 1_000_000 + i as u64);
        let file = fs::File::options().write(true).open(folder.join("v1").join(name)).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(age)).unwrap();
    }
    let there: Vec<bool> = keys.iter().map(|k| cache.get(k).is_some()).collect();
    assert_eq!(there, [[false; 8].as_slice(), &[true; 4]].concat());
    let large = key(&[b"large"]);
    cache.put(&large, &[1; 10_000]).unwrap();
    assert_eq!((cache.get(&large), cache.get(&keys[11]).is_some()), (None, true));
}

/// Any part of what the code depends on is another key.
#[test]
fn another_text_option_architecture_or_version_is_another_key() {
    let parts: [&[u8]; 5] = [b"0.1.0", b"text", b"--std=c++17", b"sm_90a", b"13.0"];
    let whole = key(&parts);
    let mut seen = std::collections::BTreeSet::from([whole]);
    for i in 0..parts.len() {
        for j in 0..parts[i].len() {
            for bit in 0..8 {
                let mut part = parts[i].to_vec();
                part[j] ^= 1 << bit;
                let mut changed = parts;
                changed[i] = &part;
                assert!(seen.insert(key(&changed)));
            }
        }
        let mut shorter = parts.to_vec();
        shorter.remove(i);
        assert!(seen.insert(key(&shorter)));
    }
}

#[test]
fn an_entry_that_is_cut_anywhere_is_missing_and_removed() {
    damage("cut", |whole| (0..whole.len()).map(|n| whole[..n].to_vec()).collect());
}

#[test]
fn an_entry_with_any_bit_flipped_is_missing_and_removed() {
    damage("flip", |whole| {
        let flip = |i: usize| {
            let mut bytes = whole.to_vec();
            bytes[i / 8] ^= 1 << (i % 8);
            bytes
        };
        (0..whole.len() * 8).map(flip).collect()
    });
}

#[test]
fn an_entry_with_more_behind_it_or_of_another_key_is_missing() {
    damage("more", |whole| vec![[whole, &[0]].concat(), [whole, whole].concat()]);
    let folder = place("moved").join("annulus");
    let cache = Cache::open(&folder).unwrap();
    cache.put(&[1; 32], b"one").unwrap();
    let there = entry(&folder);
    cache.put(&[2; 32], b"two").unwrap();
    fs::rename(&there, there.with_file_name("02".repeat(32))).unwrap();
    assert_eq!(cache.get(&[2; 32]), None);
}

fn damage(name: &str, damaged: impl Fn(&[u8]) -> Vec<Vec<u8>>) {
    let folder = place(name).join("annulus");
    let cache = Cache::open(&folder).unwrap();
    let k: Key = key(&[b"some text"]);
    cache.put(&k, b"forty-two bytes of machine code, or nearly").unwrap();
    let file = entry(&folder);
    for bytes in damaged(&fs::read(&file).unwrap()) {
        fs::write(&file, &bytes).unwrap();
        assert_eq!(cache.get(&k), None, "{bytes:?}");
        assert!(!file.exists());
    }
    cache.put(&k, b"again").unwrap();
    assert_eq!(cache.get(&k).as_deref(), Some(b"again".as_slice()));
}

#[test]
fn a_folder_that_others_may_change_is_refused() {
    let root = place("refused");
    let refused = |folder: &Path| match Cache::open(folder) {
        Err(CacheError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let open = root.join("open");
    fs::create_dir(&open).unwrap();
    for mode in [0o720, 0o702, 0o777] {
        fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
        assert!(refused(&open).contains("others may write"));
    }
    fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
    drop(Cache::open(&open).unwrap());
    fs::set_permissions(open.join("v1"), fs::Permissions::from_mode(0o770)).unwrap();
    assert!(refused(&open).contains("others may write"));

    symlink(&open, root.join("link")).unwrap();
    assert!(refused(&root.join("link")).contains("link"));
    fs::write(root.join("file"), "").unwrap();
    assert!(refused(&root.join("file")).contains("no folder"));
    // Only root can give folders away.
    let other = root.join("other");
    fs::create_dir(&other).unwrap();
    if std::os::unix::fs::chown(&other, Some(12345), None).is_ok() {
        assert!(refused(&other).contains("another user"));
    }
}

#[test]
fn a_link_or_a_folder_in_the_place_of_an_entry_is_not_followed() {
    let folder = place("entry").join("annulus");
    let cache = Cache::open(&folder).unwrap();
    let k = key(&[b"x"]);
    cache.put(&k, b"right").unwrap();
    let file = entry(&folder);
    let elsewhere = folder.join("elsewhere");
    fs::rename(&file, &elsewhere).unwrap();
    symlink(&elsewhere, &file).unwrap();
    assert_eq!(cache.get(&k), None);
    cache.put(&k, b"new").unwrap();
    assert_eq!(cache.get(&k).as_deref(), Some(b"new".as_slice()));
    assert!(elsewhere.exists() && !file.is_symlink());
}

/// Two processes write and read the same entries; every read gives a whole payload or nothing.
#[test]
fn processes_that_race_never_see_a_part() {
    const INSIDE: &str = "ANNULUS_CACHE_RACE";
    if let Some(folder) = std::env::var_os(INSIDE) {
        return race(Path::new(&folder));
    }
    let folder = place("race").join("annulus");
    let name = "inside::cache::processes_that_race_never_see_a_part";
    let start = || {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", name])
            .env(INSIDE, &folder)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let both = [start(), start()];
    for mut child in both {
        assert!(child.wait().unwrap().success());
    }
    let left = fs::read_dir(folder.join("v1"))
        .unwrap()
        .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part"));
    assert_eq!(left.count(), 0);
}

fn race(folder: &Path) {
    let cache = Cache::open(folder).unwrap();
    let mut hits = 0;
    for i in 0..10_000u32 {
        let k = key(&[&(i % 3).to_le_bytes()]);
        if i % 4 == 0 {
            cache.put(&k, &vec![i as u8; 40 + (i as usize * 37) % 3000]).unwrap();
        }
        if let Some(payload) = cache.get(&k) {
            assert!(payload.len() >= 40 && payload.iter().all(|b| *b == payload[0]));
            hits += 1;
        }
    }
    // Entries are replaced, never gone in between.
    assert!(hits > 9_000, "{hits}");
}
