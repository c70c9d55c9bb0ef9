//! Where the ranks of a job meet, and the name of the job.
//!
//! In this order:
//!
//! 1. `ANNULUS_MEET=HOST:PORT`, or `HOST:FIRST-LAST` for the first port of these that is free on rank 0's host. `annulus launch` sets it.
//! 2. The host of `MASTER_ADDR`, and the eight ports behind `MASTER_PORT`; before it where there are none behind. Never `MASTER_PORT`
//!    itself: torchrun's own store listens there.
//! 3. Under Slurm the first host of the step's nodes; else, where all ranks are on one host, that host. The eight ports are derived from the
//!    name of the job, and lie from 20000 to 29999.
//!
//! Rank 0 listens on the first of the ports that is free, and the others look for it on all of them; whoever else listens there is found out.

use super::error::EnvironmentError;
use super::launched::{Launched, Launcher};
use super::read::{Variables, given, number_of};
use super::slurm;
use sha2::{Digest, Sha256};

/// Where the ranks meet.
pub const MEET: &str = "ANNULUS_MEET";

/// How many ports are tried where the environment does not name one.
const TRIED: u16 = 8;

/// Where rank 0 listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its host, by name or address.
    pub host: String,
    /// The first port.
    pub port: u16,
    /// The last port, which may be the first: rank 0 takes the first of them that is free.
    pub last: u16,
}

impl Place {
    /// One port of a host.
    pub fn new(host: impl Into<String>, port: u16) -> Place {
        Place { host: host.into(), port, last: port }
    }

    /// `host:4000`, `host:4000-4007`, `[::1]:4000`; none if it is no such text.
    pub fn parse(text: &str) -> Option<Place> {
        let (host, ports) = text.rsplit_once(':')?;
        // Addresses of IPv6, which have colons themselves, stand in brackets.
        let host = match host.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').filter(|address| address.contains(':'))?,
            None => Some(host).filter(|host| !host.contains(':'))?,
        };
        let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        let there = is_host(host) && first > 0 && first <= last && last - first < 256;
        there.then(|| Place { host: host.to_owned(), port: first, last })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port)?,
            false => write!(f, "{}:{}", self.host, self.port)?,
        }
        if self.last == self.port { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

/// The name of the job, which is the same on all of its ranks and unlike that of others, as far as the launcher tells.
pub fn job(variables: &Variables, launched: &Launched) -> String {
    let names: &[&str] = match launched.launcher {
        Launcher::Annulus => &[],
        Launcher::Torchrun => &["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT"],
        Launcher::Slurm => &["SLURM_JOB_ID", "SLURM_STEP_ID"],
        Launcher::OpenMpi => &["PMIX_NAMESPACE"],
        Launcher::Mpich => &[],
    };
    let parts = names.iter().map(|name| given(variables, name).unwrap_or("-"));
    [launched.launcher.name()].into_iter().chain(parts).collect::<Vec<_>>().join(" ")
}

/// Where the ranks of a job meet.
///
/// # Errors
/// A variable has no place in it, or none says where ranks on several hosts meet.
pub fn place(variables: &Variables, launched: &Launched) -> Result<Place, EnvironmentError> {
    if let Some(text) = given(variables, MEET) {
        let want = "want HOST:PORT or HOST:FIRST-LAST, such as node03:29500 or [::1]:29500-29507";
        return Place::parse(text).ok_or_else(|| EnvironmentError::value(MEET, text, want));
    }
    let derived = derived(&job(variables, launched));
    if let Some(host) = given(variables, "MASTER_ADDR") {
        let host = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        if !is_host(host) {
            return Err(EnvironmentError::value(
                "MASTER_ADDR",
                host,
                "want the name or the address of a host",
            ));
        }
        let port = match number_of(variables, "MASTER_PORT")? {
            None => derived,
            Some(port) => {
                let wrong = || {
                    EnvironmentError::value("MASTER_PORT", &port.to_string(), "want a port, from 1 to 65535")
                };
                let port = u16::try_from(port).ok().filter(|p| *p > 0).ok_or_else(wrong)?;
                if port <= u16::MAX - TRIED { port + 1 } else { port - TRIED }
            }
        };
        return Ok(ports(host, port));
    }
    if launched.launcher == Launcher::Slurm {
        let lists = ["SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"];
        if let Some((name, list)) = lists.into_iter().find_map(|n| given(variables, n).map(|l| (n, l))) {
            let want = "want a list of hosts, such as node[03-05,9]";
            let host = slurm::first_host(list).ok_or_else(|| EnvironmentError::value(name, list, want))?;
            return Ok(ports(&host, derived));
        }
    }
    if launched.local_size == launched.size {
        return Ok(ports("127.0.0.1", derived));
    }
    Err(EnvironmentError::Nowhere { size: launched.size })
}

/// Whether this may be the name or the address of a host.
fn is_host(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "[]/@".contains(c);
    !text.is_empty() && text.len() <= 253 && !text.contains(odd)
}

fn ports(host: &str, port: u16) -> Place {
    Place { host: host.to_owned(), port, last: port + (TRIED - 1) }
}

/// A port that the name of a job gives: below those that systems hand out by themselves.
fn derived(job: &str) -> u16 {
    let digest = Sha256::digest(job.as_bytes());
    let number = u16::from_le_bytes([digest[0], digest[1]]) % ((10_000 - TRIED) / TRIED);
    20_000 + number * TRIED
}
