//! Statements and expressions, by descent that only brackets deepen.

use super::lex::{Kind, Token, tokens};
use super::syntax::{After, Atom, Expr, Imported, Item, Literal, Operand, Part, Piece, Statement};

/// CPython has room for 200 brackets in each other; what lies deeper never runs.
const DEPTH_MAX: usize = 200;

/// Keywords that stand in expressions.
const WORDS: [&str; 14] =
    ["if", "else", "for", "in", "and", "or", "not", "is", "lambda", "await", "async", "as", "yield", "from"];
/// Keywords that a colon may follow at once and that stand in no expression.
const LEADING: [&str; 4] = ["try", "except", "finally", "with"];

pub(super) fn parse(source: &str) -> Vec<Statement> {
    let mut parser = Parser { tokens: tokens(source).into_iter().peekable(), depth: 0, lambdas: 0 };
    let mut found = Vec::new();
    while parser.tokens.peek().is_some() {
        parser.statement(&mut found);
    }
    found
}

struct Parser {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    depth: usize,
    /// Of this expression, whose colons are still to come.
    lambdas: usize,
}

/// What ends an expression.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    /// A colon, an assignment, the line's end.
    Statement,
    /// A comma, the closing bracket.
    Item,
    /// The last token.
    Field,
}

impl Parser {
    fn is_sign(&mut self, sign: &str) -> bool {
        matches!(self.tokens.peek(), Some(Token { kind: Kind::Sign(found), .. }) if *found == sign)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let is = self.is_sign(sign);
        if is {
            self.tokens.next();
        }
        is
    }

