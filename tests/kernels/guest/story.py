"""The unit on a fresh boot: started, woken, drained, restarted, killed, stopped."""

import os
import signal
import subprocess

import lab
from lab import CLIENT, Connection, Datagrams, await_state, wait_until

# systemd itself loads ip_tables, x_tables and nfnetlink, depending on its version.
NETFILTER = ("nf_", "nft_")
LOCALNET = "/proc/sys/net/ipv4/conf/all/route_localnet"


def modules():
    with open("/proc/modules") as lines:
        return {line.split()[0] for line in lines}


def test_boot_loads_no_netfilter_module():
    loaded = [name for name in modules() if name.startswith(NETFILTER)]
    assert not loaded, loaded


def test_unit_starts_and_loads_what_it_needs():
    lab.build()
    for name in ("proxygw", "proxygwctl"):
        lab.run("install", "-m", "755", f"{lab.TEST}/{name}", "/usr/sbin/")
    lab.run("install", "-m", "644", f"{lab.TEST}/proxygw.service", "/etc/systemd/system/")
    lab.run("install", "-m", "600", f"{lab.TEST}/config.yaml", "/etc/proxygw.yaml")
    lab.run("systemctl", "daemon-reload")
    lab.run("systemctl", "start", "proxygw")
    assert lab.unit("Type") == "notify"
    assert lab.unit("ActiveState") == "active"
    # Type=notify: it can be used as soon as the start returns.
    status = lab.status()
    assert [one["state"] for one in status["targets"]] == ["inactive"] * 2, status
    assert [one["state"] for one in status["frontends"]] == ["running"] * 4, status
    assert "inet proxygw" in lab.run("nft", "list", "tables")
    assert {"nf_tables", "nf_conntrack", "nfnetlink_log"} <= modules(), modules()


def systemd_version():
    return int(lab.run("systemctl", "--version").split()[1])


def test_unit_has_no_setting_that_systemd_ignores():
    log = lab.run("journalctl", "--no-pager", "-b", "-o", "cat", "SYSLOG_IDENTIFIER=systemd")
    ignored = [line for line in log.splitlines() if "proxygw.service:" in line and "ignoring" in line.lower()]
    # systemd has it from version 254 on, and the unit documents that older ones ignore it.
    newer = "Unknown key 'FileDescriptorStorePreserve'"
    ignored = [line for line in ignored if newer not in line or systemd_version() >= 254]
    assert not ignored, ignored


def test_doctor_finds_no_error():
    status, output = lab.run("proxygw", "doctor", check=False)
    assert status == 0, output


def cold_then_warm(kind, family, name, protocol, port):
    """A held first packet, a warm request, and the drain."""
    before = lab.frontend(f"{name}-{protocol}")["hold"]
    await_state(name, "inactive")
    with kind(family, port) as cold:
        answer = cold.request()
        assert answer["name"] == name, answer
        # A UDP socket on 127.0.0.1 sees that address; see masquerade in docs/configuration.md.
        assert CLIENT[family] in answer["peer"], answer
    await_state(name, "active")
    hold = lab.frontend(f"{name}-{protocol}")["hold"]
    assert hold["captured"] > before["captured"] and hold["sent"] > before["sent"], (before, hold)
    with kind(family, port) as warm:
        assert warm.request()["name"] == name
        assert lab.frontend(f"{name}-{protocol}")["hold"] == hold, "a warm request was held"
        wait_until("the flow is counted", lambda: lab.target(name).get("flows", 0) >= 1)
        explained = lab.run("proxygwctl", "explain", name)
        assert f"{name} is active" in explained and CLIENT[family] in explained, explained
    await_state(name, "inactive")
    pids = lab.run("pgrep", "-f", "backend.py --name local", check=False)
    assert pids == (1, ""), f"processes of the backend are left: {pids}"


def test_cold_and_warm_local_tcp4():
    cold_then_warm(Connection, 4, "local", "http", 80)
    assert lab.read(LOCALNET) != "0"


def test_cold_and_warm_local_tcp6():
    cold_then_warm(Connection, 6, "local", "http", 80)


def test_cold_and_warm_local_udp4():
    cold_then_warm(Datagrams, 4, "local", "udp", 80)


def test_cold_and_warm_local_udp6():
    cold_then_warm(Datagrams, 6, "local", "udp", 80)


def test_cold_and_warm_remote_tcp4():
    cold_then_warm(Connection, 4, "remote", "http", 81)


def test_cold_and_warm_remote_tcp6():
    cold_then_warm(Connection, 6, "remote", "http", 81)


def test_cold_and_warm_remote_udp4():
    cold_then_warm(Datagrams, 4, "remote", "udp", 81)


def test_cold_and_warm_remote_udp6():
    cold_then_warm(Datagrams, 6, "remote", "udp", 81)


def test_drain_cuts_off_the_backend_in_use():
    with Connection(4, 80) as one:
        one.request()
        lab.run("proxygwctl", "drain", "local")
        await_state("local", "inactive")
        try:
            one.request()
        except (OSError, AssertionError):
            return
        raise AssertionError("the connection goes on")


def both_flows_count(one):
    """A flow that is older than the daemon goes on, and counts next to a new one."""
    with Connection(4, 81) as another:
        another.request()
        wait_until("both flows count", lambda: one.request() and lab.target("remote").get("flows") == 2)
        await_state("remote", "active")


def test_restart_keeps_an_open_connection_where_another_table_translates():
    # Without one, the kernel stops translating with our table; see docs/running.md.
    lab.run("nft", "-f", "-", stdin="""
        table ip other {
            chain post {
                type nat hook postrouting priority 100;
                ip saddr 192.0.2.1 masquerade
            }
        }""")
    try:
        with Connection(4, 81) as one:
            one.request()
            started = lab.unit("MainPID")
            restart = subprocess.Popen(["systemctl", "restart", "proxygw"])
            wait_until("the unit has started again", lambda: one.request() and restart.poll() is not None)
            assert restart.returncode == 0
            assert lab.unit("MainPID") not in ("0", started)
            both_flows_count(one)
    finally:
        lab.run("nft", "delete", "table", "ip", "other")
    await_state("remote", "inactive")


def test_crash_keeps_an_open_connection():
    with Connection(4, 81) as one:
        one.request()
        started = lab.unit("MainPID")
        os.kill(int(started), signal.SIGKILL)

        def runs_again():
            assert one.request()["name"] == "remote"
            return lab.unit("ActiveState") == "active" and lab.unit("MainPID") not in ("0", started)

        wait_until("systemd has started it again", runs_again)
        both_flows_count(one)
    await_state("remote", "inactive")


def test_stop_leaves_nothing():
    with Connection(4, 80) as one:
        one.request()
        lab.run("systemctl", "stop", "proxygw")
    assert lab.unit("Result") == "success", lab.unit("Result")
    assert lab.run("nft", "list", "ruleset") == ""
    assert lab.read(LOCALNET) == "0"
    assert not os.path.exists("/run/proxygw.sock")
    assert "28775" not in lab.run("ip", "route", "show", "table", "all")
    for name in ("backend.py --name local", "/usr/sbin/proxygw"):
        assert lab.run("pgrep", "-f", name, check=False) == (1, ""), name
