//! What the importer must be told.

use std::collections::BTreeMap;

/// What the importer must be told.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of the stored inputs by input name: they bind symbolic dimensions that `dims` does not.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
}
