#![allow(clippy::unwrap_used)]

use super::session::{MAX_REQUEST, Session, Step};
use super::wire::{Codec, Packet, Reader, Value, encode};
use crate::engine::{Reply, Request, Status};
use crate::random::Random;

fn empty_status() -> Reply {
    Reply::Status(Box::new(Status { closed: false, targets: Vec::new(), frontends: Vec::new(), hold: None }))
}

fn send(session: &mut Session) -> String {
    let output = String::from_utf8_lossy(session.output()).into_owned();
    session.sent(output.len());
    output
}

/// Output and requests of a session with this input if the engine sends `reply` to each request.
fn converse(input: &str, reply: &Reply) -> (String, Vec<Request>) {
    let mut session = Session::new(Codec::Json);
    let (mut output, mut requests, mut given) = (String::new(), Vec::new(), false);
    loop {
        match session.step() {
            Step::Send => output += &send(&mut session),
            Step::Request(request) => {
                requests.push(request);
                assert_eq!(session.step(), Step::Wait);
                session.reply(reply);
            }
            Step::Receive if given => session.end(),
            Step::Receive => {
                session.received(input.as_bytes());
                given = true;
            }
            Step::Close => return (output, requests),
            Step::Ignored => {}
            Step::Wait => unreachable!(),
        }
    }
}

#[test]
fn supported_methods_are_answered_by_the_engine() {
    type Make = fn(String) -> Request;
    let methods: [(u16, Make); 4] = [
        (8, Request::WarmTarget),
        (10, Request::DrainTarget),
        (16, Request::StartFrontend),
        (18, Request::StopFrontend),
    ];
    for (method, make) in methods {
        let input = format!("{{\"id\":5,\"method\":{method},\"body\":{{\"name\":\"x\",\"more\":1}}}}");
        let (output, requests) = converse(&input, &Reply::Done);
        assert_eq!(output, format!("{{\"id\":5,\"method\":{},\"body\":{{}}}}\n", method + 1));
        assert_eq!(requests, [make("x".into())]);
        let (output, _) = converse(&input, &Reply::Refused("no such thing".into()));
        assert_eq!(output, "{\"id\":5,\"method\":1,\"body\":{\"msg\":\"no such thing\"}}\n");
    }
    for body in ["", ",\"body\":null", ",\"body\":{}", ",\"body\":[1]"] {
        let (output, requests) = converse(&format!("{{\"id\":1,\"method\":2{body}}}"), &empty_status());
        assert_eq!(output, "{\"id\":1,\"method\":3,\"body\":{\"closed\":false,\"targets\":[],\"frontends\":[]}}\n");
        assert_eq!(requests, [Request::Status]);
    }
}

#[test]
fn unsupported_methods_are_refused() {
    let mut input = String::new();
    let others = [0u16, 1, 3, 4, 6, 9, 12, 14, 20, 24, 32768, 32770, 65535];
    for method in others {
        input += &format!("{{\"id\":{},\"method\":{method},\"body\":{{\"name\":\"x\"}}}}", u32::from(method) + 1);
    }
    for body in ["", ",\"body\":{}", ",\"body\":{\"name\":1}", ",\"body\":\"x\"", ",\"body\":[\"name\"]"] {
        input += &format!("{{\"id\":9,\"method\":8{body}}}");
    }
    input += "{\"id\":10,\"method\":2}";
    let (output, requests) = converse(&input, &empty_status());
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), others.len() + 5 + 1);
    for (line, method) in lines.iter().zip(others) {
        assert!(
            line.starts_with(&format!("{{\"id\":{},\"method\":1,\"body\":{{\"msg\":\"", u32::from(method) + 1)),
            "{line}"
        );
    }
    for line in &lines[others.len()..others.len() + 5] {
        assert!(line.starts_with("{\"id\":9,\"method\":1,"), "{line}");
    }
    assert!(output.ends_with("{\"closed\":false,\"targets\":[],\"frontends\":[]}}\n"));
    assert_eq!(requests, [Request::Status]);
}

#[test]
fn notifications_get_no_response() {
    let input = concat!(
        "{\"id\":0,\"method\":32768,\"body\":{\"name\":\"web\"}}",
        "{\"id\":0,\"method\":2}{\"id\":0,\"method\":8,\"body\":{\"name\":\"x\"}}{\"id\":0,\"method\":1}",
        "{\"id\":0,\"method\":32768}"
    );
    for reply in [Reply::Done, Reply::Refused("no".into())] {
        assert_eq!(converse(input, &reply), (String::new(), vec![Request::WakeFrontend("web".into())]));
    }
}

