//! Where packets go, and whose an address is.

use std::net::IpAddr;

use proxygw::netlink::addresses;
use proxygw::netlink::link;
use proxygw::netlink::route::{Route, Routes};

use crate::namespace::{Namespace, command};

#[test]
fn local_is_what_the_kernel_delivers_here() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        for arguments in [
            "link add eth type veth peer name far",
            "address add 10.9.0.1/24 dev eth",
            "-6 address add fd09::1/64 dev eth nodad",
            "link set eth up",
            "link set far up",
            "route add blackhole 10.10.0.0/16",
            "route add unreachable 10.11.0.0/16",
            "route add prohibit 10.12.0.0/16",
            "-6 route add blackhole fd10::/64",
            "-6 route add unreachable fd11::/64",
            "-6 route add prohibit fd12::/64",
            "route add local 10.13.0.0/16 dev lo",
            "-6 route add local fd13::/64 dev lo",
        ] {
            command("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
        for path in ["ipv4/ip_nonlocal_bind", "ipv6/ip_nonlocal_bind"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").expect("a sysctl");
        }
        // One socket, for any number of lookups.
        let mut routes = Routes::open().expect("a socket");
        for (address, local) in [
            ("127.0.0.1", true),
            ("127.8.9.10", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("10.9.0.1", true),
            ("::ffff:10.9.0.1", true),
            ("fd09::1", true),
            ("10.9.0.2", false),
            ("10.9.0.255", false),
            ("fd09::2", false),
            ("192.0.2.1", false),
            ("2001:db8::1", false),
            ("10.10.0.1", false),
            ("10.11.0.1", false),
            ("10.12.0.1", false),
            ("fd10::1", false),
            ("fd11::1", false),
            ("fd12::1", false),
            ("10.13.1.2", true),
            ("fd13::1234", true),
            ("224.0.0.1", false),
            ("ff02::1", false),
        ] {
            let ip: IpAddr = address.parse().expect("an address");
            assert_eq!(routes.is_local(ip).unwrap_or_else(|error| panic!("{address}: {error}")), local, "{address}");
        }
        let descriptors = || std::fs::read_dir("/proc/self/fd").expect("descriptors").count();
        let before = descriptors();
        for n in 0..1000 {
            let ip: IpAddr = if n % 2 == 0 { "10.9.0.1" } else { "10.10.0.1" }.parse().expect("an address");
            assert_eq!(routes.is_local(ip).expect("asked"), n % 2 == 0);
        }
        assert!(descriptors() <= before + 8, "other tests may have opened a few");
    });
}

#[test]
fn a_route_is_what_the_kernel_would_do() {
    let Some(namespace) = Namespace::new() else { return };
    namespace.run(|| {
        for arguments in [
            "link set lo up",
            "link add eth type veth peer name far",
            "address add 10.9.0.1/24 dev eth",
            "-6 address add fd09::1/64 dev eth nodad",
            "address add 10.8.0.1 peer 10.8.0.2 dev far",
            "link set eth up",
            "link set far up",
            "route add blackhole 10.10.0.0/16",
        ] {
            command("ip", &arguments.split(' ').collect::<Vec<_>>());
        }
        for (name, value) in
            [("ipv4/ip_forward", "1"), ("ipv4/conf/all/rp_filter", "0"), ("ipv4/conf/far/rp_filter", "0")]
        {
            std::fs::write(format!("/proc/sys/net/{name}"), value).expect("a sysctl");
        }
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let links = link::all().expect("interfaces");
        let index = |name: &str| links.iter().find(|link| link.name == name).expect("an interface").index;
        let by = |name: &str| Some(Route { local: false, interface: Some(index(name)) });
        let mut routes = Routes::open().expect("a socket");
        let mut look_up = |to| routes.look_up(to);
        assert_eq!(look_up(ip("10.9.0.2")).expect("asked"), by("eth"));
        assert_eq!(look_up(ip("fd09::2")).expect("asked"), by("eth"));
        assert_eq!(look_up(ip("10.8.0.2")).expect("asked"), by("far"));
        assert!(look_up(ip("10.9.0.1")).expect("asked").is_some_and(|route| route.local));
        for nowhere in ["10.10.0.1", "192.0.2.1", "2001:db8::1"] {
            assert_eq!(look_up(ip(nowhere)).expect("asked"), None, "{nowhere}");
        }
        let own = addresses::dump().expect("addresses");
        for (address, name) in
            [("127.0.0.1", "lo"), ("::1", "lo"), ("10.9.0.1", "eth"), ("fd09::1", "eth"), ("10.8.0.1", "far")]
        {
            let found = own.iter().find(|found| found.own == ip(address));
            assert_eq!(found.map(|found| found.interface), Some(index(name)), "{address} on {name}: {own:?}");
        }
        let peer = own.iter().find(|found| found.own == ip("10.8.0.1")).expect("the address");
        assert_eq!((peer.address, peer.length), (ip("10.8.0.2"), 32));
        assert!(!own.iter().any(|found| found.own == ip("10.8.0.2")), "{own:?}");

        let mut from_far =
            |source: &str, to: &str| routes.look_up_input(ip(source), index("far"), ip(to)).expect("asked");
        assert_eq!(from_far("10.8.0.2", "10.9.0.2"), by("eth"));
        assert!(from_far("10.9.0.2", "10.8.0.1").is_some_and(|route| route.local));
        std::fs::write("/proc/sys/net/ipv4/conf/far/rp_filter", "1").expect("a sysctl");
        assert_eq!(from_far("10.9.0.2", "10.8.0.1"), None, "the way back is another");
        assert_eq!(from_far("10.8.0.2", "10.9.0.2"), by("eth"));
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a sysctl");
        assert_eq!(from_far("10.8.0.2", "10.9.0.2"), None, "nothing is forwarded");
    });
}
