//! Where traces are sent. All other settings are OpenTelemetry's own variables, which its SDK
//! reads.

use clap::Args;
use reqwest::Url;

/// Where traces go, and what stands in them.
#[derive(Debug, Clone, Default, Args)]
pub struct TraceConfig {
    /// Where traces are sent as OTLP over HTTP, to the path v1/traces below it [default:
    /// OTEL_EXPORTER_OTLP_ENDPOINT; without either there are none]
    #[arg(
        long,
        env = "ONEGEN_OTLP_ENDPOINT",
        value_name = "URL",
        value_parser = address
    )]
    pub otlp_endpoint: Option<Url>,
    /// Put prompts, answers and the passages that were read into traces
    #[arg(long, env = "ONEGEN_TRACE_TEXT")]
    pub trace_text: bool,
}

/// A variable of OpenTelemetry's is not an address to which traces can be sent.
#[derive(Debug, thiserror::Error)]
#[error("{variable}: {reason}")]
pub struct TraceConfigError {
    variable: &'static str,
    reason: String,
}

/// The address to which traces are sent; `None` if traces are off. `variable` returns the
/// environment's variables by their names.
///
/// # Errors
/// A variable that should be the address is not a valid one.
pub(crate) fn endpoint(
    config: &TraceConfig,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<Url>, TraceConfigError> {
    let is = |name: &str, value: &str| {
        variable(name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return Ok(None);
    }
    let read = |name: &'static str| {
        // An empty variable counts as none.
        let text = variable(name).filter(|text| !text.is_empty());
        let url = text.map(|text| address(&text)).transpose();
        url.map_err(|reason| TraceConfigError {
            variable: name,
            reason,
        })
    };
    if let Some(base) = &config.otlp_endpoint {
        return Ok(Some(below(base.clone())));
    }
    if let Some(whole) = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")? {
        return Ok(Some(whole));
    }
    Ok(read("OTEL_EXPORTER_OTLP_ENDPOINT")?.map(below))
}

/// Errors do not quote the address, because it may contain a secret.
fn address(text: &str) -> Result<Url, String> {
    let url: Url = text
        .parse()
        .map_err(|error| format!("this is no address: {error}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err("the address must begin with http:// or https://".to_owned());
    }
    // The user's name and password would not be sent.
    if !url.username().is_empty() || url.password().is_some() {
        let reason = "the address cannot hold a user or a password; who needs them takes a header, \
                      which OTEL_EXPORTER_OTLP_HEADERS names";
        return Err(reason.to_owned());
    }
    Ok(url)
}

/// `v1/traces` below an address.
fn below(mut base: Url) -> Url {
    let path = format!("{}/v1/traces", base.path().trim_end_matches('/'));
    base.set_path(&path);
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(
        flag: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Result<Option<String>, String> {
        let config = TraceConfig {
            otlp_endpoint: flag.map(|url| address(url).unwrap()),
            ..TraceConfig::default()
        };
        let variable = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let endpoint = endpoint(&config, variable);
        let endpoint = endpoint.map_err(|error| error.to_string())?;
        Ok(endpoint.map(Into::into))
    }

    const BASE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn traces_are_off_until_somebody_says_where_they_go() {
        let elsewhere = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://c/x");
        for (flag, variables, expected) in [
            (None, &[][..], None),
            (None, &[("OTEL_SERVICE_NAME", "x")], None),
            (None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], None),
            (None, &[BASE, ("OTEL_SDK_DISABLED", "TRUE")], None),
            (Some("http://a"), &[("OTEL_TRACES_EXPORTER", "none")], None),
            (None, &[BASE], Some("http://collector:4318/v1/traces")),
            (None, &[BASE, elsewhere], Some("http://c/x")),
            (
                Some("https://a/b/"),
                &[BASE, elsewhere],
                Some("https://a/b/v1/traces"),
            ),
        ] {
            let endpoint = endpoint_of(flag, variables).unwrap();
            assert_eq!(endpoint.as_deref(), expected, "{flag:?} {variables:?}");
        }
    }

    #[test]
    fn what_nothing_can_be_sent_to_is_refused_by_its_name_and_not_quoted() {
        for (hush, told) in [
            ("collector:4318", "must begin with http"),
            ("ftp://hush", "must begin with http"),
            ("/hush", "no address"),
            ("http://me:hush@collector", "OTEL_EXPORTER_OTLP_HEADERS"),
        ] {
            for name in [BASE.0, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] {
                let error = endpoint_of(None, &[(name, hush)]).unwrap_err();
                assert!(error.starts_with(name) && error.contains(told), "{error}");
                assert!(!error.contains("hush"), "{error}");
            }
            assert!(address(hush).is_err());
        }
    }
}
