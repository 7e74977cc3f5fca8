//! The usual firewalls next to the daemon: everything works, or works with what the doctor suggests.

use serde_json::{Value, json};

use crate::support::{Daemon, Lab, http_get_within, nft, require_namespaces, second_nft};
use crate::world::{
    File, Frontend, SECOND, at_gateway, backends, codes, config, config_with, everything, field, findings, fix,
    frontend,
};

/// Returns true if a client is served by a cold frontend, and then by its backend directly.
fn works(lab: &Lab, daemon: &Daemon, frontend: &Frontend) -> bool {
    let get = || lab.client().run(|| http_get_within(at_gateway(frontend), "/", SECOND)).map(|(_, body)| body);
    let hello = |answer: &std::io::Result<String>| answer.as_ref().is_ok_and(|body| body.starts_with("hello from"));
    let unsent = || daemon.frontend(&frontend.name)["hold"]["unsent"].as_u64();
    let before = unsent();
    let cold = get();
    if frontend.kind == "static:http" {
        if !cold.is_ok_and(|body| body == "one moment") {
            return false;
        }
    } else if !hello(&cold) {
        return false;
    }
    daemon.await_target(&frontend.name, "active", 10 * SECOND);
    // A client whose held packet is dropped is served as well, a second later.
    hello(&get()) && unsent() == before
}

/// Loads a firewall, asserts that the findings are exactly what does not work, and applies the fixes.
#[track_caller]
fn try_firewall(rules: &str, frontends: &[Frontend], expected: &[&str]) -> Vec<Value> {
    try_firewall_in(Lab::new(), rules, frontends, expected)
}

#[track_caller]
fn try_firewall_in(lab: Lab, rules: &str, frontends: &[Frontend], expected: &[&str]) -> Vec<Value> {
    let _backends = backends(&lab);
    let daemon = Daemon::start(&lab, &config(frontends));
    nft(&lab.gateway, rules);
    let found = findings(&lab.gateway, daemon.config());
    assert_eq!(codes(&found), expected, "{found:#?}");
    for frontend in frontends {
        let names = |finding: &Value| {
            let about = field(finding, "about");
            about.contains(&format!("frontend {} ", frontend.name))
                || about.contains(&format!("endpoint {}:", frontend.name))
        };
        let works = works(&lab, &daemon, frontend);
        assert_ne!(works, found.iter().any(names), "{} works: {works}\n{found:#?}\n{}", frontend.name, daemon.log());
    }
    found.iter().for_each(|finding| fix(&lab.gateway, finding));
    assert_eq!(findings(&lab.gateway, daemon.config()), [json!(null); 0]);
    for frontend in frontends {
        daemon.request(10, json!({"name": frontend.name}));
        daemon.await_target(&frontend.name, "inactive", 10 * SECOND);
        assert!(works(&lab, &daemon, frontend), "{}\n{}", frontend.name, daemon.log());
    }
    found
}

#[test]
fn firewalld_drops_clients_of_the_page() {
    if !require_namespaces() {
        return;
    }
    let found = try_firewall(include_str!("../firewalls/firewalld.nft"), &everything(), &["cold-drop"]);
    let note = field(&found[0], "note");
    assert!(note.contains("firewall-cmd --permanent --add-port=82/tcp --add-port=83/tcp"), "{note}");
}

#[test]
fn fw4_drops_all_outside_clients() {
    if !require_namespaces() {
        return;
    }
    let found =
        try_firewall(include_str!("../firewalls/fw4.nft"), &everything(), &["input-drop", "cold-drop", "forward-drop"]);
    assert_eq!(field(&found[1], "remedy"), "nft insert rule inet fw4 input tcp dport { 82, 83 } accept");
    assert_eq!(field(&found[2], "remedy"), "nft insert rule inet fw4 forward ct status dnat accept");
    assert!(field(&found[2], "note").contains("/usr/share/nftables.d/chain-pre/forward/"), "{found:#?}");
}

#[test]
fn docker_drops_flows_to_remote_backends() {
    if !require_namespaces() {
        return;
    }
    let rules = include_str!("../firewalls/docker.nft");
    let found = try_firewall(rules, &everything(), &["forward-drop", "forward-drop"]);
    assert_eq!(field(&found[0], "remedy"), "nft insert rule ip filter DOCKER-USER ct status dnat accept");
    assert!(field(&found[0], "note").contains(": iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT"));
    assert!(field(&found[1], "note").contains(": ip6tables -I DOCKER-USER "), "{found:#?}");
}

