//! The bytes that ids add to a text, read from their spellings.

use serde_json::Value;
use tokenizers::Tokenizer;

/// How a tokenizer's decoder turns spellings into bytes.
#[derive(Debug, Default)]
struct Spelling {
    /// Each character stands for one byte.
    byte_level: bool,
    /// `<0x0A>` is the byte 10.
    byte_fallback: bool,
    /// Characters and what they stand for, such as `▁` for a space.
    replacements: Vec<(String, String)>,
}

/// For each id below `count` the bytes that it adds to a text. Ids without a spelling add none.
pub(crate) fn token_bytes(tokenizer: &Tokenizer, count: u32) -> Vec<Vec<u8>> {
    let mut spelling = Spelling::default();
    // A decoder was read from JSON, so it can be written as JSON.
    let decoder = serde_json::to_value(tokenizer.get_decoder()).unwrap_or_default();
    spelling.read(&decoder);
    (0..count)
        .map(|id| tokenizer.id_to_token(id).unwrap_or_default())
        .map(|token| spelling.bytes(&token))
        .collect()
}

impl Spelling {
    fn read(&mut self, decoder: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match decoder["type"].as_str() {
            Some("ByteLevel") => self.byte_level = true,
            Some("ByteFallback") => self.byte_fallback = true,
            Some("Metaspace") => {
                let mark = text(&decoder["replacement"]);
                self.replacements.push((mark, " ".to_owned()));
            }
            Some("Replace") => {
                let pattern = text(&decoder["pattern"]["String"]);
                self.replacements.push((pattern, text(&decoder["content"])));
            }
            Some("Sequence") => {
                let decoders = decoder["decoders"].as_array();
                decoders.into_iter().flatten().for_each(|d| self.read(d));
            }
            _ => {}
        }
    }

    fn bytes(&self, token: &str) -> Vec<u8> {
        if self.byte_level
            && let Some(bytes) = token.chars().map(byte_of).collect()
        {
            return bytes;
        }
        if self.byte_fallback
            && let Some(byte) = fallback_byte(token)
        {
            return vec![byte];
        }
        let replaced = |token: String, (pattern, content): &(String, String)| {
            if pattern.is_empty() {
                token
            } else {
                token.replace(pattern, content)
            }
        };
        let token = self.replacements.iter().fold(token.to_owned(), replaced);
        token.into_bytes()
    }
}

fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2)
        .then(|| u8::from_str_radix(digits, 16).ok())
        .flatten()
}

/// The byte that a character of a byte-level spelling stands for: printable Latin-1 characters
/// stand for their own code, and the characters from U+0100 on stand, in order, for the 68 other
/// bytes.
fn byte_of(character: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    match u32::from(character) {
        code @ 0..=0xFF => Some(code as u8).filter(|&byte| printable(byte)),
        code => (0..=0xFF)
            .filter(|&byte| !printable(byte))
            .nth((code - 0x100) as usize),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bytes(decoder: Value, token: &str) -> Vec<u8> {
        let mut spelling = Spelling::default();
        spelling.read(&decoder);
        spelling.bytes(token)
    }

    #[test]
    fn byte_level_spellings_stand_for_all_bytes() {
        let decoder = || json!({"type": "ByteLevel"});
        assert_eq!(bytes(decoder(), "ĠLima"), b" Lima");
        assert_eq!(bytes(decoder(), "Ċ"), b"\n");
        assert_eq!(bytes(decoder(), "Ã©"), "é".as_bytes());
        let all = (0..0x200).filter_map(char::from_u32).filter_map(byte_of);
        let mut all: Vec<u8> = all.collect();
        all.sort_unstable();
        assert_eq!(all, (0..=0xFF).collect::<Vec<u8>>());
        // The spelling of an added token may contain characters that stand for no byte.
        assert_eq!(bytes(decoder(), "a b"), b"a b");
    }

    #[test]
    fn sentencepiece_spellings_have_marks_for_spaces_and_single_bytes() {
        let decoder = || {
            json!({"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
            ]})
        };
        assert_eq!(bytes(decoder(), "▁Lima"), b" Lima");
        assert_eq!(bytes(decoder(), "<0x0A>"), b"\n");
        assert_eq!(bytes(decoder(), "<0x0AB>"), b"<0x0AB>");
        let metaspace = json!({"type": "Metaspace", "replacement": "▁"});
        assert_eq!(bytes(metaspace, "▁a"), b" a");
    }
}
