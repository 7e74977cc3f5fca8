//! nft as a script that prints what it is given.

use std::sync::atomic::AtomicU32;

use super::*;

/// A directory with a script in the place of nft. Removed when dropped.
struct Fake {
    directory: PathBuf,
    nft: Nft,
}

impl Fake {
    fn new(script: &str) -> Fake {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("proxygw-nft-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir(&directory).expect("made");
        let program = directory.join("nft");
        // Another process writes it: a child that another test forks meanwhile must not hold it open for writing.
        let script = format!("printf '%s\\n' '#!/bin/sh' '{script}' >\"$0\" && chmod 755 \"$0\"");
        let written = Command::new("/bin/sh").args(["-c", &script]).arg(&program).status();
        assert!(written.is_ok_and(|status| status.success()));
        let nft = Nft::find_in([std::env::temp_dir(), directory.clone(), PathBuf::from("/")].into_iter());
        assert_eq!(nft.program, program);
        Fake { directory, nft }
    }

    fn output(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).expect("written")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A script that stores its arguments and its input.
const STORE: &str = "cd \"${0%/*}\"; echo \"$@\" >arguments; cat >input; echo $$ >pid";

fn failure(script: &str) -> String {
    let error = Fake::new(script).nft.check(Language::Native, "").expect_err("it fails");
    assert!(!error.is_timeout());
    error.to_string()
}

#[test]
fn a_transaction_is_the_input_of_nft() {
    let fake = Fake::new(STORE);
    let mut pids = Vec::new();
    fake.nft.apply(Language::Json, "{}", &mut |pid| pids.push(pid)).expect("loaded");
    assert_eq!((fake.output("arguments"), fake.output("input")), ("-j -f -\n".to_owned(), "{}".to_owned()));
    assert_eq!(pids.len(), 1);
    assert_eq!(fake.output("pid").trim().parse(), Ok(pids[0]));
    fake.nft.apply(Language::Native, "add table x", &mut |_| {}).expect("loaded");
    assert_eq!((fake.output("arguments"), fake.output("input")), ("-f -\n".to_owned(), "add table x".to_owned()));
    fake.nft.check(Language::Json, "").expect("checked");
    assert_eq!(fake.output("arguments"), "--check -j -f -\n");
}

#[test]
fn a_query_returns_the_output() {
    let fake = Fake::new("echo \"nftables v1.0.6 ($1)\"");
    assert_eq!(fake.nft.query(&["list", "tables"]).ok().as_deref(), Some("nftables v1.0.6 (list)\n"));
    assert_eq!(fake.nft.version(), Some([1, 0, 6]));
    assert!(fake.nft.exists());
    assert_eq!(Fake::new("exit 1").nft.version(), None);
    let error = Fake::new("head -c 9000000 /dev/zero").nft.query(&[]).expect_err("too much");
    assert!(matches!(error, NftError::Run(_, error) if error.kind() == io::ErrorKind::FileTooLarge));
    assert_eq!(Fake::new("head -c 8000000 /dev/zero").nft.query(&[]).map(|output| output.len()).ok(), Some(8_000_000));
}

#[test]
fn an_error_is_the_first_message() {
    assert_eq!(failure("echo; echo \" Error: no such table\" >&2; echo quoted >&2; exit 1"), "nft: no such table");
    let internal = "echo \"internal:0:0-0: Error: Could not process rule: Device or resource busy\" >&2; exit 1";
    assert_eq!(failure(internal), "nft: Could not process rule: Device or resource busy");
    assert_eq!(failure("exit 3"), "nft: failed without a message (exit status: 3)");
    assert_eq!(failure("kill -9 $$"), "nft: killed by signal 9");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let nft = Nft::find_in(std::iter::empty());
    assert_eq!(nft.program, Path::new("nft"));
    let nft = Nft { program: PathBuf::from("/nonexistent/nft") };
    assert!(!nft.exists());
    let error = nft.check(Language::Json, "").expect_err("it is missing");
    assert!(error.to_string().starts_with("cannot run /nonexistent/nft: No such file"), "{error}");
    assert!(!error.is_timeout());
    assert!(NftError::Run(PathBuf::new(), io::ErrorKind::TimedOut.into()).is_timeout());
}

#[test]
fn a_run_ends_sooner_once_the_daemon_ends() {
    let began = Instant::now();
    let after = |seconds| began + Duration::from_secs(seconds);
    assert_eq!(deadline_until(began, None), after(30));
    assert_eq!(deadline_until(began, Some(after(5))), after(7));
    assert_eq!(deadline_until(began, Some(after(29))), after(30));
    assert_eq!(deadline_until(after(5), Some(began)), after(7), "a run that begins later");
    assert!(deadline(began) >= after(30), "this process does not end");
}

#[test]
fn versions_are_parsed() {
    assert_eq!(parse_version("nftables v1.0.6 (Lester Gooch #5)"), Some([1, 0, 6]));
    assert_eq!(parse_version("nftables v1.1"), Some([1, 1, 0]));
    for wrong in ["", "nftables 1.0.6", "nftables vx.0", "nftables v1.0.x"] {
        assert_eq!(parse_version(wrong), None, "{wrong}");
    }
}
