//! Python's tokens. What is no token is skipped: Python itself will say so.

use unicode_normalization::UnicodeNormalization;

use super::syntax::{Literal, Piece};

#[derive(Debug)]
pub(super) struct Token {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Name(String),
    Text(Literal<Vec<Token>>),
    Number(Option<i64>),
    Sign(&'static str),
    Open(u8),
    Close,
    /// The end of a logical line, or a semicolon.
    End,
}

/// Longest first.
const SIGNS: [&str; 46] = [
    "**=", "//=", ">>=", "<<=", "...", "!=", "->", ":=", "**", "//", "<<", ">>", "<=", ">=", "==", "+=", "-=", "*=",
    "/=", "%=", "@=", "&=", "|=", "^=", "<>", "=", ":", ",", ".", "@", "*", "+", "-", "/", "%", "&", "|", "^", "~",
    "<", ">", "!", "$", "?", "`", "\\",
];
/// Fields in fields of f-strings. CPython allows two before 3.12, and then as many as brackets.
const FIELDS_MAX: usize = 32;

pub(super) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { source, pos: if source.starts_with('\u{feff}') { 3 } else { 0 }, fields: 0 };
    lexer.until(false)
}

struct Lexer<'a> {
    source: &'a str,
    pos: usize,
    fields: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &[u8] {
        &self.source.as_bytes()[self.pos..]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    /// All tokens, or those of a field of an f-string up to its end.
    fn until(&mut self, field: bool) -> Vec<Token> {
        let mut found = Vec::new();
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            let at = self.pos;
            match byte {
                b'\n' | b'\r' | b';' => {
                    self.pos += 1;
                    if depth == 0 && !field {
                        found.push(Token { at, kind: Kind::End });
                    }
                }
                b' ' | b'\t' | 0x0c => self.pos += 1,
                b'#' => {
                    let end = self.rest().iter().position(|b| matches!(b, b'\n' | b'\r'));
                    self.pos = end.map_or(self.source.len(), |end| at + end);
                }
                b'\\' => {
                    self.pos += match self.rest() {
                        [_, b'\r', b'\n', ..] => 3,
                        [_, b'\n' | b'\r', ..] => 2,
                        _ => 1,
                    }
                }
                b'(' | b'[' | b'{' => {
                    self.pos += 1;
                    depth += 1;
                    found.push(Token { at, kind: Kind::Open(byte) });
                }
                b'}' | b':' if field && depth == 0 => break,
                b'!' if field && depth == 0 && self.rest().get(1) != Some(&b'=') => break,
                b')' | b']' | b'}' => {
                    self.pos += 1;
                    depth = depth.saturating_sub(1);
                    found.push(Token { at, kind: Kind::Close });
                }
                b'"' | b'\'' => {
                    let literal = self.string("");
                    found.push(Token { at, kind: Kind::Text(literal) });
                }
                b'0'..=b'9' => found.push(Token { at, kind: self.number() }),
                b'.' if self.rest().get(1).is_some_and(u8::is_ascii_digit) => {
                    found.push(Token { at, kind: self.number() });
                }
                b'_' | b'a'..=b'z' | b'A'..=b'Z' | 0x80.. => found.extend(self.name(at)),
                _ => {
                    let rest = self.rest();
                    let sign = SIGNS.into_iter().find(|sign| rest.starts_with(sign.as_bytes()));
                    self.pos += sign.map_or(1, str::len);
                    found.extend(sign.map(|sign| Token { at, kind: Kind::Sign(sign) }));
                }
            }
        }
        found
    }

    fn name(&mut self, at: usize) -> Option<Token> {
        let rest = &self.source[self.pos..];
        let is_part = |c: char| c == '_' || c.is_alphanumeric() || (!c.is_ascii() && !c.is_whitespace());
        let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        let name = &rest[..end];
        if name.is_empty() {
            // A space that Python does not know either.
            self.pos += rest.chars().next().map_or(1, char::len_utf8);
            return None;
        }
        self.pos += end;
        let is_prefix = name.len() <= 2 && name.bytes().all(|b| b"rbuftRBUFT".contains(&b));
        if is_prefix && matches!(self.peek(), Some(b'"' | b'\'')) {
            let literal = self.string(name);
            return Some(Token { at, kind: Kind::Text(literal) });
        }
        // As Python compares them.
        let name = if name.is_ascii() { name.to_owned() } else { name.nfkc().collect() };
        Some(Token { at, kind: Kind::Name(name) })
    }

    fn number(&mut self) -> Kind {
        let rest = self.rest();
        let run = |from: usize, is: fn(&u8) -> bool| {
            rest.get(from..).unwrap_or_default().iter().take_while(|b| is(b) || **b == b'_').count()
        };
        let mut length;
        if let [b'0', b'x' | b'X' | b'o' | b'O' | b'b' | b'B', ..] = rest {
            length = 2 + run(2, u8::is_ascii_hexdigit);
        } else {
            length = run(0, u8::is_ascii_digit);
            if rest.get(length) == Some(&b'.') {
                length += 1 + run(length + 1, u8::is_ascii_digit);
            }
            let power = match rest.get(length..).unwrap_or_default() {
                [b'e' | b'E', b'+' | b'-', digit, ..] if digit.is_ascii_digit() => 2,
                [b'e' | b'E', digit, ..] if digit.is_ascii_digit() => 1,
                _ => 0,
            };
            length += power + if power > 0 { run(length + power, u8::is_ascii_digit) } else { 0 };
            length += usize::from(matches!(rest.get(length), Some(b'j' | b'J')));
        }
        let text = &self.source[self.pos..self.pos + length];
        let digits: String = text.chars().filter(|c| *c != '_').collect::<String>().to_ascii_lowercase();
        let value = match digits.get(..2) {
            Some("0x") => i64::from_str_radix(&digits[2..], 16),
            Some("0o") => i64::from_str_radix(&digits[2..], 8),
            Some("0b") => i64::from_str_radix(&digits[2..], 2),
            _ => digits.parse(),
        };
        self.pos += length;
        Kind::Number(value.ok())
    }

    /// From its opening quote on.
    fn string(&mut self, prefix: &str) -> Literal<Vec<Token>> {
        let has = |letter: char| prefix.contains([letter, letter.to_ascii_uppercase()]);
        let (raw, bytes, fields) = (has('r'), has('b'), has('f') || has('t'));
        let quote = self.peek().unwrap_or(b'"');
        let triple = self.rest().starts_with(&[quote; 3]);
        self.pos += if triple { 3 } else { 1 };
        let mut literal = Literal { bytes, pieces: Vec::new() };
        self.pieces(quote, triple, raw, fields, false, &mut literal);
        literal
    }

    /// Up to the closing quote; of the form of a field, where `form`, up to its end.
    fn pieces(&mut self, quote: u8, triple: bool, raw: bool, fields: bool, form: bool, into: &mut Literal<Vec<Token>>) {
        let mut text = String::new();
        while let Some(byte) = self.peek() {
            match byte {
                b'\n' | b'\r' if !triple => break,
                b'}' if form => break,
                _ if byte == quote && !triple => {
                    self.pos += usize::from(!form);
                    break;
                }
                _ if byte == quote && self.rest().starts_with(&[quote; 3]) => {
                    self.pos += if form { 0 } else { 3 };
                    break;
                }
                b'\\' => self.escape(raw, into.bytes, &mut text, &mut into.pieces),
                b'{' | b'}' if fields && !form && self.rest().get(1) == Some(&byte) => {
                    text.push(byte as char);
                    self.pos += 2;
                }
                b'{' if fields => {
                    into.pieces.push(Piece::Known(std::mem::take(&mut text)));
                    self.pos += 1;
                    self.field(quote, triple, raw, into);
                }
                _ => {
                    let c = self.source[self.pos..].chars().next().unwrap_or(' ');
                    text.push(c);
                    self.pos += c.len_utf8();
                }
            }
        }
        into.pieces.push(Piece::Known(text));
    }

    /// Behind the `{` of a field.
    fn field(&mut self, quote: u8, triple: bool, raw: bool, into: &mut Literal<Vec<Token>>) {
        if self.fields >= FIELDS_MAX {
            into.pieces.push(Piece::Unknown);
            return;
        }
        self.fields += 1;
        let tokens = self.until(true);
        if self.peek() == Some(b'!') {
            self.pos += 1;
            while self.peek().is_some_and(|b| b.is_ascii_alphabetic()) {
                self.pos += 1;
            }
            into.pieces.push(Piece::Unknown);
        }
        into.pieces.push(Piece::Field(tokens));
        if self.peek() == Some(b':') {
            self.pos += 1;
            let mut form = Literal { bytes: false, pieces: Vec::new() };
            self.pieces(quote, triple, raw, true, true, &mut form);
            if form.pieces.iter().any(|piece| !matches!(piece, Piece::Known(text) if text.is_empty())) {
                // What is formatted is another text.
                into.pieces.push(Piece::Unknown);
            }
            let is_field = |piece: &Piece<_>| matches!(piece, Piece::Field(_));
            into.pieces.extend(form.pieces.into_iter().filter(is_field));
        }
        if self.peek() == Some(b'}') {
            self.pos += 1;
        }
        self.fields -= 1;
    }

    fn escape(&mut self, raw: bool, bytes: bool, text: &mut String, pieces: &mut Vec<Piece<Vec<Token>>>) {
        let rest = &self.source[self.pos + 1..];
        let Some(next) = rest.chars().next() else {
            self.pos += 1;
            return;
        };
        self.pos += 1 + next.len_utf8();
        if raw {
            text.extend(['\\', next]);
            return;
        }
        let digits = |from: usize, most: usize, radix: u32| {
            let found = rest[from..].chars().take(most).take_while(|c| c.is_digit(radix)).count();
            (found, u32::from_str_radix(&rest[from..from + found], radix).ok().and_then(char::from_u32))
        };
        let (skip, made) = match next {
            '\n' => (0, None),
            '\r' => (usize::from(rest.as_bytes().get(1) == Some(&b'\n')), None),
            '\\' | '\'' | '"' => (0, Some(next)),
            'a' => (0, Some('\x07')),
            'b' => (0, Some('\x08')),
            'f' => (0, Some('\x0c')),
            'n' => (0, Some('\n')),
            'r' => (0, Some('\r')),
            't' => (0, Some('\t')),
            'v' => (0, Some('\x0b')),
            '0'..='7' => {
                let (found, made) = digits(0, 3, 8);
                (found - 1, made)
            }
            'x' => digits(1, 2, 16),
            'u' if !bytes => digits(1, 4, 16),
            'U' if !bytes => digits(1, 8, 16),
            'N' if !bytes && rest.as_bytes().get(1) == Some(&b'{') => {
                pieces.push(Piece::Known(std::mem::take(text)));
                pieces.push(Piece::Unknown);
                let most = rest.len().min(128);
                (rest.as_bytes()[..most].iter().position(|b| *b == b'}').unwrap_or_default(), None)
            }
            other => {
                text.push('\\');
                (0, Some(other))
            }
        };
        self.pos += skip;
        text.extend(made);
    }
}
