//! `static:http`: a frontend that answers cold clients with a page, and wakes the target with each request for it.
//!
//! It says `Connection: close`, so that the client's next request is a new flow, and finds the backend once that is warm.
//! Everything is bounded: the size of a request's head, the time that a connection may take, and how many there are; a
//! connection too many costs the one that will be missed least its place.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{TcpListener, TcpStream};

use super::aged::Aged;
use crate::config::{FrontendSpec, Protocol, Section};
use crate::plugin::{Acceptance, Accepted, ColdPath, Error, Frontend, Handler, Io, Readiness, Share, listen};

/// The longest head of a request.
const LONGEST_HEAD: usize = 8 * 1024;

/// The most headers of a request.
const MOST_HEADERS: usize = 64;

/// How long a connection may take, from its acceptance to its end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Largest number of connections that a frontend serves at once; a low limit of open files leaves fewer.
const MOST_CONNECTIONS: usize = 1024;

/// How long to wait before accepting again when there is no descriptor left.
const SHORTAGE: Duration = Duration::from_millis(100);

/// Number of frontends of this kind that run. They share the descriptors for clients.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// The most sockets that a frontend listens on: one for each address and port. Their keys are below this number, those of
/// connections begin with it.
const MOST_LISTENERS: usize = 64;

/// Reads the options `content` and `endpoint`.
pub(super) fn frontend(spec: &FrontendSpec, options: &mut Section<'_>) -> Option<Frontend> {
    let content: Option<String> = options.required("content");
    let endpoint = options.optional("endpoint").unwrap_or_else(|| "/".to_owned());
    if !endpoint.starts_with('/') {
        options.problem("endpoint", format_args!("{endpoint:?} is not a path: it starts with a slash"));
    }
    if spec.protocol != Protocol::Tcp {
        options.problem("", "static:http speaks HTTP, so the frontend's protocol is tcp");
    }
    let sockets: usize = spec.listen.iter().map(|listen| listen.ports.count() as usize).sum();
    if sockets > MOST_LISTENERS {
        options.problem(
            "",
            format_args!(
                "static:http would need {sockets} sockets for this listen: {MOST_LISTENERS} at most; packet:hold needs none"
            ),
        );
    }
    let page = Page { content: content?, path: endpoint };
    let handler = Http {
        listen: spec
            .listen
            .iter()
            .take(MOST_LISTENERS)
            .flat_map(|listen| listen.sockets())
            .take(MOST_LISTENERS)
            .collect(),
        page,
        listeners: Vec::new(),
        connections: Aged::new(),
        acceptance: Acceptance::new(Share::Clients, SHORTAGE),
    };
    (!options.failed()).then(|| Frontend { cold: ColdPath::Local, keeps_warm: false, handler: Some(Box::new(handler)) })
}

/// What is served, and where.
struct Page {
    content: String,
    path: String,
}

struct Http {
    listen: Vec<SocketAddr>,
    page: Page,
    /// By key: as many as `listen` while the frontend runs, none otherwise.
    listeners: Vec<TcpListener>,
    /// The reactor's key of a connection is [`MOST_LISTENERS`] more than its key here.
    connections: Aged<Connection>,
    acceptance: Acceptance,
}

struct Connection {
    stream: TcpStream,
    peer: SocketAddr,
    expires: Instant,
    state: State,
}

enum State {
    /// The head of the request, as far as it has come.
    Reading(Vec<u8>),
    /// What is still to be written.
    Writing(Vec<u8>, usize),
    /// The answer is out. Closing before the client has would reset the connection, and could cost it the answer.
    Lingering,
}

/// What is to become of a connection.
#[derive(PartialEq, Eq)]
enum Next {
    Keep,
    Close,
}

impl Handler for Http {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        for (key, address) in self.listen.iter().enumerate() {
            let opened = listen(*address).and_then(|mut listener| {
                io.register(&mut listener, key, Interest::READABLE)?;
                Ok(listener)
            });
            match opened {
                Ok(listener) => self.listeners.push(listener),
                Err(error) => {
                    let message = format!("cannot listen on {address}: {error}");
                    self.close_listeners(io);
                    return Err(message.into());
                }
            }
        }
        RUNNING.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        while let Some((number, _)) = self.connections.oldest() {
            self.close(io, number);
        }
        self.close_listeners(io);
        self.acceptance.clear();
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        let Some(number) = key.checked_sub(MOST_LISTENERS) else { return self.accept(io, key) };
        let Some(connection) = self.connections.get_mut(number) else { return };
        if connection.go_on(&self.page, io) == Next::Close {
            self.close(io, number);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let oldest = self.connections.oldest().map(|(_, connection)| connection.expires);
        oldest.into_iter().chain(self.acceptance.retry_at()).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        let now = io.now();
        while let Some((number, _)) = self.connections.oldest().filter(|(_, oldest)| oldest.expires <= now) {
            self.close(io, number);
        }
        if self.acceptance.due(now) {
            (0..self.listeners.len()).for_each(|key| self.accept(io, key));
        }
    }
}

