//! Requests that wait until the flows thread has counted the flows.

use super::request::Reply;
use crate::ids::{RequestId, TargetId};

/// A request that needs a survey of the flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Query {
    /// The status.
    Status,
    /// The explanation of a target's state.
    Explain(TargetId),
}

/// Target whose flows a survey lists, if any.
type Details = Option<TargetId>;

/// A request and its reply.
type Answered = (RequestId, Reply);

/// All requests that have no reply yet. The inbox bounds them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Vec<(RequestId, Query)>,
    /// A survey is under way, with these details.
    survey: Option<Details>,
}

impl Pending {
    /// Adds a request; returns the survey to make for it, unless one is under way.
    pub(super) fn add(&mut self, id: RequestId, query: Query) -> Option<Details> {
        self.waiting.push((id, query));
        if self.survey.is_some() { None } else { self.next() }
    }

    /// Replies to all that the finished survey can answer; returns the next survey to make.
    pub(super) fn reply(&mut self, reply: impl Fn(Query) -> Reply) -> (Vec<Answered>, Option<Details>) {
        let details = self.survey.take().flatten();
        let known = |query: &Query| match query {
            Query::Status => true,
            Query::Explain(id) => details == Some(*id),
        };
        let (known, unknown): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, query)| known(query));
        self.waiting = unknown;
        let replies = known.into_iter().map(|(id, query)| (id, reply(query)));
        (replies.collect(), self.next())
    }

    fn next(&mut self) -> Option<Details> {
        let (_, query) = self.waiting.first()?;
        self.survey = Some(match query {
            Query::Status => None,
            Query::Explain(id) => Some(*id),
        });
        self.survey
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::HandlerId;

    fn id(service: u32, tag: u64) -> RequestId {
        RequestId { handler: HandlerId::Service(service), tag }
    }

    fn explain(target: u32) -> Query {
        Query::Explain(TargetId::new(target))
    }

    fn named(query: Query) -> Reply {
        Reply::Refused(format!("{query:?}"))
    }

    #[test]
    fn one_survey_serves_all_requests_that_it_can() {
        let mut pending = Pending::default();
        assert_eq!(pending.add(id(0, 1), Query::Status), Some(None));
        assert_eq!(pending.add(id(0, 2), explain(7)), None);
        assert_eq!(pending.add(id(1, 3), Query::Status), None);
        let (replies, next) = pending.reply(named);
        assert_eq!(replies.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(0, 1), id(1, 3)]);
        assert_eq!(next, Some(Some(TargetId::new(7))));
        assert_eq!(pending.add(id(2, 4), explain(8)), None);
        assert_eq!(pending.add(id(2, 5), explain(7)), None);
        let (replies, next) = pending.reply(named);
        assert_eq!(replies.iter().map(|(id, _)| id.tag).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(next, Some(Some(TargetId::new(8))));
        let (replies, next) = pending.reply(named);
        assert_eq!((replies.len(), next), (1, None));
        assert_eq!(pending.add(id(0, 6), Query::Status), Some(None));
    }
}
