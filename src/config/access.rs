//! Access to a frontend: prefixes of source addresses, and interfaces.

use std::net::{IpAddr, Ipv6Addr};

use super::from_node::text;
use super::suggest::quoted;
use super::{FromNode, Node, Section};

/// Maximum bytes of an interface's name (`IFNAMSIZ` of linux/if.h, less its terminating NUL).
const MAX_INTERFACE_NAME: usize = 15;

/// Clients that may wake a frontend's target and reach it. The kernel decides by a flow's first packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// The only sources, unless empty.
    pub allow: Vec<Prefix>,
    /// Excluded sources.
    pub deny: Vec<Prefix>,
    /// The only interfaces, unless empty. `lo` stands for clients on this host.
    pub interfaces: Vec<String>,
    /// Whether other clients are rejected; otherwise their packets are dropped.
    pub reject: bool,
}

impl Access {
    /// Whether every client is admitted.
    pub fn is_open(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty() && self.interfaces.is_empty()
    }

    /// Reads `allow`, `deny`, `interfaces` and `on_denied` of a frontend.
    pub(super) fn read(section: &mut Section<'_>) -> Access {
        let allow: Option<Vec<Prefix>> = section.optional("allow");
        let deny: Option<Vec<Prefix>> = section.optional("deny");
        let interfaces: Option<Vec<Interface>> = section.optional("interfaces");
        for (key, empty) in [
            ("allow", allow.as_ref().is_some_and(Vec::is_empty)),
            ("interfaces", interfaces.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                section.problem(key, "an empty list would deny every client: leave it out to allow every client");
            }
        }
        let on_denied: Option<OnDenied> = section.optional("on_denied");
        Access {
            allow: Prefix::merged(allow.unwrap_or_default()),
            deny: Prefix::merged(deny.unwrap_or_default()),
            interfaces: interfaces.unwrap_or_default().into_iter().map(|Interface(name)| name).collect(),
            reject: on_denied == Some(OnDenied::Reject),
        }
    }
}

/// A prefix of addresses, such as `192.0.2.0/24`; a single address is one too. Bits after the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Its first address.
    pub address: IpAddr,
    /// Number of fixed bits: 0 to 32, or to 128.
    pub length: u8,
}

impl Prefix {
    /// The prefix of this length that contains an address.
    pub fn around(address: IpAddr, length: u8) -> Prefix {
        Prefix { address: masked(address, length), length }
    }

    /// Sorts prefixes, and removes those that others contain: nft's sets refuse overlaps.
    pub fn merged(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
        // A prefix comes right before what it contains.
        prefixes.sort_unstable_by_key(|prefix| (prefix.address, prefix.length));
        prefixes.dedup_by(|next, kept| kept.contains(*next));
        prefixes
    }

    /// Whether every address of another prefix is in this one.
    fn contains(self, other: Prefix) -> bool {
        self.address.is_ipv4() == other.address.is_ipv4()
            && self.length <= other.length
            && masked(other.address, self.length) == self.address
    }
}

impl FromNode for Prefix {
    const EXPECTED: &'static str = "a prefix, such as 192.0.2.0/24";

    fn from_node(node: &Node) -> Result<Prefix, String> {
        let shown = text(node)?;
        let wrong = || format!("{} is not a prefix: write one such as 192.0.2.0/24 or 2001:db8::/32", quoted(shown));
        let (address, length) = match shown.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (shown, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => most,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|length| *length <= most).ok_or_else(wrong)?
            }
            Some(_) => return Err(wrong()),
        };
        if masked(address, length) != address {
            let right = masked(address, length);
            return Err(format!("{} has bits set after its prefix: did you mean {right}/{length}?", quoted(shown)));
        }
        Ok(Prefix { address, length })
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

struct Interface(String);

impl FromNode for Interface {
    const EXPECTED: &'static str = "an interface's name, such as eth0";

    fn from_node(node: &Node) -> Result<Interface, String> {
        let name = text(node)?;
        let fits = !name.is_empty() && name.len() <= MAX_INTERFACE_NAME && name != "." && name != "..";
        // dev_valid_name() of the kernel; nft takes a star for a pattern.
        if !fits
            || name
                .contains(|c: char| c == '/' || c == ':' || c == '*' || c == '"' || c.is_whitespace() || c.is_control())
        {
            return Err(format!("{} is not the name of an interface", quoted(name)));
        }
        Ok(Interface(name.to_owned()))
    }
}

#[derive(PartialEq)]
enum OnDenied {
    Drop,
    Reject,
}

impl FromNode for OnDenied {
    const EXPECTED: &'static str = "drop or reject";

    fn from_node(node: &Node) -> Result<OnDenied, String> {
        match text(node)? {
            "drop" => Ok(OnDenied::Drop),
            "reject" => Ok(OnDenied::Reject),
            other => Err(format!("{} is not known: write drop or reject", quoted(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Result<Prefix, String> {
        Prefix::from_node(&Node::Str(text.to_owned()))
    }

    #[test]
    fn prefixes_are_read_exactly() {
        for right in ["0.0.0.0/0", "192.0.2.0/24", "192.0.2.1", "::/0", "2001:db8::/32", "2001:db8::1/128"] {
            assert!(prefix(right).is_ok(), "{right}");
        }
        for wrong in
            ["192.0.2.1/24", "192.0.2.0/33", "192.0.2.0/", "192.0.2.0/+8", "2001:db8::/129", "host", "", "1.2.3/8"]
        {
            assert!(prefix(wrong).is_err(), "{wrong}");
        }
        let message = prefix("192.0.2.1/24").expect_err("it has more bits");
        assert!(message.ends_with("did you mean 192.0.2.0/24?"), "{message}");
    }

    #[test]
    fn contained_prefixes_are_removed() {
        let all = ["10.0.0.0/8", "10.1.0.0/16", "10.255.255.255", "11.0.0.0/8", "::/0", "2001:db8::/32", "10.0.0.0/8"];
        let left = Prefix::merged(all.iter().map(|text| prefix(text).expect("a prefix")).collect());
        let expected = ["10.0.0.0/8", "11.0.0.0/8", "::/0"].map(|text| prefix(text).expect("a prefix"));
        assert_eq!(left, expected);
    }
}
