//! Packets through the tables of whole plans, by the states of the frontends.

use std::net::SocketAddr;

use serde_json::{Value as Json, json};

use super::journey::{Client, Gateway, Sent};
use super::*;
use crate::config::{Access, Masquerade};
use crate::dataplane::plan::{ColdPath, Plan, Rules, State};
use crate::dataplane::render::{self, samples};
use samples::{holding, ids, ip, masquerading, on_link, plan, rules, state, wildcards};

const CLIENTS: Interface<'_> = Interface { name: "eth0", index: 3 };
const BACKENDS: Interface<'_> = Interface { name: "eth1", index: 2 };

/// A gateway between 198.51.100.0/24 and 10.0.0.0/24 with the table of a plan. Its other addresses are 192.0.2.1 to .3.
fn gateway(plan: &Plan, state: &State) -> Gateway<'static> {
    let mut rules = Ruleset::default();
    let document: Json = serde_json::from_str(&render::table(plan, state)).expect("JSON");
    rules.add(&document, Elements::Listed);
    let timeouts = render::timeouts(plan).unwrap_or_default();
    let commands: Vec<Json> = timeouts.lines().filter_map(timeout_rule).collect();
    rules.add(&json!({ "nftables": commands }), Elements::Listed);
    let own = |texts: &[(&str, u8)]| texts.iter().map(|(text, length)| (ip(text), *length)).collect();
    let clients = own(&[
        ("198.51.100.1", 24),
        ("2001:db8:1::1", 64),
        ("192.0.2.1", 32),
        ("192.0.2.2", 32),
        ("192.0.2.3", 32),
        ("2001:db8::9", 128),
    ]);
    Gateway { rules, links: vec![(CLIENTS, clients), (BACKENDS, own(&[("10.0.0.254", 24), ("fd00::fe", 64)]))] }
}

