//! The table in the kernel, and what we know of it.

use super::apply::{Language, Nft, NftError};
use super::plan::{Plan, State};
use super::render;

/// Our table. It exists from [`Table::load`] to [`Table::remove`], and beyond a crash until the next load.
#[derive(Debug)]
pub struct Table {
    nft: Nft,
    plan: Plan,
    /// What is in the kernel; `None` after a failure, until the table has been replaced as a whole.
    state: Option<State>,
}

impl Table {
    /// A table that is not loaded yet.
    pub fn new(nft: Nft, plan: Plan) -> Table {
        Table { nft, plan, state: None }
    }

    /// All rules that there can be.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Somebody else has deleted the table: the next [`Table::apply`] loads it anew.
    pub fn lost(&mut self) {
        self.state = None;
    }

    /// Puts the whole table into the kernel, with nothing in force. What was there under its name is replaced in the same
    /// transaction.
    ///
    /// # Errors
    /// nft could not be run, or refused.
    pub fn load(&mut self) -> Result<(), NftError> {
        self.replace(&State::default())
    }

    /// Brings the table to a state in one transaction. After a failure the whole table is replaced, since nobody knows what
    /// is there: somebody else may have deleted it.
    ///
    /// # Errors
    /// nft could not be run, or refused twice.
    pub fn apply(&mut self, state: &State) -> Result<(), NftError> {
        let Some(before) = self.state.take() else { return self.replace(state) };
        if before == *state {
            self.state = Some(before);
            return Ok(());
        }
        match render::changes(&self.plan, &before, state) {
            None => self.state = Some(state.clone()),
            Some(changes) => match self.nft.apply(Language::Json, &changes) {
                Ok(()) => self.state = Some(state.clone()),
                Err(error) => {
                    log::warn!("the rules could not be changed, so they are loaded anew: {error}");
                    self.replace(state)?;
                }
            },
        }
        Ok(())
    }

    fn replace(&mut self, state: &State) -> Result<(), NftError> {
        self.nft.apply(Language::Json, &render::table(&self.plan, state))?;
        if let Some(timeouts) = render::timeouts(&self.plan) {
            self.nft.apply(Language::Native, &timeouts)?;
        }
        self.state = Some(state.clone());
        Ok(())
    }

    /// Takes the table out of the kernel.
    ///
    /// # Errors
    /// nft could not be run, or refused.
    pub fn remove(&mut self) -> Result<(), NftError> {
        self.state = None;
        self.nft.apply(Language::Json, &render::removal())
    }
}
