"""The virtual machine as a gateway between a client and a server, each in a network namespace.

    client 198.51.100.2 --- 198.51.100.1 gateway 203.0.113.1 --- 203.0.113.2 server
           2001:db8:0:1::2 -- 2001:db8:0:1::1        2001:db8:0:2::1 -- 2001:db8:0:2::2

The IPv6 networks differ in their eighth byte. On Debian 11's kernel, and on a processor with AVX2, sets of prefixes do
not compare the sixth; see the known limits in docs/limits.md.

The gateway is the machine's own namespace, where systemd runs the daemon. Every wait has a bound. The bounds are wide,
because an emulated processor is slow.
"""

import contextlib
import ctypes
import json
import os
import socket
import subprocess
import time

TEST = "/mnt/test"
# Bound of a wait for something that takes a moment on a real machine.
SOON = 60
CLIENT = {4: "198.51.100.2", 6: "2001:db8:0:1::2"}
GATEWAY = {4: "198.51.100.1", 6: "2001:db8:0:1::1"}
SERVER = {4: "203.0.113.2", 6: "2001:db8:0:2::2"}

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def run(*command, check=True, timeout=SOON, stdin=None):
    """Runs a command; returns its output, both streams. With check=False, returns (status, output)."""
    done = subprocess.run(
        command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    if not check:
        return done.returncode, done.stdout
    assert done.returncode == 0, f"{' '.join(command)}: status {done.returncode}: {done.stdout}"
    return done.stdout


def wait_until(what, condition, seconds=SOON):
    """Waits until the condition returns something true; returns that."""
    until = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < until, f"not within {seconds} s: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def inside(namespace):
    """Sockets that are made in here belong to the namespace, and stay there."""
    with open("/proc/self/ns/net") as own, open(f"/run/netns/{namespace}") as other:
        assert libc.setns(other.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert libc.setns(own.fileno(), CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def build():
    """Makes the namespaces and starts the server's backend."""
    for namespace, device, side in (("client", "clients", 1), ("server", "servers", 2)):
        near, far = {1: (GATEWAY[4], CLIENT[4]), 2: ("203.0.113.1", SERVER[4])}[side]
        run("ip", "netns", "add", namespace)
        run("ip", "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", namespace)
        for where, interface, host, address in (([], device, 1, near), (["-n", namespace], "eth0", 2, far)):
            run("ip", *where, "addr", "add", f"{address}/24", "dev", interface)
            run("ip", *where, "addr", "add", f"2001:db8:0:{side}::{host}/64", "dev", interface, "nodad")
            run("ip", *where, "link", "set", interface, "up")
            run("ip", *where, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "route", "add", "default", "via", near)
        run("ip", "-n", namespace, "route", "add", "default", "via", f"2001:db8:0:{side}::1")
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        write(f"/proc/sys/net/{setting}", "1")
    addresses = [f"{SERVER[4]}:7000", f"[{SERVER[6]}]:7000"]
    options = [word for address in addresses for word in ("--tcp", address, "--udp", address)]
    with inside("server"):
        subprocess.Popen(
            ["python3", f"{TEST}/backend.py", "--name", "remote", *options],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
    wait_until("the server listens", lambda: "7000" in run("ip", "netns", "exec", "server", "ss", "-Hltn"))


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def read(path):
    with open(path) as file:
        return file.read().strip()


class Connection:
    """A client's HTTP connection, which stays open for more requests."""

    def __init__(self, family, port):
        with inside("client"):
            self.socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
        self.socket.settimeout(SOON)
        self.socket.connect((GATEWAY[family], port))

    def request(self):
        """Sends a request; returns the backend's answer."""
        self.socket.sendall(b"GET / HTTP/1.1\r\nHost: gateway\r\n\r\n")
        data = b""
        while b"}\n" not in data:
            more = self.socket.recv(4096)
            assert more, f"the connection was closed after {data}"
            data += more
        return json.loads(data[data.index(b"{"):])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


class Datagrams(Connection):
    """A client's UDP flow."""

    def __init__(self, family, port):
        with inside("client"):
            self.socket = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self.socket.settimeout(SOON)
        self.socket.connect((GATEWAY[family], port))

    def request(self):
        self.socket.send(b"hello")
        return json.loads(self.socket.recv(4096))


def status():
    """The daemon's status."""
    return json.loads(run("proxygwctl", "status"))


def target(name):
    return next(one for one in status()["targets"] if one["name"] == name)


def frontend(name):
    return next(one for one in status()["frontends"] if one["name"] == name)


def await_state(name, state, seconds=SOON):
    wait_until(f"target {name} is {state}", lambda: target(name)["state"] == state, seconds)


def unit(property):
    return run("systemctl", "show", "--value", f"--property={property}", "proxygw").strip()


def has_table():
    """Whether a table of the daemon is there."""
    return "proxygw" in run("nft", "list", "tables")
