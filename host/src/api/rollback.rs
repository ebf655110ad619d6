//! Why a saga is rolled back, as both APIs say it.

use crate::{
    hidden::{self, Headers, Secrets},
    saga::{
        AbortReason, BranchOp, Op, Saga,
        state::{Progress, Reason},
    },
};

/// The reason for which a saga is or was rolled back, in DTM's words and without its secrets; `None` if it is not.
pub fn rollback_reason(saga: &Saga, headers: &Headers) -> Option<String> {
    let options = saga.definition().options();
    Some(match saga.reason()? {
        Reason::Rejected { step } => {
            let branch_op = BranchOp { step: *step, op: Op::Action };
            let text = match saga.op(branch_op).map(|action| &action.progress) {
                Some(Progress::Rejected { reason }) => reason,
                _ => "",
            };
            let text = Secrets::of(saga.definition(), headers).text(Some(*step), text);
            let url = hidden::address(saga.definition().target(branch_op));
            format!("url:{url} return failed: {text} FAILURE")
        }
        Reason::Aborted(AbortReason::Timeout) => format!("Timeout after {} seconds", options.timeout_to_fail_s),
        Reason::Aborted(AbortReason::RetryLimit) => {
            format!("RetryCount is greater than RetryLimit, RetryLimit: {}", options.retry_limit)
        }
        Reason::ForceStopped => "force stopped".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::saga::{Definition, Event, Gid, Options, Order, Step, Timestamp};

    fn at(ms: u64) -> Timestamp {
        Timestamp(1_767_448_066_123 + ms)
    }

    #[test]
    fn every_reason_has_dtms_words() {
        let reason = |events: Vec<Event>| {
            let options = Options { timeout_to_fail_s: 3, retry_limit: 2, ..Options::default() };
            let log = [vec![Event::Submitted { at: at(0) }], events].concat();
            let step = Step { action: "http://a/try".into(), compensation: String::new(), payload: Bytes::new() };
            let gid = Gid::new("g").unwrap();
            let definition = Definition::new(gid, vec![step], Order::default(), options, at(0)).unwrap();
            rollback_reason(&Saga::replay(Arc::new(definition), &log).unwrap(), &Headers::default())
        };
        let rejected = |reason: &str| Event::Rejected { step: 0, reason: reason.into(), at: at(1) };
        assert_eq!(reason(vec![]), None);
        assert_eq!(reason(vec![rejected("no")]).unwrap(), "url:http://a/try return failed: no FAILURE");
        assert_eq!(reason(vec![rejected("")]).unwrap(), "url:http://a/try return failed:  FAILURE");
        let aborted = |reason| vec![Event::Aborted { reason, at: at(1) }];
        assert_eq!(reason(aborted(AbortReason::Timeout)).unwrap(), "Timeout after 3 seconds");
        assert_eq!(
            reason(aborted(AbortReason::RetryLimit)).unwrap(),
            "RetryCount is greater than RetryLimit, RetryLimit: 2"
        );
        assert_eq!(reason(vec![Event::ForceStopped { at: at(1) }]).unwrap(), "force stopped");
    }
}
