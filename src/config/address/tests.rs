//! Addresses, good and bad.

use super::*;

#[test]
fn good_addresses() {
    for (text, shown) in [
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("0.0.0.0:1", "0.0.0.0:1"),
        ("[::1]:65535", "[::1]:65535"),
        ("[2001:DB8:0:0::1]:80", "[2001:db8::1]:80"),
        ("10.0.0.1:0080", "10.0.0.1:80"),
        ("[64:ff9b::1.2.3.4]:80", "[64:ff9b::102:304]:80"),
        ("0.0.0.0:27015-27030", "0.0.0.0:27015-27030"),
        ("[::]:1-65535", "[::]:1-65535"),
        ("10.0.0.1:080-081", "10.0.0.1:80-81"),
        ("10.0.0.1:80-80", "10.0.0.1:80"),
    ] {
        assert_eq!(parse(text).map(|address| address.to_string()), Ok(shown.to_owned()), "{text}");
    }
}

#[test]
fn bad_addresses_say_what_to_write() {
    for (text, expected) in [
        ("", r#""" is not an address: write IP:port or [IPv6]:port, such as 127.0.0.1:8080 or [::1]:8080"#),
        ("10.0.0.1", r#""10.0.0.1" is not an address: the port is missing, write 10.0.0.1:PORT"#),
        ("[::1]", r#""[::1]" is not an address: the port is missing, write [::1]:PORT"#),
        ("::1", r#""::1" is not an address: an IPv6 address needs brackets and a port, such as [::1]:8080"#),
        (
            "1:2:3:4:5:6:7:8:80",
            r#""1:2:3:4:5:6:7:8:80" is not an address: an IPv6 address needs brackets, such as [::1]:8080"#,
        ),
        ("10.0.0.1:", r#""10.0.0.1:" is not an address: the port is missing, write one from 1 to 65535"#),
        ("10.0.0.1:http", r#""10.0.0.1:http" is not an address: "http" is not a port, write one from 1 to 65535"#),
        ("10.0.0.1:-1", r#""10.0.0.1:-1" is not an address: "-1" is not a port, write one from 1 to 65535"#),
        ("10.0.0.1:65536", r#""10.0.0.1:65536" is not an address: the port is too large, write one from 1 to 65535"#),
        (
            "10.0.0.1:80-65536",
            r#""10.0.0.1:80-65536" is not an address: the port is too large, write one from 1 to 65535"#,
        ),
        ("10.0.0.1:0-5", "port 0 is not a port: write one from 1 to 65535"),
        ("10.0.0.1:90-80", r#""10.0.0.1:90-80" is a range that ends before it begins: write 80-90"#),
        ("10.0.0.1:80-", r#""10.0.0.1:80-" is not an address: "80-" is not a port, write one from 1 to 65535"#),
        (
            "10.0.0.1:80-82-84",
            r#""10.0.0.1:80-82-84" is not an address: "80-82-84" is not a port, write one from 1 to 65535"#,
        ),
        (
            ":80-90",
            r#"":80-90" is not an address: the IP is missing, write 0.0.0.0:80 for every IPv4 address or [::]:80 for every IPv6 one"#,
        ),
        ("[::ffff:10.0.0.1]:80-90", "[::ffff:10.0.0.1]:80-90 is an IPv4-mapped IPv6 address: write 10.0.0.1:80-90"),
        ("10.0.0.1:0", "port 0 is not a port: write one from 1 to 65535"),
        (
            ":80",
            r#"":80" is not an address: the IP is missing, write 0.0.0.0:80 for every IPv4 address or [::]:80 for every IPv6 one"#,
        ),
        (
            "localhost:80",
            r#""localhost:80" is not an address: host names are not resolved here, write the IP address, such as 127.0.0.1:8080"#,
        ),
        ("[10.0.0.1]:80", r#""[10.0.0.1]:80" is not an address: brackets are for IPv6 addresses only"#),
        (
            "300.0.0.1:80",
            r#""300.0.0.1:80" is not an address: write IP:port or [IPv6]:port, such as 127.0.0.1:8080 or [::1]:8080"#,
        ),
        (
            "[fe80::1%eth0]:80",
            r#""[fe80::1%eth0]:80" has a zone, which cannot be routed: write IP:port or [IPv6]:port, such as 127.0.0.1:8080 or [::1]:8080, without %"#,
        ),
        (
            "[fe80::1%2]:80",
            r#""[fe80::1%2]:80" has a zone, which cannot be routed: write IP:port or [IPv6]:port, such as 127.0.0.1:8080 or [::1]:8080, without %"#,
        ),
        ("[::ffff:10.0.0.1]:80", "[::ffff:10.0.0.1]:80 is an IPv4-mapped IPv6 address: write 10.0.0.1:80"),
    ] {
        assert_eq!(parse(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn endpoints_and_listeners_are_unicast() {
    for (text, endpoint, listen) in [
        ("10.0.0.1:80", true, true),
        ("[fe80::1]:80", true, true),
        ("0.0.0.0:80", false, true),
        ("[::]:80", false, true),
        ("224.0.0.1:80", false, false),
        ("[ff02::1]:80", false, false),
        ("255.255.255.255:80", false, false),
    ] {
        let address = parse(text).expect(text);
        assert_eq!(check_endpoint(address).is_ok(), endpoint, "{text}");
        assert_eq!(check_unicast(address).is_ok(), listen, "{text}");
    }
}
