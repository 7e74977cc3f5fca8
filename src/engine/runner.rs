//! One run of a target, on its own thread: start, probe until it is ready, wait, stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use super::backend::{Target, TargetContext};
use super::core::Event;
use super::inbox::{Inbox, Message};
use crate::Error;
use crate::config::TargetSpec;
use crate::ids::TargetId;
use crate::readiness::{Missing, Notice, Prober, Waiting, wildcards};
use crate::system::StopSignal;

/// Stack size of a target's thread. Plugins that need more can start threads of their own.
const STACK: usize = 512 * 1024;

/// A target's handler, and its thread while it runs.
pub(super) struct Runner {
    id: TargetId,
    spec: Arc<TargetSpec>,
    inbox: Inbox,
    /// The backend's process, or 0.
    pid: Arc<AtomicU32>,
    /// Missing condition while it warms.
    waiting: Waiting,
    /// Present while no thread has it.
    handler: Option<Box<dyn Target>>,
    run: Option<Run>,
}

struct Run {
    stop: StopSignal,
    thread: JoinHandle<Box<dyn Target>>,
}

impl Runner {
    pub(super) fn new(id: TargetId, spec: TargetSpec, handler: Box<dyn Target>, inbox: Inbox) -> Runner {
        let (spec, waiting) = (Arc::new(spec), Waiting::default());
        Runner { id, spec, inbox, pid: Arc::default(), waiting, handler: Some(handler), run: None }
    }

    /// Starts a run. It reports `TargetReady` at most once, and `TargetEnded` at its end.
    pub(super) fn start(&mut self) {
        if let Err(error) = self.try_start() {
            self.inbox.send(Message::Event(Event::TargetEnded(self.id, Some(error.to_string()))));
        }
    }

    fn try_start(&mut self) -> Result<(), Error> {
        self.ended();
        let handler = self.handler.take().ok_or("its last run has not ended")?;
        let (id, spec, inbox, waiting) = (self.id, self.spec.clone(), self.inbox.clone(), self.waiting.clone());
        let stop = match StopSignal::new() {
            Ok(stop) => stop,
            Err(error) => {
                self.handler = Some(handler);
                return Err(error.into());
            }
        };
        let context = TargetContext { name: spec.name.clone(), stop: stop.clone(), pid: self.pid.clone() };
        // The handler travels to the thread through a channel, so that it is not lost when there can be no thread.
        let (give, take) = crossbeam_channel::bounded::<Box<dyn Target>>(1);
        let body = move || {
            // The sender sends right after the spawn, or the whole process is ending.
            let mut handler = take.recv().expect("the handler is sent");
            let message = catch_unwind(AssertUnwindSafe(|| run(&mut *handler, &context, &spec, id, &inbox, &waiting)))
                .unwrap_or_else(|_| Some("its handler has panicked".to_owned()));
            inbox.send(Message::Event(Event::TargetEnded(id, message)));
            handler
        };
        let name = format!("target {}", self.spec.name);
        match std::thread::Builder::new().name(name).stack_size(STACK).spawn(body) {
            Ok(thread) => {
                let handler = match give.send(handler) {
                    Ok(()) => {
                        self.run = Some(Run { stop, thread });
                        return Ok(());
                    }
                    Err(back) => back.0,
                };
                self.handler = Some(handler);
                Err("its thread has ended at once".into())
            }
            Err(error) => {
                self.handler = Some(handler);
                Err(error.into())
            }
        }
    }

    /// What its thread reports, for tests without one.
    #[cfg(test)]
    pub(super) fn reports(&self) -> (&Waiting, &AtomicU32) {
        (&self.waiting, &self.pid)
    }

    /// Its configuration.
    pub(super) fn spec(&self) -> &TargetSpec {
        &self.spec
    }

    /// Missing condition while the target warms.
    pub(super) fn missing(&self) -> Option<Missing> {
        self.waiting.get()
    }

    /// The backend's process, if there is one.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0)
    }

    /// Signals a run to end.
    pub(super) fn stop(&self) {
        if let Some(run) = &self.run {
            run.stop.set();
        }
    }

    /// Takes the handler back from a run that has reported `TargetEnded`.
    pub(super) fn ended(&mut self) {
        if let Some(run) = self.run.take() {
            self.pid.store(0, Ordering::Relaxed);
            match run.thread.join() {
                Ok(handler) => self.handler = Some(handler),
                Err(_) => {
                    log::error!("target {}: its thread has panicked, and cannot be started again", self.spec.name)
                }
            }
        }
    }
}

/// Runs a target until nothing of it is left; returns the message of `TargetEnded`.
fn run(
    handler: &mut dyn Target,
    context: &TargetContext,
    spec: &TargetSpec,
    id: TargetId,
    inbox: &Inbox,
    waiting: &Waiting,
) -> Option<String> {
    let report = |event| inbox.send(Message::Event(event));
    let mut missing = None;
    let live = || -> Result<(), Error> {
        handler.start(context)?;
        missing = make_ready(handler, context, spec, waiting)?;
        if missing.is_none() {
            report(Event::Wildcards(id, wildcards(&spec.endpoints)));
            report(Event::TargetReady(id));
            while !context.stopping() {
                handler.wait(context, None)?;
            }
        }
        Ok(())
    };
    let lived = catch_unwind(AssertUnwindSafe(live)).unwrap_or_else(|_| Err("its handler has panicked".into()));
    waiting.set(Instant::now(), None);
    if let Err(error) = lived {
        report(Event::TargetDied(id, error.to_string()));
    }
    let stopped = handler.stop(context).err().map(|error| error.to_string());
    let messages: Vec<_> = missing.into_iter().chain(stopped).collect();
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Waits until the backend is ready, or has to stop: then returns the missing condition.
///
/// # Errors
/// The backend has ended on its own.
fn make_ready(
    handler: &mut dyn Target,
    context: &TargetContext,
    spec: &TargetSpec,
    waiting: &Waiting,
) -> Result<Option<String>, Error> {
    let mut prober = Prober::new(&spec.readiness.probe, &spec.endpoints);
    let began = Instant::now();
    let mut notice = Notice::new(began, spec.readiness.deadline);
    loop {
        let missing = match handler.probe(context).unwrap_or_else(|| prober.probe()) {
            Ok(()) => return Ok(None),
            Err(missing) => missing.to_string(),
        };
        let now = Instant::now();
        waiting.set(now, Some(&missing));
        if context.stopping() {
            return Ok(Some(missing));
        }
        if let Some(time) = notice.missed(now) {
            log::info!("target {}: not ready after {time:?}: {missing}", spec.name);
        }
        handler.wait(context, Some(now + prober.pause(now - began)))?;
    }
}
