//! Notices when somebody else deletes our table, as a firewall that is loaded anew does with `flush ruleset`, so that the
//! engine can put it back at once. Lives on the reactor thread.

use std::os::fd::{AsFd as _, AsRawFd as _};

use mio::Interest;
use mio::unix::SourceFd;

use super::render::TABLE;
use crate::engine::Message;
use crate::netlink::nftables::TableWatch;
use crate::plugin::{Error, Handler, Io, Readiness};

/// The socket's key.
const SOCKET: usize = 0;

/// The watch over our table.
#[derive(Debug, Default)]
pub struct Watch {
    table: Option<TableWatch>,
}

impl Handler for Watch {
    fn start(&mut self, io: &mut Io<'_>) -> Result<(), Error> {
        match TableWatch::open(TABLE) {
            Ok(table) => {
                io.register(&mut SourceFd(&table.as_fd().as_raw_fd()), SOCKET, Interest::READABLE)?;
                self.table = Some(table);
            }
            // The gateway works without it.
            Err(error) => log::warn!("cannot watch over the rules: {error}"),
        }
        Ok(())
    }

    fn stop(&mut self, io: &mut Io<'_>) {
        if let Some(table) = self.table.take() {
            io.deregister(&mut SourceFd(&table.as_fd().as_raw_fd()), SOCKET);
        }
    }

    fn ready(&mut self, io: &mut Io<'_>, _key: usize, _readiness: Readiness) {
        match self.table.as_mut().map(TableWatch::is_lost) {
            Some(Ok(true)) => io.core.tell(Message::RulesLost),
            Some(Err(error)) => log::warn!("cannot watch over the rules: {error}"),
            Some(Ok(false)) | None => {}
        }
    }
}
