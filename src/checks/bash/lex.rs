//! Words of a script: quoting, expansions, here-documents. Nothing here fails: what is not closed ends with the text.

use super::parse::{Parser, Stop};
use super::syntax::{List, Parameter, Part, Word};

/// Collects the parts of one word; text of the same quoting is one part.
#[derive(Default)]
struct Parts {
    parts: Vec<Part>,
    bytes: Vec<u8>,
    quoted: bool,
}

impl Parts {
    fn byte(&mut self, byte: u8, quoted: bool) {
        if self.quoted != quoted {
            self.flush();
            self.quoted = quoted;
        }
        self.bytes.push(byte);
    }

    fn text(&mut self, text: &[u8], quoted: bool) {
        if self.quoted != quoted {
            self.flush();
            self.quoted = quoted;
        }
        self.bytes.extend_from_slice(text);
    }

    /// Quotes around nothing are still a word.
    fn empty(&mut self) {
        self.flush();
        self.parts.push(Part::Text { text: String::new(), quoted: true });
    }

    fn part(&mut self, part: Part) {
        self.flush();
        self.parts.push(part);
    }

    fn flush(&mut self) {
        if !self.bytes.is_empty() {
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned();
            self.parts.push(Part::Text { text, quoted: self.quoted });
        }
    }

    fn word(mut self, at: usize) -> Word {
        self.flush();
        Word { at, parts: self.parts }
    }
}

