//! spelt translates between Layer 2 and Layer 4: Ethernet frames of a guest on one side, native sockets of the host on
//! the other. This is the map of the house, lowest layer first; `doc/architecture.md` has the reasons.

pub mod base;
pub mod sys;
pub mod wire;

pub mod config;
pub mod flow;
pub mod fwd;
pub mod guest;

pub mod gateway;
pub mod icmp;
pub mod link;
pub mod splice;
pub mod tcp;
pub mod udp;

pub mod control;
pub mod host;
pub mod listen;
pub mod logging;
pub mod ns;
pub mod sandbox;

pub mod app;
pub mod ctl;
pub mod doctor;
pub mod pesto;
pub mod respond;
