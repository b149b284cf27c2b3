//! Redirections, and here-documents put in the place of their markers.

use std::rc::Rc;

use super::parse::{DOCUMENT, Parser, Pending};
use super::syntax::{Assigned, Node, Parameter, Part, Redirect, RedirectKind, Word};

impl Parser<'_> {
    /// A document is known only once its marker's line has ended, which may be after its command was made.
    pub(super) fn documents_into(&mut self, list: &mut [Node]) {
        if self.documents.is_empty() {
            return;
        }
        for node in list {
            match node {
                Node::Simple(simple) => {
                    self.redirects_into(&mut simple.redirects);
                    let values = simple.assigns.iter_mut().flat_map(|assign| match &mut assign.value {
                        Assigned::Word(word) => std::slice::from_mut(word),
                        Assigned::Array(words) => words.as_mut_slice(),
                    });
                    for word in simple.words.iter_mut().chain(values) {
                        self.word_into(word);
                    }
                }
                Node::Pipeline(body) => self.documents_into(body),
                Node::For { words, body, .. } => {
                    words.iter_mut().for_each(|word| self.word_into(word));
                    self.documents_into(body);
                }
                Node::Background(body) => self.documents_into(std::slice::from_mut(&mut **body)),
                Node::Function { body, .. } => {
                    self.documents_into(Rc::get_mut(body).map(std::slice::from_mut).unwrap_or_default());
                }
                Node::Compound { body, redirects, .. } => {
                    self.redirects_into(redirects);
                    self.documents_into(body);
                }
                Node::Words(words) => words.iter_mut().for_each(|word| self.word_into(word)),
            }
        }
    }

    fn redirects_into(&mut self, redirects: &mut [Redirect]) {
        for redirect in redirects {
            match redirect.target.parts.as_slice() {
                [Part::Parameter(parameter)] if parameter.operator == DOCUMENT => {
                    let document = parameter.name.parse().ok().and_then(|at: usize| self.documents.get_mut(at));
                    redirect.target = document.map(std::mem::take).unwrap_or_default();
                }
                _ => self.word_into(&mut redirect.target),
            }
        }
    }

    fn word_into(&mut self, word: &mut Word) {
        for part in &mut word.parts {
            match part {
                Part::Command { body, .. } | Part::Process(body) | Part::Arithmetic(body) => self.documents_into(body),
                Part::Parameter(parameter) => self.word_into(&mut parameter.argument),
                Part::Text { .. } => {}
            }
        }
    }

    pub(super) fn redirect(&mut self) -> Option<Redirect> {
        let (from, at) = (self.pos, self.at());
        if self.peek() == Some(b'{') {
            self.pos += 1;
            let named = !self.name().is_empty() && self.take(b'}') && matches!(self.peek(), Some(b'<' | b'>'));
            if !named {
                self.pos = from;
                return None;
            }
        }
        while self.peek().is_some_and(|b| b.is_ascii_digit()) {
            self.pos += 1;
        }
        const OPERATORS: [(&str, Option<RedirectKind>); 12] = [
            ("<<<", Some(RedirectKind::Text)),
            ("<<-", None),
            ("<<", None),
            ("<>", Some(RedirectKind::Write)),
            ("<&", Some(RedirectKind::Read)),
            ("<", Some(RedirectKind::Read)),
            ("&>>", Some(RedirectKind::Write)),
            ("&>", Some(RedirectKind::Write)),
            (">>", Some(RedirectKind::Write)),
            (">&", Some(RedirectKind::Write)),
            (">|", Some(RedirectKind::Write)),
            (">", Some(RedirectKind::Write)),
        ];
        let rest = &self.text.as_bytes()[self.pos.min(self.end)..self.end];
        let found = OPERATORS.into_iter().find(|(operator, _)| rest.starts_with(operator.as_bytes()));
        let process = matches!(rest, [b'<' | b'>', b'(', ..]);
        let Some((operator, kind)) = found.filter(|_| !process) else {
            self.pos = from;
            return None;
        };
        self.pos += operator.len();
        self.blanks();
        let word = self.word();
        let Some(kind) = kind else {
            let quoted = word.bare().is_none();
            let marker = word.literal().unwrap_or_default();
            let document = self.documents.len();
            self.documents.push(Word::default());
            self.pending.push(Pending { document, marker, quoted, strip: operator.ends_with('-') });
            let parameter = Parameter { name: document.to_string(), operator: DOCUMENT.into(), ..Default::default() };
            let target = Word { at, parts: vec![Part::Parameter(Box::new(parameter))] };
            return Some(Redirect { at, kind: RedirectKind::Text, target });
        };
        Some(Redirect { at, kind, target: word })
    }
}
