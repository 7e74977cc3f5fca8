#![allow(clippy::unwrap_used)]

use serde::Serialize;

use super::{Codec, Packet, ReadError, Reader, Value, encode, get};
use crate::config::Protocol;
use crate::engine::{EndpointStatus, FrontendState, FrontendStatus, Status, TargetState, TargetStatus};
use crate::plugins::ctl::methods::{Empty, Message, Named};

const LIMIT: usize = 64 << 10;

fn bytes(codec: Codec, id: u32, method: u16, body: &impl Serialize) -> Vec<u8> {
    let mut out = Vec::new();
    encode(codec, id, method, body, &mut out).unwrap();
    out
}

fn json(id: u32, method: u16, body: &impl Serialize) -> String {
    String::from_utf8(bytes(Codec::Json, id, method, body)).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn read_all(codec: Codec, stream: &[u8]) -> Result<Vec<Packet>, ReadError> {
    let mut reader = Reader::new(codec, LIMIT);
    reader.push(stream);
    let mut packets = Vec::new();
    while let Some(packet) = reader.packet()? {
        packets.push(packet);
    }
    Ok(packets)
}

fn incomplete(codec: Codec, stream: &[u8]) -> bool {
    read_all(codec, stream) == Ok(Vec::new())
}

fn status() -> Status {
    Status {
        closed: false,
        targets: vec![TargetStatus {
            name: "backend".into(),
            kind: "static:cmd".into(),
            state: TargetState::Active,
            since: "2026-11-23T09:14:40.123Z".into(),
            flows: Some(0),
            drains_in: Some(5),
            pid: None,
            retry_in: None,
            last_error: None,
            waiting_for: None,
            endpoints: vec![EndpointStatus {
                name: "http".into(),
                protocol: Protocol::Tcp,
                address: "127.0.0.1:8080".parse().unwrap(),
                addresses: Vec::new(),
            }],
        }],
        frontends: vec![FrontendStatus {
            name: "public-http".into(),
            kind: "static:always".into(),
            state: FrontendState::Running,
            flows: None,
            last_error: Some("é\"".into()),
            protocol: Protocol::Tcp,
            listen: "[::]:8088".parse().unwrap(),
            listens: Vec::new(),
            target_name: "backend".into(),
            endpoint_name: "http".into(),
            proxy_address: "127.0.0.1:8080".parse().unwrap(),
            proxy_addresses: Vec::new(),
            hold: None,
        }],
        hold: None,
    }
}

const STATUS_JSON: &str = concat!(
    r#"{"id":1,"method":3,"body":{"closed":false,"targets":[{"name":"backend","kind":"static:cmd","state":"active","#,
    r#""since":"2026-11-23T09:14:40.123Z","flows":0,"drains_in":5,"endpoints":[{"name":"http","protocol":"tcp","address":"127.0.0.1:8080"}]}],"frontends":[{"name":"public-http","#,
    r#""kind":"static:always","state":"running","last_error":"é\"","protocol":"tcp","listen":"[::]:8088","#,
    r#""target_name":"backend","endpoint_name":"http","proxyaddress":"127.0.0.1:8080"}]}}"#,
    "\n"
);

#[test]
fn requests_and_small_responses_have_these_bytes() {
    assert_eq!(json(1, 2, &Empty {}), "{\"id\":1,\"method\":2,\"body\":{}}\n");
    assert_eq!(json(7, 8, &Named { name: "b" }), "{\"id\":7,\"method\":8,\"body\":{\"name\":\"b\"}}\n");
    assert_eq!(json(7, 9, &Empty {}), "{\"id\":7,\"method\":9,\"body\":{}}\n");
    assert_eq!(
        json(u32::MAX, 1, &Message { msg: "no\n" }),
        "{\"id\":4294967295,\"method\":1,\"body\":{\"msg\":\"no\\n\"}}\n"
    );

    let cbor = |id, method, body: &dyn Fn(&mut Vec<u8>, u32, u16)| {
        let mut out = Vec::new();
        body(&mut out, id, method);
        out
    };
    let empty = |out: &mut Vec<u8>, id, method| encode(Codec::Cbor, id, method, &Empty {}, out).unwrap();
    assert_eq!(cbor(1, 2, &empty), hex("a3 62 69 64 01 66 6d 65 74 68 6f 64 02 64 62 6f 64 79 a0"));
    assert_eq!(cbor(256, 17, &empty), hex("a3 62 69 64 19 0100 66 6d 65 74 68 6f 64 11 64 62 6f 64 79 a0"));
    assert_eq!(
        bytes(Codec::Cbor, 7, 8, &Named { name: "b" }),
        hex("a3 62 69 64 07 66 6d 65 74 68 6f 64 08 64 62 6f 64 79 a1 64 6e 61 6d 65 61 62")
    );
    assert_eq!(
        bytes(Codec::Cbor, 7, 1, &Message { msg: "no" }),
        hex("a3 62 69 64 07 66 6d 65 74 68 6f 64 01 64 62 6f 64 79 a1 63 6d 73 67 62 6e 6f")
    );
}

#[test]
fn a_status_has_these_bytes() {
    assert_eq!(json(1, 3, &status()), STATUS_JSON);
    // Definite lengths, shortest heads, text keys in the same order: which is what ciborium makes of the JSON's own value.
    let read = read_all(Codec::Json, STATUS_JSON.as_bytes()).unwrap().remove(0);
    let cbor = bytes(Codec::Cbor, 1, 3, &status());
    assert_eq!(cbor, bytes(Codec::Cbor, 1, 3, &read.body));
    assert!(cbor.starts_with(&hex("a3 62 69 64 01 66 6d 65 74 68 6f 64 03 64 62 6f 64 79 a3 66 636c6f736564 f4")));
    let address = [&hex("67")[..], b"address", &hex("6e")[..], b"127.0.0.1:8080"].concat();
    assert!(cbor.windows(address.len()).any(|window| window == address));
    assert_eq!(read_all(Codec::Cbor, &cbor).unwrap(), [read]);
}

#[test]
fn every_prefix_is_incomplete() {
    let awkward = concat!(
        r#" {"x":[-1.5e-3,0.25,1E+7,true,false,null,"\u00e9\ud83d\ude00\\\"}]",{"}":"{"}],"#,
        "\"é😀\":\"é\",\r\n\t\"id\" : 12 ,\"method\":2,\"body\":{\"name\":\"}\"}}"
    );
    let packet = read_all(Codec::Json, awkward.as_bytes()).unwrap().remove(0);
    assert_eq!((packet.id, packet.method), (12, 2));
    for length in 0..awkward.len() {
        assert!(incomplete(Codec::Json, &awkward.as_bytes()[..length]), "{length}");
    }

    // Indefinite map, strings in parts, a tag, floats, simple values, byte strings, empty containers, long heads.
    let awkward =
        hex("bf 61 78 9f 7f 61 61 62 62 63 ff 5f 41 00 ff c1 1a 5f000000 f9 3c00 fa 3fc00000 fb 3ff8000000000000 \
                       20 40 60 80 a0 f6 f7 bf ff 9f ff 7f ff ff \
                       62 69 64 1b 0000000000000005 66 6d6574686f64 19 0002 64 626f6479 b8 01 78 04 6e616d65 61 7a ff");
    let packet = read_all(Codec::Cbor, &awkward).unwrap().remove(0);
    assert_eq!((packet.id, packet.method), (5, 2));
    assert_eq!(get(&packet.body, "name"), Some(&Value::Text("z".into())));
    for length in 0..awkward.len() {
        assert!(incomplete(Codec::Cbor, &awkward[..length]), "{length}");
    }
}

#[test]
fn a_body_may_be_missing_and_keys_unknown() {
    for text in [
        r#"{"id":1,"method":2}"#,
        r#"{"id":1,"method":2,"body":null}"#,
        r#"{"method":2,"id":1,"more":[1],"body":null}"#,
        r#"{"id":9,"id":1,"method":2}"#,
    ] {
        let expected = Packet { id: 1, method: 2, body: Value::Null };
        assert_eq!(read_all(Codec::Json, text.as_bytes()).unwrap(), [expected], "{text}");
    }
    let integer_key = hex("a3 62 69 64 01 66 6d6574686f64 02 05 f6");
    assert_eq!(read_all(Codec::Cbor, &integer_key).unwrap().len(), 1);
}

#[test]
fn garbage_is_malformed_at_once() {
    for text in [
        "hello",
        "[",
        "1",
        "\"x\"",
        "}",
        "\u{feff}{}",
        "\0",
        "{hello",
        "{]",
        "{1",
        "{\"id\"x",
        "{\"id\":1,}",
        "{\"id\":01",
        "{\"id\":1,\"method\":2,\"body\":}",
        "{}",
        "{\"id\":1}",
        "{\"method\":2}",
    ] {
        assert!(read_all(Codec::Json, text.as_bytes()).is_err(), "{text}");
    }
    assert!(read_all(Codec::Json, b"{\"id\":1,\"method\":2,\"x\":\"\xff\"}").is_err());
    for text in [
        "00",
        "20",
        "80",
        "60",
        "f6",
        "ff",
        "c1 a0",
        "a1 1c",
        "a1 1f",
        "a1 3f",
        "a1 df",
        "a1 ff",
        "bf 00 ff",
        "bf 7f 41",
        "bf 7f 7f",
        "bf 7f 00",
        "a0",
        "a1 62 69 64 01",
        "bf ff",
        "a1 62 c3 28 01",
        "a2 62 69 64 f8 ff 00 00",
        "fc",
    ] {
        assert!(read_all(Codec::Cbor, &hex(text)).is_err(), "{text}");
    }
}

#[test]
fn numbers_out_of_range_are_malformed() {
    for (id, method) in [
        ("-1", "2"),
        ("4294967296", "2"),
        ("1.0", "2"),
        ("\"1\"", "2"),
        ("null", "2"),
        ("1e400", "2"),
        ("1", "65536"),
        ("1", "-2"),
        ("1", "2.5"),
        ("1", "\"2\""),
        ("99999999999999999999999999", "2"),
    ] {
        let text = format!("{{\"id\":{id},\"method\":{method}}}");
        assert!(read_all(Codec::Json, text.as_bytes()).is_err(), "{text}");
    }
    let (id, negative) = ("a2 62 69 64 1b 0000000100000000 66 6d6574686f64 02", "a2 62 69 64 20 66 6d6574686f64 02");
    assert!(read_all(Codec::Cbor, &hex(id)).is_err());
    assert!(read_all(Codec::Cbor, &hex(negative)).is_err());
}

#[test]
fn error_has_the_id_if_it_came_first() {
    let id = |codec, stream: &[u8]| read_all(codec, stream).unwrap_err().id;
    assert_eq!(id(Codec::Json, b" { \"id\" : 7 , \"method\":-1}"), Some(7));
    assert_eq!(id(Codec::Json, b"{\"id\":7,!"), Some(7));
    for none in
        ["{\"id\":0,\"method\":-1}", "{\"id\":-7,\"method\":2}", "{\"id\":7.5,!", "{\"method\":2,\"id\":-7}", "x"]
    {
        assert_eq!(id(Codec::Json, none.as_bytes()), None, "{none}");
    }
    assert_eq!(id(Codec::Cbor, &hex("a2 62 69 64 18 2a 66 6d6574686f64 20")), Some(42));
    assert_eq!(id(Codec::Cbor, &hex("a2 62 69 64 00 66 6d6574686f64 20")), None);
    assert_eq!(id(Codec::Cbor, &hex("a2 62 69 64 20 66 6d6574686f64 20")), None);
}

#[test]
fn packet_over_the_limit_fails_at_once() {
    let of_length = |length: usize| {
        let frame = "{\"id\":3,\"method\":2,\"body\":\"\"}".len();
        format!("{{\"id\":3,\"method\":2,\"body\":\"{}\"}}", "x".repeat(length - frame))
    };
    assert_eq!(read_all(Codec::Json, of_length(LIMIT).as_bytes()).unwrap().len(), 1);
    let error = read_all(Codec::Json, of_length(LIMIT + 1).as_bytes()).unwrap_err();
    assert_eq!((error.id, error.to_string().as_str()), (Some(3), "the packet is longer than 65536 bytes"));
    assert!(incomplete(Codec::Json, &of_length(LIMIT + 1).as_bytes()[..LIMIT]));

    // Only heads: 100 MB of text, of array, of map, more than there is memory, and more than there are numbers.
    for claim in
        ["7a 06000000", "5a 06000000", "9a 06000000", "ba 06000000", "7b ffffffffffffffff", "bb ffffffffffffffff"]
    {
        let stream = hex(&format!("a3 62 69 64 03 66 6d6574686f64 02 64 626f6479 {claim}"));
        assert_eq!(read_all(Codec::Cbor, &stream).unwrap_err().id, Some(3), "{claim}");
        assert!(read_all(Codec::Cbor, &hex(&claim.replace("7a", "ba"))).is_err(), "{claim}");
    }
    let mut long = hex("bf 62 69 64 03");
    long.resize(LIMIT + 1, 0x60);
    assert_eq!(read_all(Codec::Cbor, &long).unwrap_err().id, Some(3));
}

#[test]
fn nesting_is_bounded() {
    for bomb in ["[", "{\"a\":"] {
        let text = format!("{{\"id\":1,\"method\":2,\"body\":{}", bomb.repeat(10_000));
        assert_eq!(read_all(Codec::Json, text.as_bytes()).unwrap_err().id, Some(1));
    }
    for bomb in ["9f", "81", "a1", "bf", "c1", "a161 78"] {
        let stream = hex(&format!("a3 62 69 64 01 66 6d6574686f64 02 64 626f6479 {} 00", bomb.repeat(10_000)));
        assert_eq!(read_all(Codec::Cbor, &stream).unwrap_err().id, Some(1), "{bomb}");
    }
    let nested =
        |depth: usize| format!("{{\"id\":1,\"method\":2,\"body\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
    assert!(read_all(Codec::Json, nested(63).as_bytes()).is_ok());
    assert!(read_all(Codec::Json, nested(64).as_bytes()).is_err());
}

/// A stream in any parts gives the same packets, and damaged bytes never panic.
#[test]
fn random_cuts_and_damage() {
    for seed in 0..300 {
        let mut random = crate::random::Random(seed);
        let codec = Codec::ALL[random.index(2)];
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for _ in 0..random.index(8) {
            let packet = Packet { id: random.next() as u32, method: random.next() as u16, body: value(&mut random, 4) };
            encode(codec, packet.id, packet.method, &packet.body, &mut stream).unwrap();
            if codec == Codec::Json {
                match random.index(3) {
                    0 => drop(stream.pop()),
                    1 => stream.extend(b" \r\n\n"),
                    _ => {}
                }
            }
            expected.push(packet);
        }
        let mut reader = Reader::new(codec, LIMIT);
        let mut read = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + random.index(rest.len().min(40)));
            reader.push(now);
            rest = later;
            while let Some(packet) = reader.packet().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
                read.push(packet);
            }
        }
        assert_eq!(read, expected, "seed {seed}");
        assert!(reader.is_empty(), "seed {seed}");

        for _ in 0..20 {
            let mut damaged = stream.clone();
            for _ in 0..=random.index(3) {
                if !damaged.is_empty() {
                    let at = random.index(damaged.len());
                    damaged[at] = random.next() as u8;
                }
            }
            let _ = read_all(codec, &damaged);
        }
    }
}

fn value(random: &mut crate::random::Random, depth: usize) -> Value {
    let text = |random: &mut crate::random::Random| {
        let pieces = ["a", "\"", "\\", "}", "{", "é", "\n", "\u{0}", "😀", "[", ":"];
        (0..random.index(6)).map(|_| pieces[random.index(pieces.len())]).collect::<String>()
    };
    match random.index(if depth == 0 { 5 } else { 7 }) {
        0 => Value::Null,
        1 => Value::Bool(random.index(2) == 1),
        2 => Value::Integer((random.next() as i64 >> random.index(64)).into()),
        3 => Value::Float(random.index(1000) as f64 / 8.0 + 0.5),
        4 => Value::Text(text(random)),
        5 => Value::Array((0..random.index(4)).map(|_| value(random, depth - 1)).collect()),
        _ => Value::Map((0..random.index(4)).map(|_| (Value::Text(text(random)), value(random, depth - 1))).collect()),
    }
}
