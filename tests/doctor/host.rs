//! Findings about the host itself.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::{Daemon, Lab, Temporary, http_get, http_get_within, nft, require_namespaces, serve_http};
use crate::world::{
    File, Front, LOCAL4, REMOTE4, REMOTE6, SECOND, at, at_gateway, backends, codes, config, config_with, findings,
    findings_after, fix, front, run, word,
};

fn held(listen: &str, backend: &str) -> Front {
    front("b", "packet:hold", listen, backend)
}

fn paged(listen: &str) -> Front {
    front("page", "static:http", listen, REMOTE4)
}

/// The one finding that there is.
#[track_caller]
fn only(found: Vec<Value>, code: &str) -> Value {
    assert_eq!(codes(&found), [code], "{found:#?}");
    found.into_iter().next().expect("one")
}

#[test]
fn forwarding_that_is_off_is_found_and_switched_on() {
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
        let front = held(listen, backend);
        let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&front)));
        let finding = only(findings(&lab.gateway, daemon.config()), code);
        assert_eq!(word(&finding, "severity"), "error");
        let get = || lab.client().run(|| http_get_within(at_gateway(&front), "/", SECOND));
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

/// Two uplinks: the world's answers leave by `backends`, its packets come in by `clients`.
#[test]
fn a_strict_reverse_path_is_found_where_it_bites() {
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
    let fronts = [held("198.51.100.1:80", LOCAL4)];
    let daemon = Daemon::start(&lab, &config(&fronts));
    let finding = only(findings(&lab.gateway, daemon.config()), "rp-filter-strict");
    assert!(word(&finding, "problem").contains("that arrive on clients are dropped"), "{finding:#}");
    assert_eq!(word(&finding, "remedy"), "sysctl -w net.ipv4.conf.clients.rp_filter=2");
    let get = |timeout| lab.client().run(|| http_get_within(at_gateway(&fronts[0]), "/", timeout));
    get(SECOND).expect_err("its packets are dropped");
    fix(&lab.gateway, &finding);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
    assert_eq!(get(10 * SECOND).expect("an answer").0, 200);

    // Clients that are named, by an interface that is named.
    lab.gateway.sysctl("ipv4/conf/clients/rp_filter", "1");
    let named = |allow: &str| {
        let more = json!({"allow": [allow], "interfaces": ["clients"]});
        let file = File::new(&config_with(&fronts, &more));
        let mut found = findings(&lab.gateway, &file.path());
        // The daemon runs with another configuration.
        found.retain(|finding| finding["code"] != "table-differs");
        found
    };
    assert_eq!(named("198.51.100.0/24"), [Value::Null; 0]);
    let finding = only(named("192.0.2.0/24"), "rp-filter-strict");
    assert!(word(&finding, "problem").starts_with("packets from 192.0.2.0/24 that arrive on clients"), "{finding:#}");
}

/// Strict filters everywhere do not mind our own packets; see also the host that is set up well.
#[test]
fn a_setting_that_cannot_be_written_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", LOCAL4)]));
    let read_only = "mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys";
    let (found, status) = findings_after(&lab.gateway, read_only, &file.path());
    let finding = only(found, "route-localnet-off");
    assert_eq!((word(&finding, "about"), status), ("endpoint b:http 127.0.0.1:8080", 1));
    fix(&lab.gateway, &finding);
    assert_eq!(findings_after(&lab.gateway, read_only, &file.path()).0, [Value::Null; 0]);
    let elsewhere = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    lab.gateway.sysctl("ipv4/conf/all/route_localnet", "0");
    assert_eq!(findings_after(&lab.gateway, read_only, &elsewhere.path()).0, [Value::Null; 0]);
}

#[test]
fn conntrack_that_is_full_silent_or_missing_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    // The limit is one for all namespaces, so only what is read of it is another.
    let limit = |most: u32| {
        format!(
            "echo {most} >/tmp/proxygw-test-limit-$$; mount --bind /tmp/proxygw-test-limit-$$ \
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
    assert_eq!(word(&finding, "remedy"), format!("sysctl -w net.netfilter.nf_conntrack_max={}", 2 * count));
    assert_eq!(status, 0, "a warning");
    assert_eq!(findings_after(&lab.gateway, &limit(2 * count), daemon.config()).0, [Value::Null; 0]);

    lab.gateway.sysctl("netfilter/nf_conntrack_events", "0");
    let finding = only(findings(&lab.gateway, daemon.config()), "conntrack-events-off");
    fix(&lab.gateway, &finding);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);

    let (found, status) = findings_after(&lab.gateway, "mount -t tmpfs none /proc/sys/net/netfilter", &file.path());
    assert_eq!((word(&only(found, "no-conntrack"), "remedy"), status), ("modprobe nf_conntrack", 1));
}

