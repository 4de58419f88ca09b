//! Where traces go, as flags and OpenTelemetry's own variables say.

use std::fmt;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use clap::Args;
use reqwest::Url;

use super::context::Sampler;

/// Where traces go, and what stands in them. OpenTelemetry's own variables say the rest.
#[derive(Debug, Clone, Default, Args)]
pub struct TraceConfig {
    /// Where traces are sent as OTLP over HTTP, to the path v1/traces below it [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT; without either there are none]
    #[arg(long, env = "ONEGEN_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<Url>,
    /// Headers to send with them, with commas between [default: OTEL_EXPORTER_OTLP_HEADERS]
    #[arg(
        long,
        env = "ONEGEN_OTLP_HEADERS",
        value_name = "NAME=VALUE",
        value_parser = headers,
        hide_env_values = true
    )]
    pub otlp_headers: Option<HeaderMap>,
    /// Put prompts, answers and the passages that were read into traces
    #[arg(long, env = "ONEGEN_TRACE_TEXT")]
    pub trace_text: bool,
}

/// A variable of OpenTelemetry's makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TraceConfigError(String);

/// What all of that comes to.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// For one batch.
    pub(super) timeout: Duration,
    pub(super) sampler: Sampler,
    /// As it is named in the variables.
    sampler_name: String,
    /// Of the resource: names and values.
    pub(super) resource: Vec<(String, String)>,
    /// Between two batches.
    pub(super) delay: Duration,
    pub(super) batch: usize,
    /// Spans that may wait to be sent; more are dropped.
    pub(super) queue: usize,
    pub(super) text: bool,
}

impl Settings {
    /// `None` where there are to be no traces. `variable` gives the environment's, by their names.
    ///
    /// # Errors
    /// A variable makes no sense, or asks for what is not done here.
    pub(super) fn new(
        config: &TraceConfig,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, TraceConfigError> {
        // An empty variable counts as none.
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        // What is said of traces goes before what is said of all signals.
        let of_traces = |name: &str| {
            let traces = variable(&format!("OTEL_EXPORTER_OTLP_TRACES_{name}"));
            traces.or_else(|| variable(&format!("OTEL_EXPORTER_OTLP_{name}")))
        };
        let is = |name: &str, value: &str| {
            variable(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
        };
        let url = match &config.otlp_endpoint {
            Some(base) => Some(below(base.clone())),
            None => endpoint(&variable)?,
        };
        let Some(url) = url else {
            return Ok(None);
        };
        if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
            return Ok(None);
        }
        if !["http", "https"].contains(&url.scheme()) {
            let reason = format!("traces cannot be sent to {url}: it is neither http nor https");
            return Err(TraceConfigError(reason));
        }
        for (name, done) in [("PROTOCOL", "http/protobuf"), ("COMPRESSION", "none")] {
            if let Some(other) = of_traces(name).filter(|value| value != done) {
                return Err(TraceConfigError(format!(
                    "OTEL_EXPORTER_OTLP_{name} is {other:?}, but traces are sent with {done:?} only"
                )));
            }
        }
        let number = |name: &str, default: u64| match variable(name).map(|value| value.parse()) {
            None => Ok(default),
            Some(Ok(number)) if number > 0 => Ok(number),
            Some(_) => Err(TraceConfigError(format!("{name} must be a whole number"))),
        };
        let timeout = match of_traces("TIMEOUT").map(|value| value.parse()) {
            None => 10_000,
            Some(Ok(milliseconds)) => milliseconds,
            Some(Err(_)) => {
                let reason = "OTEL_EXPORTER_OTLP_TIMEOUT must be a whole number of milliseconds";
                return Err(TraceConfigError(reason.to_owned()));
            }
        };
        let of_variable = of_traces("HEADERS").map(|text| {
            let fault = |error| TraceConfigError(format!("OTEL_EXPORTER_OTLP_HEADERS {error}"));
            headers(&text).map_err(fault)
        });
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", 2048)? as usize;
        let sampler_name = variable("OTEL_TRACES_SAMPLER");
        let sampler_name = sampler_name.unwrap_or_else(|| "parentbased_always_on".to_owned());
        let argument = variable("OTEL_TRACES_SAMPLER_ARG");
        Ok(Some(Self {
            url,
            headers: match &config.otlp_headers {
                Some(headers) => headers.clone(),
                None => of_variable.transpose()?.unwrap_or_default(),
            },
            timeout: Duration::from_millis(timeout),
            sampler: Sampler::new(&sampler_name, argument.as_deref()).map_err(TraceConfigError)?,
            sampler_name: match argument {
                Some(argument) => format!("{sampler_name} ({argument})"),
                None => sampler_name,
            },
            resource: resource(&variable)?,
            delay: Duration::from_millis(number("OTEL_BSP_SCHEDULE_DELAY", 5000)?),
            batch: (number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)? as usize).min(queue),
            queue,
            text: config.trace_text,
        }))
    }
}

/// For the start: no header's value, and no password of the address.
impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.url.clone();
        // Fails only for an address that can hold none.
        let _ = url.set_password(None);
        write!(f, "traces go to {url}")?;
        for name in self.headers.keys() {
            write!(f, ", {name}: ***")?;
        }
        for (name, value) in &self.resource {
            write!(f, ", {name}: {value}")?;
        }
        write!(f, ", sampled by {}", self.sampler_name)?;
        if self.text {
            write!(f, ", with prompts, answers and passages")?;
        }
        Ok(())
    }
}