/// `add rule inet proxygw CHAIN meta nfproto FAMILY meta l4proto PROTOCOL ct timeout set "NAME"`, as JSON.
fn timeout_rule(line: &str) -> Option<Json> {
    let line = line.strip_prefix("add rule inet proxygw ")?;
    let [chain, "meta", "nfproto", family, "meta", "l4proto", protocol, "ct", "timeout", "set", name] =
        line.split(' ').collect::<Vec<_>>()[..]
    else {
        panic!("{line}");
    };
    let is = |key: &str, value: &str| json!({"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}});
    let expr = [is("nfproto", family), is("l4proto", protocol), json!({"ct timeout": name.trim_matches('"')})];
    Some(json!({"add": {"rule": {"chain": chain, "expr": expr}}}))
}

/// `PROTOCOL SOURCE DESTINATION [middle] [here|eth1]`: from outside by eth0 if nothing else is written.
fn sent(text: &str) -> Sent<'static> {
    let words: Vec<&str> = text.split(' ').collect();
    let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    Sent {
        client: match words.last() {
            Some(&"here") => Client::Here,
            Some(&"eth1") => Client::Outside(BACKENDS),
            _ => Client::Outside(CLIENTS),
        },
        protocol: if words[0] == "tcp" { Protocol::Tcp } else { Protocol::Udp },
        source: address(words[1]),
        destination: address(words[2]),
        segment: if words.contains(&"middle") { Segment::Middle } else { Segment::First },
    }
}

#[track_caller]
fn assert_traces(plan: &Plan, state: &State, cases: &[(&str, &str)]) {
    let gateway = gateway(plan, state);
    for (packet, expected) in cases {
        let journey = gateway.trace(sent(packet));
        assert_eq!(journey.to_string(), *expected, "{packet}: {}", journey.path.join(" > "));
    }
}

#[test]
fn a_cold_frontend_holds_drops_or_passes() {
    let cases = [
        ("tcp 198.51.100.9:4000 198.51.100.1:80", "held by 5"),
        ("tcp 198.51.100.9:4000 192.0.2.2:80", "held by 5"),
        ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", "held by 5"),
        ("tcp 198.51.100.9:4000 198.51.100.1:80 middle", "refused by a reset"),
        ("tcp 198.51.100.9:4000 203.0.113.5:80", "passes"),
        ("tcp 198.51.100.9:4000 10.0.0.1:80", "passes"),
        ("udp 198.51.100.9:4000 198.51.100.1:80", "passes"),
        ("tcp 198.51.100.1:4000 198.51.100.1:80 here", "held by 5"),
        ("tcp 127.0.0.1:4000 127.0.0.1:80 here", "held by 5"),
        ("udp 198.51.100.9:4000 192.0.2.1:53", "dropped"),
        ("udp 198.51.100.9:4000 192.0.2.2:53", "passes"),
        ("udp 198.51.100.9:4000 198.51.100.1:5000", "dropped"),
        ("udp 192.0.2.1:4000 192.0.2.1:53 here", "dropped"),
        ("udp 192.0.2.1:4000 192.0.2.2:53 here", "passes"),
        ("tcp 198.51.100.9:4000 192.0.2.1:53", "passes"),
        ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:81", "passes"),
        ("udp 198.51.100.9:4000 192.0.2.2:100", "held by 5"),
        ("udp 198.51.100.9:4000 192.0.2.2:110", "held by 5"),
        ("udp 198.51.100.9:4000 192.0.2.2:111", "passes"),
        ("udp 192.0.2.1:4000 192.0.2.2:104 here", "held by 5"),
    ];
    assert_traces(&samples::cold(), &state(&[], &[0, 1, 2, 3]), &cases);
    let passes = cases.map(|(packet, _)| (packet, "passes"));
    assert_traces(&samples::cold(), &State::default(), &passes);
}

/// No packet from outside with a source that only this host has, or none, is held or answered.
#[test]
fn forged_sources_are_dropped() {
    let forged = [
        "tcp 198.51.100.1:4000 198.51.100.1:80",
        "tcp 10.0.0.254:4000 198.51.100.1:80 middle",
        "tcp 198.51.100.255:4000 198.51.100.1:80",
        "tcp 127.0.0.1:4000 198.51.100.1:80",
        "tcp 0.1.2.3:4000 198.51.100.1:80",
        "tcp 224.0.0.1:4000 198.51.100.1:80",
        "tcp [2001:db8:1::1]:4000 [2001:db8:1::1]:80",
        "tcp [2001:db8:1::]:4000 [2001:db8:1::1]:80",
        "tcp [::1]:4000 [2001:db8:1::1]:80",
        "tcp [::]:4000 [2001:db8:1::1]:80",
        "tcp [::ffff:1.2.3.4]:4000 [2001:db8:1::1]:80",
        "tcp [ff02::1]:4000 [2001:db8:1::1]:80",
    ];
    let mut refusing = state(&[], &[0, 1, 2, 3]);
    refusing.refusing = ids(&[0, 3]);
    for state in [state(&[], &[0, 1, 2, 3]), refusing] {
        assert_traces(&samples::cold(), &state, &forged.map(|packet| (packet, "dropped")));
    }
    // A source in 127.0.0.0/8 does not get to an active backend on this host either, nor anywhere on it.
    let active = state(&[0], &[]);
    assert_traces(
        &samples::cold(),
        &active,
        &[
            ("tcp 127.0.0.1:4000 198.51.100.1:80", "dropped"),
            ("tcp 127.0.0.1:4000 198.51.100.1:22", "dropped"),
            ("tcp 198.51.100.9:4000 127.0.0.1:8080", "dropped"),
            ("tcp 127.0.0.1:4000 127.0.0.1:8080 here", "passes"),
        ],
    );
    // Without `route_localnet` the kernel drops these itself, and the rules leave them alone.
    let remote = plan([rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"])]);
    assert_traces(&remote, &state(&[], &[]), &[("tcp 198.51.100.9:4000 127.0.0.1:8080", "passes")]);
}

#[test]
fn a_refusing_frontend_refuses() {
    let mut refusing = state(&[], &[0, 1, 2, 3]);
    refusing.refusing = ids(&[0, 3]);
    assert_traces(
        &samples::cold(),
        &refusing,
        &[
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "refused by a reset"),
            ("tcp 198.51.100.9:4000 10.0.0.1:80", "passes"),
            ("udp 198.51.100.9:4000 192.0.2.2:100", "refused by ICMP"),
            ("udp 198.51.100.9:4000 192.0.2.1:53", "dropped"),
            ("udp 192.0.2.1:4000 192.0.2.2:104 here", "refused by ICMP"),
        ],
    );
}

#[test]
fn an_active_frontend_translates() {
    let all = state(&[0, 1, 2, 3], &[0, 1, 2, 3]);
    assert_traces(
        &samples::cold(),
        &all,
        &[
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "to 127.0.0.1:8080"),
            ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", "to [::1]:8080"),
            ("tcp 198.51.100.9:4000 198.51.100.1:80 middle", "to 127.0.0.1:8080"),
            ("tcp 198.51.100.9:4000 203.0.113.5:80", "passes"),
            ("tcp 127.0.0.1:4000 127.0.0.1:80 here", "to 127.0.0.1:8080"),
            ("udp 198.51.100.9:4000 192.0.2.1:53", "to 10.0.0.1:53"),
            ("udp 192.0.2.1:4000 192.0.2.1:53 here", "to 10.0.0.1:53"),
            ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:81", "to [2001:db8::1]:81"),
            ("udp 198.51.100.9:4000 192.0.2.2:100", "to 10.0.0.1:105"),
            ("udp 198.51.100.9:4000 192.0.2.2:110", "to 10.0.0.1:115"),
        ],
    );
    // Active comes before cold, and one frontend's state is not another's.
    assert_traces(
        &samples::cold(),
        &state(&[0], &[0, 1, 3]),
        &[
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "to 127.0.0.1:8080"),
            ("udp 198.51.100.9:4000 192.0.2.1:53", "dropped"),
            ("udp 198.51.100.9:4000 192.0.2.2:100", "held by 5"),
        ],
    );
}

