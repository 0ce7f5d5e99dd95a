//! A log line for every frame, at the level that `--trace` asks for.

use crate::base::Endpoint;
use crate::wire::{self, Packet, Parsed, TcpFlags, Transport};

/// Logs one frame, given by its first part, which holds all headers, and the lengths of all parts. Costs a comparison
/// when nobody wants to know.
pub fn frame(direction: &str, head: &[u8], rest_bytes: usize) {
    if !log::log_enabled!(log::Level::Trace) {
        return;
    }
    let len = head.len() + rest_bytes;
    match wire::parse(head, len) {
        Ok(Parsed::Ip(packet)) => log::trace!("{direction}: {}", describe(&packet)),
        Ok(Parsed::Arp { .. }) => log::trace!("{direction}: ARP"),
        Ok(Parsed::Fragment(f)) => {
            log::trace!("{direction}: fragment {} > {}, {} bytes at {}", f.src, f.dst, f.data_len, f.offset);
        }
        Err(reason) => log::trace!("{direction}: frame of {len} bytes, not understood: {}", reason.name()),
    }
}

fn describe(packet: &Packet) -> String {
    let (src, dst, len) = (packet.src, packet.dst, packet.payload_len);
    let ports = |from, to| format!("{} > {}", Endpoint::new(src, from), Endpoint::new(dst, to));
    match packet.transport {
        Transport::Tcp(h) => {
            let flags = flags(h.flags);
            format!(
                "TCP {} {flags} seq {} ack {} window {}, {len} bytes",
                ports(h.src_port, h.dst_port),
                h.seq,
                h.ack,
                h.window
            )
        }
        Transport::Udp(h) => format!("UDP {}, {len} bytes", ports(h.src_port, h.dst_port)),
        Transport::Icmp(h) => format!("ICMP {src} > {dst} type {} code {}, {len} bytes", h.kind, h.code),
        Transport::Other(number) => format!("protocol {number} {src} > {dst}, {len} bytes"),
    }
}

fn flags(flags: TcpFlags) -> String {
    let names: Vec<_> = flags.iter_names().map(|(name, _)| name).collect();
    names.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_in_one_line() {
        let builder = etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([192, 0, 2, 2], [192, 0, 2, 10], 64)
            .tcp(4711, 80, 7, 1000)
            .syn()
            .ack(8);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, b"abc").unwrap();
        let Ok(Parsed::Ip(packet)) = wire::parse(&bytes, bytes.len()) else { panic!("not parsed") };
        let line = "TCP 192.0.2.2:4711 > 192.0.2.10:80 SYN,ACK seq 7 ack 8 window 1000, 3 bytes";
        assert_eq!(describe(&packet), line);
    }
}
