//! What the importer must be told.

use std::collections::BTreeMap;

/// What the importer must be told.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of the stored inputs by input name: they bind symbolic dimensions that `dims` does not.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
}

impl ImportOptions {
    /// More sizes of symbolic dimensions.
    ///
    /// ```
    /// use annulus::import::ImportOptions;
    ///
    /// let options = ImportOptions::default().dims([("batch", 1), ("sequence", 4096)]);
    /// assert_eq!(options.dims["sequence"], 4096);
    /// ```
    #[must_use]
    pub fn dims<N: Into<String>>(mut self, sizes: impl IntoIterator<Item = (N, usize)>) -> ImportOptions {
        self.dims.extend(sizes.into_iter().map(|(name, size)| (name.into(), size)));
        self
    }

    /// More shapes of stored inputs.
    #[must_use]
    pub fn input_shapes<N: Into<String>>(
        mut self,
        shapes: impl IntoIterator<Item = (N, Vec<usize>)>,
    ) -> ImportOptions {
        self.input_shapes.extend(shapes.into_iter().map(|(name, shape)| (name.into(), shape)));
        self
    }
}
