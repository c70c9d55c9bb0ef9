//! How ranks stand in a machine, and the streams that follow from it.

/// How ranks stand in a machine: axes, outermost first. Of a mesh `node 2 x local 4` rank 5 is at node 1, local 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mesh {
    /// The product of their sizes is the number of ranks.
    pub axes: Vec<MeshAxis>,
}

/// One level of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshAxis {
    /// Unique in the mesh.
    pub name: String,
    /// How many ranks differ along it alone.
    pub size: usize,
}

impl Mesh {
    /// The name of the one axis of a mesh that nobody gave.
    pub const FLAT: &'static str = "rank";

    /// All ranks on one level.
    pub fn flat(ranks: usize) -> Mesh {
        Mesh { axes: vec![MeshAxis { name: Mesh::FLAT.to_owned(), size: ranks }] }
    }

    /// So many nodes of so many ranks: on one node flat.
    pub(super) fn of([nodes, size]: [usize; 2]) -> Mesh {
        if nodes < 2 {
            return Mesh::flat(size);
        }
        let axis = |name: &str, size| MeshAxis { name: name.to_owned(), size };
        Mesh { axes: vec![axis("node", nodes), axis("local", size)] }
    }

    /// Whether it is the flat mesh of so many ranks.
    pub fn is_flat(&self, ranks: usize) -> bool {
        matches!(self.axes.as_slice(), [axis] if axis.name == Mesh::FLAT && axis.size == ranks)
    }

    /// What people call a stream: `compute`, `comm`, and where there are several axes `comm node`.
    pub fn stream_name(&self, stream: Stream) -> String {
        match (stream, self.axes.as_slice()) {
            (Stream::Compute, _) => "compute".to_owned(),
            (Stream::Comm(0), [_]) => "comm".to_owned(),
            (Stream::Comm(n), axes) => axes.get(n).map_or("comm".to_owned(), |a| format!("comm {}", a.name)),
        }
    }

    /// The streams of a rank, in order.
    pub fn streams(&self) -> impl Iterator<Item = Stream> + use<> {
        (0..=self.axes.len()).map(|i| i.checked_sub(1).map_or(Stream::Compute, Stream::Comm))
    }
}

/// A queue on which steps run one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Kernels.
    Compute,
    /// Transfers over one axis of the mesh, by its number.
    Comm(usize),
}

impl Stream {
    /// Its place among the streams of a rank: 0 computes, and behind it are those of the axes.
    pub fn lane(self) -> usize {
        match self {
            Stream::Compute => 0,
            Stream::Comm(axis) => axis.saturating_add(1),
        }
    }
}
