//! Questions that wait until the flows' thread has counted.

use super::status::Reply;
use crate::ids::{RequestId, TargetId};

/// Something that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// The state of everything.
    Status,
    /// Why a target is in its state.
    Explain(TargetId),
}

/// What a survey lists: the flows of a target, if any.
type Details = Option<TargetId>;

/// A reply to a request.
type Answer = (RequestId, Reply);

/// All questions that are not answered yet. The inbox bounds them.
#[derive(Debug, Default)]
pub(super) struct Questions {
    waiting: Vec<(RequestId, Question)>,
    /// A survey is under way, with these details.
    survey: Option<Details>,
}

impl Questions {
    /// Adds a question; returns the survey that is to be made for it, unless one is under way.
    pub(super) fn add(&mut self, id: RequestId, question: Question) -> Option<Details> {
        self.waiting.push((id, question));
        if self.survey.is_some() { None } else { self.next() }
    }

    /// A survey has been made: answers whatever it can, and returns the next one that is to be made.
    pub(super) fn answer(&mut self, answer: impl Fn(Question) -> Reply) -> (Vec<Answer>, Option<Details>) {
        let details = self.survey.take().flatten();
        let known = |question: &Question| match question {
            Question::Status => true,
            Question::Explain(id) => details == Some(*id),
        };
        let (known, unknown): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, question)| known(question));
        self.waiting = unknown;
        let answers = known.into_iter().map(|(id, question)| (id, answer(question)));
        (answers.collect(), self.next())
    }

    fn next(&mut self) -> Option<Details> {
        let (_, question) = self.waiting.first()?;
        self.survey = Some(match question {
            Question::Status => None,
            Question::Explain(id) => Some(*id),
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

    fn explain(target: u32) -> Question {
        Question::Explain(TargetId::new(target))
    }

    fn words(question: Question) -> Reply {
        Reply::Refused(format!("{question:?}"))
    }

    #[test]
    fn one_survey_answers_all_that_it_can() {
        let mut questions = Questions::default();
        assert_eq!(questions.add(id(0, 1), Question::Status), Some(None));
        assert_eq!(questions.add(id(0, 2), explain(7)), None);
        assert_eq!(questions.add(id(1, 3), Question::Status), None);
        let (answers, next) = questions.answer(words);
        assert_eq!(answers.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id(0, 1), id(1, 3)]);
        assert_eq!(next, Some(Some(TargetId::new(7))));
        assert_eq!(questions.add(id(2, 4), explain(8)), None);
        assert_eq!(questions.add(id(2, 5), explain(7)), None);
        let (answers, next) = questions.answer(words);
        assert_eq!(answers.iter().map(|(id, _)| id.tag).collect::<Vec<_>>(), [2, 5]);
        assert_eq!(next, Some(Some(TargetId::new(8))));
        let (answers, next) = questions.answer(words);
        assert_eq!((answers.len(), next), (1, None));
        assert_eq!(questions.add(id(0, 6), Question::Status), Some(None));
    }
}
