//! spelt translates between Layer 2 and Layer 4: Ethernet frames of a guest on one side, native sockets of the host on
//! the other. This crate is the program `spelt` and, without a process of its own, the engine for other programs.
//!
//! # Which way to use it
//! * For a network namespace, or a virtual machine of QEMU, libkrun or another VMM: the program, `spelt run`, `spelt attach`,
//!   `spelt vm`. It isolates itself, which a library cannot.
//! * For frames in your own process: [`embed::Translator`]. Frames go in and come out, one call a turn of your event loop.
//! * For a tap device, a UNIX socket with frames, or vhost-user requests in your own process: [`app::Engine`] with a
//!   [`link::Link`], on a thread that it has for itself ([`app::Engine::run`]).
//! * For single protocols: [`tcp::Tcp`], [`udp::Udp`], [`icmp::Icmp`] and [`gateway::Gateway`] over anything that is a
//!   [`guest::ToGuest`]; or [`wire`] alone, which parses and writes packets and makes no system call.
//!
//! `demo/embed` is a complete program of the second kind, with smoltcp as its guest: `cargo run --example embed`.
//!
//! # Stability
//! This is version 0.1. [`embed`] is meant to be used and its changes are in CHANGELOG.md. The other modules are public because
//! the program, its tests and its tools are separate crates that use them; they change without notice.
//!
//! # Conventions
//! * Lengths and sizes are in bytes, and MTUs are of IP, unless a name says otherwise. Ports and numbers in structs are in the
//!   host's byte order; frames are as on the wire, from the destination's MAC on, without frame check sequence.
//! * Time comes in as a value ([`base::Instant`], [`guest::Facts`]): nothing but [`base::Clock`] reads a clock.
//! * Nothing blocks but what says so. What cannot go on says what it waits for ([`guest::Room`], [`flow::Pending`]).
//! * A frame that is refused is counted under one [`base::DropReason`]; it is never an error of a call.
//! * Errors are the kernel's ([`std::io::Error`]), or sentences for a user where a command line is concerned.
//! * Features: `faults` makes system calls fail to order. It is for tests, and never to be on in a program.
//!
//! # The map of the house
//! Lowest layer first; imports go downwards only. `doc/architecture.md` has the reasons, and walks a packet each way.

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

pub use app::embed;
