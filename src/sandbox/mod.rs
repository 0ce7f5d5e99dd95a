//! What a translator that a guest talks to does not need, taken away from it before the guest's first byte is read.

/// What must stay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Params {
    /// Keep CAP_NET_BIND_SERVICE, for listeners below port 1024 that are opened later. Only of use to root.
    pub bind_low_ports: bool,
}

/// A mechanism that is missing.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}{hint}")]
pub struct Error {
    pub step: &'static str,
    pub source: std::io::Error,
    pub hint: &'static str,
}

/// # Errors
/// See [`Error`].
pub fn enter(_params: &Params) -> Result<(), Error> {
    Ok(())
}
