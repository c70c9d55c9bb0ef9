//! The operations of the graph. Importers lower into these few; every later room knows only these.

mod attention;
mod axes;
mod collective;
mod constant;
mod dropout;
mod function;
mod list;
mod opaque;
mod scores;
mod scores_text;

pub use attention::{Attention, AttentionBackward, AttentionSizes, EmptyRow, Partial};
pub use axes::{Contract, Windows};
pub use collective::Collective;
pub use constant::Constant;
pub use dropout::{DropMask, Dropout, philox};
pub use function::{Binary, Reduction, Unary};
pub use list::{Op, RegionKind};
pub use opaque::{Attribute, Blob, MessageKind, Opaque, RowAxes};
pub use scores::{Factor, ScoreStep, Scores};
pub use scores_text::ParseScoresError;
