//! From text to commands. Everything is bounded: the depth by [`DEPTH_MAX`], the time by a budget that is linear in the text;
//! where one is used up the rest is left out. What is no bash is passed over, because a check that stops at the first error
//! would be evaded by one.

use std::rc::Rc;

use super::lex::is_name_byte;
use super::syntax::{Assign, Assigned, Kind, List, Node, Part, Simple, Word};

/// Deeper than people write and shallow enough for any thread's stack.
const DEPTH_MAX: usize = 48;
/// Steps for each byte of text: what is looked at ahead is looked at again.
const STEPS_PER_BYTE: usize = 24;

pub(super) struct Parser<'a> {
    pub(super) text: &'a str,
    pub(super) pos: usize,
    pub(super) end: usize,
    /// Of text that is no part of the source as it stands: where it came from.
    fixed: Option<usize>,
    depth: usize,
    steps: usize,
    pub(super) pending: Vec<Pending>,
    /// Texts of here-documents, in the order of their markers.
    pub(super) documents: Vec<Word>,
    /// What ended the last list.
    ended_by_word: bool,
}

pub(super) struct Pending {
    pub(super) document: usize,
    pub(super) marker: String,
    pub(super) quoted: bool,
    pub(super) strip: bool,
}

/// What ends a list, beside the end of the text.
#[derive(Clone, Copy)]
pub(super) struct Stop {
    paren: bool,
    case: bool,
    words: &'static [&'static str],
}

impl Stop {
    const END: Stop = Stop { paren: false, case: false, words: &[] };
    pub(super) const PAREN: Stop = Stop { paren: true, ..Stop::END };
    const CASE: Stop = Stop { case: true, words: &["esac"], ..Stop::END };

    const fn words(words: &'static [&'static str]) -> Stop {
        Stop { words, ..Stop::END }
    }
}

/// Words that only have a meaning where one of them was opened.
const STRAY: [&str; 8] = ["then", "do", "done", "fi", "elif", "else", "esac", "}"];
/// Commands whose arguments are assignments.
const DECLARE: [&str; 5] = ["declare", "local", "export", "readonly", "typeset"];

/// The commands of `text`. `fixed`: where they are said to stand, for text that was put together.
pub(super) fn parse(text: &str, fixed: Option<usize>) -> List {
    let mut parser = Parser::new(text, fixed, 0);
    parser.whole()
}

impl<'a> Parser<'a> {
    fn new(text: &'a str, fixed: Option<usize>, depth: usize) -> Self {
        let (pending, documents) = Default::default();
        let steps = text.len() * STEPS_PER_BYTE + 1024;
        Self { text, pos: 0, end: text.len(), fixed, depth, steps, pending, documents, ended_by_word: false }
    }

    fn whole(&mut self) -> List {
        let mut list = self.list(Stop::END);
        self.documents_into(&mut list);
        list
    }

    /// The commands of `text`, which was unquoted out of the source.
    pub(super) fn inner(&mut self, text: &str, at: usize) -> List {
        if !self.deeper() {
            return Vec::new();
        }
        let mut parser = Parser::new(text, Some(self.fixed.unwrap_or(at)), self.depth);
        parser.steps = parser.steps.min(self.steps);
        let before = parser.steps;
        let list = parser.whole();
        self.charge(before - parser.steps);
        self.shallower();
        list
    }

    pub(super) fn nested(&mut self, stop: Stop) -> List {
        if !self.deeper() {
            return Vec::new();
        }
        let list = self.list(stop);
        self.shallower();
        list
    }

    pub(super) fn at(&self) -> usize {
        self.fixed.unwrap_or(self.pos)
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<u8> {
        let at = self.pos + ahead;
        if at < self.end { self.text.as_bytes().get(at).copied() } else { None }
    }

    pub(super) fn advance(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.pos += 1;
        self.charge(1);
        Some(byte)
    }

    pub(super) fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.pos += usize::from(is);
        is
    }

    pub(super) fn charge(&mut self, steps: usize) {
        self.steps = self.steps.saturating_sub(steps);
        if self.steps == 0 {
            self.pos = self.end;
        }
    }

    pub(super) fn spent(&self) -> bool {
        self.steps == 0
    }

