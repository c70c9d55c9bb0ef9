//! The architectures that code is made for.

use std::fmt;

/// An architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Arch {
    /// A100.
    Sm80,
    /// RTX 30 and A40: as sm_80 with less shared memory.
    Sm86,
    /// Orin: as sm_80.
    Sm87,
    /// As sm_86.
    Sm88,
    /// RTX 40 and L40.
    Sm89,
    /// H100, H200: with wgmma and the copy engine.
    Sm90a,
    /// B200. Nothing in the texts needs what sm_100a has beyond it.
    Sm100,
    /// B300.
    Sm103,
    /// Thor.
    Sm110,
    /// RTX 50.
    Sm120,
    /// GB10: as sm_120.
    Sm121,
}

impl Arch {
    /// All, in order.
    pub const ALL: [Arch; 11] = [
        Arch::Sm80,
        Arch::Sm86,
        Arch::Sm87,
        Arch::Sm88,
        Arch::Sm89,
        Arch::Sm90a,
        Arch::Sm100,
        Arch::Sm103,
        Arch::Sm110,
        Arch::Sm120,
        Arch::Sm121,
    ];

    /// The compiler's name.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm86 => "sm_86",
            Arch::Sm87 => "sm_87",
            Arch::Sm88 => "sm_88",
            Arch::Sm89 => "sm_89",
            Arch::Sm90a => "sm_90a",
            Arch::Sm100 => "sm_100",
            Arch::Sm103 => "sm_103",
            Arch::Sm110 => "sm_110",
            Arch::Sm120 => "sm_120",
            Arch::Sm121 => "sm_121",
        }
    }

    /// The number by which a compiler says that it knows it, without a letter.
    pub fn number(self) -> i32 {
        match self {
            Arch::Sm80 => 80,
            Arch::Sm86 => 86,
            Arch::Sm87 => 87,
            Arch::Sm88 => 88,
            Arch::Sm89 => 89,
            Arch::Sm90a => 90,
            Arch::Sm100 => 100,
            Arch::Sm103 => 103,
            Arch::Sm110 => 110,
            Arch::Sm120 => 120,
            Arch::Sm121 => 121,
        }
    }

    /// The one whose kernels a GPU of this compute capability gets; `None` if there is none.
    pub fn of((major, minor): (i32, i32)) -> Option<Arch> {
        let itself = Arch::ALL.into_iter().find(|a| a.number() == major * 10 + minor);
        match major {
            // Code for the first of a family runs on all of it.
            10 if minor > 0 => itself.or(Some(Arch::Sm100)),
            12 if minor > 0 => itself.or(Some(Arch::Sm120)),
            _ => itself,
        }
    }

    /// For which architecture a compiler that knows these makes its code: itself, or else the first of the family, whose code it runs.
    ///
    /// # Errors
    /// The compiler knows neither.
    pub fn compiled_for(self, known: &[i32]) -> Result<Arch, Unknown> {
        let first = match self {
            Arch::Sm103 => Some(Arch::Sm100),
            Arch::Sm121 => Some(Arch::Sm120),
            _ => None,
        };
        let of = std::iter::once(self).chain(first);
        of.into_iter().find(|a| known.contains(&a.number())).ok_or(Unknown(self))
    }

    /// Whether a GPU of this architecture runs code that was made for another one.
    pub fn runs(self, code: Arch) -> bool {
        self.compiled_for(&[code.number()]).is_ok()
    }

    /// The first NVRTC that knows it, major and minor (its release notes).
    pub fn since(self) -> (i32, i32) {
        match self {
            Arch::Sm103 | Arch::Sm121 => (12, 9),
            Arch::Sm88 | Arch::Sm110 => (13, 0),
            _ => (12, 8),
        }
    }

    /// Shared memory that a block may have, in bytes (CUDA Programming Guide, technical specifications; that of sm_88, which stands in none
    /// of its tables, is taken for no more than that of sm_86).
    pub fn shared_limit(self) -> usize {
        match self {
            Arch::Sm80 | Arch::Sm87 => 163 << 10,
            Arch::Sm86 | Arch::Sm88 | Arch::Sm89 | Arch::Sm120 | Arch::Sm121 => 99 << 10,
            Arch::Sm90a | Arch::Sm100 | Arch::Sm103 | Arch::Sm110 => 227 << 10,
        }
    }

    /// Whether the assembler for it keeps fewer values in registers: that of the families of sm_100 and sm_110.
    pub(super) fn is_tight(self) -> bool {
        matches!(self, Arch::Sm100 | Arch::Sm103 | Arch::Sm110)
    }

    /// Whether so many blocks with so much shared memory fit one multiprocessor; each costs 1 KiB more.
    pub fn holds(self, blocks: usize, shared_bytes: usize) -> bool {
        shared_bytes <= self.shared_limit() && blocks * (shared_bytes + 1024) <= self.shared_limit() + 1024
    }
}

/// A compiler does not know an architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unknown(Arch);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.0.since();
        write!(f, "it makes no code for {}: NVRTC {major}.{minor} and later do", self.0.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_code_that_it_runs() {
        for (capability, arch) in [
            ((8, 0), Some(Arch::Sm80)),
            ((8, 7), Some(Arch::Sm87)),
            ((8, 8), Some(Arch::Sm88)),
            ((9, 0), Some(Arch::Sm90a)),
            ((10, 3), Some(Arch::Sm103)),
            ((10, 7), Some(Arch::Sm100)),
            ((11, 0), Some(Arch::Sm110)),
            ((12, 1), Some(Arch::Sm121)),
            ((12, 4), Some(Arch::Sm120)),
            ((7, 5), None),
            ((9, 1), None),
            ((13, 0), None),
        ] {
            assert_eq!(Arch::of(capability), arch, "{capability:?}");
        }
        for arch in Arch::ALL {
            let all: Vec<i32> = Arch::ALL.map(Arch::number).to_vec();
            assert_eq!(arch.compiled_for(&all), Ok(arch));
            assert!(arch.runs(arch) && arch.name().starts_with(&format!("sm_{}", arch.number())));
            // What takes its place has no more shared memory to offer.
            let others = Arch::ALL.into_iter().filter(|other| *other != arch && arch.runs(*other));
            others.for_each(|other| assert_eq!(other.shared_limit(), arch.shared_limit()));
        }
        assert_eq!(Arch::Sm121.compiled_for(&[90, 120]), Ok(Arch::Sm120));
        assert_eq!(Arch::Sm103.compiled_for(&[90, 100]), Ok(Arch::Sm100));
        let unknown = Arch::Sm110.compiled_for(&[90, 100]).unwrap_err();
        assert_eq!(unknown.to_string(), "it makes no code for sm_110: NVRTC 13.0 and later do");
        assert!(!Arch::Sm87.runs(Arch::Sm80) && !Arch::Sm100.runs(Arch::Sm103));
    }
}
