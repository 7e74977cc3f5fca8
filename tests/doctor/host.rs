//! Findings about the host itself.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Daemon, Lab, Temporary, http_get, http_get_within, nft, require_namespaces, serve_http};
use crate::world::{
    File, Frontend, LOCAL4, REMOTE4, REMOTE6, SECOND, at, at_gateway, backends, codes, config, config_with, field,
    findings, findings_after, fix, frontend, run,
};

fn held(listen: &str, backend: &str) -> Frontend {
    frontend("b", "packet:hold", listen, backend)
}

fn paged(listen: &str) -> Frontend {
    frontend("page", "static:http", listen, REMOTE4)
}

/// Asserts that there is one finding.
#[track_caller]
fn only(found: Vec<Value>, code: &str) -> Value {
    assert_eq!(codes(&found), [code], "{found:#?}");
    found.into_iter().next().expect("one")
}

#[test]
fn disabled_forwarding_is_found() {
    if !require_namespaces() {
        return;
    }
    for (name, backend, listen, code) in [
        ("ipv4/ip_forward", REMOTE4, "0.0.0.0:80", "ip-forward-off"),
        ("ipv6/conf/all/forwarding", REMOTE6, "[::]:80", "ipv6-forward-off"),
    ] {
        let lab = Lab::new();
        let _backends = backends(&lab);
        lab.gateway.sysctl(name, "0");
        let frontend = held(listen, backend);
        let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&frontend)));
        let finding = only(findings(&lab.gateway, daemon.config()), code);
        assert_eq!(field(&finding, "severity"), "error");
        let get = || lab.client().run(|| http_get_within(at_gateway(&frontend), "/", SECOND));
        get().expect_err("nothing is forwarded");
        fix(&lab.gateway, &finding);
        assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
        assert_eq!(get().expect("an answer").0, 200);
        if backend == REMOTE4 {
            // For these interfaces alone.
            lab.gateway.sysctl(name, "0");
            lab.gateway.sysctl("ipv4/conf/clients/forwarding", "1");
            lab.gateway.sysctl("ipv4/conf/backends/forwarding", "1");
            assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
            assert_eq!(get().expect("an answer").0, 200);
        }
        // Nothing is forwarded to a backend here.
        lab.gateway.sysctl(name, "0");
        let local = File::new(&config(&[held("0.0.0.0:80", LOCAL4)]));
        // The daemon runs with another configuration.
        assert_eq!(codes(&findings(&lab.gateway, &local.path())), ["table-differs"]);
    }
}

/// Two uplinks: packets from outside come in by `clients`, the replies leave by `backends`.
#[test]
fn strict_reverse_path_is_found_with_two_uplinks() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    lab.gateway.sysctl("ipv4/conf/clients/rp_filter", "1");
    lab.gateway.ip("route add default via 203.0.113.2\nroute add default via 198.51.100.2 metric 10\n");
    // The client's own network, to which the other uplink has a way of its own.
    lab.client().ip("addr add 192.0.2.7/32 dev lo\nroute change 198.51.100.0/24 dev eth0 src 192.0.2.7\n");
    lab.backend.sysctl("ipv4/ip_forward", "1");
    lab.backend.ip(&format!("link add cross type veth peer name cross netns {}\n", lab.client().name()));
    lab.backend.ip("addr add 10.0.0.1/24 dev cross\nlink set cross up\n");
    lab.client().ip("addr add 10.0.0.2/24 dev cross\nlink set cross up\n");
    lab.backend.ip("route add 192.0.2.0/24 via 10.0.0.2\n");
    let frontends = [held("198.51.100.1:80", LOCAL4)];
    let daemon = Daemon::start(&lab, &config(&frontends));
    let finding = only(findings(&lab.gateway, daemon.config()), "rp-filter-strict");
    assert!(field(&finding, "problem").contains("that arrive on clients are dropped"), "{finding:#}");
    assert_eq!(field(&finding, "remedy"), "sysctl -w net.ipv4.conf.clients.rp_filter=2");
    let get = |timeout| lab.client().run(|| http_get_within(at_gateway(&frontends[0]), "/", timeout));
    get(SECOND).expect_err("its packets are dropped");
    fix(&lab.gateway, &finding);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
    assert_eq!(get(10 * SECOND).expect("an answer").0, 200);

    // Clients that are named, by an interface that is named.
    lab.gateway.sysctl("ipv4/conf/clients/rp_filter", "1");
    let named = |allow: &str| {
        let more = json!({"allow": [allow], "interfaces": ["clients"]});
        let file = File::new(&config_with(&frontends, &more));
        let mut found = findings(&lab.gateway, &file.path());
        // The daemon runs with another configuration.
        found.retain(|finding| finding["code"] != "table-differs");
        found
    };
    assert_eq!(named("198.51.100.0/24"), [Value::Null; 0]);
    let finding = only(named("192.0.2.0/24"), "rp-filter-strict");
    assert!(field(&finding, "problem").starts_with("packets from 192.0.2.0/24 that arrive on clients"), "{finding:#}");
}

