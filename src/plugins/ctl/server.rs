//! The control socket and its connections, on the reactor thread.
//!
//! A hostile client costs itself its connection and nobody else anything: packets, answers, connections and the time that
//! an answer may take are bounded, and when there are too many connections the one that has been silent for longest goes.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use mio::Interest;
use mio::net::{UnixListener, UnixStream};
use rustix::fs::Mode;

use super::connection::{Connection, Next};
use super::settings::Settings;
use crate::engine::Reply;
use crate::plugin::{Error, Handler, Io, Readiness};

/// How many clients there can be at once.
const MOST_CLIENTS: usize = 64;

/// How long a client may take no byte of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many clients are accepted at once. Those that are there already have their turn before more are.
const ACCEPTED_AT_ONCE: usize = 16;

/// How many reads, writes and requests a client may have before others have their turn.
const TURNS_AT_ONCE: usize = 32;

/// How long to wait before accepting again when there is no descriptor left.
const SHORTAGE: Duration = Duration::from_millis(100);

/// The listener's key; clients count up from the next.
const LISTENER: usize = 0;

/// The control socket.
pub(super) struct Server {
    settings: Settings,
    listener: Option<Listener>,
    clients: BTreeMap<usize, Client>,
    /// Never used twice, so that a reply cannot reach a client that did not ask.
    next: usize,
    retry: Option<Instant>,
}

struct Listener {
    socket: UnixListener,
    /// The device and inode of its file.
    file: (u64, u64),
}

struct Client {
    stream: UnixStream,
    talk: Connection,
    active: Instant,
    /// Since when it has taken no byte of what is to be written.
    stuck: Option<Instant>,
    /// It will send nothing more.
    ended: bool,
}

impl Server {
    pub(super) fn new(settings: Settings) -> Server {
        Server { settings, listener: None, clients: BTreeMap::new(), next: LISTENER + 1, retry: None }
    }
}

impl Handler for Server {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        let path = &self.settings.socket;
        let mut listener =
            listen(&self.settings).map_err(|error| format!("control socket {}: {error}", path.display()))?;
        io.register(&mut listener.socket, LISTENER, Interest::READABLE)?;
        self.listener = Some(listener);
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        while let Some(key) = self.clients.keys().next().copied() {
            self.close(io, key);
        }
        if let Some(mut listener) = self.listener.take() {
            io.deregister(&mut listener.socket, LISTENER);
            let path = &self.settings.socket;
            if file_of(path).is_ok_and(|file| file == listener.file)
                && let Err(error) = std::fs::remove_file(path)
            {
                log::warn!("cannot remove the control socket {}: {error}", path.display());
            }
        }
        self.retry = None;
    }

    fn ready(&mut self, io: &mut Io<'_>, key: usize, _readiness: Readiness) {
        if key == LISTENER { self.accept(io) } else { self.go_on(io, key) }
    }

    fn deadline(&self) -> Option<Instant> {
        let stuck = self.clients.values().filter_map(|client| client.stuck).min();
        stuck.map(|since| since + PATIENCE).into_iter().chain(self.retry).min()
    }

    fn timeout(&mut self, io: &mut Io<'_>) {
        let now = io.now();
        let stuck = |client: &Client| client.stuck.is_some_and(|since| since + PATIENCE <= now);
        let keys: Vec<usize> = self.clients.iter().filter(|(_, client)| stuck(client)).map(|(key, _)| *key).collect();
        keys.into_iter().for_each(|key| self.close(io, key));
        if self.retry.take_if(|at| *at <= now).is_some() {
            self.accept(io);
        }
    }

    fn reply(&mut self, io: &mut Io<'_>, tag: u64, reply: Reply) {
        let key = tag as usize;
        if let Some(client) = self.clients.get_mut(&key) {
            client.talk.reply(reply);
            self.go_on(io, key);
        }
    }
}

impl Server {
    fn accept(&mut self, io: &mut Io<'_>) {
        for _ in 0..ACCEPTED_AT_ONCE {
            let Some(listener) = &self.listener else { return };
            match listener.socket.accept() {
                Ok((stream, _)) => self.admit(io, stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::ConnectionAborted) => {}
                Err(error) => {
                    log::warn!("control socket: cannot accept a client: {error}");
                    self.close_most_silent(io);
                    self.retry = Some(io.now() + SHORTAGE);
                    return;
                }
            }
        }
        // Events tell of changes only; this one is wanted again if there are more.
        if let Some(listener) = &mut self.listener
            && let Err(error) = io.reregister(&mut listener.socket, LISTENER, Interest::READABLE)
        {
            log::warn!("control socket: cannot watch it: {error}");
            self.retry = Some(io.now() + SHORTAGE);
        }
    }

