//! This process's own transactions of nftables: those of the nft processes that it ran.
//!
//! nft waits for its input, so its id is known before it can commit. Process ids are used again, so a run that has ended owns
//! only the generations that were made while it ran. Shared by the engine, which runs nft, and the reactor, which reads the
//! notifications.

use std::collections::VecDeque;
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::netlink::nftables::Transaction;

/// Maximum number of runs that are remembered. The reactor is not that far behind; if it were, a transaction of our own would
/// be taken for another program's, and be repaired without effect.
const MAX_RUNS: usize = 64;

/// `PROC_PID_INIT_INO`: the inode of the machine's first PID namespace.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

/// One run of nft.
#[derive(Debug)]
struct Run {
    pid: u32,
    /// The last generation before it, where known.
    after: Option<u32>,
    /// The last generation that it can have made, once it has ended, where known.
    until: Option<u32>,
    /// The generation that is certainly its own: the only one that was made while it ran.
    only: Option<u32>,
}

impl Run {
    fn made(&self, generation: u32) -> bool {
        let distance = |from: u32, to: u32| to.wrapping_sub(from).cast_signed();
        self.after.is_none_or(|after| distance(after, generation) > 0)
            && self.until.is_none_or(|until| distance(generation, until) >= 0)
    }
}

/// Result of a run of nft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It committed one transaction.
    Committed,
    /// It failed, and may have committed one.
    Failed,
}

/// PID namespace of this process. The kernel's notifications use the ids of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PidNamespace {
    First,
    Other,
}

/// The latest runs of nft of this process.
#[derive(Debug)]
pub struct OwnTransactions {
    runs: Mutex<VecDeque<Run>>,
    namespace: PidNamespace,
}

impl Default for OwnTransactions {
    fn default() -> Self {
        let inode = std::fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino());
        let is_first = inode.is_ok_and(|inode| inode == FIRST_PID_NAMESPACE);
        let namespace = if is_first { PidNamespace::First } else { PidNamespace::Other };
        OwnTransactions { runs: Mutex::default(), namespace }
    }
}

impl OwnTransactions {
    /// Records that a process that was started after this generation is about to commit.
    pub fn begin(&self, pid: u32, after: Option<u32>) {
        let mut runs = self.runs();
        if runs.len() == MAX_RUNS {
            runs.pop_front();
        }
        runs.push_back(Run { pid, after, until: None, only: None });
    }

    /// Records that this process of [`OwnTransactions::begin`] has ended by this generation.
    pub fn end(&self, pid: u32, until: Option<u32>, outcome: Outcome) {
        if let Some(run) = self.runs().iter_mut().rfind(|run| run.pid == pid) {
            let next = run.after.map(|after| after.wrapping_add(1));
            run.until = until;
            run.only = until.filter(|_| outcome == Outcome::Committed && until == next);
        }
    }

    /// Whether a transaction is ours.
    pub fn includes(&self, transaction: &Transaction) -> bool {
        let is_of = |run: &Run| match &transaction.process {
            Some(process) if self.namespace == PidNamespace::First => process.id == run.pid,
            // In another PID namespace the netlink port has the id of nft's own PID namespace, which is ours.
            Some(process) => transaction.port == run.pid && process.name == "nft",
            None => transaction.port == run.pid,
        };
        self.runs().iter().any(|run| is_of(run) && run.made(transaction.generation))
    }

    /// Whether all generations after the first number, up to the second, are certainly ours.
    pub fn account_for(&self, (after, until): (u32, u32)) -> bool {
        let runs = self.runs();
        let known = |generation| runs.iter().any(|run| run.only == Some(generation));
        // It ends at the first one that is not known.
        (1..=until.wrapping_sub(after)).all(|n| known(after.wrapping_add(n)))
    }

    fn runs(&self) -> MutexGuard<'_, VecDeque<Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::nftables::{Changes, Process};

    fn transaction(pid: u32, port: u32, name: &str, generation: u32) -> Transaction {
        let process = Some(Process { id: pid, name: name.to_owned() });
        Transaction { process, port, generation, changes: Changes::default() }
    }

