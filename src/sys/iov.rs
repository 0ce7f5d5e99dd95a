//! Scatter and gather lists that may point into guest memory: unlike `IoSlice` they never become a `&[u8]`.

use std::marker::PhantomData;

/// Bytes to be sent, laid out as `struct iovec`.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Gather<'a>(libc::iovec, PhantomData<&'a [u8]>);

/// Room to receive into, laid out as `struct iovec`.
#[repr(transparent)]
pub struct Scatter<'a>(libc::iovec, PhantomData<&'a mut [u8]>);

impl<'a> Gather<'a> {
    pub fn new(bytes: &'a [u8]) -> Gather<'a> {
        Gather(libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }, PhantomData)
    }

    /// Memory that others may change meanwhile.
    ///
    /// # Safety
    /// `len` bytes at `base` stay mapped for 'a.
    pub(super) unsafe fn of_shared(base: *mut u8, len: usize) -> Gather<'a> {
        Gather(libc::iovec { iov_base: base.cast(), iov_len: len }, PhantomData)
    }

    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// The part after the first `n` bytes.
    ///
    /// # Panics
    /// If `n` is more than the length.
    #[must_use]
    pub fn skip(self, n: usize) -> Gather<'a> {
        assert!(n <= self.0.iov_len);
        Gather(
            libc::iovec { iov_base: self.0.iov_base.cast::<u8>().wrapping_add(n).cast(), iov_len: self.0.iov_len - n },
            PhantomData,
        )
    }

    /// The first `n` bytes, or all.
    #[must_use]
    pub fn first(self, n: usize) -> Gather<'a> {
        Gather(libc::iovec { iov_base: self.0.iov_base, iov_len: self.0.iov_len.min(n) }, PhantomData)
    }

    /// Appends a copy of the bytes to `out`.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.reserve(self.len());
        // SAFETY: the constructor's contract makes `iov_len` bytes at `iov_base` readable for 'a; `reserve` made room for
        // as many behind `at`; a raw copy makes no reference to memory that somebody else may change.
        unsafe {
            std::ptr::copy_nonoverlapping(self.0.iov_base.cast::<u8>(), out.as_mut_ptr().add(at), self.len());
            out.set_len(at + self.len());
        }
    }

    /// Copies the bytes to `out`.
    ///
    /// # Panics
    /// If `out` is not of the same length.
    pub fn copy_to_slice(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len());
        // SAFETY: as in `copy_to`; `out` is of the length that is written.
        unsafe { std::ptr::copy_nonoverlapping(self.0.iov_base.cast::<u8>(), out.as_mut_ptr(), out.len()) };
    }

    /// For system calls.
    pub(crate) fn as_raw(list: &[Gather<'a>]) -> *const libc::iovec {
        list.as_ptr().cast()
    }
}

impl<'a> Scatter<'a> {
    pub fn new(room: &'a mut [u8]) -> Scatter<'a> {
        Scatter(libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() }, PhantomData)
    }

    /// Memory that others may change meanwhile.
    ///
    /// # Safety
    /// `len` initialised bytes at `base` stay mapped and writable for 'a.
    pub(super) unsafe fn of_shared(base: *mut u8, len: usize) -> Scatter<'a> {
        Scatter(libc::iovec { iov_base: base.cast(), iov_len: len }, PhantomData)
    }

    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    pub fn is_empty(&self) -> bool {
        self.0.iov_len == 0
    }

    /// Keeps the first `n` bytes, or all.
    pub fn truncate(&mut self, n: usize) {
        self.0.iov_len = self.0.iov_len.min(n);
    }

    /// Appends a copy of the first `n` bytes, or of all, to `out`.
    pub fn copy_to(&self, n: usize, out: &mut Vec<u8>) {
        let n = n.min(self.len());
        let at = out.len();
        out.reserve(n);
        // SAFETY: the constructor's contract makes `iov_len` initialised bytes at `iov_base` accessible for 'a; `reserve`
        // made room for as many behind `at`; a raw copy makes no reference to memory that somebody else may change.
        unsafe {
            std::ptr::copy_nonoverlapping(self.0.iov_base.cast::<u8>(), out.as_mut_ptr().add(at), n);
            out.set_len(at + n);
        }
    }

    /// For system calls.
    pub(crate) fn as_raw(list: &mut [Scatter<'a>]) -> *mut libc::iovec {
        list.as_mut_ptr().cast()
    }
}

impl std::fmt::Debug for Gather<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gather({} bytes)", self.len())
    }
}

impl std::fmt::Debug for Scatter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Scatter({} bytes)", self.len())
    }
}
