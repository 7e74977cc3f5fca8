//! Built messages are read back, and damaged ones are refused.

use super::*;

fn sample() -> Vec<u8> {
    let mut request = Request::new(0x101, &[2, 0, 0, 0])
        .attribute(3, &[1, 2, 3, 4, 5])
        .nested(4, |nest| nest.attribute(1, &[9]).attribute(2, &[]));
    request.finish(NlmF::REQUEST | NlmF::DUMP, 7).to_vec()
}

#[test]
fn a_built_message_is_read_back() {
    let bytes = sample();
    let message = Messages::new(&bytes).next().expect("one").expect("whole");
    assert_eq!((message.kind, message.sequence), (0x101, 7));
    assert_eq!(message.flags, NlmF::REQUEST | NlmF::DUMP);
    let attributes: Vec<_> = Attributes::after(message.payload, 4).collect();
    assert_eq!(attributes[0], (3, &[1, 2, 3, 4, 5][..]));
    assert_eq!(attributes[1].0, 4);
    let inner: Vec<_> = Attributes::nested(attributes[1].1).collect();
    assert_eq!(inner, [(1, &[9][..]), (2, &[][..])]);
    assert_eq!(Messages::new(&bytes).count(), 1);
}

#[test]
fn two_messages_in_a_datagram() {
    let mut bytes = sample();
    bytes.extend(sample());
    assert_eq!(Messages::new(&bytes).filter(|message| message.is_ok()).count(), 2);
}

#[test]
fn every_prefix_is_refused_and_nothing_follows() {
    let bytes = sample();
    for end in 1..bytes.len() {
        let mut messages = Messages::new(&bytes[..end]);
        assert!(messages.next().expect("an item").is_err(), "{end}");
        assert!(messages.next().is_none(), "{end}");
    }
    assert!(Messages::new(&[]).next().is_none());
}

#[test]
fn wrong_lengths_end_the_iteration() {
    for length in [0u32, 1, 15, 57, u32::MAX] {
        let mut bytes = sample();
        bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        assert!(Messages::new(&bytes).next().expect("an item").is_err(), "{length}");
    }
    for length in [0u16, 3, 200, u16::MAX] {
        let mut bytes = sample();
        bytes[20..22].copy_from_slice(&length.to_ne_bytes());
        assert_eq!(Attributes::after(&bytes, 20).count(), 0, "{length}");
    }
    let bytes = sample();
    for cut in 0..bytes.len() {
        Attributes::after(&bytes[..cut], 20).for_each(|(_, value)| assert!(Attributes::nested(value).count() < 4));
    }
}

#[test]
fn values_are_written_in_their_byte_order_and_padded() {
    let mut request = Request::new(7, &[])
        .be16(1, 0x0102)
        .be32(2, 0x0102_0304)
        .ne32(3, 0x0102_0304)
        .ip(4, IpAddr::from([192, 0, 2, 1]))
        .ip(5, IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]))
        .string(6, "abc");
    #[rustfmt::skip]
    let expected = [
        6, 0, 1, 0, 1, 2, 0, 0,
        8, 0, 2, 0, 1, 2, 3, 4,
        8, 0, 3, 0, 4, 3, 2, 1,
        8, 0, 4, 0, 192, 0, 2, 1,
        20, 0, 5, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
        8, 0, 6, 0, b'a', b'b', b'c', 0,
    ];
    assert_eq!(request.finish(NlmF::empty(), 0)[HEADER..], expected);
}

#[test]
fn values_of_another_length_are_none() {
    let read = |value: &[u8]| {
        let mut request = Request::new(7, &[]).attribute(3, value);
        let bytes = request.finish(NlmF::empty(), 0);
        let found = Attributes::after(bytes, HEADER);
        (found.be16(3), found.be32(3), found.be64(3), found.ne32(3), found.ip(3))
    };
    let none = (None, None, None, None, None);
    for length in (0..20).filter(|length| ![2, 4, 8, 16].contains(length)) {
        assert_eq!(read(&vec![0; length]), none, "{length}");
    }
    assert_eq!(read(&[1, 2]), (Some(0x0102), None, None, None, None));
    let v4 = Some(IpAddr::from([1, 2, 3, 4]));
    assert_eq!(read(&[1, 2, 3, 4]), (None, Some(0x0102_0304), None, Some(0x0403_0201), v4));
    assert_eq!(read(&[0, 0, 0, 0, 1, 2, 3, 4]), (None, None, Some(0x0102_0304), None, None));
    assert_eq!(read(&[0; 16]), (None, None, None, None, Some(IpAddr::from([0; 16]))));
    assert_eq!((array(&[1, 2, 3], 1), array::<2>(&[1, 2, 3], 2), array::<1>(&[], 1)), (Some([2, 3]), None, None));
}

#[test]
fn the_first_attribute_of_a_type_is_found() {
    let mut request = Request::new(7, &[]).attribute(1, &[1]).attribute(2, &[2]).attribute(2, &[3]);
    let attributes = Attributes::after(request.finish(NlmF::empty(), 0), HEADER);
    assert_eq!((attributes.find(2), attributes.find(3)), (Some(&[2][..]), None));
    assert!(attributes.find_nested(3).is_none() && attributes.find_nested(2).is_some());
}

#[test]
fn a_message_has_its_port() {
    let mut bytes = sample();
    bytes[12..16].copy_from_slice(&412u32.to_ne_bytes());
    assert_eq!(Messages::new(&bytes).next().expect("one").expect("whole").port, 412);
}
