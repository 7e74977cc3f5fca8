//! The response to a request's head, and its effect on the target. Pure.

/// Maximum number of headers of a request.
const MAX_HEADERS: usize = 64;

/// The page and its path.
pub(super) struct Page {
    pub(super) content: String,
    pub(super) path: String,
}

/// Effect of a request on the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    Wake,
}

/// Whether the response has its content or, for HEAD, only the content's length.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Body {
    Sent,
    Omitted,
}

impl Page {
    /// The response to a request with this head, and the effect of the request.
    pub(super) fn response(&self, head: &[u8]) -> (Vec<u8>, Effect) {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let parsed = request.parse(head);
        let (method, target) = match (parsed, request.method, request.path) {
            (Ok(httparse::Status::Complete(_)), Some(method), Some(target)) => (method, target),
            (Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders), ..) => {
                let message = "the head of the request is too large\n";
                return (format("431 Request Header Fields Too Large", "", message, Body::Sent), Effect::None);
            }
            _ => return (format("400 Bad Request", "", "not an HTTP request\n", Body::Sent), Effect::None),
        };
        let body = if method == "HEAD" { Body::Omitted } else { Body::Sent };
        if path_of(target) != self.path {
            return (format("404 Not Found", "", "not found\n", body), Effect::None);
        }
        let response = match method {
            "GET" | "HEAD" => format("200 OK", "", &self.content, body),
            _ => format("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "only GET and HEAD\n", body),
        };
        (response, Effect::Wake)
    }
}

/// The path of a request's target, without its query; of `http://host/path` too (RFC 9112, section 3.2).
fn path_of(target: &str) -> &str {
    let path = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        Some(rest) => rest.find('/').map_or("/", |start| &rest[start..]),
        None => target,
    };
    path.split(['?', '#']).next().unwrap_or(path)
}

fn format(status: &str, headers: &str, content: &str, body: Body) -> Vec<u8> {
    let kind = if content.trim_start().starts_with('<') { "text/html" } else { "text/plain" };
    let length = content.len();
    let content = if body == Body::Sent { content } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\n{headers}Connection: close\r\n\r\n{content}"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(head: &str) -> (String, Effect) {
        let page = Page { content: "wait\n".to_owned(), path: "/wake".to_owned() };
        let (bytes, effect) = page.response(head.as_bytes());
        (String::from_utf8(bytes).expect("UTF-8"), effect)
    }

    #[test]
    fn answers_by_path_and_method() {
        let cases = [
            ("GET /wake HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", Effect::Wake),
            ("GET /wake?x=1 HTTP/1.0\r\n\r\n", "200 OK", Effect::Wake),
            ("GET http://example.org/wake HTTP/1.1\r\n\r\n", "200 OK", Effect::Wake),
            ("HEAD /wake HTTP/1.1\r\n\r\n", "200 OK", Effect::Wake),
            ("POST /wake HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "405 Method Not Allowed", Effect::Wake),
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", Effect::None),
            ("GET /wake/ HTTP/1.1\r\n\r\n", "404 Not Found", Effect::None),
            ("DELETE / HTTP/1.1\r\n\r\n", "404 Not Found", Effect::None),
            ("OPTIONS * HTTP/1.1\r\n\r\n", "404 Not Found", Effect::None),
            ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400 Bad Request", Effect::None),
            ("GET /wake HTTP/1.1\r\nX: ", "431 Request Header Fields Too Large", Effect::None),
        ];
        for (head, status, expected) in cases {
            let (response, effect) = response(head);
            assert!(response.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head:?}: {response:?}");
            assert!(response.contains("\r\nConnection: close\r\n"), "{head:?}");
            assert_eq!(response.contains("\r\nAllow: GET, HEAD\r\n"), status.starts_with("405"), "{head:?}");
            assert_eq!(effect, expected, "{head:?}");
        }
    }

    #[test]
    fn head_is_answered_with_the_length_only() {
        let (bytes, _) = response("HEAD /wake HTTP/1.1\r\n\r\n");
        assert!(bytes.contains("\r\nContent-Length: 5\r\n") && bytes.ends_with("\r\n\r\n"), "{bytes:?}");
        assert!(response("GET /wake HTTP/1.1\r\n\r\n").0.ends_with("\r\n\r\nwait\n"));
        let (bytes, _) = response("HEAD / HTTP/1.1\r\n\r\n");
        assert!(bytes.starts_with("HTTP/1.1 404 ") && bytes.ends_with("\r\n\r\n"), "{bytes:?}");
    }

    #[test]
    fn content_type_depends_on_the_content() {
        let kind = |content: &str| {
            let page = Page { content: content.to_owned(), path: "/".to_owned() };
            let (bytes, _) = page.response(b"GET / HTTP/1.1\r\n\r\n");
            let response = String::from_utf8(bytes).expect("UTF-8");
            response.lines().find_map(|line| line.strip_prefix("Content-Type: ")).map(str::to_owned).expect("a type")
        };
        assert_eq!(kind(" \n<html>"), "text/html; charset=utf-8");
        assert_eq!(kind("wait < a moment"), "text/plain; charset=utf-8");
    }

    #[test]
    fn path_is_the_target_without_scheme_host_and_query() {
        for (target, path) in [
            ("/a?b#c", "/a"),
            ("/a#b?c", "/a"),
            ("http://host/a/b?c", "/a/b"),
            ("https://host:1/a", "/a"),
            ("http://host", "/"),
            ("ftp://host/a", "ftp://host/a"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(path_of(target), path, "{target}");
        }
    }
}
