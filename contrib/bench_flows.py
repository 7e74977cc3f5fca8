"""The group `flows` of contrib/bench.py: what it costs the daemon to know which flows there are.

The clients and the backends have a namespace each; the benchmark's own is the gateway between them. Only the gateway has
rules, and so conntrack.
"""

import glob
import os
import signal
import socket
import struct
import subprocess
import time

SECONDS = 60
FLOW_TIMEOUT = 30
# Before the measurement: until as many flows end as begin, where flows come and go.
SETTLE, STEADY = 3, FLOW_TIMEOUT + 10
UNRELATED = 200_000
TRAFFIC = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench_traffic.py")
SYSCTL = "/proc/sys/net/netfilter/nf_conntrack_"

GATEWAY, BACKEND, PORT = "10.1.0.1", "10.2.0.2", 8080
# Where clients send what is proxied, and what is only forwarded, to the same backend.
PROXIED, UNRELATED_TO = f"{GATEWAY} {PORT}", f"{BACKEND} {PORT}"
# What somebody else's rules translate.
TRANSLATED = f"{GATEWAY} {PORT + 1}"
OTHERS = f"""table ip others {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        ip daddr {GATEWAY} udp dport {PORT + 1} dnat to {BACKEND}:{PORT}
    }}
}}"""
# Behind the gateway, where nobody answers, and not even says so.
NOWHERE = "10.3.0.0"

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nfnetlink_conntrack.h
NETLINK_NETFILTER = 12
IPCTNL_MSG_CT_DELETE = 1 << 8 | 2
REQUEST_ACK = 1 | 4


def run(words, inside=None, text=None):
    prefix = ["nsenter", f"--net=/proc/{inside}/ns/net"] if inside else []
    subprocess.run([*prefix, *words.split()], input=text, text=True, check=True)


def sysctl(name, value):
    with open(SYSCTL + name, "w") as file:
        file.write(str(value))


def entries():
    """How many entries the gateway's table has."""
    with open(SYSCTL + "count") as file:
        return int(file.read())


def flush():
    """Empties the gateway's table: a deletion that names no flow."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as asked:
        asked.send(struct.pack("=LHHLLBBH", 20, IPCTNL_MSG_CT_DELETE, REQUEST_ACK, 1, 0, socket.AF_UNSPEC, 0, 0))
        error = struct.unpack_from("=l", asked.recv(4096), 16)[0]
        assert error == 0, os.strerror(-error)


def neighbour(name, net):
    """A namespace behind the gateway, held by a process, whose number is returned."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE)
    holder.stdout.readline()
    run(f"ip link add {name} type veth peer name eth0 netns {holder.pid}")
    run(f"ip address add {net}.1/24 dev {name}")
    run(f"ip link set {name} up")
    for words in ("ip link set lo up", f"ip address add {net}.2/24 dev eth0", "ip link set eth0 up",
                  f"ip route add default via {net}.1"):
        run(words, holder.pid)
    return holder.pid


class Traffic:
    """A running part of the traffic, from when it says that it is ready."""

    def __init__(self, inside, words):
        self.process = subprocess.Popen(["nsenter", f"--net=/proc/{inside}/ns/net", "/usr/bin/python3", "-S", TRAFFIC,
                                         *words.split()], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline() == "ready\n", words

    def end(self):
        """Returns what it has to say."""
        assert self.process.poll() is None, "it has ended by itself"
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=60)[0]


def spray(clients):
    """The unrelated entries: datagrams that are routed, and not answered."""
    for _ in range(5):
        run(f"/usr/bin/python3 -S {TRAFFIC} spray {NOWHERE} {UNRELATED}", clients)
        if entries() >= UNRELATED:
            return
    raise AssertionError(f"only {entries()} entries")


class Spent:
    """What a process has used up to now: nanoseconds of a core by thread, and voluntary context switches."""

    def __init__(self, pid):
        self.cpu, self.switches, self.names = {}, 0, {}
        for task in glob.glob(f"/proc/{pid}/task/*"):
            with open(f"{task}/schedstat") as cpu, open(f"{task}/comm") as name, open(f"{task}/status") as status:
                self.cpu[task] = int(cpu.read().split()[0])
                self.names[task] = name.read().strip()
                self.switches += sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt"))

    def since(self, before):
        """Percent of a core in all, of it those of the flows' thread, and the switches."""
        assert self.cpu.keys() == before.cpu.keys(), "threads came or went"
        used = {task: (self.cpu[task] - before.cpu[task]) / (SECONDS * 1e7) for task in self.cpu}
        flows = sum(used[task] for task in used if self.names[task] == "conntrack")
        return sum(used.values()), flows, self.switches - before.switches