#[test]
fn read_only_route_localnet_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", LOCAL4)]));
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys";
    let (found, status) = findings_after(&lab.gateway, read_only, &file.path());
    let finding = only(found, "route-localnet-off");
    assert_eq!((field(&finding, "about"), status), ("endpoint b:http 127.0.0.1:8080", 1));
    fix(&lab.gateway, &finding);
    assert_eq!(findings_after(&lab.gateway, read_only, &file.path()).0, [Value::Null; 0]);
    let remote = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    lab.gateway.sysctl("ipv4/conf/all/route_localnet", "0");
    assert_eq!(findings_after(&lab.gateway, read_only, &remote.path()).0, [Value::Null; 0]);
}

#[test]
fn conntrack_that_is_full_without_events_or_missing_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    // The limit is the same for all namespaces, so another file is read instead.
    let limit = |max: u32| {
        format!(
            "echo {max} >/tmp/proxygw-test-limit-$$; mount --bind /tmp/proxygw-test-limit-$$ \
                 /proc/sys/net/netfilter/nf_conntrack_max; rm /tmp/proxygw-test-limit-$$"
        )
    };
    let _server = serve_http(&lab.backend, at(REMOTE4), "hello");
    // So that conntrack has an entry.
    let daemon = Daemon::start(&lab, &config(&[held("0.0.0.0:80", REMOTE4)]));
    lab.client().run(|| http_get((crate::support::GATEWAY_V4, 80).into(), "/")).expect("an answer");
    let count = lab.gateway.read_sysctl("netfilter/nf_conntrack_count").parse::<u32>().expect("a number");
    assert!(count > 0);
    let (found, status) = findings_after(&lab.gateway, &limit(count), daemon.config());
    let finding = only(found, "conntrack-full");
    assert_eq!(field(&finding, "remedy"), format!("sysctl -w net.netfilter.nf_conntrack_max={}", 2 * count));
    assert_eq!(status, 0, "a warning");
    assert_eq!(findings_after(&lab.gateway, &limit(2 * count), daemon.config()).0, [Value::Null; 0]);

    lab.gateway.sysctl("netfilter/nf_conntrack_events", "0");
    let finding = only(findings(&lab.gateway, daemon.config()), "conntrack-events-off");
    fix(&lab.gateway, &finding);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);

    let (found, status) = findings_after(&lab.gateway, "mount -t tmpfs none /proc/sys/net/netfilter", &file.path());
    assert_eq!((field(&only(found, "no-conntrack"), "remedy"), status), ("modprobe nf_conntrack", 1));
}

#[test]
fn ports_and_group_of_another_program_are_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let frontends = [held("0.0.0.0:80", REMOTE4), paged("0.0.0.0:81")];
    let file = File::new(&config(&frontends));
    let group = lab.gateway.run(|| proxygw::netlink::nflog::Nflog::open(28775)).expect("the group is free");
    // On one address only; the frontend's wildcard includes it.
    let server = serve_http(&lab.gateway, at("127.0.0.1:81"), "squatter");
    let (found, status) = findings_after(&lab.gateway, "", &file.path());
    assert_eq!((codes(&found), status), (vec!["nflog-group-taken", "port-taken"], 1), "{found:#?}");
    assert_eq!(field(&found[1], "about"), "frontend page 0.0.0.0:81");
    drop((group, server));
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
    let daemon = Daemon::start(&lab, &config(&frontends));
    daemon.await_frontend("page", "running", 10 * SECOND);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
}

