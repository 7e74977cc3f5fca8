//! Values of a valid configuration.

use std::time::Duration;

use log::LevelFilter;

use super::*;

/// All that is read of a text, as if every kind existed and took no options.
fn read(text: &str) -> (Log, Vec<TargetSpec>, Vec<FrontendSpec>) {
    let finish = |draft: Draft<'_>| {
        let targets = draft.targets.into_iter().map(|target| target.spec).collect();
        (draft.log, targets, draft.frontends.into_iter().map(|frontend| frontend.spec).collect())
    };
    super::parse("f", text, finish).expect("a good configuration").0
}

const FULL: &str = "
version: v1
log: {output: /var/log/p, level: warn}
targets:
- name: a
  kind: static:cmd
  idle_timeout: 1m
  min_uptime: 5s
  max_uptime: 1h
  endpoints:
  - {name: http, protocol: tcp, address: [10.0.0.1:8080, '[fd00::1]:8080']}
  - {name: dns, protocol: udp, address: 10.0.0.1:53}
  readiness: {probe: http, path: /up, deadline: 2m}
- {name: b, kind: static:none, idle_timeout: 1ms, endpoints: [{name: x, protocol: udp, address: 10.0.0.2:1-9}]}
frontends:
- {name: f, kind: static:always, listen: '[::]:80', dual_stack: true, flow_timeout: 1500ms, target: a:http,
   allow: [10.1.0.0/16, 10.0.0.0/8, 192.0.2.1], deny: [10.2.0.0/16], interfaces: [eth0, lo], on_denied: reject,
   masquerade: always}
- {name: g, kind: static:always, protocol: udp, listen: [0.0.0.0:1-9, 192.0.2.1:11-19], flow_timeout: 24d, target: b,
   on_denied: drop, masquerade: never}
";

#[test]
fn targets_are_read() {
    let (log, targets, _) = read(FULL);
    assert_eq!(log, Log { output: LogOutput::File("/var/log/p".into()), level: LevelFilter::Warn });
    let [a, b] = &targets[..] else { panic!("two targets") };
    assert_eq!((a.name.as_str(), a.kind.to_string().as_str()), ("a", "static:cmd"));
    assert_eq!(a.idle_timeout, Duration::from_secs(60));
    assert_eq!((a.min_uptime, a.max_uptime), (Duration::from_secs(5), Some(Duration::from_secs(3600))));
    let endpoints: Vec<_> = a.endpoints.iter().map(|endpoint| (endpoint.name.as_str(), endpoint.protocol)).collect();
    assert_eq!(endpoints, [("http", Protocol::Tcp), ("dns", Protocol::Udp)]);
    assert_eq!(
        a.endpoints[0].addresses.iter().map(Address::to_string).collect::<Vec<_>>(),
        ["10.0.0.1:8080", "[fd00::1]:8080"]
    );
    assert_eq!(
        a.readiness,
        Readiness { probe: Probe::Http { path: "/up".to_owned() }, deadline: Duration::from_secs(120) }
    );
    assert_eq!((b.idle_timeout, b.min_uptime, b.max_uptime), (Duration::from_millis(1), Duration::ZERO, None));
    assert_eq!(b.readiness, Readiness { probe: Probe::Auto, deadline: Duration::from_secs(30) });
}

#[test]
fn frontends_are_read() {
    let (_, targets, frontends) = read(FULL);
    let [f, g] = &frontends[..] else { panic!("two frontends") };
    assert_eq!((f.protocol, g.protocol), (Protocol::Tcp, Protocol::Udp));
    assert_eq!(f.listen.iter().map(Address::to_string).collect::<Vec<_>>(), ["[::]:80", "0.0.0.0:80"]);
    assert_eq!((f.target.as_str(), &f.endpoint), ("a", &targets[0].endpoints[0]));
    assert_eq!((g.target.as_str(), &g.endpoint), ("b", &targets[1].endpoints[0]));
    assert_eq!((f.flow_timeout, g.flow_timeout), (Duration::from_secs(2), MAX_KERNEL_TIMEOUT));
    assert_eq!((f.masquerade, g.masquerade), (Masquerade::Always, Masquerade::Never));
    assert_eq!(f.access.allow.iter().map(|prefix| prefix.length).collect::<Vec<_>>(), [8, 32]);
    assert_eq!(
        (f.access.deny.len(), f.access.interfaces.as_slice()),
        (1, ["eth0".to_owned(), "lo".to_owned()].as_slice())
    );
    assert!(f.access.reject && !g.access.reject);
    assert!(!f.access.is_open() && g.access.is_open());
    let routes = |frontend: &FrontendSpec| -> Vec<String> {
        let routes = frontend.endpoint.routes(&frontend.listen);
        routes.map(|route| format!("{} {}", route.listen, route.endpoint)).collect()
    };
    assert_eq!(routes(f), ["[::]:80 [fd00::1]:8080", "0.0.0.0:80 10.0.0.1:8080"]);
    assert_eq!(routes(g), ["0.0.0.0:1-9 10.0.0.2:1-9", "192.0.2.1:11-19 10.0.0.2:1-9"]);
}

#[test]
fn each_restriction_closes_a_frontend() {
    let prefix = Prefix::around("10.1.2.3".parse().expect("an address"), 8);
    assert_eq!(prefix.address.to_string(), "10.0.0.0");
    let open = Access::default();
    for access in [
        Access { allow: vec![prefix], ..open.clone() },
        Access { deny: vec![prefix], ..open.clone() },
        Access { interfaces: vec!["lo".to_owned()], ..open.clone() },
    ] {
        assert!(!access.is_open(), "{access:?}");
    }
    assert!(open.is_open());
}

#[test]
fn what_is_left_out_has_defaults() {
    let (log, targets, frontends) = read("version: v1\nlog:\ntargets: ~\nfrontends: []\n");
    assert_eq!(log, Log { output: LogOutput::Stderr, level: LevelFilter::Info });
    assert!(targets.is_empty() && frontends.is_empty());
    for (probe, expected) in
        [("auto", Probe::Auto), ("bound", Probe::Bound), ("connect", Probe::Connect), ("none", Probe::None)]
    {
        let text = FULL.replace("probe: http, path: /up", &format!("probe: {probe}"));
        assert_eq!(read(&text).1[0].readiness.probe, expected);
    }
    let text = FULL.replace("path: /up, ", "");
    assert_eq!(read(&text).1[0].readiness.probe, Probe::Http { path: "/".to_owned() });
    assert_eq!(read("version: v1\nlog: {output: stdout}\n").0.output, LogOutput::Stdout);
}

#[test]
fn protocols_have_names_and_numbers() {
    assert_eq!([Protocol::Tcp, Protocol::Udp].map(|protocol| protocol.to_string()), ["tcp", "udp"]);
    assert_eq!([Protocol::Tcp, Protocol::Udp].map(Protocol::number), [6, 17]);
}
