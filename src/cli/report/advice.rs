//! What an operator does about a refusal before the gate enforces.

use crate::policy::Reason;

/// For a reason by its name in the log.
pub fn for_reason(name: &str) -> &'static str {
    let reason = Reason::ALL.into_iter().find(|reason| reason.name() == name);
    reason.map_or("another release's reason; read about it there", of)
}

/// Whether what is to be done depends on who called: such callers are named beside it.
pub fn concerns_callers(name: &str) -> bool {
    let concerned = [
        Reason::MissingKey,
        Reason::MalformedKey,
        Reason::ForeignFormat,
        Reason::UnknownKey,
        Reason::RevokedKey,
        Reason::ExpiredKey,
        Reason::AmbiguousKey,
        Reason::InsufficientScope,
        Reason::PlanRequired,
        Reason::BusinessSuspended,
        Reason::BusinessForbidden,
        Reason::RateLimited,
    ];
    concerned.into_iter().any(|reason| reason.name() == name)
}

fn of(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingKey => "give these callers keys (`sidegate keys create`), or make the route `public`",
        Reason::RouteNotFound => {
            "add a route where callers are meant to get through (`sidegate check --log` lists the paths), or accept the 404"
        }
        Reason::MethodNotAllowed => "add the method to the route, or accept the 405",
        Reason::MalformedKey | Reason::ForeignFormat => {
            "ask these callers for the key that they were given; check `keys.formats`, or whether this is another service's credential"
        }
        Reason::UnknownKey => "import the keys that these callers have (`sidegate keys import`), or give them new ones",
        Reason::RevokedKey | Reason::ExpiredKey => {
            "tell whose key it is (`sidegate keys show`), and give them a new one (`sidegate keys create`); it cannot be rotated"
        }
        Reason::DeniedKey | Reason::DeniedAddress => {
            "`deny` refuses them, or the key's `allow_addresses`; nothing else is to be done if it is meant"
        }
        Reason::InsufficientScope => {
            "give the keys the scope (`sidegate keys update --scopes`), or ask for less on the route"
        }
        Reason::PlanRequired => {
            "give the business a plan (`sidegate business set --plan`), or configure one named `default`"
        }
        Reason::BusinessSuspended => {
            "lift the suspension (`sidegate business set ID --status active`), or accept the 403"
        }
        Reason::BusinessForbidden => "callers name a business that is not their key's; give them a key for it",
        Reason::RateLimited => {
            "raise the limit, or that of the key or business (`--limit NAME=WINDOWS`); or tell callers to heed Retry-After"
        }
        Reason::AmbiguousKey => "callers send two keys; tell them to send one, or take a place out of `keys.from`",
        Reason::BadRequest | Reason::BadPath => {
            "what two servers could read differently is refused; fix the caller, or allow it on the route (`paths`, `lenient`)"
        }
        Reason::BodyTooLarge => "raise `max_body` on the route, or accept the 413",
        Reason::HeadersTooLarge | Reason::UriTooLong => {
            "callers send more than `listen.limits` allows, or a target of more than 8 KiB; fix the caller"
        }
        Reason::Misdirected => "callers reach a host over another host's certificate; see `listen.tls.certificates`",
        Reason::StoreUnavailable => "the gate did not reach its store; see `sidegate_store_up` and `store.deadline`",
        Reason::Overloaded => "raise `listen.limits`, or run more gates",
        Reason::UpstreamUnreachable | Reason::UpstreamInvalid | Reason::UpstreamTimeout => {
            "the service failed, not the gate; see its own log, and `upstream.response_timeout`"
        }
        Reason::MaxAge => {
            "requests without an answer outlast `streams.max_age`; raise it, or see why they take so long"
        }
        Reason::ShuttingDown => {
            "requests outlast the drain; raise `drain.deadline`, and the grace period of the pod or unit"
        }
        Reason::ClientGone => "the caller did not wait for its answer; compare its patience with the service's time",
        Reason::CrossSite
        | Reason::NoSession
        | Reason::UnsupportedMediaType
        | Reason::Unprocessable
        | Reason::RoleRequired
        | Reason::KeyNotFound
        | Reason::TooManyKeys
        | Reason::RotatedAlready
        | Reason::Unconfirmed => "the key API's own answer, which enforcement does not change",
    }
}