#[test]
fn address_of_no_interface_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[paged("198.51.100.77:80")]));
    let finding = only(findings(&lab.gateway, &file.path()), "no-such-address");
    assert!(field(&finding, "remedy").starts_with("ip addr add 198.51.100.77/PREFIX dev INTERFACE"), "{finding:#}");
    lab.gateway.ip("addr add 198.51.100.77/24 dev clients\n");
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
}

#[test]
fn endpoint_without_a_route_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    for (listen, address, gateway) in
        [("0.0.0.0:80", "192.0.2.9:80", "203.0.113.2"), ("[::]:80", "[2001:db8:9::9]:80", "2001:db8:2::2")]
    {
        let file = File::new(&config(&[held(listen, address)]));
        let finding = only(findings(&lab.gateway, &file.path()), "no-route");
        assert_eq!(field(&finding, "about"), format!("endpoint b:http {address}"));
        lab.gateway.sh(&field(&finding, "remedy").replace("GATEWAY", gateway));
        assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
    }
    let many: Vec<_> = (0..200)
        .map(|index| {
            frontend(
                &format!("f{index}"),
                "packet:hold",
                &format!("0.0.0.0:{}", 100 + index),
                &format!("192.0.3.{index}:80"),
            )
        })
        .collect();
    let found = findings(&lab.gateway, &File::new(&config(&many)).path());
    assert!(found.len() == 9 && field(&found[8], "problem").contains("192 more endpoints"), "{found:#?}");
    // Without IPv6 no route would do.
    let six = File::new(&config(&[held("[::]:80", "[2001:db8:2::2]:80")]));
    lab.gateway.sysctl("ipv6/conf/all/disable_ipv6", "1");
    let remedy = field(&only(findings(&lab.gateway, &six.path()), "no-route"), "remedy").to_owned();
    assert_eq!(remedy, "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
    lab.gateway.sysctl("ipv6/conf/all/disable_ipv6", "0");
    let own = File::new(&config(&[held("[::]:80", "[::1]:8080")]));
    assert_eq!(codes(&findings(&lab.gateway, &own.path())), ["ipv6-loopback-endpoint"]);
    let inside = File::new(&config(&[held("[::1]:80", "[::1]:8080")]));
    assert_eq!(findings(&lab.gateway, &inside.path()), [Value::Null; 0]);
}

#[test]
fn missing_or_old_nft_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    let hidden = "for nft in $(which -a nft) /usr/sbin/nft /sbin/nft /usr/local/sbin/nft; do \
                  test ! -f $nft || mount --bind /dev/null $nft; done";
    let (found, status) = findings_after(&lab.gateway, hidden, &file.path());
    assert_eq!((field(&only(found, "nft-missing"), "severity"), status), ("error", 1));
    // An nft with another output.
    let other = |answer: &str| {
        let folder = Temporary::new();
        let script = format!("#!/bin/sh\ncase $1 in {answer}\n*) exec {} \"$@\";; esac\n", program("nft"));
        let path = folder.write("nft", &script);
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a file");
        findings_after(&lab.gateway, &format!("PATH={}:$PATH", folder.path().display()), &file.path())
    };
    let (found, _) = other("--version) echo 'nftables v0.9.8 (E.D.S.)';;");
    assert_eq!(field(&only(found, "nft-too-old"), "remedy"), "install nftables 1.0.6 or newer");
    let (found, status) = other("-j) echo 'Error: JSON support not compiled-in.' >&2; exit 1;;");
    assert_eq!((codes(&found), status), (vec!["nft-without-json"], 1));
    // After one that crashes, everything else is checked.
    nft(&lab.gateway, "table ip t { chain f { type filter hook forward priority 0; }; }");
    let (found, status) =
        other("-j) test $2 != -t || kill -SEGV $$; exec NFT \"$@\";;".replace("NFT", &program("nft")).as_str());
    assert_eq!((codes(&found), status), (vec!["not-looked-at"], 0), "{found:#?}");
}

