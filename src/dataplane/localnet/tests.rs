//! The setting without a kernel.

use super::super::render::samples;
use super::*;
use crate::config::Protocol;

/// A setting in memory. A clone is the same one.
#[derive(Debug, Clone)]
pub(in super::super) struct Memory(Arc<Mutex<Value>>);

/// Value of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Value {
    Off,
    On,
    /// It cannot be changed.
    Stuck,
}

impl Memory {
    pub(in super::super) fn new(value: Value) -> Memory {
        Memory(Arc::new(Mutex::new(value)))
    }

    pub(in super::super) fn value(&self) -> Value {
        *self.0.lock().expect("no panic")
    }

    /// A localnet that switches it, without a guard table.
    pub(in super::super) fn localnet(&self, plan: &Plan) -> Localnet {
        let unavailable = || Err((log::Level::Debug, "it is a test".to_owned()));
        Localnet::guarded(plan, Ok(self.clone()), None, Ok, unavailable)
    }

    fn set(&self, value: Value) -> io::Result<()> {
        match &mut *self.0.lock().expect("no panic") {
            Value::Stuck => Err(io::ErrorKind::PermissionDenied.into()),
            other => {
                *other = value;
                Ok(())
            }
        }
    }
}

impl Setting for Memory {
    fn switch_on(&self) -> io::Result<()> {
        self.set(Value::On)
    }

    fn switch_off(&self) -> io::Result<()> {
        self.set(Value::Off)
    }
}

fn plan(route: &str) -> Plan {
    samples::plan([samples::rules(Protocol::Tcp, &[route])])
}

/// A plan that needs the setting.
fn entering() -> Plan {
    plan("192.0.2.1:80>127.0.0.1:8080")
}

fn descriptor() -> OwnedFd {
    std::fs::File::open("/dev/null").expect("opened").into()
}

fn has_guard(localnet: &Localnet) -> bool {
    localnet.lock().guard.is_some()
}

#[test]
fn the_setting_is_on_only_while_the_table_is_in_the_kernel() {
    let setting = Memory::new(Value::Off);
    let localnet = setting.localnet(&entering());
    assert_eq!(setting.value(), Value::Off);
    localnet.resume(&entering(), localnet.losses());
    assert_eq!(setting.value(), Value::On);
    localnet.suspend();
    assert_eq!(setting.value(), Value::Off);
    localnet.resume(&entering(), localnet.losses());
    assert_eq!(setting.value(), Value::On);
    localnet.close();
    localnet.resume(&entering(), localnet.losses());
    assert_eq!(setting.value(), Value::Off, "it is closed");
}

#[test]
fn a_loss_during_a_load_leaves_the_setting_off() {
    let setting = Memory::new(Value::Off);
    let localnet = setting.localnet(&entering());
    let losses = localnet.losses();
    localnet.suspend();
    localnet.resume(&entering(), losses);
    assert_eq!(setting.value(), Value::Off);
}

#[test]
fn a_plan_that_does_not_need_the_setting_leaves_it_off() {
    let plan = plan("192.0.2.1:80>10.0.0.1:80");
    // A crashed daemon left it on, and a kept guard is of no use.
    let setting = Memory::new(Value::On);
    let localnet = Localnet::guarded(&plan, Ok(setting.clone()), Some(descriptor()), Ok, || Ok(descriptor()));
    localnet.resume(&plan, localnet.losses());
    assert_eq!((setting.value(), has_guard(&localnet)), (Value::Off, false));
}

#[test]
fn a_setting_that_was_left_on_stays_on_under_a_kept_guard_only() {
    let setting = Memory::new(Value::On);
    let none = || Err((log::Level::Debug, "a guard is there".to_owned()));
    let localnet = Localnet::guarded(&entering(), Ok(setting.clone()), Some(descriptor()), Ok, none);
    assert_eq!((setting.value(), has_guard(&localnet)), (Value::On, true));

    let refused = |_| Err(io::ErrorKind::NotFound.into());
    let localnet = Localnet::guarded(&entering(), Ok(setting.clone()), Some(descriptor()), refused, || {
        assert_eq!(setting.value(), Value::Off, "it is switched off first");
        Ok(descriptor())
    });
    assert!(has_guard(&localnet));
}

#[test]
fn a_setting_that_cannot_be_changed_stops_nothing() {
    let denied: io::Result<Memory> = Err(io::ErrorKind::PermissionDenied.into());
    let localnet = Localnet::guarded(&entering(), denied, Some(descriptor()), Ok, || Ok(descriptor()));
    assert!(!has_guard(&localnet));
    let stuck = Memory::new(Value::Stuck);
    for localnet in [localnet, stuck.localnet(&entering())] {
        localnet.resume(&entering(), localnet.losses());
        localnet.suspend();
        localnet.close();
    }
}

#[test]
fn a_guard_is_made_where_nft_and_the_kernel_support_it() {
    let refuse = |kind: io::ErrorKind| move || Err(kind.into());
    assert!(guard(Some([1, 1, 0]), || Ok(descriptor())).is_ok());
    assert!(guard(Some([2, 0, 0]), || Ok(descriptor())).is_ok());
    for old in [None, Some([1, 0, 9])] {
        let (level, reason) = guard(old, || panic!("not with {old:?}")).expect_err("too old");
        assert!(level == log::Level::Info && reason.starts_with("nft before 1.1.0"), "{reason}");
    }
    let (level, reason) = guard(Some([1, 1, 0]), refuse(io::ErrorKind::InvalidInput)).expect_err("refused");
    assert!(level == log::Level::Info && reason.contains("5.12"), "{reason}");
    let (level, reason) = guard(Some([1, 1, 0]), refuse(io::ErrorKind::PermissionDenied)).expect_err("refused");
    assert!(level == log::Level::Warn && reason.contains("cannot be made"), "{reason}");
}
