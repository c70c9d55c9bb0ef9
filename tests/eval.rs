//! The oracle against formulas written out a second time, and against stored references.

mod eval {
    mod smoke;
}