    /// One level down; where there is none, the rest of the text is left out.
    pub(super) fn deeper(&mut self) -> bool {
        self.charge(1);
        if self.depth >= DEPTH_MAX {
            self.steps = 0;
            self.pos = self.end;
            return false;
        }
        self.depth += 1;
        true
    }

    pub(super) fn shallower(&mut self) {
        self.depth -= 1;
    }

    pub(super) fn skip_balanced(&mut self, open: u8, close: u8) {
        let mut depth = 0_usize;
        while let Some(byte) = self.advance() {
            if byte == b'\\' {
                self.advance();
            } else if byte == open {
                depth += 1;
            } else if byte == close {
                depth -= 1;
                if depth == 0 {
                    break;
                }
            }
        }
    }

    pub(super) fn blanks(&mut self) {
        loop {
            match (self.peek(), self.peek_at(1)) {
                (Some(b' ' | b'\t' | b'\r'), _) => self.pos += 1,
                (Some(b'\\'), Some(b'\n')) => self.pos += 2,
                (Some(b'#'), _) => {
                    while self.peek().is_some_and(|b| b != b'\n') {
                        self.pos += 1;
                    }
                }
                _ => break,
            }
        }
    }

    /// Blanks and newlines, and the here-documents that begin behind them.
    fn lines(&mut self) {
        loop {
            self.blanks();
            if !self.take(b'\n') {
                break;
            }
            self.charge(1);
            self.read_documents();
        }
    }

    fn read_documents(&mut self) {
        for Pending { document, marker, quoted, strip } in std::mem::take(&mut self.pending) {
            let from = self.pos;
            let (mut to, mut next) = (self.end, self.end);
            let mut line_from = from;
            while line_from < self.end {
                let rest = &self.text.as_bytes()[line_from..self.end];
                let line_to = line_from + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                let line = &self.text[line_from..line_to];
                let line = if strip { line.trim_start_matches('\t') } else { line };
                if line == marker {
                    (to, next) = (line_from, (line_to + 1).min(self.end));
                    break;
                }
                line_from = line_to + 1;
            }
            self.charge(next.saturating_sub(from));
            let body = if quoted {
                let text = self.text.get(from..to).unwrap_or_default().to_owned();
                Word { at: self.at(), parts: vec![Part::Text { text, quoted: true }] }
            } else {
                self.document(to)
            };
            self.documents[document] = body;
            self.pos = next;
        }
    }

