//! What ranks state of themselves before the first message, and what of it differs.

use super::words::{Reader, bounded, name_ranks, put_bytes, put_number};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The most bytes of a name and of a value. A longer value is stated by its beginning and its hash, so that no difference is lost.
const NAME: usize = 64;
const VALUE: usize = 256;
/// The most facts.
const FACTS: usize = 128;
/// How many differences are told in full.
const SHOWN: usize = 8;

/// Facts by name: the version of annulus, hashes of schedules and device programs, shapes of inputs, options.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    /// The version of annulus, which every rank states.
    pub fn new() -> Facts {
        Facts::default().with("version of annulus", env!("CARGO_PKG_VERSION"))
    }

    /// One more, or another value of one that is there. Names are cut to 64 bytes; there are at most 128, and the last of them is stated by the hash
    /// of all that follow.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Facts {
        let mut value = value.into();
        if value.len() > VALUE {
            let hash = digest([value.as_bytes()]);
            value = format!("{} (hash {hash})", bounded(&value, VALUE - 80));
        }
        self.0.insert(bounded(name, NAME), value);
        self
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![];
        let mut facts: Vec<(&str, String)> = self.0.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        if facts.len() > FACTS {
            let rest = facts.split_off(FACTS - 1);
            let all = rest.iter().flat_map(|(n, v)| [n.as_bytes(), &[0], v.as_bytes(), &[0]]);
            facts.push(("other facts", digest(all)));
        }
        put_number(&mut out, facts.len());
        for (name, value) in &facts {
            put_bytes(&mut out, name.as_bytes());
            put_bytes(&mut out, value.as_bytes());
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Facts> {
        let mut r = Reader(bytes);
        let n = r.number().filter(|n| *n <= FACTS)?;
        let mut out = Facts::default();
        for _ in 0..n {
            out.0.insert(r.text(NAME)?, r.text(VALUE)?);
        }
        r.end(out)
    }
}

fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    parts.into_iter().for_each(|part| hash.update(part));
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// A fact of which ranks state different values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its name.
    pub fact: String,
    /// Each value, with the ranks that state it in order; none where they do not state the fact. The one that most ranks state stands first.
    pub values: Vec<(Option<String>, Vec<usize>)>,
}

/// What ranks do not agree on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ranks do not agree on {}", told(.0))]
pub struct Disagreement(pub Vec<Difference>);

fn told(differences: &[Difference]) -> String {
    let one = |d: &Difference| {
        let values = d.values.iter().take(SHOWN).map(|(value, who)| {
            let say = if who.len() == 1 { "says" } else { "say" };
            let value = value.as_deref().unwrap_or("nothing of it");
            format!("{} {say} {value}", name_ranks(who))
        });
        let more = if d.values.len() > SHOWN { ", and others other things" } else { "" };
        format!("the {}: {}{more}", d.fact, values.collect::<Vec<_>>().join(", "))
    };
    let more = match differences.len().saturating_sub(SHOWN) {
        0 => String::new(),
        n => format!("; and {n} more facts"),
    };
    differences.iter().take(SHOWN).map(one).collect::<Vec<_>>().join("; ") + &more
}

impl Disagreement {
    /// What the ranks, whose facts stand in their order, do not agree on.
    pub(crate) fn among(all: &[Facts]) -> Result<(), Disagreement> {
        let mut differences = vec![];
        let names: std::collections::BTreeSet<&String> = all.iter().flat_map(|f| f.0.keys()).collect();
        for name in names {
            let mut values: Vec<(Option<String>, Vec<usize>)> = vec![];
            for (rank, facts) in all.iter().enumerate() {
                let value = facts.0.get(name);
                match values.iter_mut().find(|(v, _)| v.as_ref() == value) {
                    Some((_, who)) => who.push(rank),
                    None => values.push((value.cloned(), vec![rank])),
                }
            }
            if values.len() > 1 {
                // Of equally many the one of the least rank: the sort keeps their order.
                values.sort_by_key(|(_, who)| std::cmp::Reverse(who.len()));
                differences.push(Difference { fact: name.clone(), values });
            }
        }
        if differences.is_empty() { Ok(()) } else { Err(Disagreement(differences)) }
    }
}