#[test]
fn flows_get_the_timeouts_of_their_frontend() {
    let after = |seconds, rules| Rules {
        timeouts: crate::dataplane::plan::Timeouts::new(std::time::Duration::from_secs(seconds)),
        ..rules
    };
    let plan = plan([
        after(10, rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80", "[::]:80>[fd00::1]:80"])),
        after(300, rules(Protocol::Udp, &["0.0.0.0:80>10.0.0.1:80", "[::]:80>[fd00::1]:80"])),
    ]);
    let gateway = gateway(&plan, &state(&[0, 1], &[0, 1]));
    for (packet, expected) in [
        ("tcp 198.51.100.9:4000 198.51.100.1:80", Some("tcp4-10s")),
        ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", Some("tcp6-10s")),
        ("udp 198.51.100.9:4000 198.51.100.1:80", Some("udp4-300s")),
        ("udp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", Some("udp6-300s")),
        ("udp 198.51.100.9:4000 198.51.100.1:81", None),
    ] {
        assert_eq!(gateway.trace(sent(packet)).timeout.as_deref(), expected, "{packet}");
    }
}

/// A wildcard on the port of its endpoint, which is on this host: packets to the endpoint itself are left alone.
#[test]
fn packets_to_the_endpoint_itself_pass() {
    let plan = plan([
        holding(Protocol::Tcp, &["0.0.0.0:80>192.0.2.3:80"]),
        holding(Protocol::Udp, &["0.0.0.0:100-110>192.0.2.3:105-115"]),
    ]);
    let passes = [
        ("tcp 198.51.100.9:4000 192.0.2.3:80", "passes"),
        ("tcp 192.0.2.3:4000 192.0.2.3:80 here", "passes"),
        ("udp 198.51.100.9:4000 192.0.2.3:105", "passes"),
        ("udp 198.51.100.9:4000 192.0.2.3:110", "passes"),
    ];
    for state in [state(&[], &[0, 1]), state(&[0, 1], &[0, 1])] {
        assert_traces(&plan, &state, &passes);
    }
    assert_traces(
        &plan,
        &state(&[0, 1], &[]),
        &[
            ("tcp 198.51.100.9:4000 192.0.2.1:80", "to 192.0.2.3:80"),
            ("udp 198.51.100.9:4000 192.0.2.3:104", "to 192.0.2.3:109"),
            ("udp 198.51.100.9:4000 192.0.2.1:110", "to 192.0.2.3:115"),
        ],
    );
    assert_traces(&plan, &state(&[], &[0, 1]), &[("udp 198.51.100.9:4000 192.0.2.3:104", "held by 5")]);
}

#[test]
fn access_rules_apply_in_every_state() {
    let denied = [
        ("tcp 203.0.113.9:4000 198.51.100.1:80", "refused by a reset"),
        ("tcp 198.51.100.66:4000 198.51.100.1:80", "refused by a reset"),
        ("tcp [2001:db8:2::9]:4000 [2001:db8:1::1]:80", "refused by a reset"),
        ("tcp [2001:db8:1::66]:4000 [2001:db8:1::1]:80", "refused by a reset"),
        ("tcp 198.51.100.9:4000 198.51.100.1:80 eth1", "refused by a reset"),
        ("udp 198.51.100.9:4000 192.0.2.1:53 eth1", "dropped"),
        ("tcp 198.51.100.200:4000 198.51.100.1:82", "dropped"),
        // `lo` is not among the interfaces.
        ("udp 198.51.100.1:4000 192.0.2.1:53 here", "dropped"),
    ];
    // Nobody answers a forged source.
    let forged = [("tcp 198.51.100.1:4000 198.51.100.1:80", "dropped"), ("udp 192.0.2.1:4000 192.0.2.1:53", "dropped")];
    let cold = state(&[], &[0, 1, 2]);
    let active = state(&[0, 1, 2], &[0, 1, 2]);
    for state in [&cold, &active] {
        assert_traces(&samples::access(), state, &denied);
    }
    assert_traces(&samples::access(), &cold, &forged);
    assert_traces(
        &samples::access(),
        &cold,
        &[
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "held by 5"),
            ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", "held by 5"),
            ("tcp 198.51.100.9:4000 203.0.113.1:80", "passes"),
            ("udp 203.0.113.9:4000 192.0.2.1:53", "dropped"),
            ("tcp 198.51.100.9:4000 198.51.100.1:82", "passes"),
        ],
    );
    assert_traces(
        &samples::access(),
        &active,
        &[
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "to 10.0.0.1:80"),
            ("tcp 203.0.113.9:4000 203.0.113.1:80", "passes"),
            ("tcp [2001:db8:1::9]:4000 [2001:db8:1::1]:80", "to [fd00::1]:80"),
            // `lo` is among the interfaces, but the source is not.
            ("tcp 10.0.0.254:4000 198.51.100.1:80 here", "refused by a reset"),
            ("tcp 198.51.100.1:4000 198.51.100.1:80 here", "to 10.0.0.1:80"),
            ("udp 203.0.113.9:4000 192.0.2.1:53", "to 10.0.0.1:53"),
            // A held packet that is sent on: a remote source, from this host.
            ("udp 203.0.113.9:4000 192.0.2.1:53 here", "to 10.0.0.1:53"),
            ("tcp 198.51.100.9:4000 198.51.100.1:82", "to 10.0.0.1:82"),
        ],
    );
}