    fn admit(&mut self, io: &mut Io<'_>, mut stream: UnixStream) {
        if self.clients.len() >= MOST_CLIENTS {
            self.close_most_silent(io);
        }
        let key = self.next;
        self.next += 1;
        if let Err(error) = io.register(&mut stream, key, Interest::READABLE | Interest::WRITABLE) {
            return log::warn!("control socket: cannot watch a client: {error}");
        }
        let talk = Connection::new(self.settings.codec);
        self.clients.insert(key, Client { stream, talk, active: io.now(), stuck: None, ended: false });
        self.go_on(io, key);
    }

    /// Lets a conversation go on as far as it goes without waiting.
    fn go_on(&mut self, io: &mut Io<'_>, key: usize) {
        let Some(client) = self.clients.get_mut(&key) else { return };
        let mut turns = 0..TURNS_AT_ONCE;
        loop {
            if turns.next().is_none() {
                // The others have their turn; the socket's new registration tells of what is left.
                match io.reregister(&mut client.stream, key, Interest::READABLE | Interest::WRITABLE) {
                    Ok(()) => return,
                    Err(_) => break,
                }
            }
            match client.talk.next() {
                Next::Ask(request) => io.request(key as u64, request),
                Next::Wait => return,
                Next::Write => match client.write(io.now()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(_) => break,
                },
                Next::Read if client.ended => break,
                Next::Read => match client.read(io.now()) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                    Err(_) => break,
                },
                Next::Close => break,
            }
        }
        self.close(io, key);
    }

    fn close(&mut self, io: &mut Io<'_>, key: usize) {
        if let Some(mut client) = self.clients.remove(&key) {
            io.deregister(&mut client.stream, key);
        }
    }

    fn close_most_silent(&mut self, io: &mut Io<'_>) {
        let silent = self.clients.iter().min_by_key(|(_, client)| client.active).map(|(key, _)| *key);
        silent.into_iter().for_each(|key| self.close(io, key));
    }
}

impl Client {
    fn read(&mut self, now: Instant) -> io::Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(read) => {
                self.active = now;
                self.talk.read(&buffer[..read]);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn write(&mut self, now: Instant) -> io::Result<()> {
        match self.stream.write(self.talk.output()) {
            Ok(written) => {
                self.active = now;
                self.talk.written(written);
                self.stuck = None;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                self.stuck.get_or_insert(now);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Makes the socket, in the place of one that nobody listens on any more.
fn listen(settings: &Settings) -> Result<Listener, Error> {
    let path = &settings.socket;
    clear(path)?;
    let group = settings.group.as_deref().map(group_number).transpose()?;
    // Nobody else can connect before the mode and the group are what they should be.
    let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
    let socket = UnixListener::bind(path);
    rustix::process::umask(umask);
    let socket = socket.map_err(|error| match error.kind() {
        ErrorKind::NotFound => "its folder does not exist".to_owned(),
        _ => error.to_string(),
    })?;
    let file = file_of(path)?;
    let listener = Listener { socket, file };
    let finish = || {
        std::os::unix::fs::chown(path, None, group)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.mode))
    };
    finish().inspect_err(|_| {
        // It is ours, and of no use.
        let _ = std::fs::remove_file(path);
    })?;
    Ok(listener)
}

/// Removes the socket of a daemon that is gone.
fn clear(path: &Path) -> Result<(), Error> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
        Ok(found) if !found.file_type().is_socket() => return Err("there is a file that is not a socket".into()),
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err("another daemon listens there".into()),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(std::fs::remove_file(path)?),
        // A socket of another type, or one that we may not use.
        Err(error) => Err(format!("there is a socket that cannot be replaced: {error}").into()),
    }
}

fn file_of(path: &Path) -> io::Result<(u64, u64)> {
    std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// The number of a group, by its name in `/etc/group` (group(5)) or as a number.
fn group_number(name: &str) -> Result<u32, Error> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    const GROUPS: &str = "/etc/group";
    let groups = std::fs::read_to_string(GROUPS).map_err(|error| format!("{GROUPS}: {error}"))?;
    let number = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    number.ok_or_else(|| format!("there is no group {name:?} in {GROUPS}").into())
}
