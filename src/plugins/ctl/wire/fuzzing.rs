//! Fuzz targets of both codecs. See [`crate::fuzzing`].

use ciborium::Value;

use super::{Codec, Packet, Reader, encode};

/// Reads JSON packets.
///
/// # Panics
/// As for [`cbor`].
pub fn json(bytes: &[u8]) {
    stream(Codec::Json, bytes);
}

/// Reads CBOR packets. The first byte chooses how the stream is cut, and the limit.
///
/// # Panics
/// A stream gives other packets in other parts, a packet is longer than the limit, or it changes when it is written and
/// read again.
pub fn cbor(bytes: &[u8]) {
    stream(Codec::Cbor, bytes);
}

fn stream(codec: Codec, bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let limit = 16 << (first & 7);
    let cut = 1 + usize::from(first >> 3);
    let (whole, whole_failed) = read(codec, bytes, limit, bytes.len().max(1));
    let (parts, parts_failed) = read(codec, bytes, limit, cut);
    assert_eq!(parts, whole);
    // A malformed packet is noticed at the latest when all of it has arrived.
    assert!(whole_failed || !parts_failed, "cut into parts it fails");
    for packet in whole {
        // There is more than one way to write a large number in CBOR: the first copy has the one that is kept.
        let copy = written_and_read(codec, &packet);
        assert_eq!((copy.id, copy.method), (packet.id, packet.method));
        assert_eq!(written_and_read(codec, &copy), copy);
        assert!(codec == Codec::Cbor || copy == packet, "{packet:?} has become {copy:?}");
    }
}

fn written_and_read(codec: Codec, packet: &Packet) -> Packet {
    let mut bytes = Vec::new();
    encode(codec, packet.id, packet.method, &packet.body, &mut bytes).expect("it can be written");
    match read(codec, &bytes, usize::MAX / 2, bytes.len()) {
        (mut packets, false) if packets.len() == 1 => packets.remove(0),
        (packets, failed) => panic!("{packet:?} has become {packets:?}, failed: {failed}"),
    }
}

/// All packets of a stream in parts of `cut` bytes, and whether an error ended it.
fn read(codec: Codec, bytes: &[u8], limit: usize, cut: usize) -> (Vec<Packet>, bool) {
    let mut reader = Reader::new(codec, limit);
    let mut packets = Vec::new();
    for part in bytes.chunks(cut) {
        reader.push(part);
        loop {
            match reader.packet() {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(error) => {
                    assert!(!error.to_string().is_empty() && error.id != Some(0));
                    return (packets.into_iter().map(without_floats).collect(), true);
                }
            }
        }
    }
    (packets.into_iter().map(without_floats).collect(), false)
}

/// The packet without fractions: NaN is not equal to itself, and decimals are not exact.
fn without_floats(packet: Packet) -> Packet {
    Packet { body: value(packet.body), ..packet }
}

fn value(of: Value) -> Value {
    match of {
        Value::Float(_) => Value::Null,
        Value::Array(values) => Value::Array(values.into_iter().map(value).collect()),
        Value::Map(entries) => Value::Map(entries.into_iter().map(|(key, inner)| (value(key), value(inner))).collect()),
        Value::Tag(tag, inner) => Value::Tag(tag, Box::new(value(*inner))),
        other => other,
    }
}
