//! Conntrack: is it there, does it tell, has it room?

use std::io;

use rustix::io::Errno;
use rustix::net::netlink;

use super::{Finding, Host, not_looked_at, sysctls};
use crate::netlink::message::Request;
use crate::netlink::socket::Socket;

/// `IPCTNL_MSG_CT_GET_STATS` in `NFNL_SUBSYS_CTNETLINK`: a question without effect.
const GET_STATS: u16 = 1 << 8 | 5;

/// Asks conntrack over netlink.
pub(super) fn examine_netlink(findings: &mut Vec<Finding>) {
    let asked = Socket::open(Some(netlink::NETFILTER))
        .and_then(|mut socket| socket.request(&mut Request::new(GET_STATS, &[0; 4]), &mut |_| {}));
    findings.extend(judge_netlink(asked));
}

fn judge_netlink(asked: io::Result<()>) -> Option<Finding> {
    let error = asked.err()?;
    let missing = [Errno::INVAL, Errno::OPNOTSUPP, Errno::PROTONOSUPPORT];
    if missing.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error())) {
        let problem = "the kernel does not answer questions about conntrack (no ctnetlink), so nothing drains";
        return Some(Finding::error("no-ctnetlink", problem, "modprobe nf_conntrack_netlink"));
    }
    Some(not_looked_at("conntrack", &error, "conntrack -S"))
}

/// Looks at conntrack's settings and at how full its table is.
pub(super) fn examine_settings(host: &Host, findings: &mut Vec<Finding>) {
    let setting = |name| sysctls::read(&format!("net.netfilter.{name}"));
    let (count, most) = (setting("nf_conntrack_count"), setting("nf_conntrack_max"));
    // The question by netlink has loaded the module, where it could be asked.
    if most.is_some() || host.may_ask {
        findings.extend(judge(count.zip(most), setting("nf_conntrack_events")));
    }
}

fn judge(room: Option<(i64, i64)>, events: Option<i64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some((count, most)) = room else {
        let problem = "the kernel has no conntrack, which translates and counts the flows";
        return vec![Finding::error("no-conntrack", problem, "modprobe nf_conntrack")];
    };
    // 0 is without limit.
    if most > 0 && count.saturating_mul(10) >= most.saturating_mul(9) {
        let problem =
            format!("conntrack has {count} entries of at most {most}: when it is full, new flows are dropped");
        let remedy = format!("sysctl -w net.netfilter.nf_conntrack_max={}", most.saturating_mul(2));
        let note = "in the machine's own network namespace: it is one setting for all of them";
        findings.push(Finding::warning("conntrack-full", problem, remedy).note(note));
    }
    if events == Some(0) {
        let problem =
            "conntrack tells nobody of the ends of flows (net.netfilter.nf_conntrack_events is 0), so they are polled";
        findings.push(Finding::warning(
            "conntrack-events-off",
            problem,
            "sysctl -w net.netfilter.nf_conntrack_events=1",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(room: Option<(i64, i64)>, events: Option<i64>) -> Vec<&'static str> {
        judge(room, events).iter().map(|finding| finding.code).collect()
    }

    #[test]
    fn nine_tenths_are_nearly_full() {
        assert_eq!(codes(Some((899, 1000)), Some(2)), [""; 0]);
        assert_eq!(codes(Some((900, 1000)), None), ["conntrack-full"]);
        assert_eq!(codes(Some((i64::MAX, i64::MAX)), Some(0)), ["conntrack-full", "conntrack-events-off"]);
        assert_eq!(codes(Some((5, 0)), Some(1)), [""; 0]);
        assert_eq!(codes(None, None), ["no-conntrack"]);
    }

    #[test]
    fn a_kernel_that_does_not_know_the_question_lacks_ctnetlink() {
        let code = |errno: Errno| judge_netlink(Err(errno.into())).map(|finding| finding.code);
        assert_eq!(code(Errno::INVAL), Some("no-ctnetlink"));
        assert_eq!(code(Errno::PERM), Some("not-looked-at"));
        assert_eq!(judge_netlink(Ok(())), None);
    }
}
