//! Functions of one and of two elements, and the ways in which axes are folded.

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)* }
        impl $name {
            /// Every one, in the order of declaration.
            pub const ALL: &[$name] = &[$($name::$variant,)*];
            /// The mnemonic in text.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
            /// The one of that mnemonic, if there is one.
            pub fn from_name(name: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|x| x.name() == name)
            }
        }
    };
}

named! {
    /// Functions of one element. Arithmetic keeps the type; `not` takes truth values; `isnan` and `isinf` give them.
    Unary {
        /// −x.
        Neg = "neg",
        /// |x|.
        Abs = "abs",
        /// −1, 0 or 1.
        Sign = "sign",
        /// e^x.
        Exp = "exp",
        /// Natural logarithm.
        Log = "log",
        /// Square root.
        Sqrt = "sqrt",
        /// 1/x.
        Reciprocal = "reciprocal",
        /// Sine.
        Sin = "sin",
        /// Cosine.
        Cos = "cos",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// 1/(1+e^−x).
        Sigmoid = "sigmoid",
        /// Error function.
        Erf = "erf",
        /// Largest integer not above x.
        Floor = "floor",
        /// Smallest integer not below x.
        Ceil = "ceil",
        /// Nearest integer, ties to even.
        Round = "round",
        /// Negation of a truth value.
        Not = "not",
        /// Whether x is NaN.
        IsNan = "isnan",
        /// Whether x is infinite.
        IsInf = "isinf",
    }
}

named! {
    /// Functions of two elements of one type. Operands broadcast as in NumPy. Comparisons give truth values; `and`, `or`
    /// and `xor` take them.
    Binary {
        /// a + b.
        Add = "add",
        /// a − b.
        Sub = "sub",
        /// a · b.
        Mul = "mul",
        /// a / b; of integers, truncated towards zero.
        Div = "div",
        /// a − b·⌊a/b⌋: the sign of b.
        Mod = "mod",
        /// a^b.
        Pow = "pow",
        /// The smaller; NaN if one is NaN.
        Min = "min",
        /// The larger; NaN if one is NaN.
        Max = "max",
        /// Conjunction.
        And = "and",
        /// Disjunction.
        Or = "or",
        /// Exclusive or.
        Xor = "xor",
        /// a = b.
        Eq = "eq",
        /// a < b.
        Lt = "lt",
        /// a ≤ b.
        Le = "le",
        /// a > b.
        Gt = "gt",
        /// a ≥ b.
        Ge = "ge",
    }
}

impl Binary {
    /// Whether the result is a truth value whatever the operands are.
    pub fn is_comparison(self) -> bool {
        matches!(self, Binary::Eq | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge)
    }

    /// Whether it takes and gives truth values.
    pub fn is_logical(self) -> bool {
        matches!(self, Binary::And | Binary::Or | Binary::Xor)
    }
}

named! {
    /// How a reduction folds its axes.
    Reduction {
        /// Sum.
        Sum = "sum",
        /// Arithmetic mean.
        Mean = "mean",
        /// Largest.
        Max = "max",
        /// Smallest.
        Min = "min",
        /// Product.
        Prod = "prod",
    }
}
