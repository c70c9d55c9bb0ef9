//! Why a command stops, and the exit status that says so.

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(super) enum Stop {
    /// Exit status 1: the message; what failed may have been printed already, then it is empty.
    Failed(String),
    /// Exit status 2.
    Usage(String),
    /// Exit status 3: annulus itself is at fault.
    Fault(String),
    /// The exit status of what was started; whatever there is to say was said.
    Ended(u8),
}

impl From<annulus::Error> for Stop {
    fn from(error: annulus::Error) -> Stop {
        use annulus::Error;
        use annulus::ir::Stage;
        use annulus::shard::ShardError;
        match &error {
            Error::Shard(ShardError::Input { .. } | ShardError::Rowwise { .. }) => {
                Stop::Usage(error.to_string())
            }
            Error::Nodes { .. } | Error::CommSms { .. } | Error::Dropout(_) => Stop::Usage(error.to_string()),
            Error::Shard(ShardError::Fault { .. }) | Error::Program { .. } => Stop::Fault(error.to_string()),
            Error::Verify { stage, .. } if *stage != Stage::Import => Stop::Fault(error.to_string()),
            Error::Import(e) if !e.is_refusal() => Stop::Usage(error.to_string()),
            Error::Eval(annulus::eval::EvalError::Inputs(_)) => Stop::Usage(error.to_string()),
            _ => Stop::Failed(error.to_string()),
        }
    }
}
