"""Another program's flowtable: packets of offloaded flows bypass conntrack, which shows neither timeout nor state."""

import time

import lab
from lab import Connection, Datagrams, await_state, wait_until

# Longer than idle_timeout and flow_timeout together, and than conntrack's own memory of the flow's last packet.
BUSY = 20


def test_flowtable_is_there():
    lab.run("systemctl", "start", "proxygw")
    lab.run("nft", "-f", "-", stdin="""
        table inet fast {
            flowtable f { hook ingress priority 0; devices = { clients, servers }; }
            chain forward {
                type filter hook forward priority 0;
                ct state established flow add @f
            }
        }""")


def offloaded(protocol):
    """conntrack's lines of flows that the flowtable carries."""
    _, table = lab.run("conntrack", "-L", "-p", protocol, check=False)
    return [line for line in table.splitlines() if "[OFFLOAD]" in line and "dport=81" in line]


def busy_flow(kind, protocol):
    """A flow with a packet each way, ten times a second, keeps its target in use. When it ends, the target drains."""
    await_state("remote", "inactive")
    with kind(4, 81) as flow:
        flow.request()
        try:
            wait_until("the flow is counted", lambda: lab.target("remote").get("flows", 0) >= 1)
        except AssertionError as error:
            raise AssertionError(lab.run("conntrack", "-L", "-p", protocol)) from error
        until = time.monotonic() + BUSY
        seen = False
        while time.monotonic() < until:
            assert flow.request()["name"] == "remote"
            remote = lab.target("remote")
            assert remote["state"] == "active" and remote["flows"] >= 1, (remote, offloaded(protocol))
            seen = seen or bool(offloaded(protocol))
            time.sleep(0.1)
        assert seen, "the kernel did not offload the flow, so nothing was tried"
    await_state("remote", "inactive", 120)


def test_busy_tcp_flow_keeps_its_target():
    busy_flow(Connection, "tcp")


def test_busy_udp_flow_keeps_its_target():
    busy_flow(Datagrams, "udp")


def test_stop_leaves_the_flowtable_alone():
    lab.run("systemctl", "stop", "proxygw")
    tables = lab.run("nft", "list", "tables").split("\n")
    assert [table for table in tables if table] == ["table inet fast"], tables
