//! Orders of the engine to the reactor.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use super::request::Reply;
use crate::ids::{Change, FrontendId, RequestId};

/// Orders that the engine can be ahead of the reactor before it waits.
const MAX_ORDERS: usize = 1024;

/// An order to the reactor.
#[derive(Debug)]
pub enum Order {
    /// Start a frontend's handler; followed by `FrontendStarted` or `FrontendFailed`.
    Start(FrontendId),
    /// Stop a frontend's handler; followed by `FrontendStopped`.
    Stop(FrontendId),
    /// Notify a frontend's handler and all services of a change of the frontend's target.
    Notify {
        /// The frontend.
        frontend: FrontendId,
        /// The change.
        change: Change,
    },
    /// Hand over the reply to a request.
    Reply(RequestId, Reply),
    /// Everything has ended: stop the services and return.
    End,
}

/// Sending side of the orders.
#[derive(Clone)]
pub struct Orders {
    sender: Sender<Order>,
    waker: Arc<Waker>,
}

impl Orders {
    /// A bounded channel whose sender wakes the reactor.
    pub fn channel(waker: Arc<Waker>) -> (Orders, Receiver<Order>) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_ORDERS);
        (Orders { sender, waker }, receiver)
    }

    /// Passes an order on; waits while the reactor is too far behind. The reactor never waits for the engine, so this ends.
    pub fn send(&self, order: Order) {
        // The reactor is gone only at the end, when no order matters.
        if self.sender.send(order).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::error!("cannot wake the reactor: {error}");
        }
    }
}