#[test]
fn a_frontend_that_may_be_denied_silently_drops() {
    let access = Access { deny: vec![samples::prefix("198.51.100.128/25")], ..Access::default() };
    let plan = plan([Rules { access, cold: ColdPath::Local, ..rules(Protocol::Tcp, &["0.0.0.0:80>10.0.0.1:80"]) }]);
    for (state, admitted) in [(state(&[], &[0]), "passes"), (state(&[0], &[0]), "to 10.0.0.1:80")] {
        assert_traces(
            &plan,
            &state,
            &[
                ("tcp 198.51.100.127:4000 198.51.100.1:80", admitted),
                ("tcp 198.51.100.128:4000 198.51.100.1:80", "dropped"),
            ],
        );
    }
}

#[test]
fn clients_whose_address_could_not_work_are_masqueraded() {
    let state = State { on_link: on_link(), ..state(&[0, 1, 2, 3, 4, 5], &[]) };
    assert_traces(
        &samples::masquerade(),
        &state,
        &[
            // Automatically: clients on the endpoint's link, and with addresses that mean another host there.
            ("tcp 203.0.113.9:4000 198.51.100.1:80", "to 10.0.0.1:8080"),
            ("tcp 198.51.100.9:4000 198.51.100.1:80", "to 10.0.0.1:8080"),
            ("tcp 10.0.0.9:4000 10.0.0.254:80 eth1", "to 10.0.0.1:8080 masqueraded"),
            ("tcp 10.0.0.1:4000 10.0.0.254:80 eth1", "to 10.0.0.1:8080 masqueraded"),
            ("tcp 127.0.0.1:4000 127.0.0.1:80 here", "to 10.0.0.1:8080 masqueraded"),
            ("tcp 198.51.100.1:4000 198.51.100.1:80 here", "to 10.0.0.1:8080"),
            ("tcp [fd00::9]:4000 [fd00::fe]:80 eth1", "to [fd00::1]:8080 masqueraded"),
            ("tcp [2001:db8:1::9]:4000 [fd00::fe]:80", "to [fd00::1]:8080"),
            ("tcp [fe80::9]:4000 [fd00::fe]:80 eth1", "to [fd00::1]:8080 masqueraded"),
            ("tcp [::1]:4000 [::1]:80 here", "to [fd00::1]:8080 masqueraded"),
            // Always and never, to the same endpoint.
            ("tcp 203.0.113.9:4000 192.0.2.1:81", "to 10.0.0.1:8080 masqueraded"),
            ("tcp 10.0.0.9:4000 192.0.2.1:82 eth1", "to 10.0.0.1:8080"),
            // Ranges.
            ("udp 203.0.113.9:4000 192.0.2.1:110", "to 10.0.0.1:210 masqueraded"),
            ("udp [fd00::9]:4000 [2001:db8::9]:120 eth1", "to [fd00::1]:205 masqueraded"),
            ("udp [2001:db8:5::9]:4000 [2001:db8::9]:130", "to [fd00::1]:215"),
            // An endpoint on this host, and flows that are not ours.
            ("tcp 203.0.113.9:4000 192.0.2.1:83", "to 127.0.0.1:83"),
            ("tcp 10.0.0.9:4000 10.0.0.1:8080 eth1", "passes"),
        ],
    );
    let unknown_links = State { on_link: [].into(), ..state };
    assert_traces(
        &samples::masquerade(),
        &unknown_links,
        &[
            ("tcp 10.0.0.9:4000 10.0.0.254:80 eth1", "to 10.0.0.1:8080"),
            ("tcp 127.0.0.1:4000 127.0.0.1:80 here", "to 10.0.0.1:8080 masqueraded"),
        ],
    );
}

