//! What of a configuration a pod has to agree with: where it listens, and how long its end takes. Read without its environment, so
//! that it can be held against manifests where the gate will not run; what stands in a `${…}` is not seen.
//!
//! Nothing is checked here: a configuration that is wrong is told of by `load`.

use std::time::Duration;

use serde::Deserialize;

use super::raw::{Probes, Root, Scalar, Short};
use super::scalar;

/// A port, as far as it can be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Absent,
    Unseen,
    Is(u16),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    pub listen: Port,
    pub probes: Port,
    /// `None`: not seen.
    pub delay: Option<Duration>,
    pub deadline: Option<Duration>,
}

/// `None`: it is no configuration.
pub fn of(text: &str) -> Option<Outline> {
    let root = Root::deserialize(serde_yaml::Deserializer::from_str(text)).ok()?;
    let listen = match &root.listen {
        None => None,
        Some(Short::Text(address)) => Some(address),
        Some(Short::Fields(listen)) => listen.address.as_ref(),
    };
    let probes = match &root.probes {
        None => None,
        Some(Short::Text(address)) => Some(address),
        Some(Short::Fields(Probes { address, .. })) => address.as_ref(),
    };
    let drain = root.drain.as_ref();
    let time = |said: Option<&Scalar>, default: Duration| match said {
        None => Some(default),
        Some(Scalar(text)) => scalar::duration(text).ok(),
    };
    Some(Outline {
        listen: port(listen),
        probes: port(probes),
        delay: time(drain.and_then(|drain| drain.delay.as_ref()), Duration::from_secs(5)),
        deadline: time(drain.and_then(|drain| drain.deadline.as_ref()), Duration::from_secs(30)),
    })
}

fn port(address: Option<&Scalar>) -> Port {
    let Some(Scalar(address)) = address else { return Port::Absent };
    let port = address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    port.map_or(Port::Unseen, Port::Is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_has_to_agree_with_is_seen_without_an_environment() {
        let seen =
            |yaml: &str| of(&format!("store: '${{REDIS_URL}}'\nroutes: {{/a: any}}\n{yaml}")).expect("it is one");
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let short = seen("listen: 0.0.0.0:8080");
        assert_eq!((short.listen, short.probes), (Port::Is(8080), Port::Absent));
        assert_eq!((short.delay, short.deadline), (seconds(5), seconds(30)));
        let long =
            seen("listen: {address: '[::]:8443'}\nprobes: {address: '0.0.0.0:9901'}\ndrain: {delay: 1m, deadline: 2s}");
        assert_eq!((long.listen, long.probes), (Port::Is(8443), Port::Is(9901)));
        assert_eq!((long.delay, long.deadline), (seconds(60), seconds(2)));
        let hidden = seen("listen: '0.0.0.0:${PORT}'\ndrain: {delay: '${DELAY:-3s}'}");
        assert_eq!((hidden.listen, hidden.delay), (Port::Unseen, None));
        assert_eq!(of("no: configuration"), None);
    }
}
