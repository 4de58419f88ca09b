//! Jinja as transformers runs it: its settings, its functions and tags, and bounds on what a template may use.

mod source;
mod texts;

use std::fmt;
use std::io;
use std::sync::Arc;

use minijinja::{Environment, Error, ErrorKind};
use serde::Serialize;

use super::disguise::Disguise;
pub(super) use source::prepared;

/// Instructions that a template may run, beside those for each message. The templates of the models that we
/// know run some hundred for each.
const FUEL: u64 = 1_000_000;
const FUEL_PER_MESSAGE: u64 = 5_000;
/// Bytes that a template may write, beside those of the contents. A content in disguise takes up to four times
/// its bytes, and a template may write it twice.
const MOST_BYTES: usize = 16 << 20;
const MOST_BYTES_PER_BYTE: usize = 8;

/// What a template renders.
pub(super) struct Contents {
    /// How many messages there are.
    pub(super) messages: usize,
    /// How many bytes all contents have.
    pub(super) bytes: usize,
    /// What they are disguised with.
    pub(super) disguise: Arc<Disguise>,
}

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

/// Checks that a template compiles. `source` went through [`prepared`].
///
/// # Errors
/// It does not; the text says where and why.
pub(super) fn check(source: &str) -> Result<(), String> {
    let compiled = environment(0, &Arc::default())
        .template_from_str(source)
        .map(|_| ());
    compiled.map_err(|error| error.to_string())
}

/// Renders a template. `source` went through [`prepared`].
///
/// # Errors
/// The template refuses the messages or is broken.
pub(super) fn render(
    source: &str,
    contents: &Contents,
    context: impl Serialize,
) -> Result<String, RenderError> {
    let mut text = BoundedText {
        bytes: Vec::new(),
        most: MOST_BYTES.saturating_add(contents.bytes.saturating_mul(MOST_BYTES_PER_BYTE)),
    };
    environment(contents.messages, &contents.disguise)
        .template_from_str(source)
        .and_then(|template| template.render_captured_to(context, &mut text).map(|_| ()))
        .map_err(render_error)?;
    let broken = |error: std::string::FromUtf8Error| RenderError::Broken(error.to_string());
    String::from_utf8(text.bytes).map_err(broken)
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

fn environment(messages: usize, disguise: &Arc<Disguise>) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    texts::add_texts(&mut environment, disguise);
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

/// What a template has written, up to a bound.
struct BoundedText {
    bytes: Vec<u8>,
    most: usize,
}

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > self.most {
            let what = format!("it writes more than {} bytes", self.most);
            return Err(io::Error::other(what));
        }
        self.bytes.extend_from_slice(bytes);
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
        let source = prepared(template);
        check(&source).unwrap();
        let contents = Contents {
            messages: 1,
            bytes: 0,
            disguise: Arc::default(),
        };
        render(&source, &contents, context! { numbers => [1, 2, 3, 4] })
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
