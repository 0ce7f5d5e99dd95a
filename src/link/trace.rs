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
        Ok(Parsed::Ip(packet)) => {
            let (flow, rest) = describe(&packet);
            log::trace!(direction = direction, flow = flow; "{direction}: {flow}{rest}");
        }
        Ok(Parsed::Arp { .. }) => log::trace!("{direction}: ARP"),
        Ok(Parsed::Fragment(f)) => {
            log::trace!("{direction}: fragment {} > {}, {} bytes at {}", f.src, f.dst, f.data_len, f.offset);
        }
        Err(reason) => {
            log::trace!(reason = reason.name(); "{direction}: frame of {len} bytes, not understood: {}", reason.name())
        }
    }
}

/// Between whom, and the rest of the line.
fn describe(packet: &Packet) -> (String, String) {
    let (src, dst, len) = (packet.src, packet.dst, packet.payload_len);
    let ports = |from, to| format!("{} > {}", Endpoint::new(src, from), Endpoint::new(dst, to));
    match packet.transport {
        Transport::Tcp(h) => {
            let flags = flags(h.flags);
            let rest = format!(" {flags} seq {} ack {} window {}, {len} bytes", h.seq, h.ack, h.window);
            (format!("TCP {}", ports(h.src_port, h.dst_port)), rest)
        }
        Transport::Udp(h) => (format!("UDP {}", ports(h.src_port, h.dst_port)), format!(", {len} bytes")),
        Transport::Icmp(h) => (format!("ICMP {src} > {dst}"), format!(" type {} code {}, {len} bytes", h.kind, h.code)),
        Transport::Other(number) => (format!("protocol {number} {src} > {dst}"), format!(", {len} bytes")),
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
        let line = ("TCP 192.0.2.2:4711 > 192.0.2.10:80".into(), " SYN,ACK seq 7 ack 8 window 1000, 3 bytes".into());
        assert_eq!(describe(&packet), line);
    }
}
