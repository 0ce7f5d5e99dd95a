//! What other programs may ask of this one while it runs: ours ([`service`]), in JSON, and the few requests that
//! slirp4netns knew, in its words ([`slirp4netns`]).

pub mod metrics;
pub mod protocol;
pub mod service;
pub mod session;
pub mod slirp4netns;
