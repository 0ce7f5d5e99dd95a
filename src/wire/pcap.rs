//! Records of the classic pcap format (draft-ietf-opsawg-pcap): little-endian, microseconds, Ethernet.

/// Longest frame a record holds; larger than any frame we handle, so nothing is cut.
pub const SNAPLEN: u32 = 262_144;

/// Length of what stands before each frame.
pub const RECORD_HEADER_LEN: usize = 16;

/// The file header.
pub fn file_header() -> [u8; 24] {
    let mut h = [0; 24];
    h[0..4].copy_from_slice(&0xa1b2_c3d4u32.to_le_bytes());
    h[4..6].copy_from_slice(&2u16.to_le_bytes());
    h[6..8].copy_from_slice(&4u16.to_le_bytes());
    h[16..20].copy_from_slice(&SNAPLEN.to_le_bytes());
    h[20..24].copy_from_slice(&1u32.to_le_bytes());
    h
}

/// The header of one record: wall-clock time since the epoch and the frame's length in bytes.
pub fn record_header(since_epoch: std::time::Duration, len: usize) -> [u8; RECORD_HEADER_LEN] {
    let mut h = [0; RECORD_HEADER_LEN];
    h[0..4].copy_from_slice(&(since_epoch.as_secs() as u32).to_le_bytes());
    h[4..8].copy_from_slice(&since_epoch.subsec_micros().to_le_bytes());
    h[8..12].copy_from_slice(&(len as u32).to_le_bytes());
    h[12..16].copy_from_slice(&(len as u32).to_le_bytes());
    h
}
