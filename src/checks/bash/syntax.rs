//! What a script is, as far as it matters which programs it runs and with what.

use std::rc::Rc;

/// Commands in the order in which they stand; what joins them (`;`, `&&`, a newline) makes no difference here.
pub(super) type List = Vec<Node>;

#[derive(Debug, Clone)]
pub(super) enum Node {
    Simple(Simple),
    Pipeline(List),
    Background(Box<Node>),
    Compound {
        kind: Kind,
        body: List,
        redirects: Vec<Redirect>,
    },
    For {
        name: String,
        words: Vec<Word>,
        body: List,
    },
    Function {
        name: String,
        /// Shared: it is walked again for each call.
        body: Rc<Node>,
        at: usize,
    },
    /// Words that are expanded and run nothing themselves: `case` subjects, `[[ … ]]`.
    Words(Vec<Word>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Group,
    Subshell,
    /// May run, may not, may run often.
    Perhaps,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Simple {
    /// Byte offset in the source.
    pub at: usize,
    pub assigns: Vec<Assign>,
    pub words: Vec<Word>,
    pub redirects: Vec<Redirect>,
}

#[derive(Debug, Clone)]
pub(super) struct Assign {
    pub name: String,
    pub append: bool,
    pub value: Assigned,
}

#[derive(Debug, Clone)]
pub(super) enum Assigned {
    Word(Word),
    Array(Vec<Word>),
}

#[derive(Debug, Clone)]
pub(super) struct Redirect {
    pub at: usize,
    pub kind: RedirectKind,
    pub target: Word,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RedirectKind {
    Read,
    Write,
    /// Here-document or here-string: the target is the text.
    Text,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Word {
    pub at: usize,
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone)]
pub(super) enum Part {
    Text {
        text: String,
        quoted: bool,
    },
    Parameter(Box<Parameter>),
    Command {
        body: List,
        quoted: bool,
    },
    /// `<(…)` or `>(…)`.
    Process(List),
    /// A number in the end; the commands inside run.
    Arithmetic(List),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Parameter {
    pub name: String,
    /// Of `${a[…]}`, as written.
    pub subscript: Option<String>,
    /// `${!name}`.
    pub indirect: bool,
    /// `${#name}`.
    pub length: bool,
    /// What follows the name: `:-`, `#`, `//`, `:` …; empty for the value as it is.
    pub operator: String,
    pub argument: Word,
    pub quoted: bool,
}

impl Word {
    /// The text of a word that is nothing else.
    pub(super) fn literal(&self) -> Option<String> {
        let mut all = String::new();
        for part in &self.parts {
            let Part::Text { text, .. } = part else { return None };
            all.push_str(text);
        }
        Some(all)
    }

    /// As [`Word::literal`], of a word without any quoting: only such a one is a keyword.
    pub(super) fn bare(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [Part::Text { text, quoted: false }] => Some(text),
            _ => None,
        }
    }
}
