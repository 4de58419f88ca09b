//! Jinja as transformers runs it: its settings, its functions and tags, and bounds on what a template may use.

use std::borrow::Cow;
use std::fmt;
use std::io;

use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

/// Instructions that a template may run, beside those for each message. The templates of the models that we
/// know run some hundred for each.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Bytes that a template may write.
const MOST_BYTES: usize = 16 << 20;

/// Why a template did not render.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RenderError {
    /// The template itself refused the messages, by `raise_exception`.
    Refused(String),
    /// The template is broken, or asks for more than the bounds allow.
    Broken(String),
}

/// The message of `raise_exception`, to tell it from minijinja's own errors.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// The template with tags that minijinja does not know written in others. transformers has `generation`, which
/// encloses what the assistant writes and changes nothing of the text.
pub(super) fn with_known_tags(source: &str) -> Cow<'_, str> {
    let mut known = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        known.push_str(before);
        let name_at = tag
            .find(|c: char| !c.is_whitespace() && !"-+".contains(c))
            .unwrap_or(tag.len());
        let (space, tag) = tag.split_at(name_at);
        known.push_str(space);
        let name_end = tag.find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, tag) = tag.split_at(name_end.unwrap_or(tag.len()));
        known.push_str(match name {
            "generation" => "with",
            "endgeneration" => "endwith",
            other => other,
        });
        rest = tag;
    }
    if known.is_empty() {
        return Cow::Borrowed(source);
    }
    known.push_str(rest);
    Cow::Owned(known)
}

/// Checks that a template compiles. `source` went through [`with_known_tags`].
///
/// # Errors
/// It does not; the text says where and why.
pub(super) fn check(source: &str) -> Result<(), String> {
    let compiled = environment(0).template_from_str(source).map(|_| ());
    compiled.map_err(|error| error.to_string())
}

/// Renders a template for so many messages. `source` went through [`with_known_tags`].
///
/// # Errors
/// The template refuses the messages or is broken.
pub(super) fn render(
    source: &str,
    messages: usize,
    context: impl Serialize,
) -> Result<String, RenderError> {
    let mut text = BoundedText(Vec::new());
    environment(messages)
        .template_from_str(source)
        .and_then(|template| template.render_captured_to(context, &mut text).map(|_| ()))
        .map_err(render_error)?;
    let broken = |error: std::string::FromUtf8Error| RenderError::Broken(error.to_string());
    String::from_utf8(text.0).map_err(broken)
}

fn render_error(error: Error) -> RenderError {
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return RenderError::Refused(message.clone());
        }
        source = cause.source();
    }
    RenderError::Broken(format!("{error:#}"))
}

fn environment(messages: usize) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_fuel(Some(FUEL + FUEL_PER_MESSAGE * messages as u64));
    environment.add_function("raise_exception", |message: String| {
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err::<String, _>(error.with_source(Raised(message)))
    });
    environment.add_function("strftime_now", |format: String| {
        jiff::fmt::strtime::format(format, &jiff::Zoned::now()).map_err(|error| {
            let what = format!("strftime_now: {error}");
            Error::new(ErrorKind::InvalidOperation, what)
        })
    });
    environment
}

/// What a template has written, up to [`MOST_BYTES`].
struct BoundedText(Vec<u8>);

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            let what = format!("it writes more than {MOST_BYTES} bytes");
            return Err(io::Error::other(what));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::context;

    fn rendered(template: &str) -> Result<String, RenderError> {
        let source = with_known_tags(template);
        check(&source).unwrap();
        render(&source, 1, context! { numbers => [1, 2, 3, 4] })
    }

    #[test]
    fn tags_and_functions_of_transformers_render_as_they_do_there() {
        let tags = "a {%- generation -%} b {% endgeneration %} c{% generation %}d{%endgeneration%}";
        assert_eq!(rendered(tags).unwrap(), "ab  cd");
        let loops = "{% for n in numbers %}{% if n == 2 %}{% continue %}{% endif %}\
                     {% if n == 4 %}{% break %}{% endif %}{{ n }}{% endfor %}";
        assert_eq!(rendered(loops).unwrap(), "13");
        let year = rendered("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.parse::<u32>().is_ok_and(|year| year >= 2024), "{year}");
        // A tag that only begins like one of these stays.
        let other = "{% set generations = 2 %}{{ generations }}";
        assert_eq!(rendered(other).unwrap(), "2");
    }

    #[test]
    fn what_a_template_refuses_is_told_from_its_own_faults() {
        let refused = rendered("{{ raise_exception('Roles must alternate') }}").unwrap_err();
        assert_eq!(refused, RenderError::Refused("Roles must alternate".into()));
        let broken = rendered("{{ numbers.nothing.at_all }}").unwrap_err();
        assert!(matches!(broken, RenderError::Broken(_)), "{broken:?}");
        let broken = rendered("{{ strftime_now('%') }}").unwrap_err();
        assert!(matches!(broken, RenderError::Broken(_)), "{broken:?}");
    }

    #[test]
    fn a_template_that_runs_or_writes_without_end_is_stopped() {
        let counts =
            "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
        let stopped = rendered(counts).unwrap_err();
        assert!(format!("{stopped:?}").contains("fuel"), "{stopped:?}");
        let writes = "{% set a = 'aaaaaaaaaaaaaaaa' * 65536 %}\
                      {% for n in range(20) %}{{ a }}{% endfor %}";
        let stopped = rendered(writes).unwrap_err();
        assert!(matches!(stopped, RenderError::Broken(_)), "{stopped:?}");
        assert!(rendered(&writes.replace("20", "15")).is_ok());
    }
}