    /// The word that begins here where it is one of `words`, taken.
    fn keyword(&mut self, words: &[&'static str]) -> Option<&'static str> {
        let rest = &self.text.as_bytes()[self.pos.min(self.end)..self.end];
        let is = |word: &&'static str| {
            rest.starts_with(word.as_bytes())
                && rest.get(word.len()).is_none_or(|next| b" \t\r\n;|&()<>".contains(next))
        };
        let found = words.iter().find(|word| is(word)).copied()?;
        self.pos += found.len();
        Some(found)
    }

    /// What ended a list is taken, but for a closing parenthesis and the end of a case.
    pub(super) fn list(&mut self, stop: Stop) -> List {
        let mut list = Vec::new();
        let mut by_word = false;
        loop {
            self.lines();
            let Some(byte) = self.peek() else { break };
            if self.spent() || (byte == b')' && stop.paren) {
                break;
            }
            if stop.case && byte == b';' && matches!(self.peek_at(1), Some(b';' | b'&')) {
                break;
            }
            if self.keyword(stop.words).is_some() {
                by_word = true;
                break;
            }
            let before = self.pos;
            if matches!(byte, b';' | b'&' | b'|' | b')') || self.keyword(&STRAY).is_some() {
                self.pos = self.pos.max(before + 1);
                self.charge(1);
                continue;
            }
            let mut node = self.pipeline();
            self.blanks();
            if self.peek() == Some(b'&') && self.peek_at(1) != Some(b'&') {
                self.pos += 1;
                node = Node::Background(Box::new(node));
            }
            list.push(node);
            if self.pos == before {
                self.pos += 1;
                while !self.text.is_char_boundary(self.pos) {
                    self.pos += 1;
                }
            }
            self.charge(1);
        }
        self.ended_by_word = by_word;
        list
    }

    fn pipeline(&mut self) -> Node {
        let mut stages = Vec::new();
        loop {
            self.blanks();
            while self.keyword(&["!", "time", "-p"]).is_some() {
                self.blanks();
            }
            stages.push(self.command());
            self.blanks();
            if self.peek() != Some(b'|') || self.peek_at(1) == Some(b'|') || self.spent() {
                break;
            }
            self.pos += if self.peek_at(1) == Some(b'&') { 2 } else { 1 };
            self.lines();
        }
        if stages.len() == 1 { stages.remove(0) } else { Node::Pipeline(stages) }
    }

    fn command(&mut self) -> Node {
        if !self.deeper() {
            return Node::Words(Vec::new());
        }
        let node = self.compound().unwrap_or_else(|| self.simple());
        self.shallower();
        node
    }

    fn compound(&mut self) -> Option<Node> {
        const OPENING: [&str; 10] = ["{", "[[", "if", "while", "until", "for", "select", "case", "function", "coproc"];
        let at = self.at();
        if self.peek() == Some(b'(') {
            let arithmetic = self.peek_at(1) == Some(b'(') && self.is_arithmetic();
            let body = if arithmetic {
                self.arithmetic()
            } else {
                self.pos += 1;
                let body = self.list(Stop::PAREN);
                self.take(b')');
                body
            };
            return Some(self.closed(Kind::Subshell, body));
        }
        Some(match self.keyword(&OPENING)? {
            "{" => {
                let body = self.list(Stop::words(&["}"]));
                self.closed(Kind::Group, body)
            }
            "[[" => self.test(),
            "if" => {
                let body = self.list(Stop::words(&["fi"]));
                self.closed(Kind::Perhaps, body)
            }
            "while" | "until" => {
                let body = self.list(Stop::words(&["done"]));
                self.closed(Kind::Perhaps, body)
            }
            "case" => self.case(),
            "function" => {
                self.blanks();
                let name = self.word().literal().unwrap_or_default();
                self.blanks();
                if self.take(b'(') {
                    self.blanks();
                    self.take(b')');
                }
                self.function(name, at)
            }
            "coproc" => {
                self.blanks();
                let before = self.pos;
                let _name = self.name();
                self.blanks();
                if !matches!(self.peek(), Some(b'{' | b'(')) {
                    self.pos = before;
                }
                self.blanks();
                Node::Background(Box::new(self.command()))
            }
            _ => self.for_each(),
        })
    }

    /// A compound command with the redirections behind it.
    fn closed(&mut self, kind: Kind, body: List) -> Node {
        let mut redirects = Vec::new();
        loop {
            self.blanks();
            let Some(redirect) = self.redirect() else { break };
            redirects.push(redirect);
        }
        Node::Compound { kind, body, redirects }
    }

    fn function(&mut self, name: String, at: usize) -> Node {
        self.lines();
        Node::Function { name, body: Rc::new(self.command()), at }
    }

    fn for_each(&mut self) -> Node {
        self.blanks();
        let mut words = Vec::new();
        let mut name = String::new();
        if self.peek() == Some(b'(') {
            let body = self.arithmetic();
            words.push(Word { at: self.at(), parts: vec![Part::Arithmetic(body)] });
        } else {
            name = self.name();
            self.lines();
            if self.keyword(&["in"]).is_some() {
                words = self.words_of_line();
            } else {
                words.push(positional(self.at()));
            }
        }
        loop {
            self.lines();
            if !self.take(b';') {
                break;
            }
        }
        let body = match self.keyword(&["do", "{"]) {
            Some("do") => self.list(Stop::words(&["done"])),
            Some(_) => self.list(Stop::words(&["}"])),
            None => Vec::new(),
        };
        let node = Node::For { name, words, body };
        match self.closed(Kind::Perhaps, Vec::new()) {
            Node::Compound { redirects, .. } if !redirects.is_empty() => {
                Node::Compound { kind: Kind::Perhaps, body: vec![node], redirects }
            }
            _ => node,
        }
    }

    fn words_of_line(&mut self) -> Vec<Word> {
        let mut words = Vec::new();
        loop {
            self.blanks();
            let word = self.word();
            if word.parts.is_empty() || self.spent() {
                return words;
            }
            words.push(word);
        }
    }

    fn case(&mut self) -> Node {
        self.blanks();
        let subject = self.word();
        self.lines();
        self.keyword(&["in"]);
        let mut body = vec![Node::Words(vec![subject])];
        loop {
            self.lines();
            if self.keyword(&["esac"]).is_some() || self.peek().is_none() || self.spent() {
                break;
            }
            let before = self.pos;
            self.take(b'(');
            while let Some(byte) = self.peek() {
                self.blanks();
                match byte {
                    b')' => {
                        self.pos += 1;
                        break;
                    }
                    b'|' => self.pos += 1,
                    b'\n' | b';' => break,
                    _ => {
                        let word = self.word();
                        if word.parts.is_empty() {
                            break;
                        }
                        body.push(Node::Words(vec![word]));
                    }
                }
            }
            body.extend(self.list(Stop::CASE));
            if self.ended_by_word {
                break;
            }
            while self.take(b';') || self.take(b'&') {}
            if self.pos == before {
                self.advance();
                while !self.text.is_char_boundary(self.pos) {
                    self.pos += 1;
                }
            }
            self.charge(1);
        }
        self.closed(Kind::Perhaps, body)
    }

    /// What follows `[[`, with the closing one.
    fn test(&mut self) -> Node {
        let mut words = Vec::new();
        loop {
            self.lines();
            if self.keyword(&["]]"]).is_some() || self.peek().is_none() || self.spent() {
                break;
            }
            let word = self.word();
            if word.parts.is_empty() {
                self.advance();
            } else {
                words.push(word);
            }
        }
        match self.closed(Kind::Group, vec![Node::Words(words)]) {
            Node::Compound { mut body, redirects, .. } if redirects.is_empty() => body.remove(0),
            node => node,
        }
    }

    fn simple(&mut self) -> Node {
        let mut simple = Simple { at: self.at(), ..Simple::default() };
        loop {
            self.blanks();
            if self.spent() {
                break;
            }
            if let Some(redirect) = self.redirect() {
                simple.redirects.push(redirect);
                continue;
            }
            let declares = simple.words.first().and_then(Word::bare).is_some_and(|word| DECLARE.contains(&word));
            if (simple.words.is_empty() || declares)
                && let Some(assign) = self.assign()
            {
                simple.assigns.push(assign);
                continue;
            }
            let word = self.word();
            if word.parts.is_empty() {
                if self.peek() == Some(b'(') && simple.words.len() == 1 {
                    // `name ()`, or an error.
                    self.pos += 1;
                    self.blanks();
                    if self.take(b')') {
                        let name = simple.words[0].literal().unwrap_or_default();
                        return self.function(name, simple.at);
                    }
                }
                break;
            }
            if simple.words.is_empty() {
                simple.at = word.at;
            }
            simple.words.push(word);
        }
        Node::Simple(simple)
    }

    fn assign(&mut self) -> Option<Assign> {
        let from = self.pos;
        let name = self.name();
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            self.pos = from;
            return None;
        }
        let mut is_element = false;
        if self.peek() == Some(b'[') {
            self.skip_balanced(b'[', b']');
            is_element = true;
        }
        let append = self.peek() == Some(b'+') && self.peek_at(1) == Some(b'=');
        self.pos += usize::from(append);
        if !self.take(b'=') {
            // A look ahead that went over the rest of a line is not to be made again and again.
            self.charge(self.pos - from);
            self.pos = from;
            return None;
        }
        if self.peek() != Some(b'(') {
            let value = Assigned::Word(self.word());
            return Some(Assign { name, append: append || is_element, value });
        }
        self.pos += 1;
        let mut words = Vec::new();
        loop {
            self.lines();
            if self.peek().is_none_or(|b| b == b')') || self.spent() {
                break;
            }
            let word = self.word();
            if word.parts.is_empty() {
                self.advance();
            } else {
                words.push(word);
            }
        }
        self.take(b')');
        Some(Assign { name, append, value: Assigned::Array(words) })
    }
}

/// Stands for a here-document until it has been read; no operator of the shell's.
pub(super) const DOCUMENT: &str = "<<";

/// `"$@"`, which `for` without a list goes over.
fn positional(at: usize) -> Word {
    let parameter = super::syntax::Parameter { name: "@".into(), quoted: true, ..Default::default() };
    Word { at, parts: vec![Part::Parameter(Box::new(parameter))] }
}

/// Whether `text` is the name of a variable.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_name_byte) && !text.starts_with(|c: char| c.is_ascii_digit())
}