impl Http {
    fn accept(&mut self, io: &mut Io<'_>, key: usize) {
        self.acceptance.begin();
        while let Some(listener) = self.listeners.get(key) {
            let name = format_args!("static:http on {}", self.listen[key]);
            let Some(accepted) = self.acceptance.next(io.now(), name, || listener.accept()) else { return };
            match accepted {
                Accepted::Client((stream, peer)) => self.admit(io, stream, peer),
                Accepted::Crowded((stream, peer)) => {
                    let stream = if self.close_one(io) { Acceptance::replaced(stream) } else { stream };
                    self.admit(io, stream, peer);
                }
                Accepted::Short => _ = self.close_one(io),
            }
        }
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: TcpStream, peer: SocketAddr) {
        let share = Share::Clients.max_clients() / RUNNING.load(Ordering::Relaxed).max(1);
        if self.connections.len() >= share.clamp(1, MOST_CONNECTIONS) {
            self.close_one(io);
        }
        let key = MOST_LISTENERS + self.connections.next_key();
        if let Err(error) = io.register(&mut stream, key, Interest::READABLE | Interest::WRITABLE) {
            return log::warn!("cannot watch a connection of {peer}: {error}");
        }
        let expires = io.now() + PATIENCE;
        let mut connection = Connection { stream, peer, expires, state: State::Reading(Vec::new()) };
        // Its request is often there already.
        let next = connection.go_on(&self.page, io);
        let number = self.connections.insert(connection);
        if next == Next::Close {
            self.close(io, number);
        }
    }

    fn close_listeners(&mut self, io: &mut Io<'_>) {
        for (key, mut listener) in std::mem::take(&mut self.listeners).into_iter().enumerate() {
            io.deregister(&mut listener, key);
        }
    }

    /// Closes the connection that will be missed least: the oldest that has had its answer, or the oldest of all.
    /// Returns false if there is none.
    fn close_one(&mut self, io: &mut Io<'_>) -> bool {
        let answered = self.connections.iter().find(|(_, connection)| matches!(connection.state, State::Lingering));
        let least = answered.or_else(|| self.connections.oldest()).map(|(number, _)| number);
        least.is_some_and(|key| {
            self.close(io, key);
            true
        })
    }

    fn close(&mut self, io: &mut Io<'_>, number: usize) {
        if let Some(mut connection) = self.connections.remove(number) {
            io.deregister(&mut connection.stream, MOST_LISTENERS + number);
        }
    }
}

impl Connection {
    /// Reads, answers and writes as far as that goes without waiting.
    fn go_on(&mut self, page: &Page, io: &mut Io<'_>) -> Next {
        loop {
            let step = match &mut self.state {
                State::Reading(head) => read_head(&mut self.stream, head).map(|complete| {
                    complete.map(|()| {
                        let (answer, wakes) = answer(page, head);
                        if wakes {
                            io.wake(Some(self.peer));
                        }
                        State::Writing(answer, 0)
                    })
                }),
                State::Writing(answer, written) => write_rest(&mut self.stream, answer, written).and_then(|complete| {
                    complete
                        .map(|()| {
                            self.stream.shutdown(std::net::Shutdown::Write)?;
                            Ok(State::Lingering)
                        })
                        .transpose()
                }),
                State::Lingering => match read_away(&mut self.stream) {
                    Ok(()) => return Next::Close,
                    Err(error) => Err(error),
                },
            };
            match step {
                Ok(Some(state)) => self.state = state,
                Ok(None) => return Next::Close,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Next::Keep,
                Err(_) => return Next::Close,
            }
        }
    }
}

/// Reads a request's head; `None` if the client closes before it is complete.
fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<Option<()>> {
    let mut buffer = [0; 2048];
    loop {
        let read = match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(None);
        }
        let searched = head.len().saturating_sub(3);
        head.extend_from_slice(&buffer[..read]);
        let complete = head[searched..].windows(4).any(|end| end == b"\r\n\r\n")
            || head[searched..].windows(2).any(|end| end == b"\n\n");
        if complete || head.len() > LONGEST_HEAD {
            return Ok(Some(()));
        }
    }
}

fn write_rest(stream: &mut TcpStream, answer: &[u8], written: &mut usize) -> io::Result<Option<()>> {
    while *written < answer.len() {
        match stream.write(&answer[*written..]) {
            Ok(0) => return Ok(None),
            Ok(more) => *written += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(()))
}

/// Reads and forgets until the client closes.
fn read_away(stream: &mut TcpStream) -> io::Result<()> {
    let mut buffer = [0; 2048];
    // A client that never stops sending has had its answer; the connection's time bounds it.
    for _ in 0..64 {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => _ = read?,
        }
    }
    Ok(())
}

