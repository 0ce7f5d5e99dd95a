//! spelt as a library: a guest that is a part of this program, a network stack (smoltcp) with a network card in memory.
//!
//!     cargo run --release --example embed
//!
//! The guest asks for the gateway's MAC by a frame made by hand, asks for its address by DHCP, and then fetches a page from a
//! server on this machine's loopback. A client of this machine is served by the guest in turn. Nothing needs a privilege, and
//! no frame leaves this process.

mod nic;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nic::Nic;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::Instant as Time;
use smoltcp::wire::{EthernetAddress, IpCidr};
use spelt::base::Mac;
use spelt::embed::{Settings, Subnet, Translator};

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const GUEST_PORT: u16 = 80;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let settings = Settings {
        v4: Some(Subnet { guest: GUEST, gateway: GATEWAY, prefix_len: 24 }),
        dns: vec![Ipv4Addr::new(192, 0, 2, 53).into()],
        host_loopback: true,
        ..Settings::default()
    };
    let mut world = World::new(&settings)?;
    println!("A guest with {GUEST} in this process; to it, {GATEWAY} is this machine.\n");
    println!("ARP: {GATEWAY} is at {}.", world.ask_for_gateway()?);
    println!("DHCP: {}", world.lease()?);

    let (port, server) = page_server()?;
    println!("\nThe guest fetches a page from {GATEWAY}:{port}, which is 127.0.0.1:{port}:");
    println!("    {}", world.fetch(port)?.trim_end());
    println!("    (the server saw a client at {})", server.join().expect("the server has not panicked")?);

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let at = listener.local_addr()?;
    world.translator.forward_tcp(listener, GUEST_PORT)?;
    println!("\nA client of this machine connects to {at}, port {GUEST_PORT} of the guest:");
    println!("    {}", world.serve(at)?);

    let counted = world.translator.counters();
    println!("\n{} frames from the guest, {} to it.", counted.frames_from_guest, counted.frames_to_guest);
    Ok(())
}

/// The guest and what it is connected to.
struct World {
    translator: Translator,
    nic: Nic,
    guest: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
}

impl World {
    fn new(settings: &Settings) -> io::Result<World> {
        let mut nic = Nic::new(settings.mtu);
        let mut config = Config::new(EthernetAddress(GUEST_MAC).into());
        config.random_seed = 7;
        let guest = Interface::new(config, &mut nic, Time::ZERO);
        let translator = Translator::new(settings)?;
        Ok(World { translator, nic, guest, sockets: SocketSet::new(Vec::new()), began: Instant::now() })
    }

    /// Carries frames both ways, and lets both sides work: the whole of what an embedding program has to do.
    fn turn(&mut self) -> io::Result<()> {
        while let Some(frame) = self.nic.sent.front() {
            if self.translator.from_guest(frame).is_err() {
                break; // Its queue is full: the rest is for the next turn.
            }
            self.nic.sent.pop_front();
        }
        self.translator.turn(Some(Duration::from_millis(1)))?;
        self.nic.received.extend(std::iter::from_fn(|| self.translator.to_guest()));
        let now = Time::from_micros(self.began.elapsed().as_micros() as i64);
        self.guest.poll(now, &mut self.nic, &mut self.sockets);
        Ok(())
    }

