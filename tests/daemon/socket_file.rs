//! The file and the directory of the control socket, removed while the daemon runs.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use rustix::process::Signal;
use serde_json::json;

use crate::control::{STATUS, connect};
use crate::setup::{SECOND, SOON, always, config, external, holds};
use crate::support::{Lab, Process, Temporary, binary, eventually, require_namespaces};

fn start(lab: &Lab, folder: &Temporary, socket: &Path) -> Process {
    let head = json!({"output": "stderr", "level": "INFO"});
    let ctl = json!({"ctl": {"socket": socket, "codec": "json"}});
    let text = config(&[external("b", &["e=tcp/203.0.113.2:80"])], &[always("f", "tcp/0.0.0.0:80", "b:e")]);
    let config = folder.write("proxygw.yaml", &format!("version: v1\nlog: {head}\nplugins: {ctl}\n{text}"));
    let mut command = lab.gateway.command(binary("proxygw"));
    command.arg("--config").arg(config).env("PATH", lab.gateway.path_of_programs());
    let process = Process::start(command);
    process.await_line("ready after", SOON);
    process
}

#[track_caller]
fn assert_answered(stream: &mut UnixStream) {
    stream.write_all(STATUS).expect("sent");
    let mut begin = [0; 8];
    stream.read_exact(&mut begin).expect("an answer");
    assert_eq!(&begin, b"{\"id\":1,");
    let mut byte = [0];
    while byte[0] != b'\n' {
        stream.read_exact(&mut byte).expect("the rest");
    }
}

fn count(process: &Process, text: &str) -> usize {
    process.log().lines().filter(|line| line.contains(text)).count()
}

#[test]
fn removed_socket_is_created_again() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let folder = Temporary::new();
    let run = folder.path().join("run");
    let socket = run.join("proxygw.sock");
    std::fs::create_dir(&run).expect("a folder");
    let mut daemon = start(&lab, &folder, &socket);
    let mut client = connect(&socket);
    assert_answered(&mut client);

    std::fs::remove_dir_all(&run).expect("removed");
    daemon.await_line("run/proxygw.sock was removed", SOON);
    daemon.await_line("does not exist", SOON);
    // Longer than one further attempt.
    holds("it is logged once", 5 * SECOND, || count(&daemon, "ctl:") == 2);
    assert_answered(&mut client);
    std::fs::create_dir(&run).expect("a folder");
    daemon.await_line("run/proxygw.sock again", SOON);
    assert_answered(&mut connect(&socket));
    assert_answered(&mut client);

    // The directory is moved, with the file in it.
    std::fs::rename(&run, folder.path().join("old")).expect("moved");
    std::fs::create_dir(&run).expect("a folder");
    eventually("a new socket", SOON, || UnixStream::connect(&socket).is_ok());
    assert_answered(&mut connect(&socket));

    // Only the file.
    std::fs::remove_file(&socket).expect("removed");
    eventually("a new socket", SOON, || UnixStream::connect(&socket).is_ok());

    // The socket of another program in its place is left alone until that program ends.
    std::fs::remove_file(&socket).expect("removed");
    let other = UnixListener::bind(&socket).expect("the place");
    daemon.await_line("another program listens there", SOON);
    drop(other);
    eventually("our socket is back", SOON, || UnixStream::connect(&socket).is_ok());
    assert_answered(&mut connect(&socket));
    assert_answered(&mut client);

    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(SOON).code(), Some(0), "{}", daemon.log());
    assert!(!socket.exists());
}
