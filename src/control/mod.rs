//! What other programs may ask of this one while it runs: ours ([`service`]), in JSON; pesto ([`pesto`]) and the few requests that
//! slirp4netns knew, in their words ([`slirp4netns`]).

pub mod capture;
pub mod choice;
pub mod metrics;
pub mod pesto;
pub mod place;
pub mod protocol;
pub mod service;
pub mod session;
pub mod slirp4netns;
