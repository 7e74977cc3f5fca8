//! The standard world: clients, a gateway and a backend, over IPv4 and IPv6.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use super::namespace::{Namespace, ip};
use super::sweep;

/// Clients, a gateway and a backend, each in a network namespace of its own.
///
/// The gateway's interfaces are named `clients` and `backends`, those of the others `eth0`. Forwarding is on in the
/// gateway, `route_localnet` is off, and addresses work at once.
#[derive(Debug)]
pub struct Lab {
    /// The clients; the first is 198.51.100.2 and 2001:db8:1::2, and the others count on from there.
    pub clients: Vec<Namespace>,
    /// Where proxygw runs.
    pub gateway: Namespace,
    /// 203.0.113.2 and 2001:db8:2::2.
    pub backend: Namespace,
}

/// The gateway's address on the clients' side.
pub const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));
/// The gateway's address on the clients' side.
pub const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1));
/// The backend's address.
pub const BACKEND_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 2));
/// The backend's address.
pub const BACKEND_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 2));

impl Lab {
    /// A world with one client.
    #[track_caller]
    pub fn new() -> Lab {
        Lab::with_clients(1)
    }

    /// A world with `count` clients. From two on, `clients` is a bridge.
    #[track_caller]
    pub fn with_clients(count: usize) -> Lab {
        Lab::build(count, Path::new("nft"))
    }

    /// A world with one client, in which another nft is used, by the daemon and by [`super::nft_ruleset`].
    #[track_caller]
    pub fn with_nft(nft: &Path) -> Lab {
        Lab::build(1, nft)
    }

    #[track_caller]
    fn build(count: usize, nft: &Path) -> Lab {
        assert!((1..=200).contains(&count), "{count} clients");
        sweep::sweep();
        let prefix = sweep::prefix();
        let names: Vec<String> = (0..count).map(|client| format!("{prefix}client{client}")).collect();
        let mut batch = format!("netns add {prefix}gateway\nnetns add {prefix}backend\n");
        for name in &names {
            let _ = writeln!(batch, "netns add {name}");
        }
        let made = ip(&[], &batch);
        // Adopted before anything can fail, so that what was made is removed.
        let lab = Lab {
            clients: names.into_iter().map(|name| Namespace::adopt(name, nft)).collect(),
            gateway: Namespace::adopt(format!("{prefix}gateway"), nft),
            backend: Namespace::adopt(format!("{prefix}backend"), nft),
        };
        made.unwrap_or_else(|error| panic!("no network namespaces: {error}"));
        lab.set_up();
        lab
    }

    /// The first client.
    pub fn client(&self) -> &Namespace {
        &self.clients[0]
    }

    /// An address of the client of this index.
    pub fn client_v4(index: usize) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2 + index as u8))
    }

    /// An address of the client of this index.
    pub fn client_v6(index: usize) -> IpAddr {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2 + index as u16))
    }

    fn set_up(&self) {
        for namespace in self.clients.iter().chain([&self.gateway, &self.backend]) {
            namespace.run(|| {
                // A new namespace takes some of these from the machine's own.
                for (name, value) in [
                    ("ipv6/conf/all/accept_dad", "0"),
                    ("ipv6/conf/default/accept_dad", "0"),
                    ("ipv6/conf/all/disable_ipv6", "0"),
                    ("ipv6/conf/default/disable_ipv6", "0"),
                    ("ipv4/conf/all/rp_filter", "0"),
                    ("ipv4/conf/default/rp_filter", "0"),
                    ("ipv4/conf/all/route_localnet", "0"),
                    ("ipv4/conf/default/route_localnet", "0"),
                ] {
                    let path = Path::new("/proc/sys/net").join(name);
                    std::fs::write(&path, value).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                }
            });
        }
        self.gateway.run(|| {
            for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(Path::new("/proc/sys/net").join(name), "1")
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
            }
        });

        let mut batch = "link set lo up\n".to_owned();
        if self.clients.len() > 1 {
            batch += "link add clients type bridge forward_delay 0 mcast_snooping 0\n";
        }
        for (index, client) in self.clients.iter().enumerate() {
            let (port, master) = if self.clients.len() > 1 {
                (format!("port{index}"), format!("link set port{index} master clients up\n"))
            } else {
                ("clients".to_owned(), String::new())
            };
            let _ = write!(batch, "link add {port} type veth peer name eth0 netns {}\n{master}", client.name());
        }
        let _ = writeln!(batch, "link add backends type veth peer name eth0 netns {}", self.backend.name());
        batch += "addr add 198.51.100.1/24 dev clients\n\
                  addr add 2001:db8:1::1/64 dev clients nodad\n\
                  addr add 203.0.113.1/24 dev backends\n\
                  addr add 2001:db8:2::1/64 dev backends nodad\n\
                  link set clients up\n\
                  link set backends up\n";
        self.gateway.ip(&batch);

        for (index, client) in self.clients.iter().enumerate() {
            let addresses = [Lab::client_v4(index), Lab::client_v6(index)];
            set_up_host(client, addresses, [GATEWAY_V4, GATEWAY_V6]);
        }
        let gateways = ["203.0.113.1", "2001:db8:2::1"].map(|text| text.parse().expect("an address"));
        set_up_host(&self.backend, [BACKEND_V4, BACKEND_V6], gateways);
    }
}

/// Gives a client or the backend its addresses and its default routes.
fn set_up_host(namespace: &Namespace, [v4, v6]: [IpAddr; 2], [via_v4, via_v6]: [IpAddr; 2]) {
    namespace.ip(&format!(
        "link set lo up\n\
         addr add {v4}/24 dev eth0\n\
         addr add {v6}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {via_v4}\n\
         route add ::/0 via {via_v6}\n"
    ));
}