/// `v1/traces` below an address.
fn below(mut base: Url) -> Url {
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

fn endpoint(variable: &impl Fn(&str) -> Option<String>) -> Result<Option<Url>, TraceConfigError> {
    let whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
    let base = "OTEL_EXPORTER_OTLP_ENDPOINT";
    let read = |name: &str, text: String| {
        let fault = |error| TraceConfigError(format!("{name} {text:?} is no address: {error}"));
        text.parse::<Url>().map_err(fault)
    };
    match (variable(whole), variable(base)) {
        (Some(text), _) => read(whole, text).map(Some),
        (None, Some(text)) => read(base, text).map(below).map(Some),
        (None, None) => Ok(None),
    }
}

/// `name=value` with commas between, values percent-encoded, as `OTEL_EXPORTER_OTLP_HEADERS` has them.
fn headers(text: &str) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs(text)? {
        let fault = || format!("name {name:?} or give it a value that no header can have");
        let name = HeaderName::try_from(&name).map_err(|_| fault())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| fault())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

fn resource(
    variable: &impl Fn(&str) -> Option<String>,
) -> Result<Vec<(String, String)>, TraceConfigError> {
    let text = variable("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let fault = |error| TraceConfigError(format!("OTEL_RESOURCE_ATTRIBUTES {error}"));
    let mut resource = pairs(&text).map_err(fault)?;
    const NAME: &str = "service.name";
    if let Some(name) = variable("OTEL_SERVICE_NAME") {
        resource.retain(|(key, _)| key != NAME);
        resource.push((NAME.to_owned(), name));
    }
    for (key, default) in [
        (NAME, "onegen"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ] {
        if resource.iter().all(|(known, _)| known != key) {
            resource.push((key.to_owned(), default.to_owned()));
        }
    }
    Ok(resource)
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim);
    let pairs = pairs.filter(|pair| !pair.is_empty()).map(|pair| {
        // What stands behind the `=` may be a secret.
        let (name, value) = pair
            .split_once('=')
            .ok_or("must be NAME=VALUE, with commas between")?;
        Ok((name.trim().to_owned(), decoded(value.trim())?))
    });
    pairs.collect()
}

fn decoded(text: &str) -> Result<String, String> {
    let fault = || "hold a value that is not percent-encoded as it should be".to_owned();
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, after) = match (first, after) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |digit: &u8| char::from(*digit).to_digit(16).ok_or_else(fault);
                ((digit(high)? * 16 + digit(low)?) as u8, after)
            }
            (b'%', _) => return Err(fault()),
            (byte, after) => (*byte, after),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| fault())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(
        endpoint: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<Settings>, String> {
        let config = TraceConfig {
            otlp_endpoint: endpoint.map(|url| url.parse().unwrap()),
            ..TraceConfig::default()
        };
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Settings::new(&config, variable).map_err(|error| error.to_string())
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_are_off_until_somebody_says_where_they_go() {
        assert!(settings(None, &[]).unwrap().is_none());
        assert!(
            settings(None, &[("OTEL_SERVICE_NAME", "x")])
                .unwrap()
                .is_none()
        );
        for off in [
            ("OTEL_SDK_DISABLED", "TRUE"),
            ("OTEL_TRACES_EXPORTER", "none"),
        ] {
            assert!(settings(None, &[BASE, off]).unwrap().is_none(), "{off:?}");
        }
        for (endpoint, variables, expected) in [
            (None, &[BASE][..], "http://collector:4318/v1/traces"),
            (Some("https://a/b/"), &[BASE], "https://a/b/v1/traces"),
            (
                None,
                &[BASE, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x")],
                "http://c/x",
            ),
        ] {
            let settings = settings(endpoint, variables).unwrap().unwrap();
            assert_eq!(settings.url.as_str(), expected);
        }
    }

    #[test]
    fn what_is_printed_holds_no_secret() {
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hush@collector"),
            (
                "OTEL_EXPORTER_OTLP_HEADERS",
                "authorization=Bearer%20hush, x-team=hush",
            ),
            (
                "OTEL_RESOURCE_ATTRIBUTES",
                "service.name=a,deployment.environment.name=b%2Cc",
            ),
            ("OTEL_SERVICE_NAME", "onegen-eu"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.1"),
        ];
        let settings = settings(None, &variables).unwrap().unwrap();
        assert_eq!(settings.headers["authorization"], "Bearer hush");
        assert_eq!(
            settings.to_string(),
            format!(
                "traces go to http://me@collector/v1/traces, authorization: ***, x-team: ***, \
                 deployment.environment.name: b,c, service.name: onegen-eu, service.version: {}, \
                 sampled by traceidratio (0.1)",
                env!("CARGO_PKG_VERSION")
            )
        );
        let headers = format!("{:?}", settings.headers);
        assert!(!headers.contains("hush"), "{headers}");
    }

    #[test]
    fn what_makes_no_sense_or_is_not_done_is_refused_by_its_name() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hush"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hush"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=%zzhush"),
            ("OTEL_RESOURCE_ATTRIBUTES", "a=%"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ] {
            let error = settings(None, &[BASE, (name, value)]).unwrap_err();
            assert!(error.contains(name) && !error.contains("hush"), "{error}");
        }
        let error = settings(Some("ftp://a"), &[]).unwrap_err();
        assert!(error.contains("neither http nor https"), "{error}");
        let nowhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:port");
        assert!(settings(None, &[nowhere]).is_err());
    }
}
