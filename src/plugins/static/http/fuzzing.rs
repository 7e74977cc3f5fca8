//! Fuzz target of requests. See [`crate::fuzzing`].

use super::response::{Effect, Page};

/// Responds to the head of a request.
///
/// # Panics
/// The response is not complete HTTP, or wakes without being a response to a request for the page.
pub fn http(head: &[u8]) {
    let page = Page { content: "<p>wait".to_owned(), path: "/wake".to_owned() };
    let (bytes, effect) = page.response(head);
    let mut headers = [httparse::EMPTY_HEADER; 8];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(&bytes).expect("a response");
    let length = bytes.len() - parsed.unwrap();
    let code = response.code.expect("a status");
    let header = |name: &str| {
        let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let value = found.next().and_then(|header| std::str::from_utf8(header.value).ok());
        assert!(found.next().is_none(), "{name} twice");
        value
    };
    assert_eq!(header("connection"), Some("close"));
    let announced = header("content-length").and_then(|length| length.parse().ok());
    // Empty lines before a request are skipped.
    let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
    let is_head = head[start..].starts_with(b"HEAD ");
    assert!(announced == Some(length) || (is_head && length == 0), "{announced:?} and {length} bytes");
    assert_eq!(effect == Effect::Wake, matches!(code, 200 | 405));
}