#[test]
fn overlapping_endpoints_are_told_apart_by_the_original_destination() {
    let plan = plan([
        masquerading(Masquerade::Always, Protocol::Udp, &["192.0.2.1:100-110>10.0.0.1:200-210"]),
        masquerading(Masquerade::Never, Protocol::Udp, &["192.0.2.2:100-110>10.0.0.1:200-210"]),
        masquerading(Masquerade::Always, Protocol::Udp, &["0.0.0.0:120-130>10.0.0.1:205-215"]),
        masquerading(Masquerade::Never, Protocol::Tcp, &["192.0.2.1:100-110>10.0.0.1:200-210"]),
    ]);
    assert_traces(
        &plan,
        &state(&[0, 1, 2, 3], &[]),
        &[
            ("udp 203.0.113.9:4000 192.0.2.1:105", "to 10.0.0.1:205 masqueraded"),
            ("udp 203.0.113.9:4000 192.0.2.2:105", "to 10.0.0.1:205"),
            ("udp 203.0.113.9:4000 192.0.2.2:125", "to 10.0.0.1:210 masqueraded"),
            ("tcp 203.0.113.9:4000 192.0.2.1:105", "to 10.0.0.1:205"),
        ],
    );
}

#[test]
fn ranges_keep_or_shift_their_ports() {
    assert_traces(
        &samples::ranges(),
        &state(&[0, 1], &[]),
        &[
            ("udp 198.51.100.9:4000 198.51.100.1:27014", "passes"),
            ("udp 198.51.100.9:4000 198.51.100.1:27015", "to 10.0.0.1:27015"),
            ("udp 198.51.100.9:4000 198.51.100.1:27030", "to 10.0.0.1:27030"),
            ("udp 198.51.100.9:4000 198.51.100.1:27031", "passes"),
            ("udp [::1]:4000 [::1]:27020 here", "to [fd00::1]:27020"),
            ("udp 198.51.100.9:4000 192.0.2.1:101", "to 10.0.0.1:201"),
            ("udp 198.51.100.9:4000 192.0.2.1:201", "to 10.0.0.1:201"),
            ("udp 198.51.100.9:4000 192.0.2.2:101", "passes"),
            ("udp [2001:db8:1::9]:4000 [2001:db8:1::1]:99", "to [fd00::1]:200"),
            ("udp 198.51.100.9:4000 198.51.100.1:99", "passes"),
        ],
    );
}

