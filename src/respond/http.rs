//! As much of HTTP/1.1 (RFC 9112) as a container engine's socket takes: one GET a connection, and its answer, whole or line by
//! line as it comes. Pure: bytes in, what they mean out.
//!
//! Limits: a head of [`HEAD_MAX`] bytes; the rest is limited by who reads it.

/// The head of an answer may be as long as this.
pub const HEAD_MAX: usize = 16 << 10;

/// A request without a body. `path` is written by us, and holds no spaces.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: engine\r\nAccept: application/json\r\nConnection: close\r\n\r\n")
}

/// What one has come to of an answer.
#[derive(Debug)]
pub struct Answer {
    state: State,
    /// What was not understood yet.
    rest: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Head,
    /// Until the connection ends, or for so many bytes.
    Plain(Option<u64>),
    /// A chunk's size is next (RFC 9112 §7.1).
    Size,
    Chunk(u64),
    /// The line's end behind a chunk.
    ChunkEnd,
    Done,
}

impl Default for Answer {
    fn default() -> Answer {
        Answer { state: State::Head, rest: Vec::new() }
    }
}

impl Answer {
    /// Takes bytes of the connection, and appends what they hold of the body.
    ///
    /// # Errors
    /// It is no HTTP, or the engine refuses: a sentence without its subject.
    pub fn take(&mut self, bytes: &[u8], body: &mut Vec<u8>) -> Result<(), String> {
        self.rest.extend_from_slice(bytes);
        while self.step(body)? {}
        Ok(())
    }

    /// Nothing more belongs to it.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// The connection has ended: whether that was all.
    pub fn is_whole(&self) -> bool {
        matches!(self.state, State::Done | State::Plain(None))
    }

    /// True if there may be more to do with what is there.
    fn step(&mut self, body: &mut Vec<u8>) -> Result<bool, String> {
        match self.state {
            State::Head => {
                let Some(end) = find(&self.rest, b"\r\n\r\n") else {
                    let long = self.rest.len() > HEAD_MAX;
                    return if long { Err("its answer has a head without an end".into()) } else { Ok(false) };
                };
                let head: Vec<u8> = self.rest.drain(..end + 4).take(end).collect();
                self.state = read_head(&head)?;
                Ok(true)
            }
            State::Plain(None) => {
                body.append(&mut self.rest);
                Ok(false)
            }
            State::Plain(Some(left)) => {
                let left = self.pass(left, body);
                self.state = if left == 0 { State::Done } else { State::Plain(Some(left)) };
                Ok(false)
            }
            State::Size => {
                let Some(end) = find(&self.rest, b"\r\n") else {
                    let long = self.rest.len() > SIZE_MAX;
                    return if long { Err("it sends a chunk without a size".into()) } else { Ok(false) };
                };
                let line: Vec<u8> = self.rest.drain(..end + 2).take(end).collect();
                self.state = match chunk_size(&line).ok_or("it sends a chunk without a size")? {
                    // Trailers are of no interest.
                    0 => State::Done,
                    size => State::Chunk(size),
                };
                Ok(self.state != State::Done)
            }
            State::Chunk(left) => {
                let left = self.pass(left, body);
                self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                Ok(left == 0)
            }
            State::ChunkEnd => {
                if self.rest.len() < 2 {
                    return Ok(false);
                }
                if !self.rest.starts_with(b"\r\n") {
                    return Err("it sends a chunk that is longer than its size".into());
                }
                self.rest.drain(..2);
                self.state = State::Size;
                Ok(true)
            }
            State::Done => {
                self.rest.clear();
                Ok(false)
            }
        }
    }

    fn pass(&mut self, left: u64, body: &mut Vec<u8>) -> u64 {
        let now = self.rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        body.extend(self.rest.drain(..now));
        left - now as u64
    }
}

/// Without its last, empty line.
fn read_head(head: &[u8]) -> Result<State, String> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status = lines.next().unwrap_or_default();
    let code = status.strip_prefix("HTTP/1.").and_then(|s| s.split(' ').nth(1)?.parse::<u16>().ok());
    match code {
        Some(200) => {}
        Some(404) => return Err("there is none of this name".into()),
        Some(code) => return Err(format!("it answers with status {code}")),
        None => return Err("it does not answer in HTTP".into()),
    }
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked") {
            return Ok(State::Size);
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse().map_err(|_| "its answer has a length that is none".to_string())?);
        }
    }
    Ok(if length == Some(0) { State::Done } else { State::Plain(length) })
}

/// Hexadecimal, and perhaps an extension behind a semicolon.
fn chunk_size(line: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(line).ok()?.split(';').next()?.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

const SIZE_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], piece: usize) -> Result<(Vec<u8>, bool, bool), String> {
        let (mut answer, mut body) = (Answer::default(), Vec::new());
        for part in bytes.chunks(piece) {
            answer.take(part, &mut body)?;
        }
        Ok((body, answer.is_done(), answer.is_whole()))
    }

    #[test]
    fn bodies_of_all_kinds_in_pieces_of_all_sizes() {
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwiki\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n";
        let sized = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwiki!";
        let open = b"HTTP/1.0 200 OK\r\nX: y\r\n\r\nwiki";
        for piece in 1..40 {
            assert_eq!(read(chunked, piece), Ok((b"wiki0123456789".to_vec(), true, true)));
            assert_eq!(read(sized, piece), Ok((b"wiki".to_vec(), true, true)));
            assert_eq!(read(open, piece), Ok((b"wiki".to_vec(), false, true)));
        }
        assert_eq!(read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nwi", 99), Ok((b"wi".to_vec(), false, false)));
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for (text, sentence) in [
            ("HTTP/1.1 404 Not Found\r\n\r\n", "none of this name"),
            ("HTTP/1.1 500 X\r\n\r\n", "status 500"),
            ("SSH-2.0\r\n\r\n", "not answer in HTTP"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "a length that is none"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "without a size"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than its size"),
        ] {
            assert!(read(text.as_bytes(), 7).unwrap_err().contains(sentence), "{text}");
        }
        assert!(read(&[b'x'; HEAD_MAX + 100], 1000).unwrap_err().contains("without an end"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_none(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
            piece in 1usize..50,
        ) {
            for head in ["", "HTTP/1.1 200 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"] {
                let whole = [head.as_bytes(), &bytes].concat();
                if let Ok((body, _, _)) = read(&whole, piece) {
                    assert!(body.len() <= bytes.len());
                }
            }
        }
    }
}
