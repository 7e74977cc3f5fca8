//! The usual firewalls beside ours: everything works, or the doctor says what to allow, and then everything works.

use serde_json::{Value, json};

use crate::support::{Daemon, Lab, http_get_within, nft, require_namespaces, second_nft};
use crate::world::{
    File, Front, SECOND, at_gateway, backends, codes, config, config_with, everything, findings, fix, front, word,
};

/// Whether a client is served by a cold frontend, and then by its backend directly.
fn works(lab: &Lab, daemon: &Daemon, front: &Front) -> bool {
    let get = || lab.client().run(|| http_get_within(at_gateway(front), "/", SECOND)).map(|(_, body)| body);
    let hello = |answer: &std::io::Result<String>| answer.as_ref().is_ok_and(|body| body.starts_with("hello from"));
    let unsent = || daemon.frontend(&front.name)["hold"]["unsent"].as_u64();
    let before = unsent();
    let cold = get();
    if front.kind == "static:http" {
        if !cold.is_ok_and(|body| body == "one moment") {
            return false;
        }
    } else if !hello(&cold) {
        return false;
    }
    daemon.await_target(&front.name, "active", 10 * SECOND);
    // A client whose held packet is dropped is served as well, a second later.
    hello(&get()) && unsent() == before
}

/// Loads a firewall, sees that the doctor's findings are what does not work, and no more; does what they say.
#[track_caller]
fn try_firewall(rules: &str, fronts: &[Front], expected: &[&str]) -> Vec<Value> {
    try_firewall_in(Lab::new(), rules, fronts, expected)
}

#[track_caller]
fn try_firewall_in(lab: Lab, rules: &str, fronts: &[Front], expected: &[&str]) -> Vec<Value> {
    let _backends = backends(&lab);
    let daemon = Daemon::start(&lab, &config(fronts));
    nft(&lab.gateway, rules);
    let found = findings(&lab.gateway, daemon.config());
    assert_eq!(codes(&found), expected, "{found:#?}");
    for front in fronts {
        let names = |finding: &Value| {
            let about = word(finding, "about");
            about.contains(&format!("frontend {} ", front.name)) || about.contains(&format!("endpoint {}:", front.name))
        };
        let works = works(&lab, &daemon, front);
        assert_ne!(works, found.iter().any(names), "{} works: {works}\n{found:#?}\n{}", front.name, daemon.log());
    }
    found.iter().for_each(|finding| fix(&lab.gateway, finding));
    assert_eq!(findings(&lab.gateway, daemon.config()), [json!(null); 0]);
    for front in fronts {
        daemon.request(10, json!({"name": front.name}));
        daemon.await_target(&front.name, "inactive", 10 * SECOND);
        assert!(works(&lab, &daemon, front), "{}\n{}", front.name, daemon.log());
    }
    found
}

#[test]
fn firewalld_lets_through_what_is_translated_and_has_to_be_told_of_the_page() {
    if !require_namespaces() {
        return;
    }
    let found = try_firewall(include_str!("../firewalls/firewalld.nft"), &everything(), &["cold-drop"]);
    let note = word(&found[0], "note");
    assert!(note.contains("firewall-cmd --permanent --add-port=82/tcp --add-port=83/tcp"), "{note}");
}

#[test]
fn fw4_has_to_be_told_of_everything_from_outside() {
    if !require_namespaces() {
        return;
    }
    let found =
        try_firewall(include_str!("../firewalls/fw4.nft"), &everything(), &["input-drop", "cold-drop", "forward-drop"]);
    assert_eq!(word(&found[1], "remedy"), "nft insert rule inet fw4 input tcp dport { 82, 83 } accept");
    assert_eq!(word(&found[2], "remedy"), "nft insert rule inet fw4 forward ct status dnat accept");
    assert!(word(&found[2], "note").contains("/usr/share/nftables.d/chain-pre/forward/"), "{found:#?}");
}