pub(super) fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl Parser<'_> {
    /// The word that begins here; without parts where none does.
    pub(super) fn word(&mut self) -> Word {
        let at = self.at();
        let mut parts = Parts::default();
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | b';' | b'|' | b'&' | b')' => break,
                b'(' => {
                    // A pattern: `@(a|b)`.
                    let glob = parts.bytes.last().is_some_and(|last| b"?*+@!".contains(last)) && !parts.quoted;
                    if !glob {
                        break;
                    }
                    let from = self.pos;
                    self.skip_balanced(b'(', b')');
                    parts.text(&self.text.as_bytes()[from..self.pos], false);
                }
                b'<' | b'>' => {
                    if self.peek_at(1) != Some(b'(') {
                        break;
                    }
                    self.pos += 2;
                    let body = self.nested(Stop::PAREN);
                    self.take(b')');
                    parts.part(Part::Process(body));
                }
                _ => self.step(&mut parts, None),
            }
            if self.spent() {
                break;
            }
        }
        parts.word(at)
    }

    /// Everything up to `close`, which is not taken, as one word: the rest of `${x:-…}`.
    fn word_until(&mut self, close: u8) -> Word {
        let at = self.at();
        let mut parts = Parts::default();
        while let Some(byte) = self.peek() {
            if byte == close || self.spent() {
                break;
            }
            self.step(&mut parts, None);
        }
        parts.word(at)
    }

    /// One character, quotation or expansion. `inside`: the text is quoted anyway, by quotes or as a here-document.
    fn step(&mut self, parts: &mut Parts, inside: Option<Inside>) {
        let quoted = inside.is_some();
        let Some(byte) = self.advance() else { return };
        match byte {
            b'\\' => match (self.advance(), inside) {
                (Some(b'\n'), _) => {}
                (Some(next), None) => parts.byte(next, true),
                (Some(next), Some(Inside::Quotes)) if b"$`\"\\".contains(&next) => parts.byte(next, true),
                (Some(next), Some(Inside::Document)) if b"$`\\".contains(&next) => parts.byte(next, true),
                (Some(next), Some(_)) => parts.text(&[b'\\', next], true),
                (None, _) => parts.byte(b'\\', quoted),
            },
            b'\'' if !quoted => {
                let from = self.pos;
                while self.peek().is_some_and(|b| b != b'\'') {
                    self.pos += 1;
                }
                if from == self.pos {
                    parts.empty();
                }
                parts.text(&self.text.as_bytes()[from..self.pos], true);
                self.take(b'\'');
            }
            b'"' if !quoted => self.double_quoted(parts),
            b'`' => {
                let body = self.backquoted();
                parts.part(Part::Command { body, quoted });
            }
            b'$' => self.dollar(parts, inside),
            other => parts.byte(other, quoted),
        }
    }

    fn double_quoted(&mut self, parts: &mut Parts) {
        parts.empty();
        if !self.deeper() {
            return;
        }
        while let Some(byte) = self.peek() {
            if byte == b'"' || self.spent() {
                break;
            }
            self.step(parts, Some(Inside::Quotes));
        }
        self.take(b'"');
        self.shallower();
    }

    /// The text of a here-document whose marker was not quoted, up to `end`.
    pub(super) fn document(&mut self, end: usize) -> Word {
        let at = self.at();
        let outer = std::mem::replace(&mut self.end, end);
        let mut parts = Parts::default();
        while self.peek().is_some() && !self.spent() {
            self.step(&mut parts, Some(Inside::Document));
        }
        self.end = outer;
        self.pos = end;
        parts.word(at)
    }

    fn backquoted(&mut self) -> List {
        let at = self.at();
        let mut inner = Vec::new();
        while let Some(byte) = self.advance() {
            match byte {
                b'`' => break,
                b'\\' => match self.advance() {
                    Some(next) if b"$`\\".contains(&next) => inner.push(next),
                    Some(next) => inner.extend([b'\\', next]),
                    None => {}
                },
                other => inner.push(other),
            }
        }
        let inner = String::from_utf8_lossy(&inner).into_owned();
        self.inner(&inner, at)
    }

    /// What follows a `$` that was taken.
    fn dollar(&mut self, parts: &mut Parts, inside: Option<Inside>) {
        let quoted = inside.is_some();
        match self.peek() {
            Some(b'\'') if !quoted => {
                self.pos += 1;
                let mut bytes = self.ansi_c();
                if bytes.is_empty() {
                    parts.empty();
                }
                // The shell's own words end there as well.
                bytes.truncate(bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()));
                parts.text(&bytes, true);
            }
            Some(b'"') if !quoted => {
                self.pos += 1;
                self.double_quoted(parts);
            }
            Some(b'(') if self.peek_at(1) == Some(b'(') && self.is_arithmetic() => {
                let body = self.arithmetic();
                parts.part(Part::Arithmetic(body));
            }
            Some(b'(') => {
                self.pos += 1;
                let body = self.nested(Stop::PAREN);
                self.take(b')');
                parts.part(Part::Command { body, quoted });
            }
            Some(b'[') => {
                self.skip_balanced(b'[', b']');
                parts.part(Part::Arithmetic(Vec::new()));
            }
            Some(b'{') => {
                self.pos += 1;
                if !self.deeper() {
                    return;
                }
                let mut parameter = self.braced();
                parameter.quoted = quoted;
                self.shallower();
                parts.part(Part::Parameter(Box::new(parameter)));
            }
            Some(byte) if byte.is_ascii_alphabetic() || byte == b'_' => {
                let name = self.name();
                parts.part(Part::Parameter(Box::new(Parameter { name, quoted, ..Parameter::default() })));
            }
            Some(byte) if byte.is_ascii_digit() || b"@*#?$!-".contains(&byte) => {
                self.pos += 1;
                let name = char::from(byte).to_string();
                parts.part(Part::Parameter(Box::new(Parameter { name, quoted, ..Parameter::default() })));
            }
            _ => parts.byte(b'$', quoted),
        }
    }

    pub(super) fn name(&mut self) -> String {
        let from = self.pos;
        while self.peek().is_some_and(is_name_byte) {
            self.pos += 1;
        }
        self.text[from..self.pos].to_owned()
    }

    /// What follows `${`, with the closing brace.
    fn braced(&mut self) -> Parameter {
        let mut parameter = Parameter::default();
        match (self.peek(), self.peek_at(1)) {
            (Some(b'!'), Some(next)) if is_name_byte(next) => {
                parameter.indirect = true;
                self.pos += 1;
            }
            (Some(b'#'), Some(next)) if is_name_byte(next) || b"@*".contains(&next) => {
                parameter.length = true;
                self.pos += 1;
            }
            _ => {}
        }
        parameter.name = match self.peek() {
            Some(byte) if is_name_byte(byte) => self.name(),
            Some(byte) if b"@*#?$!-".contains(&byte) => {
                self.pos += 1;
                char::from(byte).to_string()
            }
            _ => String::new(),
        };
        if self.peek() == Some(b'[') {
            let from = self.pos + 1;
            self.skip_balanced(b'[', b']');
            let to = self.pos.saturating_sub(1).max(from);
            parameter.subscript = self.text.get(from..to).map(str::to_owned);
        }
        const OPERATORS: [&str; 19] =
            [":-", ":=", ":+", ":?", "##", "%%", "//", "/#", "/%", "^^", ",,", "#", "%", "/", "^", ",", "-", "=", "+"];
        let rest = &self.text.as_bytes()[self.pos.min(self.end)..self.end];
        let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator.as_bytes()));
        parameter.operator = operator.map(str::to_owned).unwrap_or_default();
        if parameter.operator.is_empty()
            && let Some(byte @ (b':' | b'@' | b'?')) = self.peek()
        {
            parameter.operator = char::from(byte).to_string();
        }
        self.pos += parameter.operator.len();
        parameter.argument = self.word_until(b'}');
        self.take(b'}');
        parameter
    }

    /// Whether the `((` here is closed by `))`: else it opens two subshells.
    pub(super) fn is_arithmetic(&mut self) -> bool {
        let bytes = &self.text.as_bytes()[..self.end];
        let (mut at, mut open, mut last) = (self.pos, 0_usize, 0);
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'\\' => at += 1,
                b'\'' | b'"' => {
                    let from = at;
                    at += 1;
                    while bytes.get(at).is_some_and(|b| b != byte) {
                        at += if bytes[at] == b'\\' && *byte == b'"' { 2 } else { 1 };
                    }
                    self.charge(at - from);
                }
                b'(' => open += 1,
                b')' => {
                    open = open.saturating_sub(1);
                    if open == 0 {
                        self.charge(at - self.pos);
                        return last + 1 == at;
                    }
                    last = at;
                }
                _ => {}
            }
            at += 1;
        }
        self.charge(at - self.pos);
        false
    }

    /// From `((` to behind `))`; the commands that are run inside.
    pub(super) fn arithmetic(&mut self) -> List {
        let (mut open, mut body) = (0_usize, Parts::default());
        if !self.deeper() {
            return Vec::new();
        }
        while let Some(byte) = self.peek() {
            match byte {
                b'(' => {
                    open += 1;
                    self.pos += 1;
                }
                b')' => {
                    open = open.saturating_sub(1);
                    self.pos += 1;
                    if open == 0 {
                        break;
                    }
                }
                _ => self.step(&mut body, None),
            }
            if self.spent() {
                break;
            }
        }
        self.shallower();
        commands(body.word(0))
    }

    /// What stands behind `$'`, with the closing quote.
    fn ansi_c(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(byte) = self.advance() {
            match byte {
                b'\'' => break,
                b'\\' => {
                    let rest = &self.text.as_bytes()[self.pos.min(self.end)..self.end];
                    let taken = escape(rest, Escapes::AnsiC, &mut out);
                    self.pos += taken;
                }
                other => out.push(other),
            }
        }
        out
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Quotes,
    Document,
}