#[test]
fn docker_with_nftables_drops_flows_to_remote_ipv4_backends() {
    if !require_namespaces() {
        return;
    }
    let rules = include_str!("../firewalls/docker-nftables.nft");
    let found = try_firewall(rules, &everything(), &["forward-drop"]);
    let remedy = field(&found[0], "remedy");
    assert_eq!(remedy, "nft insert rule ip docker-bridges filter-FORWARD ct status dnat accept");
}

/// Another nft lists rules in a slightly different form.
#[test]
fn listing_of_another_nft_is_read() {
    if !require_namespaces() {
        return;
    }
    let Some(nft) = second_nft() else { return };
    let expected = ["input-drop", "cold-drop", "forward-drop"];
    try_firewall_in(Lab::with_nft(&nft), include_str!("../firewalls/fw4.nft"), &everything(), &expected);
}

#[test]
fn output_policy_can_drop_held_packets() {
    if !require_namespaces() {
        return;
    }
    let rules = "table ip mine { chain out { type filter hook output priority 0; policy drop;
        ct state established,related accept
        oif lo tcp dport 22 accept
        meta l4proto { udp, ipv6-icmp } accept
        tcp dport 8080 ct status & dnat == 0 accept
    }; }";
    let frontends = [
        frontend("held", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080"),
        frontend("paged", "static:http", "0.0.0.0:81", "203.0.113.2:8080"),
    ];
    try_firewall(rules, &frontends, &["output-drop"]);
}

#[test]
fn firewall_that_accepts_the_flows_is_no_finding() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    let daemon = Daemon::start(&lab, &config(&everything()));
    nft(
        &lab.gateway,
        "table inet good {
            chain forward { type filter hook forward priority 0; policy drop;
                ct state vmap { established : accept, related : accept, new : jump new }
            }
            chain new {
                ip saddr 198.51.100.99 drop
                tcp dport { 22, 8000-8100 } ct status dnat accept
            }
            chain input { type filter hook input priority 0; policy drop;
                ct state { established, related } accept
                meta l4proto ipv6-icmp accept
                iifname { \"lo\", \"client*\", \"backends\" } tcp dport 80-90 accept
                meta l4proto tcp ct status dnat accept
            }
            chain output { type filter hook output priority 0; policy drop;
                ct state { established, related } accept
                oifname \"lo\" accept
                meta l4proto ipv6-icmp accept
                tcp dport 8080 ct status & dnat == 0 accept
            }
        }
        table bridge theirs { chain forward { type filter hook forward priority 0; policy drop; }; }
        table netdev theirs { chain in { type filter hook ingress device \"lo\" priority 0; policy accept; }; }",
    );
    assert_eq!(findings(&lab.gateway, daemon.config()), [json!(null); 0]);
    for frontend in everything() {
        assert!(works(&lab, &daemon, &frontend), "{}\n{}", frontend.name, daemon.log());
    }
}

/// The frontend's `interfaces` leave out a zone that is closed on purpose.
#[test]
fn only_the_interfaces_of_clients_are_checked() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let closed = "table inet t { chain f { type filter hook forward priority 0; iifname \"clients\" drop; }; }";
    nft(&lab.gateway, closed);
    let frontends = [frontend("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080")];
    let about = |more: Value| {
        let file = File::new(&config_with(&frontends, &more));
        findings(&lab.gateway, &file.path()).iter().map(|finding| field(finding, "problem").to_owned()).collect()
    };
    let all: Vec<String> = about(json!({}));
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("the chain f of the table inet t (hook forward) drops flows from clients"), "{all:?}");
    let none: Vec<String> = about(json!({"interfaces": ["backends"]}));
    assert_eq!(none, [""; 0]);
    // Nor are interfaces without an address, such as ports of a bridge; nor the backend's, unless it has the default route.
    let closed =
        "table inet t { chain f { type filter hook forward priority 0; iifname { \"port\", \"backends\" } drop; }; }";
    lab.gateway.sh("nft delete table inet t; ip link add port type bridge; ip link set port up");
    nft(&lab.gateway, closed);
    let none: Vec<String> = about(json!({}));
    assert_eq!(none, [""; 0]);
    // In IPv6 each has a link-local address.
    assert!(lab.gateway.sh("ip -6 addr show dev port").contains("fe80::"));
    let six = File::new(&config(&[frontend("b", "packet:hold", "[::]:80", "[2001:db8:2::2]:8080")]));
    assert_eq!(findings(&lab.gateway, &six.path()), [json!(null); 0]);
    lab.gateway.ip("route add default via 203.0.113.2\n");
    let one: Vec<String> = about(json!({}));
    assert!(one.len() == 1 && one[0].contains("drops flows from backends to"), "{one:?}");
}
