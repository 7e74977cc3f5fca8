"""What contrib/bench-flows runs in its namespaces: client - gateway - backend, the daemon in the gateway's.

bench-flows.py BINARIES FOLDER SECONDS
"""

import contextlib
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time

BINARIES, FOLDER, SECONDS = sys.argv[1], sys.argv[2], int(sys.argv[3])
GATEWAY, BACKEND, NOBODY = "198.51.100.1", "203.0.113.2", "192.0.2.1"
CONTROL, LOG = f"{FOLDER}/control", f"{FOLDER}/log"
PATIENCE = 60
FOREIGN = 200_000
FLOW_TIMEOUT = 30

CONFIG = f"""version: v1
log: {{level: DEBUG, output: {LOG}}}
plugins: {{ctl: {{socket: {CONTROL}}}}}
targets:
  - name: b
    kind: static:none
    idle_timeout: 5m
    readiness: {{probe: none}}
    endpoints:
      - {{name: tcp, protocol: tcp, address: "{BACKEND}:8080"}}
      - {{name: udp, protocol: udp, address: "{BACKEND}:8080"}}
frontends:
  - {{name: tcp, kind: packet:hold, listen: "0.0.0.0:80", flow_timeout: {FLOW_TIMEOUT}s, target: b:tcp}}
  - {{name: udp, kind: packet:hold, listen: "0.0.0.0:80", flow_timeout: {FLOW_TIMEOUT}s, target: b:udp}}
"""

# Echoes; a connection is closed when its client closes.
SERVER = f'''
import selectors, socket
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("{BACKEND}", 8080))
tcp = socket.create_server(("{BACKEND}", 8080), backlog=4096)
ready = selectors.DefaultSelector()
ready.register(udp, 1); ready.register(tcp, 1)
while True:
    for key, _ in ready.select():
        if key.fileobj is udp:
            data, peer = udp.recvfrom(100)
            udp.sendto(data, peer)
        elif key.fileobj is tcp:
            ready.register(tcp.accept()[0], 1)
        else:
            data = key.fileobj.recv(100)
            if data:
                key.fileobj.send(data)
            else:
                ready.unregister(key.fileobj)
                key.fileobj.close()
'''

# So many foreign flows, each a datagram that nobody answers.
FILL = f'''
import socket, time
for port in range(10000, 10000 + {FOREIGN} // 2000):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(("", port))
    for to in range(1, 2001):
        s.sendto(b"x", ("{NOBODY}", to))
        if to % 100 == 0:
            # What comes too fast for the link is dropped.
            time.sleep(0.001)
'''

# At a steady pace: foreign flows, or proxied ones that are answered and over. Prints how many it made.
PACE = f'''
import socket, sys, time
kind, rate, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
began, made = time.monotonic(), 0
while (passed := time.monotonic() - began) < seconds:
    if made > passed * rate:
        time.sleep(0.002)
        continue
    made += 1
    if kind == "foreign":
        if made % 2000 == 1:
            s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b"x", ("{NOBODY}", 1 + made % 2000))
    else:
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
        s.settimeout(5)
        s.connect(("{GATEWAY}", 80))
        s.send(b"x")
        assert s.recv(1) == b"x"
        s.close()
print(made)
'''


def run(*command, inside=None):
    prefix = ["nsenter", f"--net=/proc/{inside}/ns/net"] if inside else []
    return subprocess.run([*prefix, *command], check=True, capture_output=True, text=True).stdout


def python(code, *words, inside):
    return subprocess.Popen(["nsenter", f"--net=/proc/{inside}/ns/net", "/usr/bin/python3", "-c", code,
                             *map(str, words)], stdout=subprocess.PIPE, text=True)


def sysctl(name, value):
    with open(f"/proc/sys/net/{name}", "w") as file:
        file.write(str(value))


def host(name, near, far):
    """A namespace behind a link, held by a process; its default route is the gateway."""
    holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
        time.sleep(0.001)
    run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid))
    run("ip", "addr", "add", f"{near}/24", "dev", name)
    run("ip", "link", "set", name, "up")
    for words in ("link set lo up", f"addr add {far}/24 dev eth0", "link set eth0 up", f"route add default via {near}"):
        run("ip", *words.split(), inside=holder.pid)
    return holder.pid


class Daemon:
    """The daemon, with its target active."""

    def __init__(self):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(LOG)
        self.process = subprocess.Popen([f"{BINARIES}/proxygw", "--config", f"{FOLDER}/proxygw.yaml"])
        end = time.monotonic() + PATIENCE
        while not os.path.exists(CONTROL) or self.ask("warm", "b").returncode != 0:
            assert time.monotonic() < end, "it does not start"
            time.sleep(0.05)
        while json.loads(self.ask("status").stdout)["targets"][0]["state"] != "active":
            assert time.monotonic() < end, "it does not warm"
            time.sleep(0.05)
        # What it does once after its start.
        time.sleep(2)

    def ask(self, *words):
        return subprocess.run([f"{BINARIES}/proxygwctl", "--socket", CONTROL, *words], capture_output=True, text=True)

    def cost(self):
        """Nanoseconds of processor time, and how often its threads have been given a processor."""
        time_, switches = 0, 0
        for path in glob.glob(f"/proc/{self.process.pid}/task/*/schedstat"):
            with open(path) as file:
                spent, _, slices = map(int, file.read().split())
                time_, switches = time_ + spent, switches + slices
        return time_, switches

    def dumps(self):
        with open(LOG) as file:
            return sum(" dumped " in line for line in file)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0