#[test]
fn what_another_program_has_is_found_unless_it_is_the_daemon() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let fronts = [held("0.0.0.0:80", REMOTE4), paged("0.0.0.0:81")];
    let file = File::new(&config(&fronts));
    let group = lab.gateway.run(|| proxygw::netlink::nflog::Nflog::open(28775)).expect("the group is free");
    // On one address only: the frontend's wildcard does not go beside it.
    let server = serve_http(&lab.gateway, at("127.0.0.1:81"), "squatter");
    let (found, status) = findings_after(&lab.gateway, "", &file.path());
    assert_eq!((codes(&found), status), (vec!["nflog-group-taken", "port-taken"], 1), "{found:#?}");
    assert_eq!(word(&found[1], "about"), "frontend page 0.0.0.0:81");
    drop((group, server));
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
    let daemon = Daemon::start(&lab, &config(&fronts));
    daemon.await_frontend("page", "running", 10 * SECOND);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
}

#[test]
fn an_address_that_is_not_here_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[paged("198.51.100.77:80")]));
    let finding = only(findings(&lab.gateway, &file.path()), "no-such-address");
    assert!(word(&finding, "remedy").starts_with("ip addr add 198.51.100.77/PREFIX dev INTERFACE"), "{finding:#}");
    lab.gateway.ip("addr add 198.51.100.77/24 dev clients\n");
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
}

#[test]
fn an_endpoint_without_a_route_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    for (listen, address, gateway) in
        [("0.0.0.0:80", "192.0.2.9:80", "203.0.113.2"), ("[::]:80", "[2001:db8:9::9]:80", "2001:db8:2::2")]
    {
        let file = File::new(&config(&[held(listen, address)]));
        let finding = only(findings(&lab.gateway, &file.path()), "no-route");
        assert_eq!(word(&finding, "about"), format!("endpoint b:http {address}"));
        lab.gateway.sh(&word(&finding, "remedy").replace("GATEWAY", gateway));
        assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0]);
    }
    let many: Vec<_> = (0..200)
        .map(|index| {
            front(
                &format!("f{index}"),
                "packet:hold",
                &format!("0.0.0.0:{}", 100 + index),
                &format!("192.0.3.{index}:80"),
            )
        })
        .collect();
    let found = findings(&lab.gateway, &File::new(&config(&many)).path());
    assert!(found.len() == 9 && word(&found[8], "problem").contains("192 more endpoints"), "{found:#?}");
    // Without IPv6 no route would do.
    let six = File::new(&config(&[held("[::]:80", "[2001:db8:2::2]:80")]));
    lab.gateway.sysctl("ipv6/conf/all/disable_ipv6", "1");
    let remedy = word(&only(findings(&lab.gateway, &six.path()), "no-route"), "remedy").to_owned();
    assert_eq!(remedy, "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
    lab.gateway.sysctl("ipv6/conf/all/disable_ipv6", "0");
    let own = File::new(&config(&[held("[::]:80", "[::1]:8080")]));
    assert_eq!(codes(&findings(&lab.gateway, &own.path())), ["ipv6-loopback-endpoint"]);
    let inside = File::new(&config(&[held("[::1]:80", "[::1]:8080")]));
    assert_eq!(findings(&lab.gateway, &inside.path()), [Value::Null; 0]);
}

#[test]
fn an_nft_that_is_missing_or_too_old_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    let hidden = "for nft in $(which -a nft) /usr/sbin/nft /sbin/nft /usr/local/sbin/nft; do \
                  test ! -f $nft || mount --bind /dev/null $nft; done";
    let (found, status) = findings_after(&lab.gateway, hidden, &file.path());
    assert_eq!((word(&only(found, "nft-missing"), "severity"), status), ("error", 1));
    // Another nft, which answers the doctor's questions in its own way.
    let other = |answer: &str| {
        let folder = Temporary::new();
        let script = format!("#!/bin/sh\ncase $1 in {answer}\n*) exec {} \"$@\";; esac\n", program("nft"));
        let path = folder.write("nft", &script);
        std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
        findings_after(&lab.gateway, &format!("PATH={}:$PATH", folder.path().display()), &file.path())
    };
    let (found, _) = other("--version) echo 'nftables v0.9.8 (E.D.S.)';;");
    assert_eq!(word(&only(found, "nft-too-old"), "remedy"), "install nftables 1.0.6 or newer");
    let (found, status) = other("-j) echo 'Error: JSON support not compiled-in.' >&2; exit 1;;");
    assert_eq!((codes(&found), status), (vec!["nft-without-json"], 1));
    // One that crashes is no end: all else is looked at.
    nft(&lab.gateway, "table ip t { chain f { type filter hook forward priority 0; }; }");
    let (found, status) =
        other("-j) test $2 != -t || kill -SEGV $$; exec NFT \"$@\";;".replace("NFT", &program("nft")).as_str());
    assert_eq!((codes(&found), status), (vec!["not-looked-at"], 0), "{found:#?}");
}