#[test]
fn malformed_packet_ends_the_session() {
    assert_eq!(converse("garbage", &Reply::Done).0, "");
    assert_eq!(converse("{\"id\":0,\"method\":\"x\"}", &Reply::Done).0, "");
    let (output, requests) =
        converse("{\"id\":4,\"method\":8,\"body\":{\"name\":\"a\"}}{\"id\":5,?}{\"id\":6,\"method\":2}", &Reply::Done);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0], "{\"id\":4,\"method\":9,\"body\":{}}");
    assert!(lines[1].starts_with("{\"id\":5,\"method\":1,\"body\":{\"msg\":\"not a json packet: "));
    assert_eq!(requests.len(), 1);
    let long = format!("{{\"id\":6,\"method\":2,\"body\":\"{}", "x".repeat(MAX_REQUEST));
    let expected = "{\"id\":6,\"method\":1,\"body\":{\"msg\":\"the packet is longer than 65536 bytes\"}}\n";
    assert_eq!(converse(&long, &Reply::Done).0, expected);
}

#[test]
fn incomplete_packet_at_the_end_is_ignored() {
    assert_eq!(converse("", &Reply::Done), (String::new(), Vec::new()));
    assert_eq!(converse("\n\n  \n", &Reply::Done), (String::new(), Vec::new()));
    assert_eq!(converse("{\"id\":1,\"method\":2", &Reply::Done), (String::new(), Vec::new()));
}

#[test]
fn nothing_is_read_while_a_request_is_pending() {
    let mut session = Session::new(Codec::Json);
    assert_eq!(session.step(), Step::Receive);
    session.received(b"{\"id\":1,\"method\":2}{\"id\":2,\"method\":2}");
    assert!(!session.is_busy());
    assert_eq!(session.step(), Step::Request(Request::Status));
    assert_eq!(session.step(), Step::Wait);
    assert!(session.is_busy());
    session.reply(&Reply::Done);
    assert_eq!(session.step(), Step::Send);
    session.sent(3);
    assert_eq!(session.step(), Step::Send);
    assert!(session.output().starts_with(b"d\":1,"));
    session.sent(session.output().len());
    assert_eq!(session.step(), Step::Request(Request::Status));
    session.reply(&Reply::Done);
    // An unexpected reply is ignored.
    session.reply(&Reply::Done);
    assert_eq!(send(&mut session), "{\"id\":2,\"method\":3,\"body\":{}}\n");
    assert_eq!(session.step(), Step::Receive);
}

/// Every request is answered once, in order, for any parts, delays of the engine and reads of the client.
#[test]
fn random_conversations_are_answered_in_order() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let codec = Codec::ALL[random.index(2)];
        let mut input = Vec::new();
        let mut expected = Vec::new();
        for id in 1..=random.index(30) as u32 {
            let name = format!("n{}", random.index(5));
            let body = Value::Map(vec![("name".into(), name.as_str().into())]);
            let (method, answer) = [(2, 3), (8, 9), (10, 11), (16, 17), (18, 19), (4, 1), (21, 1)][random.index(7)];
            let id = if random.index(5) == 0 { 0 } else { id };
            encode(codec, id, method, &body, &mut input).unwrap();
            if id != 0 {
                expected.push((id, answer));
            }
        }
        let mut session = Session::new(codec);
        let (mut rest, mut output, mut asked) = (&input[..], Vec::new(), false);
        loop {
            match session.step() {
                Step::Send => {
                    let count = 1 + random.index(session.output().len());
                    output.extend_from_slice(&session.output()[..count]);
                    session.sent(count);
                }
                Step::Request(_) => asked = true,
                Step::Ignored => {}
                Step::Wait => {
                    assert!(std::mem::take(&mut asked), "seed {seed}: waits without a request");
                    session.reply(&Reply::Done);
                }
                Step::Receive if rest.is_empty() => session.end(),
                Step::Receive => {
                    let (now, later) = rest.split_at(1 + random.index(rest.len().min(50)));
                    session.received(now);
                    rest = later;
                }
                Step::Close => break,
            }
        }
        let mut reader = Reader::new(codec, usize::MAX);
        reader.push(&output);
        let mut answers = Vec::new();
        while let Some(Packet { id, method, .. }) = reader.packet().unwrap() {
            answers.push((id, method));
        }
        assert!(reader.is_empty(), "seed {seed}");
        assert_eq!(answers, expected, "seed {seed}");
    }
}
