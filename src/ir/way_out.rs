//! What can be done about a refusal: one table for everything that is refused, so that no refusal goes without a way out.
//!
//! In: what is wrong, in words, and an entry of the table. Out: a [`Refused`], which cannot be made without one. It says what
//! is wrong and the way out, in this order; whoever knows the operator, the node and the types puts them before it.

use std::fmt;

/// What the author of a model, or whoever calls annulus, can do about a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WayOut {
    // Of the file.
    /// Types of values are missing.
    InferShapes,
    /// An extent is missing.
    GiveDimension,
    /// An element type that annulus lacks.
    ConvertElements,
    /// Functions of the model that cannot be taken along.
    InlineFunctions,
    /// Tensors in other files.
    OneFile,
    /// A file that is not where the model's folder is.
    NameFolder,
    /// A version of the operators that is not read.
    ConvertOpset,
    /// Sparse constants.
    Dense,
    /// The file contradicts itself.
    CheckModel,
    // Of operators.
    /// An operator that is not known, where none may be carried.
    CarryOpaque,
    /// A form of an attention.
    AttentionOperator,
    /// A form of a rotary embedding.
    RotaryOperator,
    /// An attribute that is not known.
    DropAttribute,
    /// A result that is not computed.
    DropResult,
    /// What must be known when importing depends on inputs.
    FixSizes,
    /// Random numbers.
    GiveSeed,
    /// Random numbers inside a graph of a node.
    DrawOutside,
    /// A sequence where a value is wanted.
    JoinSequence,
    /// Training.
    ExportForInference,
    /// Integers where numbers are wanted.
    ConvertToFloat,
    /// Too many parts.
    SplitInSteps,
    /// A mask whose meaning is open.
    ExpandMask,
    /// A bias where heads are apart.
    BiasBeforeHeads,
    /// A mask in a form that is not read.
    MaskOfKeys,
    /// A mask where scores are asked for.
    MaskByHand,
    /// Too many axes.
    FewerAxes,
    /// Padding by a word.
    StatePads,
    /// A constant that is no tensor.
    TensorConstant,
    /// A function inside another operator.
    ApartActivation,
    /// Axes in another order.
    TransposeBefore,
    /// Too much padding.
    PadInSteps,
}

impl WayOut {
    /// Every way out, in the order of declaration.
    pub const ALL: [WayOut; 31] = [
        WayOut::InferShapes,
        WayOut::GiveDimension,
        WayOut::ConvertElements,
        WayOut::InlineFunctions,
        WayOut::OneFile,
        WayOut::NameFolder,
        WayOut::ConvertOpset,
        WayOut::Dense,
        WayOut::CheckModel,
        WayOut::CarryOpaque,
        WayOut::AttentionOperator,
        WayOut::RotaryOperator,
        WayOut::DropAttribute,
        WayOut::DropResult,
        WayOut::FixSizes,
        WayOut::GiveSeed,
        WayOut::DrawOutside,
        WayOut::JoinSequence,
        WayOut::ExportForInference,
        WayOut::ConvertToFloat,
        WayOut::SplitInSteps,
        WayOut::ExpandMask,
        WayOut::BiasBeforeHeads,
        WayOut::MaskOfKeys,
        WayOut::MaskByHand,
        WayOut::FewerAxes,
        WayOut::StatePads,
        WayOut::TensorConstant,
        WayOut::ApartActivation,
        WayOut::TransposeBefore,
        WayOut::PadInSteps,
    ];

