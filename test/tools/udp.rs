//! Datagrams as fast as they go, and a sink that counts them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::{Domain, Socket, Type};

#[derive(clap::Args)]
pub struct FloodOptions {
    /// Where to send
    #[arg(long)]
    connect: SocketAddr,
    /// Bytes in a datagram
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// How long
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Datagrams a second; 0 is without limit
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Datagrams given to the kernel as one with UDP_SEGMENT; 0 is not
    #[arg(long, default_value_t = 0)]
    gso: usize,
    /// Spread over so many destination ports, counted from the given one
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Send from this port, which other floods may send from as well
    #[arg(long)]
    from: Option<u16>,
}

#[derive(clap::Args)]
pub struct SinkOptions {
    /// Address and port
    #[arg(long)]
    listen: SocketAddr,
}

pub fn flood(options: &FloodOptions) -> Result<()> {
    let socket = Socket::new(Domain::for_address(options.connect), Type::DGRAM, None)?;
    if let Some(port) = options.from {
        let any: IpAddr =
            if options.connect.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::new(any, port).into())?;
    }
    let mut len = options.size;
    if options.gso > 0 {
        let size = libc::c_int::try_from(options.size)?;
        // SAFETY: the option value is an int that outlives the call.
        let done = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const size).cast(), 4)
        };
        if done != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        len = options.size * options.gso;
    }
    let payload = vec![7; len];
    let each = options.gso.max(1) as u64;
    let (mut sent, mut errors, mut port) = (0, 0, 0);
    if options.ports == 1 {
        socket.connect(&options.connect.into())?;
    }
    let started = Instant::now();
    while started.elapsed().as_secs_f64() < options.seconds {
        let done = if options.ports == 1 {
            send_batch(&socket, &payload)?
        } else {
            let mut to = options.connect;
            to.set_port(options.connect.port().wrapping_add(port));
            port = (port + 1) % options.ports;
            u64::from(socket.send_to(&payload, &to.into()).is_ok())
        };
        match done {
            0 => errors += 1,
            n => sent += n * each,
        }
        if options.rate > 0 {
            let due = Duration::from_secs_f64(sent as f64 / options.rate as f64);
            std::thread::sleep(due.saturating_sub(started.elapsed()));
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    println!(r#"{{"sent":{sent},"errors":{errors},"seconds":{seconds:.3},"per_second":{:.0}}}"#, sent as f64 / seconds);
    Ok(())
}

/// Sends the payload `BATCH` times with one system call. Returns how often it went.
fn send_batch(socket: &Socket, payload: &[u8]) -> Result<u64> {
    let mut part = libc::iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: all zeros is a valid msghdr: no name, no vectors, no control data.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for message in &mut messages {
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each message points to one vector of readable bytes, all of which outlive the call.
    let done = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), BATCH as libc::c_uint, 0) };
    // A full queue or an ICMP error of an earlier datagram: count, and go on.
    Ok(u64::try_from(done).unwrap_or(0))
}

pub fn sink(options: &SinkOptions) -> Result<()> {
    let socket = Socket::new(Domain::for_address(options.listen), Type::DGRAM, None)?;
    if options.listen.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_recv_buffer_size(4 << 20)?;
    socket.bind(&options.listen.into())?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = ended.clone();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    println!(r#"{{"ready":true}}"#);
    let (mut packets, mut bytes) = (0u64, 0u64);
    let (mut first, mut last) = (None, Instant::now());
    while !ended.load(std::sync::atomic::Ordering::Relaxed) {
        let (n, sum) = receive_batch(&socket);
        if n > 0 {
            last = Instant::now();
            first.get_or_insert(last);
        }
        packets += n;
        bytes += sum;
    }
    let seconds = first.map_or(0.0, |first| (last - first).as_secs_f64());
    println!(
        r#"{{"received":{packets},"bytes":{bytes},"seconds":{seconds:.3},"per_second":{:.0}}}"#,
        if seconds > 0.0 { packets as f64 / seconds } else { 0.0 }
    );
    Ok(())
}

/// Datagrams received with one system call, and the sum of their bytes.
fn receive_batch(socket: &Socket) -> (u64, u64) {
    let mut room = [[0u8; 2048]; BATCH];
    let mut parts: [libc::iovec; BATCH] =
        std::array::from_fn(|at| libc::iovec { iov_base: room[at].as_mut_ptr().cast(), iov_len: room[at].len() });
    // SAFETY: all zeros is a valid msghdr: no name, no vectors, no control data.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
    for (message, part) in messages.iter_mut().zip(&mut parts) {
        message.msg_hdr.msg_iov = &raw mut *part;
        message.msg_hdr.msg_iovlen = 1;
    }
    // SAFETY: each message points to one vector of room, all of which outlive the call.
    let done = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            BATCH as libc::c_uint,
            libc::MSG_WAITFORONE,
            std::ptr::null_mut(),
        )
    };
    let done = usize::try_from(done).unwrap_or(0);
    (done as u64, messages[..done].iter().map(|message| u64::from(message.msg_len)).sum())
}

const BATCH: usize = 32;
