//! The command lines of `spelt ctl` and `spelt list`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::control::capture::CaptureOptions;
use crate::control::protocol::{Filter, ForwardOption, NewForward, Sort};

/// Ask a running instance what it does, and change it
#[derive(Debug, Parser)]
#[command(name = "ctl", display_name = "spelt ctl", bin_name = "spelt ctl", after_help = EXAMPLES)]
pub struct Ctl {
    /// Which instance, by its process id or its control socket [default: the only one; 'spelt list' shows them]
    #[arg(short, long, value_name = "PID|PATH", global = true)]
    pub instance: Option<String>,
    /// Print replies in JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub what: What,
}

/// List the running instances of this user
#[derive(Debug, Parser)]
#[command(name = "list", display_name = "spelt list", bin_name = "spelt list")]
pub struct List {
    /// Print in JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum What {
    /// Say what is running: mode, target, version, uptime
    Info,
    /// Show the effective configuration
    Config,
    /// Show counters: frames, bytes, flows, and why frames were not forwarded
    Stats {
        /// Show reasons that have not occurred, too
        #[arg(short, long)]
        all: bool,
    },
    /// Print all counters in the text format of OpenMetrics
    Metrics,
    /// Show connections and other flows
    Flows(FlowOptions),
    /// Show and change which ports are forwarded
    Forward {
        #[command(subcommand)]
        command: ForwardCommand,
    },
    /// Record frames of the guest's interface, as pcapng
    Capture {
        #[command(subcommand)]
        command: CaptureCommand,
    },
    /// Show or change how much is logged
    Log {
        /// error, warn, info, debug or trace
        #[arg(value_enum)]
        level: Option<LogLevel>,
    },
    /// End the instance, as SIGTERM does
    Quit,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl std::fmt::Display for LogLevel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.to_possible_value().expect("no level is hidden").get_name())
    }
}