def write_config(bench):
    """One target for each protocol. Each dump is a line at the level debug, and little else is."""
    with open(bench.CONFIG, "w") as file:
        file.write(f"version: v1\nlog:\n  output: {bench.LOG}\n  level: debug\nplugins:\n  ctl:\n"
                   f"    socket: {bench.CONTROL}\ntargets:\n")
        for protocol in ("tcp", "udp"):
            file.write(f"  - name: {protocol}\n    kind: static:none\n    idle_timeout: 5m\n    readiness:\n"
                       f"      probe: none\n    endpoints:\n      - name: only\n        protocol: {protocol}\n"
                       f"        address: {BACKEND}:{PORT}\n")
        file.write("frontends:\n")
        for protocol in ("tcp", "udp"):
            file.write(f"  - name: {protocol}\n    kind: packet:hold\n    protocol: {protocol}\n"
                       f"    listen: {GATEWAY}:{PORT}\n    flow_timeout: {FLOW_TIMEOUT}s\n    target: {protocol}:only\n")


def dumps(bench):
    with open(bench.LOG) as file:
        return sum("dumped" in line for line in file)


def case(bench, clients, name, parts, by_events, aims):
    """Measures the daemon for a minute of such traffic; `by_events`: conntrack reports the flows, else the daemon polls."""
    sysctl("events", 2 if by_events else 0)
    # Foreign flows are to stay, or to go while others come.
    sysctl("udp_timeout", 600 if "spray" in parts else 10)
    flush()
    daemon = bench.Daemon()
    others = any(TRANSLATED in words for words in parts)
    if others:
        run("nft -f -", text=OTHERS)
    if "spray" in parts:
        spray(clients)
    running = [Traffic(clients, words) for words in parts if words != "spray"]
    time.sleep(SETTLE if "spray" in parts else STEADY)
    dumped, before = dumps(bench), Spent(daemon.process.pid)
    time.sleep(SECONDS)
    cpu, flows, switches = Spent(daemon.process.pid).since(before)
    dumped, table = dumps(bench) - dumped, entries()
    said = "".join(part.end() for part in running)
    if others:
        run("nft delete table ip others")
    daemon.stop()
    cpu_aim, dumps_aim = aims if by_events else (None, None)
    bench.row(f"{name}, {'events' if by_events else 'polled'}: CPU", [cpu], "%", cpu_aim, 3)
    bench.row("  of it the thread conntrack", [flows], "%", None, 3)
    bench.row(f"  dumps in {SECONDS} s", [dumped], "", dumps_aim, 0)
    bench.row("  voluntary context switches", [switches], "", None, 0)
    bench.row("  entries in the table at the end", [table], "", None, 0)
    if said:
        answered, failed, took = map(float, said.split())
        bench.row("  flows in a second", [answered / took], "", None, 0)
        bench.row("  flows that failed", [failed], "", None, 0)
        if PROXIED in parts[-1]:
            bench.row("  CPU for 1,000 flows", [cpu * 1e4 * took / answered], "ms", None, 2)


def measure(bench):
    """`bench` is the module that knows the daemon and prints rows."""
    with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
        file.write("1")
    clients, backends = neighbour("clients", "10.1.0"), neighbour("backends", "10.2.0")
    run(f"ip route add {NOWHERE}/16 via {BACKEND}")
    run(f"ip route add blackhole {NOWHERE}/16", backends)
    serve = Traffic(backends, f"serve {BACKEND} {PORT}")
    write_config(bench)
    once = SECONDS // FLOW_TIMEOUT
    for name, parts, aims in [
            ("200,000 unrelated entries, idle connection", ["spray", f"hold {PROXIED} 0"], (None, once)),
            ("200,000 unrelated entries, 1 packet/s", ["spray", f"hold {PROXIED} 1"], (None, once)),
            ("2,000 unrelated UDP flows/s", [f"hold {PROXIED} 1", f"udp {UNRELATED_TO} 2000"], (0.5, None)),
            ("2,000 unrelated UDP flows/s, translated", [f"hold {PROXIED} 1", f"udp {TRANSLATED} 2000"], (None, None)),
            ("500 proxied UDP flows/s", [f"udp {PROXIED} 500"], (3, None)),
            ("500 proxied TCP flows/s", [f"tcp {PROXIED} 500"], (3, None))]:
        for by_events in (True, False):
            case(bench, clients, name, parts, by_events, aims)
    sysctl("events", 2)
    serve.end()