    /// In words, as a demand.
    pub fn text(self) -> &'static str {
        match self {
            WayOut::InferShapes => {
                "infer the shapes of the model before, with onnx.shape_inference.infer_shapes or onnxruntime's \
        symbolic_shape_infer, so that the file declares them"
            }
            WayOut::GiveDimension => {
                "give its size with --dim, or infer the shapes of the model before with the sizes of its inputs fixed"
            }
            WayOut::ConvertElements => {
                "convert it to one of the types that annulus has: f64, f32, f16, bf16, i64, i32, bool"
            }
            WayOut::InlineFunctions => {
                "inline the functions of the model before (onnx.inliner.inline_local_functions)"
            }
            WayOut::OneFile => {
                "save the model with its tensors inside, or load it by its path and name the folder of its tensors with --external-data"
            }
            WayOut::NameFolder => "name the folder that holds the model's tensors with --external-data",
            WayOut::ConvertOpset => "convert the model to opset 23 (onnx.version_converter.convert_version)",
            WayOut::Dense => "write them as dense tensors",
            WayOut::CheckModel => "onnx.checker.check_model says what is wrong with it",
            WayOut::CarryOpaque => {
                "leave out --no-opaque, so that it is carried for the host, or write it with operators that annulus knows"
            }
            WayOut::AttentionOperator => {
                "export the attention written out, or as the Attention operator of opset 23"
            }
            WayOut::RotaryOperator => {
                "export the rotary embedding written out, or as the RotaryEmbedding operator of opset 23"
            }
            WayOut::DropAttribute => {
                "remove the attribute if it says no more than its default, or convert the model to opset 23"
            }
            WayOut::DropResult => "leave that result out, or compute it by operators of its own",
            WayOut::FixSizes => {
                "make it a constant of the model: fix the sizes when exporting, or fold what is constant (onnxsim, or the offline \
        optimisation of onnxruntime)"
            }
            WayOut::GiveSeed => "give the node a seed, so that every rank draws the same numbers",
            WayOut::DrawOutside => "draw the numbers outside of the model, and give them as an input",
            WayOut::JoinSequence => "join the parts of the sequence before (ConcatFromSequence)",
            WayOut::ExportForInference => "export the model for inference, or with a ratio of 0",
            WayOut::ConvertToFloat => "convert it to a floating type before",
            WayOut::SplitInSteps => "split it in several steps",
            WayOut::ExpandMask => "expand it to every key, or use version 24, which means the first",
            WayOut::BiasBeforeHeads => "add the bias before the heads are made",
            WayOut::MaskOfKeys => "give the mask as 0 and 1 for each key of a batch entry",
            WayOut::MaskByHand => "add the mask to the scores as attention_bias",
            WayOut::FewerAxes => "join axes by a Reshape before",
            WayOut::StatePads => "state pads instead of auto_pad",
            WayOut::TensorConstant => "give the constant as a dense tensor of numbers",
            WayOut::ApartActivation => "apply the activation by an operator of its own",
            WayOut::TransposeBefore => "transpose the operand before",
            WayOut::PadInSteps => "pad in several steps",
        }
    }
}

/// What is refused, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    why: String,
    way_out: WayOut,
}

impl Refused {
    /// A refusal for this reason, with a way out.
    pub fn new(why: impl Into<String>, way_out: WayOut) -> Refused {
        Refused { why: why.into(), way_out }
    }

    /// What is wrong, without the way out.
    pub fn why(&self) -> &str {
        &self.why
    }

    /// What can be done about it.
    pub fn way_out(&self) -> WayOut {
        self.way_out
    }

    /// The same refusal with another text of what is wrong.
    #[must_use]
    pub fn map(self, change: impl FnOnce(String) -> String) -> Refused {
        Refused { why: change(self.why), ..self }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.why, self.way_out.text())
    }
}

#[cfg(test)]
mod tests {
    use super::WayOut;
    use crate::ir::DType;
    use std::collections::BTreeSet;

    #[test]
    fn every_way_out_is_one_of_its_own() {
        let texts: BTreeSet<&str> = WayOut::ALL.iter().map(|w| w.text()).collect();
        assert_eq!(texts.len(), WayOut::ALL.len());
        let declared = include_str!("way_out.rs").split("pub enum WayOut {").nth(1).expect("the enum");
        let declared = declared.split('}').next().expect("its end").lines();
        let names = declared.map(str::trim).filter(|l| l.ends_with(',') && !l.starts_with("//"));
        let listed: Vec<String> = WayOut::ALL.iter().map(|w| format!("{w:?},")).collect();
        assert_eq!(listed, names.collect::<Vec<_>>());
        // They stand at the end of a sentence.
        assert!(texts.iter().all(|t| !t.ends_with('.') && !t.contains("  ")), "{texts:?}");
    }

    #[test]
    fn the_types_that_are_named_are_those_that_there_are() {
        let names = DType::ALL.map(DType::name).join(", ");
        assert!(WayOut::ConvertElements.text().ends_with(&names));
    }
}