#[derive(Debug, Args)]
pub struct FlowOptions {
    /// Show flows of this protocol only: tcp, udp, icmp, tcp-splice or udp-splice
    #[arg(short, long, value_parser = ["tcp", "udp", "icmp", "tcp-splice", "udp-splice"])]
    pub protocol: Option<String>,
    /// ... with this address at either end
    #[arg(short, long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// ... with this port at either end
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// ... in this state, as the table shows it
    #[arg(long)]
    pub state: Option<String>,
    /// Order: bytes, age, idle or port
    #[arg(short, long, default_value = "bytes")]
    pub sort: SortBy,
    /// Show this many at most [default: 1000, with --watch what fits]
    #[arg(short = 'n', long)]
    pub limit: Option<usize>,
    /// Show the ends of the sockets on the host, too
    #[arg(long)]
    pub host: bool,
    /// Show them again every SECONDS, with what they move in between [default: 1]
    #[arg(short, long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", value_parser = seconds)]
    pub watch: Option<f64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum SortBy {
    Bytes,
    Age,
    Idle,
    Port,
}

impl FlowOptions {
    pub fn filter(&self) -> Filter {
        Filter {
            protocol: self.protocol.clone(),
            address: self.address,
            port: self.port,
            state: self.state.clone(),
            sort: match self.sort {
                SortBy::Bytes => Sort::Bytes,
                SortBy::Age => Sort::Age,
                SortBy::Idle => Sort::Idle,
                SortBy::Port => Sort::Port,
            },
            limit: self.limit,
            host: self.host,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum ForwardCommand {
    /// Show the forwards in force
    #[command(visible_alias = "ls")]
    List,
    /// Forward ports: all that are given, or none
    Add(PortOptions),
    /// End forwards by their ids, as 'list' shows them: all that are given, or none; connections live on
    #[command(visible_alias = "delete")]
    Del {
        #[arg(value_name = "ID", required = true)]
        ids: Vec<u64>,
    },
}

/// With specifications as 'spelt run' takes them.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct PortOptions {
    /// TCP ports of the host to the guest
    #[arg(short = 't', long = "tcp-ports", value_name = "SPEC")]
    tcp: Vec<String>,
    /// UDP ports of the host to the guest
    #[arg(short = 'u', long = "udp-ports", value_name = "SPEC")]
    udp: Vec<String>,
    /// TCP ports of the guest to the host
    #[arg(short = 'T', long = "tcp-ns", value_name = "SPEC")]
    tcp_ns: Vec<String>,
    /// UDP ports of the guest to the host
    #[arg(short = 'U', long = "udp-ns", value_name = "SPEC")]
    udp_ns: Vec<String>,
}

impl PortOptions {
    /// # Errors
    /// None are given.
    pub fn forwards(&self) -> anyhow::Result<Vec<NewForward>> {
        let of = |option, specs: &[String]| -> Vec<NewForward> {
            specs.iter().map(|spec| NewForward { option, spec: spec.clone() }).collect()
        };
        let all = [
            of(ForwardOption::TcpToGuest, &self.tcp),
            of(ForwardOption::UdpToGuest, &self.udp),
            of(ForwardOption::TcpToHost, &self.tcp_ns),
            of(ForwardOption::UdpToHost, &self.udp_ns),
        ];
        let all = all.concat();
        anyhow::ensure!(!all.is_empty(), "give -t, -u, -T or -U with the ports to forward");
        Ok(all)
    }
}

#[derive(Debug, Subcommand)]
pub enum CaptureCommand {
    /// Show the captures that are running
    #[command(visible_alias = "ls")]
    List,
    /// Record into a file until 'stop', the limit, or the end of the instance
    Start {
        /// Created, or overwritten; or a FIFO that is being read
        file: PathBuf,
        #[command(flatten)]
        frames: FrameOptions,
    },
    /// Record to standard output, for 'tshark -r -' or a file, until its reader ends, or this program
    Stream {
        #[command(flatten)]
        frames: FrameOptions,
    },
    /// End captures by their ids, as 'list' shows them: all that are given, or none; without ids, all
    Stop {
        #[arg(value_name = "ID")]
        ids: Vec<u64>,
    },
}

/// All that are given must hold.
#[derive(Debug, Args)]
pub struct FrameOptions {
    /// Record frames of this protocol only: tcp, udp, icmp or arp
    #[arg(short, long, value_parser = ["tcp", "udp", "icmp", "arp"])]
    protocol: Option<String>,
    /// ... with this address at either end
    #[arg(long, value_name = "ADDRESS", alias = "address")]
    host: Option<IpAddr>,
    /// ... with this TCP or UDP port at either end
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// ... between these two ends, as 'flows' shows them: ADDRESS:PORT each
    #[arg(short, long, value_names = ["END", "END"], num_args = 2)]
    flow: Vec<SocketAddr>,
    /// Record so many bytes of each frame [default: all]
    #[arg(short, long, value_name = "BYTES")]
    snaplen: Option<u32>,
    /// End before the output would have more than so many bytes
    #[arg(short, long, value_name = "BYTES")]
    limit: Option<u64>,
}

impl FrameOptions {
    pub fn capture(&self) -> CaptureOptions {
        CaptureOptions {
            protocol: self.protocol.clone(),
            address: self.host,
            port: self.port,
            flow: <[SocketAddr; 2]>::try_from(self.flow.as_slice()).ok(),
            snaplen: self.snaplen,
            limit: self.limit,
        }
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "give a number of seconds".to_string())?;
    if (0.1..=3600.0).contains(&value) { Ok(value) } else { Err("give 0.1 to 3600 seconds".into()) }
}

const EXAMPLES: &str = "\
Examples:
  spelt list
  spelt ctl stats
  spelt ctl flows --watch
  spelt ctl -i 1234 flows --protocol tcp --port 443 --host
  spelt ctl forward add -t 8080:80 -u 5353:53
  spelt ctl forward del 3
  spelt ctl capture stream --host 192.0.2.7 --port 443 | tshark -r -
  spelt ctl capture start /tmp/dns.pcapng --protocol udp --port 53 --limit 10000000";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::config::usage::parse;

    #[test]
    fn command_lines_are_consistent() {
        Ctl::command().debug_assert();
        List::command().debug_assert();
    }

    #[test]
    fn frames_of_a_flow() {
        let line = "ctl capture stream -p tcp -f 192.0.2.2:4000 [2001:db8::1]:443 --host 192.0.2.2 -s 96 --limit 5000";
        let ctl: Ctl = parse("ctl", line.split_whitespace().map(Into::into).collect()).unwrap();
        let What::Capture { command: CaptureCommand::Stream { frames } } = &ctl.what else { panic!() };
        let expected = CaptureOptions {
            protocol: Some("tcp".into()),
            address: Some("192.0.2.2".parse().unwrap()),
            port: None,
            flow: Some(["192.0.2.2:4000".parse().unwrap(), "[2001:db8::1]:443".parse().unwrap()]),
            snaplen: Some(96),
            limit: Some(5000),
        };
        assert_eq!(frames.capture(), expected);
    }

    #[test]
    fn ports_of_all_kinds() {
        let args = "ctl forward add -t 80 -t 90:91 -U 53 -i 7 --json".split_whitespace().map(Into::into).collect();
        let ctl: Ctl = parse("ctl", args).unwrap();
        let What::Forward { command: ForwardCommand::Add(ports) } = &ctl.what else { panic!() };
        let all: Vec<_> = ports.forwards().unwrap().into_iter().map(|f| (f.option, f.spec)).collect();
        let expected = [
            (ForwardOption::TcpToGuest, "80".to_string()),
            (ForwardOption::TcpToGuest, "90:91".into()),
            (ForwardOption::UdpToHost, "53".into()),
        ];
        assert_eq!((all.as_slice(), ctl.instance.as_deref(), ctl.json), (&expected[..], Some("7"), true));
    }
}