#[test]
fn missing_kernel_feature_is_named() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0], "this one has all");
    // An nft in frontend of a kernel like OpenWrt's for small flash, which has no timeout policies.
    let folder = Temporary::new();
    let script = format!(
        "#!/bin/sh\ntest \"$1\" = --check || exec {nft} \"$@\"\nrules=$(cat)\ncase $rules in *'ct timeout'*)\n\
         echo '/dev/stdin:2:1-10: Error: Could not process rule: Operation not supported' >&2; exit 1;; esac\n\
         echo \"$rules\" | exec {nft} \"$@\"\n",
        nft = program("nft")
    );
    let path = folder.write("nft", &script);
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a file");
    let (found, status) =
        findings_after(&lab.gateway, &format!("PATH={}:$PATH", folder.path().display()), &file.path());
    let finding = only(found, "kernel-feature-missing");
    assert_eq!(status, 1);
    let problem = field(&finding, "problem");
    assert!(problem.starts_with("the kernel does not support conntrack timeout policies: "), "{problem}");
    assert!(problem.ends_with("Could not process rule: Operation not supported"), "{problem}");
    assert!(field(&finding, "remedy").contains("CONFIG_NF_CONNTRACK_TIMEOUT"), "{finding}");
    assert_eq!(crate::support::nft_ruleset(&lab.gateway), None, "nothing is changed");
}

/// The full path of a program.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.expect("it is installed").display().to_string()
}

#[test]
fn missing_capabilities_are_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    let frontends = [held("0.0.0.0:80", REMOTE4), paged("0.0.0.0:81")];
    let file = File::new(&config(&frontends));
    let without = "exec setpriv --bounding-set=-net_admin,-net_raw,-net_bind_service $DOCTOR --json";
    let (found, status) = findings_after(&lab.gateway, without, &file.path());
    let expected = ["no-net-admin", "no-net-raw", "no-net-bind-service", "ip-forward-off"];
    assert_eq!((codes(&found), status), (expected.to_vec(), 1), "{found:#?}");
    assert!(field(&found[0], "problem").contains("could not be checked"), "{found:#?}");
    // The running daemon has its capabilities.
    lab.gateway.sysctl("ipv4/ip_forward", "1");
    let daemon = Daemon::start(&lab, &config(&frontends));
    let (found, status) = findings_after(&lab.gateway, without, daemon.config());
    assert_eq!((codes(&found), status), (vec!["no-net-admin"], 0), "{found:#?}");
    let text = run(&lab.gateway, "exec $DOCTOR", daemon.config());
    assert_eq!(String::from_utf8_lossy(&text.stdout), "nothing found\n");
}

#[test]
fn backend_that_answers_this_host_and_no_client_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    let frontend = frontend("b", "static:always", "0.0.0.0:80", REMOTE4);
    let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&frontend)));
    daemon.await_target("b", "active", 10 * SECOND);
    let get = || lab.client().run(|| http_get_within(at_gateway(&frontend), "/", 4 * SECOND));
    assert_eq!(get().expect("an answer").0, 200);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
    // Without the flows that were answered.
    drop(daemon);
    lab.gateway.sh("conntrack -F 2>/dev/null");
    lab.backend.ip("route del default\n");
    let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&frontend)));
    daemon.await_target("b", "active", 10 * SECOND);
    get().expect_err("it has no way back");
    let finding = only(findings(&lab.gateway, daemon.config()), "clients-unanswered");
    assert_eq!(field(&finding, "remedy"), "set masquerade: always for the frontend");
    drop(daemon);
    let masquerades = config_with(std::slice::from_ref(&frontend), &json!({"masquerade": "always"}));
    let daemon = Daemon::start(&lab, &masquerades);
    daemon.await_target("b", "active", 10 * SECOND);
    lab.gateway.sh("conntrack -F 2>/dev/null");
    assert_eq!(get().expect("an answer").0, 200);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
}
