//! Addresses as text: `IP:port` and `[IPv6]:port`, also with a range of ports. Every error has a reason and a remedy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::suggest::quoted;
use super::{Address, Ports};

/// Remedy where there is no better one.
const FORM: &str = "write IP:port or [IPv6]:port, such as 127.0.0.1:8080 or [::1]:8080";

/// Remedy for a number that is no port.
const TOO_LARGE: &str = "the port is too large, write one from 1 to 65535";

/// Reads an address with a port from 1 to 65535, or with a range of them, such as `10.0.0.1:27015-27030`.
///
/// # Errors
/// What is wrong and what would be right, in lower case.
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    let shown = quoted(text);
    if text.contains('%') {
        return Err(format!("{shown} has a zone, which cannot be routed: {FORM}, without %"));
    }
    // A range is read by its first port.
    let (single, last) = match range(text) {
        Some((single, last)) => (single, Some(last)),
        None => (text, None),
    };
    let Ok(first) = single.parse::<SocketAddr>() else {
        return Err(format!("{shown} is not an address: {}", remedy(single)));
    };
    let last = match last.map(str::parse::<u16>) {
        None => first.port(),
        Some(Ok(last)) => last,
        Some(Err(_)) => return Err(format!("{shown} is not an address: {TOO_LARGE}")),
    };
    if first.port() == 0 || last == 0 {
        return Err("port 0 is not a port: write one from 1 to 65535".to_owned());
    }
    let Some(ports) = Ports::range(first.port(), last) else {
        return Err(format!("{shown} is a range that ends before it begins: write {last}-{}", first.port()));
    };
    check(Address { ip: first.ip(), ports })
}

/// Splits an address whose port is `FIRST-LAST`: the same with the first port alone, and the last.
fn range(text: &str) -> Option<(&str, &str)> {
    let (single, last) = text.rsplit_once('-')?;
    let (_, first) = single.rsplit_once(':')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(first) && digits(last)).then_some((single, last))
}

fn check(address: Address) -> Result<Address, String> {
    if let IpAddr::V6(ip) = address.ip
        && let Some(ip) = ip.to_ipv4_mapped()
    {
        let plain = Address { ip: ip.into(), ..address };
        return Err(format!("{address} is an IPv4-mapped IPv6 address: write {plain}"));
    }
    Ok(address)
}

/// Remedy for a string that is no address.
fn remedy(text: &str) -> String {
    if text.parse::<Ipv4Addr>().is_ok() {
        return format!("the port is missing, write {text}:PORT");
    }
    if let Some(inner) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'))
        && inner.parse::<Ipv6Addr>().is_ok()
    {
        return format!("the port is missing, write {text}:PORT");
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return "an IPv6 address needs brackets and a port, such as [::1]:8080".to_owned();
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return FORM.to_owned();
    };
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    if !digits {
        return if port.is_empty() {
            "the port is missing".to_owned()
        } else {
            format!("{} is not a port", quoted(port))
        } + ", write one from 1 to 65535";
    }
    if port.parse::<u16>().is_err() {
        return TOO_LARGE.to_owned();
    }
    if matches!(host, "" | "*") {
        return format!(
            "the IP is missing, write 0.0.0.0:{port} for every IPv4 address or [::]:{port} for every IPv6 one"
        );
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return "an IPv6 address needs brackets, such as [::1]:8080".to_owned();
    }
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    if inner.is_some_and(|inner| inner.parse::<Ipv4Addr>().is_ok()) {
        return "brackets are for IPv6 addresses only".to_owned();
    }
    // A label of digits only cannot end a host name: it was meant to be an IPv4 address.
    let last = host.rsplit('.').next().unwrap_or_default();
    if host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !last.bytes().all(|b| b.is_ascii_digit())
    {
        return "host names are not resolved here, write the IP address, such as 127.0.0.1:8080".to_owned();
    }
    FORM.to_owned()
}

/// Rejects addresses that no backend can have.
///
/// # Errors
/// The kind of address that it is.
pub(crate) fn check_endpoint(address: Address) -> Result<Address, String> {
    if address.ip.is_unspecified() {
        let own = if address.is_ipv4() { "127.0.0.1" } else { "[::1]" };
        return Err(format!(
            "{address} is the unspecified address: write the address to route to, such as {own}:{}",
            address.ports
        ));
    }
    check_unicast(address)
}

/// Rejects addresses that no client can open a flow to.
///
/// # Errors
/// The kind of address that it is.
pub(crate) fn check_unicast(address: Address) -> Result<Address, String> {
    let sort = match address.ip {
        ip if ip.is_multicast() => "a multicast",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast",
        _ => return Ok(address),
    };
    Err(format!("{address} is {sort} address: write a unicast one"))
}

#[cfg(test)]
mod tests;
