//! Values every layer speaks in: addresses, time, tokens, names for refused frames. Pure; imports nothing of ours.

mod addr;
mod counters;
mod family;
mod net;
mod rate;
mod time;
mod token;
mod utc;

pub use addr::{Addr, Endpoint, Family, Mac};
pub use counters::{Counters, DropReason};
pub use family::PerFamily;
pub use net::{Hop, Prefix, Route};
pub use rate::RateLimit;
pub use time::{Clock, Instant};
pub use token::{Kind, Token};
pub use utc::Utc;
