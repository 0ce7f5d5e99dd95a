//! The laboratory's tool: traffic of every kind the tests and benchmarks need, a delay-and-loss relay between two
//! network namespaces, and what stands for a virtual machine. Every subcommand is bounded in time and prints one line of
//! JSON when it is done.

mod bulk;
mod calls;
mod crr;
mod echo;
mod enter;
mod manual;
mod pattern;
mod plug;
mod relay;
mod rr;
mod start;
mod stats;
mod stream;
mod tun;
mod udp;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "lab", about = "Traffic, delay and loss for spelt's tests and benchmarks")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Carry frames between two taps, late and with loss
    Relay(relay::Options),
    /// Play a guest behind a socket: carry frames between a tap and a program that speaks QEMU's protocol
    Plug(plug::Options),
    /// Echo what TCP connections and UDP datagrams bring, one port for both, until standard input ends
    Echo(echo::Options),
    /// Measure 1-byte round trips over one TCP connection
    TcpRr(rr::Options),
    /// Measure 1-byte round trips of UDP datagrams
    UdpRr(rr::Options),
    /// Measure connections: connect, one byte each way, close
    TcpCrr(crr::Options),
    /// Send and receive seeded streams, several at a time, and say what arrived
    Stream(stream::Options),
    /// Serve `bulk` clients until standard input ends
    BulkServe(bulk::ServeOptions),
    /// Many transfers at the same time
    Bulk(bulk::Options),
    /// Open connections to `echo`, hold them until standard input ends, then see which still work
    Hold(bulk::HoldOptions),
    /// Send datagrams as fast as possible
    UdpFlood(udp::FloodOptions),
    /// Count datagrams until standard input ends
    UdpSink(udp::SinkOptions),
    /// Run a command as the root of a guest
    Enter(enter::Options),
    /// List the system calls that the program's filter allows, or make one under it
    Calls(calls::Options),
    /// Write the manual pages, or compare them with what would be written
    Manual(manual::Options),
    /// Time a command from start to exit, many times
    StartTime(start::Options),
}

fn main() {
    let result = match Cli::parse().command {
        Command::Relay(options) => relay::run(&options),
        Command::Plug(options) => plug::run(&options),
        Command::Echo(options) => echo::run(&options),
        Command::TcpRr(options) => rr::tcp(&options),
        Command::UdpRr(options) => rr::udp(&options),
        Command::TcpCrr(options) => crr::run(&options),
        Command::Stream(options) => stream::run(&options),
        Command::BulkServe(options) => bulk::serve(&options),
        Command::Bulk(options) => bulk::run(&options),
        Command::Hold(options) => bulk::hold(&options),
        Command::UdpFlood(options) => udp::flood(&options),
        Command::UdpSink(options) => udp::sink(&options),
        Command::Enter(options) => enter::run(&options),
        Command::StartTime(options) => start::run(&options),
        Command::Calls(options) => calls::run(&options),
        Command::Manual(options) => manual::run(&options),
    };
    if let Err(error) = result {
        eprintln!("lab: {error:#}");
        std::process::exit(1);
    }
}