    fn own(namespace: PidNamespace) -> OwnTransactions {
        OwnTransactions { runs: Mutex::default(), namespace }
    }

    #[test]
    fn a_run_owns_what_its_process_commits_and_nothing_after_its_end() {
        let own = own(PidNamespace::First);
        own.begin(412, Some(7));
        assert!(own.includes(&transaction(412, 412, "nft", 8)));
        assert!(!own.includes(&transaction(413, 412, "nft", 8)));
        assert!(!own.includes(&transaction(412, 412, "nft", 7)), "before it began");
        own.end(412, Some(9), Outcome::Committed);
        assert!(own.includes(&transaction(412, 412, "nft", 9)), "reported late");
        assert!(!own.includes(&transaction(412, 412, "nft", 10)), "another process of the same id");
    }

    #[test]
    fn generations_wrap() {
        let own = own(PidNamespace::First);
        own.begin(412, Some(u32::MAX));
        own.end(412, Some(0), Outcome::Committed);
        assert!(own.includes(&transaction(412, 412, "nft", 0)));
        assert!(!own.includes(&transaction(412, 412, "nft", 1)));
        assert!(own.account_for((u32::MAX, 0)));
    }

    #[test]
    fn the_port_identifies_a_run_in_another_pid_namespace() {
        let own = own(PidNamespace::Other);
        own.begin(12, Some(7));
        assert!(own.includes(&transaction(9412, 12, "nft", 8)));
        assert!(!own.includes(&transaction(12, 9412, "nft", 8)));
        assert!(!own.includes(&transaction(9413, 12, "iptables", 8)));
    }

    #[test]
    fn lost_generations_are_accounted_for_only_by_runs_that_were_alone() {
        let own = own(PidNamespace::First);
        own.begin(1, Some(7));
        own.end(1, Some(8), Outcome::Committed);
        own.begin(2, Some(8));
        own.end(2, Some(9), Outcome::Committed);
        assert!(own.account_for((7, 9)) && own.account_for((8, 9)) && own.account_for((9, 9)));
        assert!(!own.account_for((6, 9)) && !own.account_for((7, 10)) && !own.account_for((7, 7 + (1 << 30))));
        // Something else was committed meanwhile, or instead.
        own.begin(3, Some(9));
        own.end(3, Some(11), Outcome::Committed);
        own.begin(4, Some(11));
        own.end(4, Some(12), Outcome::Failed);
        assert!(!own.account_for((9, 10)) && !own.account_for((9, 11)) && !own.account_for((11, 12)));
    }

    #[test]
    fn the_end_is_that_of_the_latest_run_of_a_process_id() {
        let own = own(PidNamespace::First);
        own.begin(412, Some(7));
        own.end(412, Some(8), Outcome::Committed);
        own.begin(412, Some(20));
        own.begin(413, Some(20));
        own.end(412, Some(21), Outcome::Committed);
        let includes = |generation| own.includes(&transaction(412, 412, "nft", generation));
        assert_eq!([8, 9, 20, 21, 22].map(includes), [true, false, false, true, false]);
        assert!(own.account_for((7, 8)) && own.account_for((20, 21)));
        assert!(own.includes(&transaction(413, 413, "nft", 30)), "it runs");
    }

    #[test]
    fn without_its_generations_a_run_owns_all_of_its_process() {
        let own = own(PidNamespace::First);
        own.begin(412, None);
        own.end(412, None, Outcome::Committed);
        let unnamed = |port| Transaction { process: None, ..transaction(412, port, "", 8) };
        assert!(own.includes(&unnamed(412)) && !own.includes(&unnamed(413)));
        assert!(!own.account_for((7, 8)));
    }

    #[test]
    fn old_runs_are_forgotten() {
        let own = own(PidNamespace::First);
        (0..1000).for_each(|pid| own.begin(pid, None));
        assert_eq!(own.runs().len(), MAX_RUNS);
        assert!(!own.includes(&transaction(0, 0, "nft", 1)) && own.includes(&transaction(999, 0, "nft", 1)));
    }
}
