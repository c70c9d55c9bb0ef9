//! Assertions, in the text of a kernel, that its structures lie in memory as those of Rust do.

use std::fmt::Write;

/// Name, size, alignment, and where each field begins.
pub(super) type ParamLayout = (&'static str, usize, usize, &'static [(&'static str, usize)]);

/// The layouts of structures, each with its fields.
macro_rules! layout {
    ($($name:ident { $($field:ident),* $(,)? })*) => {
        &[$((
            stringify!($name),
            std::mem::size_of::<$name>(),
            std::mem::align_of::<$name>(),
            &[$((stringify!($field), std::mem::offset_of!($name, $field))),*],
        )),*]
    };
}
pub(super) use layout;

pub(super) fn assertions(layouts: &[ParamLayout]) -> String {
    let mut out = String::new();
    for (name, size, align, fields) in layouts {
        let _ = writeln!(
            out,
            "static_assert(sizeof({name}) == {size} && alignof({name}) == {align}, \"layout of {name}\");"
        );
        for (field, at) in *fields {
            let _ = writeln!(
                out,
                "static_assert(__INTADDR__(&(({name}*)0)->{field}) == {at}, \"{name}.{field}\");"
            );
        }
    }
    out
}