/// The answer to a request, and whether it wakes the target.
fn answer(page: &Page, head: &[u8]) -> (Vec<u8>, bool) {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(head);
    let (method, target) = match (parsed, request.method, request.path) {
        (Ok(httparse::Status::Complete(_)), Some(method), Some(target)) => (method, target),
        (Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders), ..) => {
            return (
                response("431 Request Header Fields Too Large", "", "the request's head is too large\n", true),
                false,
            );
        }
        _ => return (response("400 Bad Request", "", "this is not HTTP\n", true), false),
    };
    let body = method != "HEAD";
    if path_of(target) != page.path {
        return (response("404 Not Found", "", "there is nothing here\n", body), false);
    }
    match method {
        "GET" | "HEAD" => (response("200 OK", "", &page.content, body), true),
        _ => (response("405 Method Not Allowed", "Allow: GET, HEAD\r\n", "only GET and HEAD\n", true), true),
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

fn response(status: &str, more: &str, content: &str, body: bool) -> Vec<u8> {
    let kind = if content.trim_start().starts_with('<') { "text/html" } else { "text/plain" };
    let length = content.len();
    let content = if body { content } else { "" };
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {length}\r\n\
         Cache-Control: no-store\r\n{more}Connection: close\r\n\r\n{content}"
    )
    .into_bytes()
}

/// The fuzz target of requests. See [`crate::fuzzing`].
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing {
    use super::{Page, answer};

    /// Answers the head of a request.
    ///
    /// # Panics
    /// The answer is not a whole HTTP response, or wakes without being one to a request for the page.
    pub fn http(head: &[u8]) {
        let page = Page { content: "<p>wait".to_owned(), path: "/wake".to_owned() };
        let (answer, wakes) = answer(&page, head);
        let mut headers = [httparse::EMPTY_HEADER; 8];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&answer).expect("a response");
        let length = answer.len() - parsed.unwrap();
        let code = response.code.expect("a status");
        let header = |name: &str| {
            let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            let value = found.next().and_then(|header| std::str::from_utf8(header.value).ok());
            assert!(found.next().is_none(), "{name} twice");
            value
        };
        assert_eq!(header("connection"), Some("close"));
        let said = header("content-length").and_then(|length| length.parse().ok());
        // Empty lines before a request are skipped.
        let start = head.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(head.len());
        let is_head = head[start..].starts_with(b"HEAD ");
        assert!(said == Some(length) || (is_head && length == 0), "{said:?} and {length} bytes");
        assert_eq!(wakes, matches!(code, 200 | 405));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(head: &str) -> (String, bool) {
        let page = Page { content: "wait\n".to_owned(), path: "/wake".to_owned() };
        let (answer, wakes) = answer(&page, head.as_bytes());
        (String::from_utf8(answer).expect("text"), wakes)
    }

    #[test]
    fn answers_by_path_and_method() {
        let cases = [
            ("GET /wake HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK", true),
            ("GET /wake?x=1 HTTP/1.0\r\n\r\n", "200 OK", true),
            ("GET http://example.org/wake HTTP/1.1\r\n\r\n", "200 OK", true),
            ("HEAD /wake HTTP/1.1\r\n\r\n", "200 OK", true),
            ("POST /wake HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "405 Method Not Allowed", true),
            ("GET / HTTP/1.1\r\n\r\n", "404 Not Found", false),
            ("GET /wake/ HTTP/1.1\r\n\r\n", "404 Not Found", false),
            ("DELETE / HTTP/1.1\r\n\r\n", "404 Not Found", false),
            ("OPTIONS * HTTP/1.1\r\n\r\n", "404 Not Found", false),
            ("\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", "400 Bad Request", false),
            ("GET /wake HTTP/1.1\r\nX: ", "431 Request Header Fields Too Large", false),
        ];
        for (head, status, wakes) in cases {
            let (answer, woke) = ask(head);
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{head:?}: {answer:?}");
            assert!(answer.contains("\r\nConnection: close\r\n"), "{head:?}");
            assert_eq!(woke, wakes, "{head:?}");
        }
    }

    #[test]
    fn an_answer_to_head_has_the_length_and_not_the_content() {
        let (answer, _) = ask("HEAD /wake HTTP/1.1\r\n\r\n");
        assert!(answer.contains("\r\nContent-Length: 5\r\n") && answer.ends_with("\r\n\r\n"));
        assert!(ask("GET /wake HTTP/1.1\r\n\r\n").0.ends_with("\r\n\r\nwait\n"));
    }
}
