//! Received datagrams sent on through another socket, from where they lie.

use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

use arrayvec::ArrayVec;

use super::super::faults::{self, Call};
use super::{BATCH_MAX, Inbox, SEGMENTS_MAX, SegmentControl, segment_control, send_all, zeroed_header};

impl Inbox {
    /// Sends received datagrams on, boundaries kept: coalesced buffers as they came, and, if `merge`, equal sizes in a row
    /// as one `UDP_SEGMENT` send. Returns how many of the buffers went out.
    ///
    /// # Errors
    /// Of the first send; of a later one the next call tells.
    ///
    /// # Panics
    /// If the last [`Inbox::receive`] brought fewer.
    pub fn forward(&self, fd: BorrowedFd<'_>, which: Range<usize>, merge: bool) -> io::Result<usize> {
        let mut iovs: ArrayVec<libc::iovec, BATCH_MAX> = ArrayVec::new();
        for i in which.clone() {
            let b = self.payload(i);
            iovs.push(libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() });
        }
        let iov = iovs.as_mut_ptr();
        let mut controls: ArrayVec<SegmentControl, BATCH_MAX> = ArrayVec::new();
        let mut headers: ArrayVec<libc::mmsghdr, BATCH_MAX> = ArrayVec::new();
        let mut counts: ArrayVec<usize, BATCH_MAX> = ArrayVec::new();
        let control = controls.as_mut_ptr();
        let mut at = 0;
        while at < iovs.len() {
            let (count, segment) = self.run(which.start + at..which.end, merge);
            let mut m = zeroed_header();
            m.msg_hdr.msg_iov = iov.wrapping_add(at);
            m.msg_hdr.msg_iovlen = count as _;
            if segment != 0 {
                m.msg_hdr.msg_control = control.wrapping_add(controls.len()).cast();
                m.msg_hdr.msg_controllen = mem::size_of::<SegmentControl>() as _;
                controls.push(segment_control(segment));
            }
            headers.push(m);
            counts.push(count);
            at += count;
        }
        let fd = fd.as_raw_fd();
        let count = faults::some(Call::SendDatagrams, fd, headers.len());
        let sent = send_all(fd, &mut headers[..count])?;
        Ok(counts[..sent].iter().sum())
    }

    /// How many of the buffers, from the first on, one send takes, and their segment size; 0: it is one datagram.
    fn run(&self, which: Range<usize>, merge: bool) -> (usize, u16) {
        let first = self.meta(which.start);
        let segment = if first.segment == 0 { first.len } else { usize::from(first.segment) };
        if first.len > segment {
            return (1, first.segment);
        }
        if !merge || first.len == 0 {
            return (1, 0);
        }
        let (mut count, mut total) = (1, first.len);
        for i in which.skip(1) {
            let m = self.meta(i);
            let single = m.segment == 0 || m.len <= usize::from(m.segment);
            if !single || m.len == 0 || m.len > first.len || count == SEGMENTS_MAX || total + m.len > MERGED_MAX {
                break;
            }
            (count, total) = (count + 1, total + m.len);
            // Only the last segment may be shorter.
            if m.len < first.len {
                break;
            }
        }
        (count, if count > 1 { first.len as u16 } else { 0 })
    }
}

/// Payload of one `UDP_SEGMENT` send: the kernel makes one IP packet of it first, of either family.
const MERGED_MAX: usize = 65_535 - 40 - 8;

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::super::send;
    use super::super::tests::pair;
    use super::*;
    use crate::sys::iov::Gather;
    use crate::sys::sockopt;

    #[test]
    fn forwarding_keeps_boundaries() {
        let ((a, b), (c, d)) = (pair(), pair());
        sockopt::set(b.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).unwrap();
        let sizes = [300, 300, 300, 20, 300, 0, 0, 500, 500, 700];
        for (i, size) in sizes.iter().enumerate() {
            a.send(&vec![i as u8; *size]).unwrap();
        }
        send(a.as_fd(), &[Gather::new(&[99; 250])], 100).unwrap();
        let mut inbox = Inbox::new(16);
        assert_eq!(inbox.receive(b.as_fd(), 16, false).unwrap(), sizes.len() + 1);
        d.set_nonblocking(true).unwrap();
        for merge in [true, false] {
            assert_eq!(inbox.forward(c.as_fd(), 1..sizes.len() + 1, merge).unwrap(), sizes.len());
            let mut got = Vec::new();
            let mut room = [0; 1000];
            while let Ok(n) = d.recv(&mut room) {
                assert!(room[..n].iter().all(|b| *b == room[0]));
                got.push(n);
            }
            assert_eq!(got, [300, 300, 20, 300, 0, 0, 500, 500, 700, 100, 100, 50], "merge: {merge}");
        }
    }
}