    /// Turns until `done` says what it has found.
    fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut World) -> Option<T>) -> io::Result<T> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.turn()?;
            if let Some(found) = done(self) {
                return Ok(found);
            }
        }
        Err(io::Error::other(format!("waited {} s for {what} in vain", PATIENCE.as_secs())))
    }

    /// An ARP request (RFC 826), byte by byte, before the guest's own stack has said anything.
    fn ask_for_gateway(&mut self) -> io::Result<Mac> {
        let mut frame = Vec::new();
        frame.extend([0xff; 6]); // to all stations
        frame.extend(GUEST_MAC);
        frame.extend([0x08, 0x06]); // ARP
        frame.extend([0, 1, 8, 0, 6, 4, 0, 1]); // Ethernet, IPv4, their lengths, a request
        frame.extend(GUEST_MAC);
        frame.extend(GUEST.octets());
        frame.extend([0; 6]);
        frame.extend(GATEWAY.octets());
        self.translator.from_guest(&frame).map_err(io::Error::other)?;
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            self.translator.turn(Some(PATIENCE))?;
            while let Some(frame) = self.translator.to_guest() {
                // A reply, of the gateway's. What else comes greets the guest.
                if frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == GATEWAY.octets() {
                    return Ok(Mac([frame[22], frame[23], frame[24], frame[25], frame[26], frame[27]]));
                }
            }
        }
        Err(io::Error::other("no answer to the ARP request"))
    }

    fn lease(&mut self) -> io::Result<String> {
        let client = self.sockets.add(dhcpv4::Socket::new());
        let (address, said) =
            self.until("a lease", |world| match world.sockets.get_mut::<dhcpv4::Socket>(client).poll() {
                Some(dhcpv4::Event::Configured(lease)) => Some((lease.address, told(&lease))),
                _ => None,
            })?;
        self.sockets.remove(client);
        self.guest.update_ip_addrs(|all| all.extend([IpCidr::Ipv4(address)]));
        Ok(said)
    }

    fn fetch(&mut self, port: u16) -> io::Result<String> {
        let client = self.sockets.add(buffered());
        let socket = self.sockets.get_mut::<tcp::Socket>(client);
        socket.connect(self.guest.context(), (GATEWAY, port), 40_000).map_err(io::Error::other)?;
        let mut answer = Vec::new();
        let mut asked = false;
        self.until("the page", |world| {
            let socket = world.sockets.get_mut::<tcp::Socket>(client);
            if !asked && socket.can_send() {
                asked = socket.send_slice(b"GET / HTTP/1.0\r\n\r\n").is_ok();
            }
            receive(socket, &mut answer);
            (asked && !socket.may_recv()).then_some(())
        })?;
        self.hang_up(client)?;
        Ok(String::from_utf8_lossy(&answer).rsplit("\r\n\r\n").next().unwrap_or_default().to_owned())
    }

    /// One client of the guest's service; returns what that client heard.
    fn serve(&mut self, at: SocketAddr) -> io::Result<String> {
        let service = self.sockets.add(buffered());
        self.sockets.get_mut::<tcp::Socket>(service).listen(GUEST_PORT).map_err(io::Error::other)?;
        let client: JoinHandle<io::Result<String>> = thread::spawn(move || {
            let mut stream = TcpStream::connect(at)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut heard = String::new();
            stream.read_to_string(&mut heard)?;
            Ok(heard)
        });
        self.until("a client", |world| {
            let socket = world.sockets.get_mut::<tcp::Socket>(service);
            let from = socket.remote_endpoint().filter(|_| socket.can_send())?;
            socket.send_slice(format!("hello from the guest; I see you as {}", from.addr).as_bytes()).ok()
        })?;
        self.hang_up(service)?;
        client.join().expect("the client has not panicked")
    }

    /// Closes the guest's end, and waits until the other one has.
    fn hang_up(&mut self, handle: SocketHandle) -> io::Result<()> {
        self.sockets.get_mut::<tcp::Socket>(handle).close();
        self.until("the end of a connection", |world| {
            let state = world.sockets.get::<tcp::Socket>(handle).state();
            matches!(state, tcp::State::Closed | tcp::State::TimeWait).then_some(())
        })?;
        self.sockets.remove(handle);
        Ok(())
    }
}

fn told(lease: &dhcpv4::Config<'_>) -> String {
    let router = lease.router.map_or("none".into(), |a| a.to_string());
    let servers: Vec<String> = lease.dns_servers.iter().map(ToString::to_string).collect();
    format!("address {}, router {router}, name server {}.", lease.address, servers.join(", "))
}

fn buffered() -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; 64 << 10]);
    tcp::Socket::new(buffer(), buffer())
}

fn receive(socket: &mut tcp::Socket<'_>, into: &mut Vec<u8>) {
    let mut room = [0; 4096];
    while let Ok(n @ 1..) = socket.recv_slice(&mut room) {
        into.extend_from_slice(&room[..n]);
    }
}

/// A web server for one client on this machine's loopback; its thread's result is who that was.
fn page_server() -> io::Result<(u16, JoinHandle<io::Result<SocketAddr>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    let serve = move || {
        let (mut client, from) = listener.accept()?;
        // The request ends with an empty line.
        for line in BufReader::new(client.try_clone()?).lines() {
            if line?.is_empty() {
                break;
            }
        }
        client.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello from the host\n")?;
        Ok(from)
    };
    Ok((port, thread::spawn(serve)))
}
