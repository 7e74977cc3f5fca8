//! Access of outside packets to 127.0.0.0/8: the order of `route_localnet` and of its guards.
//!
//! With `route_localnet` on, the kernel no longer drops packets from outside whose source or destination is in 127.0.0.0/8.
//! Two guards drop them instead, all but those that a DNAT of a frontend sends there:
//!
//! | guard | stays at another program's `flush ruleset` | stays after a crash |
//! |---|---|---|
//! | the rules in our own table (`render::guard`) | no | yes, until a flush |
//! | the table of [`GuardTable`] (Linux 5.12, nft 1.1.0) | yes | only where a service manager keeps its socket |
//!
//! So the setting is on only while our table is in the kernel: [`Localnet::resume`] follows a load, [`Localnet::suspend`] the
//! report that the table is gone, and [`Localnet::close`] precedes its removal. A setting that a crashed daemon left on is covered
//! by a guard table, or switched off, before anything else is done. Shared by the main thread and the engine; nothing in here
//! waits for longer than a few system calls.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::apply::Nft;
use super::plan::{Plan, Rules};
use super::render::TABLE;
use crate::netlink::guard_table::{GUARD_TABLE, GuardTable};
use crate::system::{RouteLocalnet, remove_descriptor, store_descriptor};

/// The first nft that lists a table with one flag as JSON without a use after free (its table_flags_json()). Older ones print
/// garbage or crash, whichever program on the host runs them.
const OWNERS_LISTED: [u32; 3] = [1, 1, 0];

/// The setting and the guard table. A clone is the same one; the default is for when no frontend needs it.
#[derive(Debug, Clone, Default)]
pub struct Localnet(Arc<Mutex<State>>);

/// Kernel interface of the setting: that of [`RouteLocalnet`].
trait Setting: Send + fmt::Debug {
    fn switch_on(&self) -> io::Result<()>;
    fn switch_off(&self) -> io::Result<()>;
}

impl Setting for RouteLocalnet {
    fn switch_on(&self) -> io::Result<()> {
        self.switch_on()
    }

    fn switch_off(&self) -> io::Result<()> {
        self.switch_off()
    }
}

#[derive(Debug, Default)]
struct State {
    /// `None` where no frontend needs it, or it cannot be changed, and once the daemon ends.
    setting: Option<Box<dyn Setting>>,
    /// Socket of the guard table, open for as long as the process lives.
    guard: Option<OwnedFd>,
    losses: Losses,
}

/// Number of losses of the table that were known before a load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Losses(u64);

impl Localnet {
    /// Guards the setting if a crashed daemon left it on, or switches it off. To be called before the
    /// table is loaded. `passed` are the descriptors from the service manager's store.
    pub fn start(plan: &Plan, nft: &Nft, passed: Vec<(String, OwnedFd)>) -> Localnet {
        let kept = passed.into_iter().find(|(name, _)| name == GUARD_TABLE).map(|(_, fd)| fd);
        let adopt = |kept| GuardTable::adopt(kept).map(OwnedFd::from);
        let create = || GuardTable::create().map(OwnedFd::from);
        Localnet::guarded(plan, RouteLocalnet::open(), kept, adopt, || guard(nft.version(), create))
    }

    /// `adopt` takes over the guard table whose socket was kept, `create` makes one.
    fn guarded(
        plan: &Plan,
        setting: io::Result<impl Setting + 'static>,
        kept: Option<OwnedFd>,
        adopt: impl FnOnce(OwnedFd) -> io::Result<OwnedFd>,
        create: impl FnOnce() -> Result<OwnedFd, (log::Level, String)>,
    ) -> Localnet {
        let setting = setting.map(|setting| Box::new(setting) as Box<dyn Setting>);
        let setting = setting.inspect_err(|error| cannot_set(plan, error)).ok();
        let is_needed = plan.needs_route_localnet() && setting.is_some();
        let mut state = State { setting, ..State::default() };
        if let Some(kept) = kept.filter(|_| is_needed) {
            let adopted = adopt(kept);
            state.guard = adopted
                .inspect_err(|error| log::warn!("cannot use the stored socket of the table ip {GUARD_TABLE}: {error}"))
                .ok();
        }
        if state.guard.is_none() {
            // At once: running nft for its version takes milliseconds.
            state.switch_off();
            remove_descriptor(GUARD_TABLE);
        }
        if !is_needed {
            state.setting = None;
        } else if state.guard.is_none() {
            match create() {
                Ok(guard) => {
                    store_descriptor(GUARD_TABLE, guard.as_fd());
                    state.guard = Some(guard);
                }
                Err((level, reason)) => log::log!(
                    level,
                    "no table ip {GUARD_TABLE} because {reason}, so outside hosts can reach 127.0.0.0/8 for a moment when \
                     another program deletes the table inet {TABLE}"
                ),
            }
        }
        Localnet(Arc::new(Mutex::new(state)))
    }

    /// The value for [`resume`](Localnet::resume); to be called before the table is loaded.
    pub fn losses(&self) -> Losses {
        self.lock().losses
    }

    /// Our table has been loaded: switches the setting on, unless the table has been lost again since `losses` was read.
    pub fn resume(&self, plan: &Plan, losses: Losses) {
        let state = self.lock();
        let setting = state.setting.as_ref().filter(|_| losses == state.losses);
        if let Some(Err(error)) = setting.map(|setting| setting.switch_on()) {
            cannot_set(plan, &error);
        }
    }

    /// Our table, or the guard in it, is gone: switches the setting off at once, until the next [`resume`](Localnet::resume).
    pub fn suspend(&self) {
        let mut state = self.lock();
        state.losses.0 += 1;
        state.switch_off();
    }

    /// Our table is about to be removed: switches the setting off for good. The guard table goes with the process.
    pub fn close(&self) {
        let mut state = self.lock();
        state.switch_off();
        state.setting = None;
        if state.guard.is_some() {
            remove_descriptor(GUARD_TABLE);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn switch_off(&self) {
        if let Some(Err(error)) = self.setting.as_ref().map(|setting| setting.switch_off()) {
            log::error!("cannot set net.ipv4.conf.all.route_localnet to 0: {error}");
        }
    }
}

/// Makes the guard table where nft of this version can list it.
///
/// # Errors
/// Severity, and the reason why there is none.
fn guard(nft: Option<[u32; 3]>, create: impl FnOnce() -> io::Result<OwnedFd>) -> Result<OwnedFd, (log::Level, String)> {
    if nft.is_none_or(|version| version < OWNERS_LISTED) {
        return Err((log::Level::Info, "nft before 1.1.0 can crash when it lists one as JSON".to_owned()));
    }
    create().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => (log::Level::Info, "the kernel is older than Linux 5.12".to_owned()),
        _ => (log::Level::Warn, format!("it cannot be made ({error})")),
    })
}

fn cannot_set(plan: &Plan, error: &io::Error) {
    const CANNOT: &str = "cannot set net.ipv4.conf.all.route_localnet";
    if plan.frontends.values().any(Rules::enters_loopback) {
        log::error!("{CANNOT}, so clients from outside do not reach endpoints on 127.0.0.0/8: {error}");
    } else if plan.needs_route_localnet() {
        log::warn!("{CANNOT}, so clients on 127.0.0.0/8 do not reach endpoints on other hosts: {error}");
    }
}

#[cfg(test)]
pub(super) mod tests;
