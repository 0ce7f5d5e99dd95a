//! What strangers can say to the program, as functions of bytes: each asserts what must hold whatever the bytes are. The fuzz
//! targets call them, and `test/corpora.rs` on what was found.

pub mod broker;
pub mod engine;
pub mod errors;
pub mod frames;
pub mod gateway;
pub mod inbound;
pub mod judge;
pub mod kernel;
pub mod peer;
pub mod respond;
pub mod stream;
pub mod tcp;
pub mod texts;
pub mod vhost;
pub mod wire;

#[allow(dead_code, reason = "the tests of the TCP engine have more to do with it")]
#[path = "../tcp/world.rs"]
pub mod world;
