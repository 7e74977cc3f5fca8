#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::group::Group;
use super::settings::Settings;
use super::socket::{SocketFile, open};
use super::wire::Codec;

/// A directory of the test's own, removed at its end.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("proxygw-ctl-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(super) fn settings(&self) -> Settings {
        Settings { socket: self.0.join("ctl.sock"), codec: Codec::Json, mode: 0o600, group: None }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn refused(settings: &Settings) -> String {
    open(settings).map(|(_, file)| file).unwrap_err().to_string()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn the_file_has_its_mode_and_is_removed() {
    let directory = Directory::new();
    for wanted in [0o600, 0o660, 0o666, 0o777, 0o000] {
        let settings = Settings { mode: wanted, ..directory.settings() };
        let (listener, file): (_, SocketFile) = open(&settings).unwrap();
        assert_eq!(mode(&settings.socket), wanted);
        drop(listener);
        file.remove();
        assert!(!settings.socket.exists());
    }
}

#[test]
fn the_file_has_its_group() {
    let directory = Directory::new();
    let own = fs::metadata(&directory.0).unwrap().gid();
    let settings = Settings { group: Some(Group::Id(own)), mode: 0o660, ..directory.settings() };
    let opened = open(&settings).unwrap();
    assert_eq!(fs::metadata(&settings.socket).unwrap().gid(), own);
    assert_eq!(mode(&settings.socket), 0o660);
    drop(opened);

    let settings = Settings { group: Some(Group::Name("no such group".into())), ..directory.settings() };
    assert!(refused(&settings).contains("there is no group \"no such group\" in /etc/group"));
}

#[test]
fn a_dead_socket_is_replaced() {
    let directory = Directory::new();
    let settings = directory.settings();
    drop(UnixListener::bind(&settings.socket).unwrap());
    let (_listener, _file) = open(&settings).unwrap();
    UnixStream::connect(&settings.socket).unwrap();
}

#[test]
fn other_files_and_sockets_in_use_are_left_alone() {
    let directory = Directory::new();
    let settings = directory.settings();

    let other = UnixListener::bind(&settings.socket).unwrap();
    assert!(refused(&settings).ends_with("another program listens there; is proxygw running already?"));
    // Its queue is full, which must not block either.
    let mut clients = Vec::new();
    while let Ok(client) = mio::net::UnixStream::connect(&settings.socket) {
        clients.push(client);
    }
    assert!(refused(&settings).ends_with("is proxygw running already?"));
    drop((other, clients));
    fs::remove_file(&settings.socket).unwrap();

    let datagrams = UnixDatagram::bind(&settings.socket).unwrap();
    assert!(refused(&settings).contains("cannot determine"));
    drop(datagrams);
    fs::remove_file(&settings.socket).unwrap();

    fs::write(&settings.socket, "precious").unwrap();
    assert!(refused(&settings).contains("exists and is not a socket"));
    assert_eq!(fs::read(&settings.socket).unwrap(), b"precious");
    fs::remove_file(&settings.socket).unwrap();

    symlink("/nowhere", &settings.socket).unwrap();
    assert!(refused(&settings).contains("exists and is not a socket"));
    fs::remove_file(&settings.socket).unwrap();

    let missing = Settings { socket: directory.0.join("missing/ctl.sock"), ..directory.settings() };
    let expected = format!("the directory {} does not exist", directory.0.join("missing").display());
    assert!(refused(&missing).ends_with(&expected));
}

#[test]
fn file_of_another_daemon_is_not_removed() {
    let directory = Directory::new();
    let settings = directory.settings();
    let (_listener, file) = open(&settings).unwrap();
    fs::rename(&settings.socket, settings.socket.with_extension("old")).unwrap();
    let _successor = UnixListener::bind(&settings.socket).unwrap();
    file.remove();
    assert!(settings.socket.exists());
}