    fn word(&mut self) -> Option<&str> {
        match self.tokens.peek() {
            Some(Token { kind: Kind::Name(name), .. }) => Some(name),
            _ => None,
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let is = self.word() == Some(word);
        if is {
            self.tokens.next();
        }
        is
    }

    fn name(&mut self) -> Option<(usize, String)> {
        self.word()?;
        match self.tokens.next() {
            Some(Token { at, kind: Kind::Name(name) }) => Some((at, name)),
            _ => None,
        }
    }

    /// One statement, or the header of one.
    fn statement(&mut self, found: &mut Vec<Statement>) {
        let at = self.tokens.peek().map_or(0, |token| token.at);
        match self.word() {
            Some("import") => {
                self.tokens.next();
                let names = self.imported(true);
                found.push(Statement::Import(names));
            }
            Some("from") => {
                self.tokens.next();
                self.from(at, found);
            }
            Some(word @ ("def" | "class")) => {
                let is_class = word == "class";
                self.tokens.next();
                let Some((_, name)) = self.name() else { return };
                let header = self.expr(Until::Statement);
                self.take_sign(":");
                found.push(if is_class {
                    Statement::Class { name, header }
                } else {
                    Statement::Define { name, header }
                });
            }
            // The word itself is an expression's as well, so it stays.
            Some("async") => drop(self.tokens.next()),
            _ => self.assignment(found),
        }
    }

    /// `a.b as c, d`.
    fn imported(&mut self, dotted: bool) -> Vec<Imported> {
        let mut names = Vec::new();
        let bracket = matches!(self.tokens.peek(), Some(Token { kind: Kind::Open(_), .. }));
        if bracket {
            self.tokens.next();
        }
        loop {
            let at = self.tokens.peek().map_or(0, |token| token.at);
            if self.take_sign("*") {
                names.push(Imported { at, name: "*".into(), alias: None });
            } else if let Some((at, mut name)) = self.name() {
                while dotted && self.take_sign(".") {
                    name.push('.');
                    name.push_str(&self.name().unwrap_or_default().1);
                }
                let alias = if self.take_word("as") { self.name().map(|(_, name)| name) } else { None };
                names.push(Imported { at, name, alias });
            }
            if !self.take_sign(",") {
                break;
            }
        }
        if bracket && matches!(self.tokens.peek(), Some(Token { kind: Kind::Close, .. })) {
            self.tokens.next();
        }
        names
    }

    fn from(&mut self, at: usize, found: &mut Vec<Statement>) {
        let mut level = 0;
        loop {
            if self.take_sign(".") {
                level += 1;
            } else if self.take_sign("...") {
                level += 3;
            } else {
                break;
            }
        }
        let mut module = String::new();
        if self.word() != Some("import") {
            module = self.name().unwrap_or_default().1;
            while self.take_sign(".") {
                module.push('.');
                module.push_str(&self.name().unwrap_or_default().1);
            }
        }
        if self.take_word("import") {
            let names = self.imported(false);
            found.push(Statement::From { at, level, module, names });
        }
    }

    /// Expressions with equal signs between them, up to the end of a line or of a header.
    fn assignment(&mut self, found: &mut Vec<Statement>) {
        let mut all = vec![self.expr(Until::Statement)];
        let (mut annotated, mut sign) = (None, "=");
        if self.is_sign(":") {
            self.tokens.next();
            let is_name = matches!(all[0].parts.as_slice(), [Part::Operand(Operand { atom: Atom::Name(_), .. })]);
            // `else:` begins a block; `x: int = 1` does not.
            let is_header = match all[0].parts.as_slice() {
                [Part::Operand(Operand { atom: Atom::Name(name), after, .. })] => {
                    after.is_empty() && LEADING.contains(&name.as_str())
                }
                _ => !is_name,
            };
            if is_header || matches!(self.tokens.peek(), None | Some(Token { kind: Kind::End, .. })) {
                found.push(alone(all.remove(0)));
                return;
            }
            if matches!(self.word(), Some("import" | "from" | "def" | "class" | "async")) {
                found.push(alone(all.remove(0)));
                return;
            }
            annotated = Some(self.expr(Until::Statement));
        }
        while let Some(Token { kind: Kind::Sign(found), .. }) = self.tokens.peek()
            && is_assignment(found)
        {
            sign = found;
            self.tokens.next();
            let more = self.expr(Until::Statement);
            all.push(more);
        }
        if matches!(self.tokens.peek(), Some(Token { kind: Kind::End | Kind::Close, .. })) {
            self.tokens.next();
        }
        if let Some(annotation) = annotated {
            found.push(alone(annotation));
        }
        if let Some(value) = all.pop() {
            found.push(Statement::Assign { targets: all, sign, value });
        }
    }

    fn expr(&mut self, until: Until) -> Expr {
        let outer = std::mem::take(&mut self.lambdas);
        let mut parts = Vec::new();
        while let Some(token) = self.tokens.peek() {
            match &token.kind {
                Kind::End if until != Until::Field => break,
                Kind::Close if until != Until::Field => break,
                Kind::Sign(":") if until == Until::Statement => {
                    if self.lambdas == 0 {
                        break;
                    }
                    self.lambdas -= 1;
                }
                Kind::Sign(",") if until == Until::Item => break,
                Kind::Sign(sign) if until == Until::Statement && is_assignment(sign) && self.lambdas == 0 => break,
                _ => {}
            }
            let Some(Token { at, kind }) = self.tokens.next() else { break };
            match kind {
                Kind::Sign(sign) => parts.push(Part::Sign(sign)),
                Kind::End | Kind::Close => {}
                Kind::Name(name) => match WORDS.iter().find(|word| **word == name) {
                    Some(word) => {
                        self.lambdas += usize::from(*word == "lambda");
                        parts.push(Part::Sign(word));
                    }
                    None => self.operand(at, Atom::Name(name), &mut parts),
                },
                Kind::Number(value) => self.operand(at, Atom::Number(value), &mut parts),
                Kind::Text(literal) => {
                    let literal = self.literal(literal);
                    self.operand(at, Atom::Text(literal), &mut parts);
                }
                Kind::Open(bracket) => {
                    let items = self.items();
                    self.operand(at, Atom::Group(bracket, items), &mut parts);
                }
            }
        }
        self.lambdas = outer;
        Expr { parts }
    }

    fn operand(&mut self, at: usize, mut atom: Atom, parts: &mut Vec<Part>) {
        while let Atom::Text(whole) = &mut atom
            && matches!(self.tokens.peek(), Some(Token { kind: Kind::Text(_), .. }))
            && let Some(Token { kind: Kind::Text(more), .. }) = self.tokens.next()
        {
            let more = self.literal(more);
            whole.pieces.extend(more.pieces);
        }
        let mut after = Vec::new();
        while let Some(token) = self.tokens.peek() {
            let at = token.at;
            match token.kind {
                Kind::Sign(".") => {
                    self.tokens.next();
                    if let Some((at, name)) = self.name() {
                        after.push(After::Attribute(at, name));
                    }
                }
                // Behind `except` and the like a bracket is no call, and it makes no difference.
                Kind::Open(bracket) if bracket != b'{' => {
                    self.tokens.next();
                    let items = self.items();
                    after.push(if bracket == b'(' { After::Call(at, items) } else { After::Index(at, items) });
                }
                _ => break,
            }
        }
        parts.push(Part::Operand(Operand { at, atom, after }));
    }

    /// Behind an opening bracket, up to and with what closes it.
    fn items(&mut self) -> Vec<Item> {
        let mut items = Vec::new();
        if self.depth >= DEPTH_MAX {
            let mut open = 1;
            while open > 0
                && let Some(token) = self.tokens.next()
            {
                match token.kind {
                    Kind::Open(_) => open += 1,
                    Kind::Close => open -= 1,
                    _ => {}
                }
            }
            return items;
        }
        self.depth += 1;
        loop {
            match self.tokens.peek() {
                None => break,
                Some(Token { kind: Kind::Close, .. }) => {
                    self.tokens.next();
                    break;
                }
                Some(Token { kind: Kind::Sign(",") | Kind::End, .. }) => {
                    self.tokens.next();
                }
                Some(_) => {
                    let item = self.item();
                    items.push(item);
                }
            }
        }
        self.depth -= 1;
        items
    }

    fn item(&mut self) -> Item {
        let mut value = self.expr(Until::Item);
        // `name=value`, and the annotated parameter with a default.
        let mut name = None;
        if let [Part::Operand(Operand { at, atom: Atom::Name(found), after }), Part::Sign("="), ..] =
            value.parts.as_slice()
            && after.is_empty()
        {
            name = Some((*at, found.clone()));
            value.parts.drain(..2);
        }
        Item { name, value }
    }

    fn literal(&mut self, literal: Literal<Vec<Token>>) -> Literal<Expr> {
        let Literal { bytes, pieces } = literal;
        let mut made = Vec::with_capacity(pieces.len());
        for piece in pieces {
            made.push(match piece {
                Piece::Known(text) => Piece::Known(text),
                Piece::Unknown => Piece::Unknown,
                Piece::Field(tokens) => {
                    let mut inner = Parser { tokens: tokens.into_iter().peekable(), depth: self.depth + 1, lambdas: 0 };
                    Piece::Field(if inner.depth < DEPTH_MAX { inner.expr(Until::Field) } else { Expr::default() })
                }
            });
        }
        Literal { bytes, pieces: made }
    }
}

fn alone(value: Expr) -> Statement {
    Statement::Assign { targets: Vec::new(), sign: "=", value }
}

fn is_assignment(sign: &str) -> bool {
    sign.ends_with('=') && !matches!(sign, "==" | "!=" | "<=" | ">=" | ":=")
}
