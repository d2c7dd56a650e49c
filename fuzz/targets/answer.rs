//! What an upstream says through the reading of answers: it means the same wherever it is split, and a body is never longer
//! than its head says.

use bytes::BytesMut;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Method};
use sidegate::proxy::upstream::h1::answer::{self, Answer, HeadSearch};

/// An answer and what stands behind it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    behind: Vec<u8>,
}

pub fn run(data: &[u8]) {
    let whole = read(data, usize::MAX);
    for step in [1, 3, 64] {
        assert_eq!(read(data, step), whole, "{step} bytes at once");
    }
    let Some(Read { headers, body, .. }) = whole else { return };
    let lengths: Vec<_> = headers.get_all(CONTENT_LENGTH).iter().filter_map(|length| length.to_str().ok()).collect();
    if let Some(Ok(length)) = lengths.first().map(|length| length.parse::<usize>()) {
        assert!(body.is_empty() || body.len() == length, "{} of {length}", body.len());
        assert!(body.is_empty() || !headers.contains_key(TRANSFER_ENCODING), "two ends");
    }
}

/// What is understood of `data` when it comes `step` bytes at once, and the connection is closed behind it. `None`: it is
/// refused.
fn read(data: &[u8], step: usize) -> Option<Read> {
    let mut pieces = data.chunks(step.min(data.len().max(1)));
    let (mut buffer, mut awaited) = (BytesMut::new(), HeadSearch::default());
    let Answer { response, mut framing, .. } = loop {
        if let Some(answer) = answer::take(&mut buffer, &mut awaited, &Method::GET, &mut HeaderMap::new()).ok()? {
            break answer;
        }
        buffer.extend_from_slice(pieces.next()?);
    };
    let (mut body, mut trailers) = (Vec::new(), None);
    while !framing.is_ended() {
        match framing.take(&mut buffer).ok()?.map(|frame| frame.into_data()) {
            Some(Ok(data)) => body.extend_from_slice(&data),
            Some(Err(frame)) => trailers = frame.into_trailers().ok(),
            None if framing.is_ended() => {}
            None => match pieces.next() {
                Some(piece) => buffer.extend_from_slice(piece),
                None => framing.close().ok()?,
            },
        }
    }
    pieces.for_each(|piece| buffer.extend_from_slice(piece));
    let (head, ()) = response.into_parts();
    Some(Read { status: head.status.as_u16(), headers: head.headers, body, trailers, behind: buffer.to_vec() })
}
