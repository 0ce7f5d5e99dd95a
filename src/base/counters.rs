//! A name and a counter for every frame that is not forwarded.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+) => {
        /// Why a frame was not forwarded. One counter each; no string is built per bad packet.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])+ $name,)+ }

        impl DropReason {
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)+];

            /// Stable snake_case name for logs and statistics.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)+ }
            }

            /// A sentence about it, for a person.
            pub fn meaning(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than an Ethernet header, or longer than a frame may be.
    FrameLength => "frame_length",
    /// An EtherType or 802.3 length we do not speak (VLAN, LLC, LLDP, ...).
    EtherType => "ether_type",
    /// Source MAC is a group address or zero.
    SourceMac => "source_mac",
    /// IP header or total length does not fit the frame; version disagrees with the EtherType.
    IpHeader => "ip_header",
    /// IPv4 header checksum wrong.
    IpChecksum => "ip_checksum",
    /// Source not unicast, or loopback, or v4-mapped on the wire.
    SourceAddress => "source_address",
    /// Loopback, unspecified or reserved destination.
    DestinationAddress => "destination_address",
    /// IPv6 extension headers too many, too long, or cut short.
    ExtensionHeader => "extension_header",
    /// A transport we do not forward.
    Protocol => "protocol",
    /// TCP, UDP or ICMP header does not fit, or its length fields lie.
    TransportHeader => "transport_header",
    /// TCP, UDP or ICMP checksum wrong.
    TransportChecksum => "transport_checksum",
    /// Port zero.
    PortZero => "port_zero",
    /// A fragment that overlaps another, or is misaligned, or too large: the whole datagram goes (RFC 5722).
    FragmentInvalid => "fragment_invalid",
    /// Fragments that did not complete in time (RFC 791, RFC 8200 §4.5) or made room for others.
    FragmentTimeout => "fragment_timeout",
    /// ARP that is malformed or not for us to answer.
    Arp => "arp",
    /// Neighbour discovery that fails RFC 4861 validation or is not for us to answer.
    Ndp => "ndp",
    /// A DHCP message that is malformed or needs no answer.
    Dhcp => "dhcp",
    /// A DHCPv6 message that is malformed or needs no answer.
    Dhcpv6 => "dhcpv6",
    /// An ICMP type that is not forwarded.
    IcmpType => "icmp_type",
    /// The flow table was full and nothing idle could make room.
    FlowTableFull => "flow_table_full",
    /// The host has no more descriptors or memory for a socket.
    HostResources => "host_resources",
    /// The host socket refused the datagram (full buffer, no route, forbidden).
    HostSend => "host_send",
    /// Protocol or family switched off by the user.
    Disabled => "disabled",
    /// No flow and none may be created from this segment.
    NoFlow => "no_flow",
    /// A RST outside the window or not exactly at its start (RFC 5961 §3).
    TcpResetInvalid => "tcp_reset_invalid",
    /// A segment that RFC 9293 says to ignore or to answer with an ACK only.
    TcpUnacceptable => "tcp_unacceptable",
    /// A segment sent before others that have arrived already (RFC 7323 §5).
    TcpTimestamp => "tcp_timestamp",
    /// Guest data ahead of a hole for which there is no place: the guest resends it.
    TcpOutOfOrder => "tcp_out_of_order",
    /// Guest data beyond the window we offered.
    TcpBeyondWindow => "tcp_beyond_window",
    /// Guest data that its socket does not take now, while too much is held already: the guest resends it.
    TcpHeldFull => "tcp_held_full",
    /// A chain of descriptors that makes no sense, or a header that no frame has.
    Descriptors => "descriptors",
    /// It belongs to a flow of another worker thread, which has more to do than it can.
    OtherWorker => "other_worker",
    /// The guest link took no more frames.
    LinkFull => "link_full",
}

impl DropReason {
    /// It says why the frame of the guest was dropped that is dealt with; others are of frames to the guest, or of earlier ones.
    fn is_of_present_frame(self) -> bool {
        !matches!(self, DropReason::LinkFull | DropReason::FragmentTimeout)
    }
}

/// Counts by [`DropReason`], and totals. Plain numbers: one owner, no atomics.
#[derive(Clone, Debug)]
pub struct Counters {
    drops: [u64; DropReason::ALL.len()],
    /// How often a frame of the guest was dropped while it was dealt with, and why the last one was.
    refused: u64,
    last_refused: Option<DropReason>,
    pub frames_from_guest: u64,
    pub bytes_from_guest: u64,
    pub frames_to_guest: u64,
    pub bytes_to_guest: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            drops: [0; DropReason::ALL.len()],
            refused: 0,
            last_refused: None,
            frames_from_guest: 0,
            bytes_from_guest: 0,
            frames_to_guest: 0,
            bytes_to_guest: 0,
        }
    }
}

impl Counters {
    pub fn drop(&mut self, reason: DropReason) {
        self.drop_many(reason, 1);
    }

    pub fn drop_many(&mut self, reason: DropReason, count: u64) {
        self.drops[reason as usize] += count;
        if reason.is_of_present_frame() {
            self.refused += count;
            self.last_refused = Some(reason);
        }
    }

    /// Why a frame of the guest was dropped since [`Counters::refused`] was this.
    pub fn refused_since(&self, before: u64) -> Option<DropReason> {
        self.last_refused.filter(|_| self.refused != before)
    }

    pub fn refused(&self) -> u64 {
        self.refused
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize]
    }

    /// Adds another part's counts.
    pub fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.drops.iter_mut().zip(other.drops) {
            *mine += theirs;
        }
        self.frames_from_guest += other.frames_from_guest;
        self.bytes_from_guest += other.bytes_from_guest;
        self.frames_to_guest += other.frames_to_guest;
        self.bytes_to_guest += other.bytes_to_guest;
    }

    /// What was counted after `earlier`, which is an older state of these counters.
    pub fn since(&self, earlier: &Counters) -> Counters {
        let mut new = self.clone();
        for (mine, theirs) in new.drops.iter_mut().zip(earlier.drops) {
            *mine = mine.wrapping_sub(theirs);
        }
        new.frames_from_guest = new.frames_from_guest.wrapping_sub(earlier.frames_from_guest);
        new.bytes_from_guest = new.bytes_from_guest.wrapping_sub(earlier.bytes_from_guest);
        new.frames_to_guest = new.frames_to_guest.wrapping_sub(earlier.frames_to_guest);
        new.bytes_to_guest = new.bytes_to_guest.wrapping_sub(earlier.bytes_to_guest);
        new
    }

    /// Reasons that occurred, with their counts.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|r| (*r, self.drops[*r as usize])).filter(|(_, n)| *n > 0)
    }
}