/// The source of clients of a UDP socket that is bound to all addresses becomes the endpoint's.
#[test]
fn clients_of_wildcard_endpoints_are_translated() {
    let bound =
        wildcards(&["127.0.0.1:5000-5010", "127.0.0.1:5005-5020", "127.0.0.1:5300", "[::1]:5300", "127.0.0.1:5400"]);
    let with = |wildcards| State { wildcards, ..state(&[0, 1, 2, 3], &[]) };
    assert_traces(
        &samples::wildcard(),
        &with(bound),
        &[
            ("udp 198.51.100.9:4000 192.0.2.1:5000", "to 127.0.0.1:5000 from 127.0.0.1"),
            ("udp 198.51.100.9:4000 192.0.2.2:5007", "to 127.0.0.1:5007 from 127.0.0.1"),
            ("udp 198.51.100.9:4000 192.0.2.2:5020", "to 127.0.0.1:5020 from 127.0.0.1"),
            ("udp 198.51.100.9:4000 198.51.100.1:53", "to 127.0.0.1:5300 from 127.0.0.1"),
            ("udp 198.51.100.1:4000 198.51.100.1:53 here", "to 127.0.0.1:5300 from 127.0.0.1"),
            ("udp [2001:db8:1::1]:4000 [2001:db8:1::1]:53 here", "to [::1]:5300 from ::1"),
            ("udp 198.51.100.9:4000 192.0.2.3:54", "to 127.0.0.1:5400"),
        ],
    );
    assert_traces(
        &samples::wildcard(),
        &with(wildcards(&["127.0.0.1:5000-5010"])),
        &[
            ("udp 198.51.100.9:4000 192.0.2.1:5010", "to 127.0.0.1:5010 from 127.0.0.1"),
            ("udp 198.51.100.9:4000 192.0.2.2:5011", "to 127.0.0.1:5011"),
            ("udp 198.51.100.9:4000 198.51.100.1:53", "to 127.0.0.1:5300"),
        ],
    );
}

/// Changes lead to the same table as loading it anew does, whatever the order.
#[test]
fn changes_lead_to_the_table_of_the_state() {
    let states = [
        State::default(),
        state(&[], &[0, 1, 2, 3]),
        State { refusing: ids(&[0, 3]), ..state(&[1], &[0, 1, 2, 3]) },
        state(&[0, 1, 2, 3], &[0, 1]),
        State { on_link: on_link(), wildcards: wildcards(&["127.0.0.1:5000-5010", "[::1]:5300"]), ..state(&[0], &[2]) },
        State { wildcards: wildcards(&["127.0.0.1:5005-5020", "127.0.0.1:5000-5010"]), ..state(&[2], &[0]) },
    ];
    let sets = |rules: &Ruleset| -> std::collections::BTreeMap<String, Vec<String>> {
        let sorted = |elements: &[Json]| {
            let mut elements: Vec<_> = elements.iter().map(Json::to_string).collect();
            elements.sort();
            elements
        };
        rules.sets.iter().map(|(name, elements)| (name.clone(), sorted(elements))).collect()
    };
    for (name, plan) in
        [("cold", samples::cold()), ("masquerade", samples::masquerade()), ("wildcard", samples::wildcard())]
    {
        for (from, to) in states.iter().flat_map(|from| states.iter().map(move |to| (from, to))) {
            let mut rules = gateway(&plan, from).rules;
            if let Some(change) = render::changes(&plan, from, to) {
                rules.add(&serde_json::from_str(&change).expect("JSON"), Elements::Listed);
            }
            assert_eq!(sets(&rules), sets(&gateway(&plan, to).rules), "{name}: {from:?} -> {to:?}");
        }
    }
}
