//! Whose trace a request belongs to: W3C's trace context, and OpenTelemetry's samplers.

use axum::http::HeaderMap;

pub(super) type TraceId = [u8; 16];
pub(super) type SpanId = [u8; 8];

/// `traceparent` and `tracestate` of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parent {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) sampled: bool,
    /// As it was sent, to be handed on.
    pub(super) state: String,
}

impl Parent {
    /// `None` where there is no such header, or one that makes no sense: W3C has the trace begin anew
    /// then.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all("traceparent").iter();
        let (Some(one), None) = (all.next(), all.next()) else {
            return None;
        };
        let mut parent = Self::parse(one.to_str().ok()?)?;
        let states = headers.get_all("tracestate").iter();
        let states: Vec<_> = states.filter_map(|state| state.to_str().ok()).collect();
        parent.state = states.join(",");
        Some(parent)
    }

    /// `version-trace-parent-flags`, in lower-case hexadecimal digits.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split('-');
        let [version] = bytes(parts.next()?)?;
        let parent = Self {
            trace: bytes(parts.next()?)?,
            span: bytes(parts.next()?)?,
            sampled: bytes::<1>(parts.next()?)?[0] & 1 == 1,
            state: String::new(),
        };
        // Later versions may have more behind these.
        let whole = version != 0xff && (version > 0 || parts.next().is_none());
        (whole && parent.trace != [0; 16] && parent.span != [0; 8]).then_some(parent)
    }
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    let lower = |digit: &u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    if digits.len() != 2 * N || !digits.iter().all(lower) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Which requests are traced, as `OTEL_TRACES_SAMPLER` says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sampler {
    /// Whether what the parent decided goes before the share.
    by_parent: bool,
    /// Of the traces that begin here, 0 to 1.
    share: f64,
}

impl Default for Sampler {
    fn default() -> Self {
        Self {
            by_parent: true,
            share: 1.0,
        }
    }
}

impl Sampler {
    /// # Errors
    /// There is no such sampler, or the argument is no share; the error says so.
    pub(super) fn new(name: &str, argument: Option<&str>) -> Result<Self, String> {
        let share = || match argument.map(str::parse::<f64>) {
            None => Ok(1.0),
            Some(Ok(share)) if (0.0..=1.0).contains(&share) => Ok(share),
            Some(_) => Err("OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1".to_owned()),
        };
        let (by_parent, share) = match name {
            "always_on" => (false, 1.0),
            "always_off" => (false, 0.0),
            "traceidratio" => (false, share()?),
            "parentbased_always_on" => (true, 1.0),
            "parentbased_always_off" => (true, 0.0),
            "parentbased_traceidratio" => (true, share()?),
            other => {
                return Err(format!(
                    "OTEL_TRACES_SAMPLER {other:?} is not known; take always_on, always_off or \
                     traceidratio, or one of these with parentbased_ before it"
                ));
            }
        };
        Ok(Self { by_parent, share })
    }

    pub(super) fn samples(&self, trace: TraceId, parent: Option<&Parent>) -> bool {
        match parent {
            Some(parent) if self.by_parent => parent.sampled,
            // As the SDKs do, so that all who see a trace with one share decide alike.
            _ => {
                let [.., a, b, c, d, e, f, g, h] = trace;
                let random = u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1;
                (random as f64) < self.share * (1_u64 << 63) as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_as_w3c_writes_it() {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", TRACEPARENT.parse().unwrap());
        headers.append("tracestate", "a=1".parse().unwrap());
        headers.append("tracestate", "b=2".parse().unwrap());
        let parent = Parent::of(&headers).unwrap();
        assert_eq!(parent.trace[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(parent.span, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert!(parent.sampled);
        assert_eq!(parent.state, "a=1,b=2");
        headers.append("traceparent", TRACEPARENT.parse().unwrap());
        assert_eq!(Parent::of(&headers), None);
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        let later = TRACEPARENT.replacen("00", "cc", 1) + "-what-will-be";
        assert!(Parent::parse(&later).is_some());
        let unsampled = TRACEPARENT.replace("-01", "-02");
        assert!(!Parent::parse(&unsampled).unwrap().sampled);
        for bad in [
            "",
            "00",
            &TRACEPARENT.to_uppercase(),
            &TRACEPARENT.replacen("00", "ff", 1),
            &TRACEPARENT.replace("00f067aa0ba902b7", "0000000000000000"),
            &TRACEPARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &TRACEPARENT.replace("4bf9", "+bf9"),
            &TRACEPARENT.replace("4bf9", "é9"),
            &TRACEPARENT[..TRACEPARENT.len() - 1],
            &format!("{TRACEPARENT}-more"),
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_sampler_keeps_its_share_and_may_leave_it_to_the_parent() {
        let taken = |sampler: &str, argument: Option<&str>, parent: Option<&Parent>| {
            let sampler = Sampler::new(sampler, argument).unwrap();
            let traces = (0..4000).map(|_| rand::random::<TraceId>());
            traces.filter(|id| sampler.samples(*id, parent)).count()
        };
        let mut parent = Parent::parse(TRACEPARENT).unwrap();
        assert_eq!(taken("always_on", None, None), 4000);
        assert_eq!(taken("always_off", None, Some(&parent)), 0);
        assert_eq!(taken("traceidratio", Some("0"), None), 0);
        assert_eq!(taken("traceidratio", Some("1"), None), 4000);
        let quarter = taken("parentbased_traceidratio", Some("0.25"), None);
        assert!((850..1150).contains(&quarter), "{quarter}");
        assert_eq!(
            taken("parentbased_traceidratio", Some("0.25"), Some(&parent)),
            4000
        );
        parent.sampled = false;
        assert_eq!(taken("parentbased_always_on", None, Some(&parent)), 0);
        for (name, argument, told) in [
            ("sometimes", None, "\"sometimes\" is not known"),
            ("traceidratio", Some("2"), "from 0 to 1"),
            ("traceidratio", Some("x"), "from 0 to 1"),
        ] {
            let error = Sampler::new(name, argument).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
    }
}
