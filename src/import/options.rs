//! What the importer must be told.

use std::collections::BTreeMap;

/// What the importer must be told.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImportOptions {
    /// Sizes of symbolic dimensions by name.
    pub dims: BTreeMap<String, usize>,
    /// Shapes of the stored inputs by input name: they bind symbolic dimensions that `dims` does not.
    pub input_shapes: BTreeMap<String, Vec<usize>>,
    /// Shapes of the stored outputs by output name: what an operator that annulus does not compute gives has these where the file
    /// declares no shape.
    pub output_shapes: BTreeMap<String, Vec<usize>>,
    /// Whether operators that annulus does not compute are carried as [`Opaque`](crate::ir::Opaque) ones, which is what
    /// happens by default. If not, the first of them is refused.
    pub opaque: bool,
}

impl Default for ImportOptions {
    fn default() -> ImportOptions {
        ImportOptions {
            dims: BTreeMap::new(),
            input_shapes: BTreeMap::new(),
            output_shapes: BTreeMap::new(),
            opaque: true,
        }
    }
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

    /// Whether operators that annulus does not compute are carried.
    #[must_use]
    pub fn opaque(mut self, carried: bool) -> ImportOptions {
        self.opaque = carried;
        self
    }
}