/// The commands that expanding `word` runs.
fn commands(word: Word) -> List {
    let mut all = Vec::new();
    for part in word.parts {
        match part {
            Part::Command { body, .. } | Part::Process(body) | Part::Arithmetic(body) => all.extend(body),
            Part::Parameter(parameter) => all.extend(commands(parameter.argument)),
            Part::Text { .. } => {}
        }
    }
    all
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Escapes {
    /// `$'…'`, and printf's format.
    AnsiC,
    /// `echo -e` and `%b`: octal numbers begin with a zero.
    Echo,
}

/// What the escape behind a backslash means, at the end of `out`; how many bytes of `rest` it took.
pub(super) fn escape(rest: &[u8], kind: Escapes, out: &mut Vec<u8>) -> usize {
    let digits = |from: usize, most: usize, radix: u32| {
        let found = rest[from..].iter().take(most).take_while(|b| char::from(**b).is_digit(radix)).count();
        let text = std::str::from_utf8(&rest[from..from + found]).unwrap_or_default();
        (u32::from_str_radix(text, radix).ok(), from + found)
    };
    let unicode = |value: u32, out: &mut Vec<u8>| {
        let mut buffer = [0; 4];
        out.extend(char::from_u32(value).unwrap_or('\u{fffd}').encode_utf8(&mut buffer).bytes());
    };
    let Some(first) = rest.first() else {
        out.push(b'\\');
        return 0;
    };
    let plain = match first {
        b'a' => 7,
        b'b' => 8,
        b'e' | b'E' => 27,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' => b'\\',
        b'\'' | b'"' | b'?' if kind == Escapes::AnsiC => *first,
        b'0'..=b'7' => {
            let from = usize::from(kind == Escapes::Echo && *first == b'0');
            let (value, taken) = digits(from, 3, 8);
            out.push(value.unwrap_or(0) as u8);
            return taken;
        }
        b'x' | b'u' | b'U' => {
            let most = match first {
                b'x' => 2,
                b'u' => 4,
                _ => 8,
            };
            let (value, taken) = digits(1, most, 16);
            match (value, first) {
                (Some(value), b'x') => out.push(value as u8),
                (Some(value), _) => unicode(value, out),
                (None, _) => out.extend([b'\\', *first]),
            }
            return taken;
        }
        other => {
            out.extend([b'\\', *other]);
            return 1;
        }
    };
    out.push(plain);
    1
}
