#!/usr/bin/env bash
# minijinja 2.24.0 with minijinja-contrib 2.24.0 (feature `pycompat`), which run the chat templates of Hugging Face models
# in Rust servers: `find` counts bytes where everything else counts characters, as Python does.
#  1. `{{ text[:text.find('</think>')] }}` cuts at the right place in "Lima</think>", and one character too late for each
#     byte beyond the first that a character before it takes: in "Perú</think>" a letter of the tag stays.
#  2. `{{ text | length }}` and slices count characters, so the two do not go together. `rfind` is the same.
# Jinja2 3.1.6 counts characters in all of them. Nothing fails: the model is given another prompt.
# Seen on 2026-11-29. onegen brings its own `find` (engine/src/tokens/jinja/texts.rs).
set -euo pipefail
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/src"
cat > "$scratch/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.1.0"
edition = "2021"
[workspace]
[dependencies]
minijinja = "=2.24.0"
minijinja-contrib = { version = "=2.24.0", features = ["pycompat"] }
TOML
cat > "$scratch/src/main.rs" <<'RUST'
use minijinja::{context, Environment};

fn main() {
    let mut environment = Environment::new();
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    let template = "{{ text[:text.find('</think>')] }}|{{ text | length }}|{{ text.rfind('</') }}";
    for text in ["Lima</think>", "Perú</think>", "日本</think>"] {
        println!("{}", environment.render_str(template, context! { text }).unwrap());
    }
}
RUST
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet 'jinja2==3.1.6'
jinja2=$("$scratch/venv/bin/python" - <<'PY'
from jinja2 import Environment

template = Environment().from_string("{{ text[:text.find('</think>')] }}|{{ text | length }}|{{ text.rfind('</') }}")
for text in ["Lima</think>", "Perú</think>", "日本</think>"]:
    print(template.render(text=text))
PY
)
minijinja=$(cargo run --quiet --manifest-path "$scratch/Cargo.toml" --target-dir "$scratch/target")
printf 'jinja2:\n%s\nminijinja:\n%s\n' "$jinja2" "$minijinja"
[ "$jinja2" = $'Lima|12|4\nPerú|12|4\n日本|10|2' ]
[ "$minijinja" = $'Lima|12|4\nPerú<|12|5\n日本</th|10|6' ]