#[test]
fn a_feature_that_the_kernel_lacks_is_named() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let file = File::new(&config(&[held("0.0.0.0:80", REMOTE4)]));
    assert_eq!(findings(&lab.gateway, &file.path()), [Value::Null; 0], "this one has all");
    // An nft in front of a kernel like OpenWrt's for small flash, which has no timeout policies.
    let folder = Temporary::new();
    let script = format!(
        "#!/bin/sh\ntest \"$1\" = --check || exec {nft} \"$@\"\nrules=$(cat)\ncase $rules in *'ct timeout'*)\n\
         echo '/dev/stdin:2:1-10: Error: Could not process rule: Operation not supported' >&2; exit 1;; esac\n\
         echo \"$rules\" | exec {nft} \"$@\"\n",
        nft = program("nft")
    );
    let path = folder.write("nft", &script);
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("ours");
    let (found, status) =
        findings_after(&lab.gateway, &format!("PATH={}:$PATH", folder.path().display()), &file.path());
    let finding = only(found, "kernel-feature-missing");
    assert_eq!(status, 1);
    let problem = word(&finding, "problem");
    assert!(problem.starts_with("the kernel does not support conntrack timeout policies: "), "{problem}");
    assert!(problem.ends_with("Could not process rule: Operation not supported"), "{problem}");
    assert!(word(&finding, "remedy").contains("CONFIG_NF_CONNTRACK_TIMEOUT"), "{finding}");
    assert_eq!(crate::support::nft_ruleset(&lab.gateway), None, "nothing is changed");
}

/// The full path of a program.
fn program(name: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.expect("it is installed").display().to_string()
}

#[test]
fn without_rights_it_says_what_it_could_not_look_at() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    lab.gateway.sysctl("ipv4/ip_forward", "0");
    let fronts = [held("0.0.0.0:80", REMOTE4), paged("0.0.0.0:81")];
    let file = File::new(&config(&fronts));
    let without = "exec setpriv --bounding-set=-net_admin,-net_raw,-net_bind_service $DOCTOR --json";
    let (found, status) = findings_after(&lab.gateway, without, &file.path());
    let expected = ["no-net-admin", "no-net-raw", "no-net-bind-service", "ip-forward-off"];
    assert_eq!((codes(&found), status), (expected.to_vec(), 1), "{found:#?}");
    assert!(word(&found[0], "problem").contains("could not be checked"), "{found:#?}");
    // Somebody else asks while the daemon runs, which has its rights.
    lab.gateway.sysctl("ipv4/ip_forward", "1");
    let daemon = Daemon::start(&lab, &config(&fronts));
    let (found, status) = findings_after(&lab.gateway, without, daemon.config());
    assert_eq!((codes(&found), status), (vec!["no-net-admin"], 0), "{found:#?}");
    let text = run(&lab.gateway, "exec $DOCTOR", daemon.config());
    assert_eq!(String::from_utf8_lossy(&text.stdout), "nothing found\n");
}

#[test]
fn a_backend_that_answers_this_host_and_no_client_is_found() {
    if !require_namespaces() {
        return;
    }
    let lab = Lab::new();
    let _backends = backends(&lab);
    let front = front("b", "static:always", "0.0.0.0:80", REMOTE4);
    let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&front)));
    daemon.await_target("b", "active", 10 * SECOND);
    let get = || lab.client().run(|| http_get_within(at_gateway(&front), "/", 4 * SECOND));
    assert_eq!(get().expect("an answer").0, 200);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
    // The flows that were answered count for nothing once they are gone.
    drop(daemon);
    lab.gateway.sh("conntrack -F 2>/dev/null");
    lab.backend.ip("route del default\n");
    let daemon = Daemon::start(&lab, &config(std::slice::from_ref(&front)));
    daemon.await_target("b", "active", 10 * SECOND);
    get().expect_err("it has no way back");
    let finding = only(findings(&lab.gateway, daemon.config()), "clients-unanswered");
    assert_eq!(word(&finding, "remedy"), "set masquerade: always for the frontend");
    drop(daemon);
    let masquerades = config_with(std::slice::from_ref(&front), &json!({"masquerade": "always"}));
    let daemon = Daemon::start(&lab, &masquerades);
    daemon.await_target("b", "active", 10 * SECOND);
    lab.gateway.sh("conntrack -F 2>/dev/null");
    assert_eq!(get().expect("an answer").0, 200);
    assert_eq!(findings(&lab.gateway, daemon.config()), [Value::Null; 0]);
}
