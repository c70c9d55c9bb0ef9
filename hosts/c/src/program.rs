//! A graph, compiled: what is asked, and what it has.

use crate::status::{AnnulusStatus, Failure, guarded, invalid, place, refused, some, text};
use annulus::device::Device;
use annulus::layout::LayoutKind;
use annulus::ring::Strategy;
use annulus::{Compiled, Island, Options};
use std::ffi::{CString, c_char};

/// What is asked of annulus_compile. All zero, but for the ranks, leaves everything to annulus.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AnnulusOptions {
    /// How many ranks, from 1 to 4096.
    pub ranks: usize,
    /// On how many nodes they stand; 0: as the device says.
    pub nodes: usize,
    /// "ring", "all-gather", "queries", "heads" ...; null: whatever takes the least time on the device.
    pub strategy: *const c_char,
    /// "contiguous", "zigzag", "stripe" ...; null: whatever takes the least time on the device.
    pub layout: *const c_char,
    /// The most bytes of arena that an attention may have on a rank; 0: any number.
    pub memory: usize,
    /// The name of a bundled device, like "h200x8", or the text of a device file; null: the smallest bundled one that holds the ranks.
    pub device: *const c_char,
}

/// A compiled graph: its attentions are split over the ranks and proved. Any number of threads may read it at once.
pub struct AnnulusProgram {
    pub(crate) compiled: Compiled,
    /// Of each island its name, and its strategy.
    names: Vec<[CString; 2]>,
}

/// A distinct attention of a program. The texts stay as long as the program.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AnnulusIsland {
    /// Its name.
    pub name: *const c_char,
    /// How keys and queries meet.
    pub strategy: *const c_char,
    /// How many attentions of the graph use it.
    pub uses: usize,
}

impl AnnulusProgram {
    pub(crate) fn island(&self, island: usize) -> Result<&Island, Failure> {
        let count = self.compiled.islands.len();
        self.compiled
            .islands
            .get(island)
            .ok_or_else(|| invalid(format!("there is no island {island} of {count}")))
    }
}

/// # Safety
/// The texts of the options are null, or end with a null byte.
unsafe fn options(asked: &AnnulusOptions) -> Result<Options, Failure> {
    // SAFETY: the caller's promise.
    let strategy = unsafe { text(asked.strategy, "strategy") }?;
    let strategy = strategy
        .map(|name| Strategy::from_name(name).ok_or_else(|| invalid(format!("there is no strategy {name}"))));
    // SAFETY: the same.
    let layout = unsafe { text(asked.layout, "layout") }?;
    let layout = layout
        .map(|name| LayoutKind::from_name(name).ok_or_else(|| invalid(format!("there is no layout {name}"))));
    // SAFETY: the same.
    let device = unsafe { text(asked.device, "device") }?;
    let device = device.map(|name| match Device::named(name) {
        Some(device) => Ok(device),
        None if name.contains('=') => Device::parse(name, "the device").map_err(|e| invalid(e.to_string())),
        None => Err(invalid(format!("there is no bundled device {name}"))),
    });
    let set = |n: usize| Some(n).filter(|&n| n > 0);
    let options = Options::new(asked.ranks).strategy(strategy.transpose()?).layout(layout.transpose()?);
    Ok(options.nodes(set(asked.nodes)).memory(set(asked.memory)).device(device.transpose()?))
}

/// Compiles a graph in annulus's text form: finds its attentions, splits them over the ranks, schedules and proves them. The program
/// is freed by annulus_program_free.
///
/// # Safety
/// `graph` ends with a null byte, and so do the texts of the options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_compile(
    graph: *const c_char,
    options: *const AnnulusOptions,
    program: *mut *mut AnnulusProgram,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { place(program, "program") }?;
        *program = std::ptr::null_mut();
        // SAFETY: the same.
        let graph = unsafe { text(graph, "graph") }?.ok_or_else(|| invalid("graph is null"))?;
        // SAFETY: the same.
        let asked = unsafe { some(options, "options") }?;
        // SAFETY: the same.
        let options = unsafe { self::options(asked) }?;
        let graph = annulus::ir::parse(graph).map_err(refused)?;
        let compiled = annulus::compile(&graph, &options).map_err(refused)?;
        let c = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let names = compiled.islands.iter().map(|i| [c(&i.schedule.name), c(i.strategy.name())]).collect();
        *program = Box::into_raw(Box::new(AnnulusProgram { compiled, names }));
        Ok(())
    })
}

/// Frees a program. Parts that were opened of it stay.
///
/// # Safety
/// It is null, or a program that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_free(program: *mut AnnulusProgram) {
    if program.is_null() {
        return;
    }
    guarded(|| {
        // SAFETY: it was made by `annulus_compile`, by the caller's promise.
        drop(unsafe { Box::from_raw(program) });
        Ok(())
    });
}

/// How many ranks a program is for.
///
/// # Safety
/// The program lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_ranks(
    program: *const AnnulusProgram,
    ranks: *mut usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        *unsafe { place(ranks, "ranks") }? = program.compiled.program.ranks;
        Ok(())
    })
}

/// How many distinct attentions a program has.
///
/// # Safety
/// The program lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_islands(
    program: *const AnnulusProgram,
    islands: *mut usize,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        *unsafe { place(islands, "islands") }? = program.compiled.islands.len();
        Ok(())
    })
}

/// One of the distinct attentions, in order of first use.
///
/// # Safety
/// The program lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_island(
    program: *const AnnulusProgram,
    island: usize,
    facts: *mut AnnulusIsland,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        let facts = unsafe { place(facts, "facts") }?;
        let uses = program.island(island)?.uses.len();
        let [name, strategy] = &program.names[island];
        *facts = AnnulusIsland { name: name.as_ptr(), strategy: strategy.as_ptr(), uses };
        Ok(())
    })
}

/// The graph that the host of a rank computes, as text: every attention and every gather is one `call`. Freed by annulus_text_free.
///
/// # Safety
/// The program lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_program_graph(
    program: *const AnnulusProgram,
    rank: usize,
    graph: *mut *mut c_char,
) -> AnnulusStatus {
    guarded(|| {
        // SAFETY: the caller's promise.
        let program = unsafe { some(program, "program") }?;
        // SAFETY: the same.
        let graph = unsafe { place(graph, "graph") }?;
        let back = program.compiled.hand_back(rank).map_err(|e| invalid(e.to_string()))?;
        let text = CString::new(back.graph.to_string()).map_err(|e| invalid(e.to_string()))?;
        *graph = text.into_raw();
        Ok(())
    })
}

/// Frees a text that was handed out.
///
/// # Safety
/// It is null, or of annulus_program_graph, and nobody uses it any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn annulus_text_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: it was made by `CString::into_raw`, by the caller's promise.
        drop(unsafe { CString::from_raw(text) });
    }
}