#[test]
fn docker_has_to_be_told_of_backends_elsewhere() {
    if !require_namespaces() {
        return;
    }
    let rules = include_str!("../firewalls/docker.nft");
    let found = try_firewall(rules, &everything(), &["forward-drop", "forward-drop"]);
    assert_eq!(word(&found[0], "remedy"), "nft insert rule ip filter DOCKER-USER ct status dnat accept");
    assert!(word(&found[0], "note").contains(": iptables -I DOCKER-USER -m conntrack --ctstate DNAT -j ACCEPT"));
    assert!(word(&found[1], "note").contains(": ip6tables -I DOCKER-USER "), "{found:#?}");
}

#[test]
fn docker_with_nftables_has_to_be_told_too() {
    if !require_namespaces() {
        return;
    }
    let rules = include_str!("../firewalls/docker-nftables.nft");
    let found = try_firewall(rules, &everything(), &["forward-drop"]);
    let remedy = word(&found[0], "remedy");
    assert_eq!(remedy, "nft insert rule ip docker-bridges filter-FORWARD ct status dnat accept");
}

/// What another nft lists is written a little differently.
#[test]
fn another_nft_will_do() {
    if !require_namespaces() {
        return;
    }
    let Some(nft) = second_nft() else { return };
    let expected = ["input-drop", "cold-drop", "forward-drop"];
    try_firewall_in(Lab::with_nft(&nft), include_str!("../firewalls/fw4.nft"), &everything(), &expected);
}

#[test]
fn a_policy_of_the_output_hook_can_hit_held_packets() {
    if !require_namespaces() {
        return;
    }
    let rules = "table ip mine { chain out { type filter hook output priority 0; policy drop;
        ct state established,related accept
        oif lo tcp dport 22 accept
        meta l4proto { udp, ipv6-icmp } accept
        tcp dport 8080 ct status & dnat == 0 accept
    }; }";
    let fronts = [
        front("held", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080"),
        front("paged", "static:http", "0.0.0.0:81", "203.0.113.2:8080"),
    ];
    try_firewall(rules, &fronts, &["output-drop"]);
}

#[test]
fn what_does_not_drop_our_flows_is_no_finding() {
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
    for front in everything() {
        assert!(works(&lab, &daemon, &front), "{}\n{}", front.name, daemon.log());
    }
}

/// A zone that is closed on purpose is none of ours: the frontend says which interfaces it means.
#[test]
fn interfaces_that_are_not_meant_are_not_looked_at() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let closed = "table inet t { chain f { type filter hook forward priority 0; iifname \"clients\" drop; }; }";
    nft(&lab.gateway, closed);
    let fronts = [front("b", "packet:hold", "0.0.0.0:80", "203.0.113.2:8080")];
    let about = |more: Value| {
        let file = File::new(&config_with(&fronts, &more));
        findings(&lab.gateway, &file.path()).iter().map(|finding| word(finding, "problem").to_owned()).collect()
    };
    let all: Vec<String> = about(json!({}));
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("the chain f of the table inet t (hook forward) drops flows from clients"), "{all:?}");
    let none: Vec<String> = about(json!({"interfaces": ["backends"]}));
    assert_eq!(none, [""; 0]);
    // Nor are those without an address, such as the ports of a bridge; nor that of the backend, unless all the world is there.
    let closed =
        "table inet t { chain f { type filter hook forward priority 0; iifname { \"port\", \"backends\" } drop; }; }";
    lab.gateway.sh("nft delete table inet t; ip link add port type bridge; ip link set port up");
    nft(&lab.gateway, closed);
    let none: Vec<String> = about(json!({}));
    assert_eq!(none, [""; 0]);
    // In IPv6 each has a link-local address.
    assert!(lab.gateway.sh("ip -6 addr show dev port").contains("fe80::"));
    let six = File::new(&config(&[front("b", "packet:hold", "[::]:80", "[2001:db8:2::2]:8080")]));
    assert_eq!(findings(&lab.gateway, &six.path()), [json!(null); 0]);
    lab.gateway.ip("route add default via 203.0.113.2\n");
    let one: Vec<String> = about(json!({}));
    assert!(one.len() == 1 && one[0].contains("drops flows from backends to"), "{one:?}");
}
