//! Durations against the results and the errors of Go's `time.ParseDuration`.

use super::*;

/// From the table of Go's own test, `src/time/time_test.go`, without the negative ones.
const GO: &[(&str, u64)] = &[
    ("0", 0),
    ("+0", 0),
    ("-0", 0),
    ("0s", 0),
    ("-0s", 0),
    ("5s", 5_000_000_000),
    ("30s", 30_000_000_000),
    ("1478s", 1_478_000_000_000),
    ("+5s", 5_000_000_000),
    ("5.0s", 5_000_000_000),
    ("5.6s", 5_600_000_000),
    ("5.s", 5_000_000_000),
    (".5s", 500_000_000),
    ("1.0s", 1_000_000_000),
    ("1.00s", 1_000_000_000),
    ("1.004s", 1_004_000_000),
    ("1.0040s", 1_004_000_000),
    ("100.00100s", 100_001_000_000),
    ("10ns", 10),
    ("11us", 11_000),
    ("12\u{b5}s", 12_000),
    ("12\u{3bc}s", 12_000),
    ("13ms", 13_000_000),
    ("14s", 14_000_000_000),
    ("15m", 900_000_000_000),
    ("16h", 57_600_000_000_000),
    ("3h30m", 12_600_000_000_000),
    ("10.5s4m", 250_500_000_000),
    ("1h2m3s4ms5us6ns", 3_723_004_005_006),
    ("39h9m14.425s", 140_954_425_000_000),
    ("52763797000ns", 52_763_797_000),
    // A nanosecond less than Go, whose arithmetic is in floating point.
    ("0.3333333333333333333h", 1_199_999_999_999),
    ("9007199254740993ns", 9_007_199_254_740_993),
    ("9223372036854775807ns", i64::MAX as u64),
    ("9223372036854775.807us", i64::MAX as u64),
    ("9223372036s854ms775us807ns", i64::MAX as u64),
    ("0.100000000000000000000h", 360_000_000_000),
    ("0.830103483285477580700h", 2_988_372_539_827),
    ("1h30m", 5_400_000_000_000),
    ("1.5h", 5_400_000_000_000),
    ("300ms", 300_000_000),
    ("5m0s", 300_000_000_000),
];

#[test]
fn go_durations_mean_the_same() {
    for (text, nanos) in GO {
        assert_eq!(parse_duration(text), Ok(Duration::from_nanos(*nanos)), "{text}");
    }
}

#[test]
fn other_strings_are_refused() {
    for text in [
        "",
        "3",
        "-",
        "s",
        ".",
        "-.",
        ".s",
        "+.s",
        " 5m",
        "5m ",
        "5m\n",
        "5\tm",
        "0x10s",
        "1e3s",
        "1,5s",
        "5 .s",
        "1 0s",
        "1_000s",
        "--5s",
        "+-5s",
        "1h-5m",
        "5S",
        "5MS",
        "٣s",
        "\0",
        "3000000h",
        "9223372036854775808ns",
        "9223372036854775.808us",
        "9223372036854ms775us808ns",
        "99999999999999999999s",
        "9223372036854775808s",
        "-5s",
        "-1ns",
        "5 s m",
        "1.2.3s",
        "1s ",
        "1m .s",
    ] {
        assert!(parse_duration(text).is_err(), "{text:?}: {:?}", parse_duration(text));
    }
}

#[test]
fn units_in_words() {
    for (text, seconds) in [
        ("2 minutes", 120),
        ("2minutes", 120),
        ("1 minute", 60),
        ("1day", 86_400),
        ("1d", 86_400),
        ("1h 30min", 5_400),
        ("1h 30m", 5_400),
        ("1h30min", 5_400),
        ("1 hour 30 min  5 sec", 5_405),
        ("2 weeks", 1_209_600),
        ("1w", 604_800),
        ("1.5 hours", 5_400),
        ("1.5d", 129_600),
        ("1 hr 2 mins 3 secs", 3_723),
    ] {
        assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
    }
    assert_eq!(parse_duration("7 msec"), Ok(Duration::from_millis(7)));
    assert_eq!(parse_duration("7 \u{3bc}s"), Ok(Duration::from_micros(7)));
    assert_eq!(parse_duration("7 nanos"), Ok(Duration::from_nanos(7)));
    assert_eq!(parse_duration("7 usec"), Ok(Duration::from_micros(7)));
}

#[test]
fn errors_propose_what_to_write() {
    for (text, expected) in [
        ("", r#""" is not a duration: write a number and a unit, such as 30s, 5m or 1h30m"#),
        ("30", r#""30" has no unit: write 30s, 30m or 30h"#),
        ("-5s", r#""-5s" is negative: a duration cannot be"#),
        ("5M", r#""5M" is not a duration: minutes are a small m, and months have no fixed length"#),
        ("1h 5M", r#""1h 5M" is not a duration: minutes are a small m, and months have no fixed length"#),
        ("1 month", r#""1 month" is not a duration: months and years have no fixed length, write days"#),
        ("1y", r#""1y" is not a duration: months and years have no fixed length, write days"#),
        (
            "5 fortnights",
            r#"unknown unit "fortnights" in the duration "5 fortnights": the units are ns, us, ms, s, m, h (and d, days, weeks)"#,
        ),
        ("3000000h", r#""3000000h" is too long a duration"#),
        ("300000 weeks", r#""300000 weeks" is too long a duration"#),
        ("99999999999999999999 days", r#""99999999999999999999 days" is too long a duration"#),
    ] {
        assert_eq!(parse_duration(text), Err(expected.to_owned()), "{text}");
    }
}

/// A duration of several parts is their sum.
#[test]
fn sums_of_parts() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    const UNITS: [(&str, u64); 6] = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
        ("m", 60_000_000_000),
        ("h", 3_600_000_000_000),
    ];
    for _ in 0..2_000 {
        let (mut text, mut nanos) = (String::new(), 0);
        for _ in 0..=random(4) {
            let (unit, size) = UNITS[random(6) as usize];
            let number = random(1_000);
            text.push_str(&format!("{number}{unit}"));
            nanos += number * size;
        }
        assert_eq!(parse_duration(&text), Ok(Duration::from_nanos(nanos)), "{text}");
    }
}

#[test]
fn a_begun_second_counts() {
    for (nanos, seconds) in [(0, 0), (1, 1), (1_000_000_000, 1), (1_000_000_001, 2)] {
        assert_eq!(seconds_rounded_up(Duration::from_nanos(nanos)), seconds, "{nanos}");
    }
}
