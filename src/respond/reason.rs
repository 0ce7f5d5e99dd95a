//! A name and a counter for everything that becomes of a question.

macro_rules! named {
    ($(#[doc = $what:literal])+ $type:ident { $($(#[doc = $doc:literal])+ $name:ident => $text:literal,)+ }) => {
        $(#[doc = $what])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum $type { $($(#[doc = $doc])+ $name,)+ }

        impl $type {
            pub const ALL: &'static [$type] = &[$($type::$name,)+];

            /// For logs and statistics; never changes.
            pub fn name(self) -> &'static str {
                match self { $($type::$name => $text,)+ }
            }

            /// For a person.
            pub fn meaning(self) -> &'static str {
                match self { $($type::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

named! {
    /// Why a question got no answer, or an answer from behind counted for nothing.
    Reason {
        /// Shorter than its headers say, or longer than a link's frame.
        Length => "frame_length",
        /// Source MAC is a group address, zero, or ours.
        SourceMac => "source_mac",
        /// IPv6 header that is none, or with extension headers.
        IpHeader => "ip_header",
        /// A source that no host may have.
        SourceAddress => "source_address",
        /// A source address that is this host's own: somebody pretends to be us.
        SpoofedSource => "spoofed_source",
        /// Sent to neither the target nor its group.
        Destination => "destination",
        /// Hop limit is not 255: it may come from far away (RFC 4861 §7.1.1).
        HopLimit => "hop_limit",
        /// ICMPv6 checksum wrong.
        Checksum => "checksum",
        /// Not the message it claims to be: cut short, a code that is not 0, or a target that is no neighbour's.
        Malformed => "malformed",
        /// Options that are cut short or lie about their length.
        Options => "options",
        /// Without a source, and yet with a link-layer address or not to the target's group (RFC 4861 §7.1.1).
        Probe => "probe",
        /// ARP for other hardware or protocols, or with addresses that no host may have.
        ArpMalformed => "arp_malformed",
        /// An ARP announcement, which asks nothing (RFC 5227 §2.3).
        ArpAnnouncement => "arp_announcement",
        /// The target is this host's own address, or its router's: they speak for themselves.
        OwnAddress => "own_address",
        /// The target is the asker's own address.
        AskersOwn => "askers_own",
        /// The target is in no prefix that is answered for.
        NotServed => "not_served",
        /// The target is excluded.
        Excluded => "excluded",
        /// The kernel has no route to the target that leads away from where the question came.
        NoRoute => "no_route",
        /// Nobody has the target, as far as was asked or is known.
        Absent => "absent",
        /// More questions from one source than allowed, or more answers that nobody had asked for.
        RateLimited => "rate_limited",
        /// Too many targets are being asked for, or were told of without a question.
        Full => "table_full",
        /// The link did not take the answer.
        NotSent => "not_sent",
    }
}

named! {
    /// What else is counted.
    Event {
        /// Questions that came: neighbour solicitations and ARP requests.
        Heard => "heard",
        /// Answers that were sent.
        Answered => "answered",
        /// Questions that wait, or have waited, for an answer from behind.
        Waited => "waited",
        /// Questions asked behind.
        Asked => "asked",
        /// Answers from behind.
        Found => "found",
        /// Announcements, and solicitations to routers, that nobody had asked for.
        Announced => "announced",
    }
}

/// Counts of both. Plain numbers: one owner, no atomics.
#[derive(Clone, Debug)]
pub struct Counters {
    dropped: [u64; Reason::ALL.len()],
    events: [u64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Counters {
        Counters { dropped: [0; Reason::ALL.len()], events: [0; Event::ALL.len()] }
    }
}

impl Counters {
    pub fn drop(&mut self, reason: Reason) {
        self.dropped[reason as usize] += 1;
    }

    pub fn count(&mut self, event: Event) {
        self.events[event as usize] += 1;
    }

    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize]
    }

    pub fn counted(&self, event: Event) -> u64 {
        self.events[event as usize]
    }
}