over = 0


def row(name, measured, flows, aims):
    """One row; aims are of the processor's share and of dumps."""
    global over
    share, dumps, switches, seconds = measured
    verdicts = [value <= aim for value, aim in zip((share, dumps), aims) if aim is not None]
    over += not all(verdicts)
    aim = " ".join(word for word, aim in ((f"{aims[0]} %", aims[0]), (f"{aims[1]} dumps", aims[1])) if aim is not None)
    verdict = "" if not verdicts else "OK" if all(verdicts) else "OVER"
    per_flow = f"{share / 100 * seconds / flows * 1e6:.0f}" if flows else ""
    print(f"| {name:<52} | {aim:>8} | {share:>7.2f} % | {dumps:>5} | {switches / seconds:>8.1f} | {per_flow:>6} "
          f"| {flows or '':>7} | {verdict:<4} |", flush=True)


def measure(daemon, during):
    """What the daemon costs while something happens."""
    dumps, (spent, slices), began = daemon.dumps(), daemon.cost(), time.monotonic()
    flows = during()
    seconds = time.monotonic() - began
    after, more = daemon.cost()
    return ((after - spent) / 1e7 / seconds, daemon.dumps() - dumps, more - slices, seconds), flows


def main():
    with open(f"{FOLDER}/proxygw.yaml", "w") as file:
        file.write(CONFIG)
    run("ip", "link", "set", "lo", "up")
    client, backend = host("clients", GATEWAY, "198.51.100.2"), host("backends", "203.0.113.1", BACKEND)
    run("ip", "route", "add", "192.0.2.0/24", "via", BACKEND)
    sysctl("ipv4/ip_forward", 1)
    server = python(SERVER, inside=backend)

    def paced(kind, rate):
        made = python(PACE, kind, rate, SECONDS, inside=client).communicate()[0]
        return int(made)

    def waiting():
        time.sleep(SECONDS)

    def talking():
        """One open connection, on which a byte goes now and then: it is silent for less than its flow_timeout."""
        code = f'''
import socket, sys, time
s = socket.create_connection(("{GATEWAY}", 80), timeout=5)
end = time.monotonic() + int(sys.argv[1])
while time.monotonic() < end:
    s.send(b"x"); assert s.recv(1) == b"x"; time.sleep(min({FLOW_TIMEOUT} - 5, max(0, end - time.monotonic())))
'''
        assert python(code, SECONDS, inside=client).wait() == 0

    print(f"| {'what':<52} | {'aim':>8} | {'of core':>9} | dumps | runs/s   | us/flow | flows  | {'':<4} |")
    print(f"|{'-' * 54}|{'-' * 9}:|{'-' * 10}:|{'-' * 6}:|{'-' * 9}:|{'-' * 7}:|{'-' * 8}:|{'-' * 6}|")
    most = 1 + SECONDS // FLOW_TIMEOUT
    for events, words in ((2, "events"), (0, "polled")):
        sysctl("netfilter/nf_conntrack_events", events)
        share = [0.5, 3.0] if events else [None, None]
        daemon = Daemon()
        row(f"{words}: nothing foreign, no flow", *measure(daemon, waiting), (None, None))
        sysctl("netfilter/nf_conntrack_udp_timeout", 1)
        row(f"{words}: (b) 2,000 foreign flows/s come and go", *measure(daemon, lambda: paced("foreign", 2000)), (share[0], None))
        row(f"{words}: (c) 500 proxied UDP flows/s", *measure(daemon, lambda: paced("udp", 500)), (share[1], None))
        row(f"{words}: (c) 500 proxied TCP connections/s", *measure(daemon, lambda: paced("tcp", 500)), (share[1], None))
        daemon.stop()
        sysctl("netfilter/nf_conntrack_udp_timeout", 3600)
        assert python(FILL, inside=client).wait() == 0
        with open("/proc/sys/net/netfilter/nf_conntrack_count") as file:
            foreign = int(file.read())
        daemon = Daemon()
        row(f"{words}: (a) {foreign} foreign entries, no flow", *measure(daemon, waiting), (None, most if events else None))
        row(f"{words}: (a) {foreign} foreign, one silent connection", *measure(daemon, talking), (None, most if events else None))
        daemon.stop()
        # The foreign entries go.
        sysctl("netfilter/nf_conntrack_udp_timeout", 1)
        run("ip", "link", "set", "clients", "down")
        subprocess.run(["conntrack", "-F"], capture_output=True)
        run("ip", "link", "set", "clients", "up")
    server.kill()
    sys.exit(1 if over else 0)


main()
