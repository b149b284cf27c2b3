//! What a source says, as far as it matters which names, attributes and modules it reaches for.
//!
//! Flat on purpose: operators are kept in their order and not made into a tree, and what follows an operand is a list. So
//! only brackets nest, and those are bounded.

/// A statement. Blocks are not kept together: nothing here hangs on what belongs to which.
#[derive(Debug)]
pub(super) enum Statement {
    Import(Vec<Imported>),
    From {
        at: usize,
        level: usize,
        module: String,
        names: Vec<Imported>,
    },
    /// `def` and `class`; decorators are statements of their own. `header`: parameters or bases, and what follows an arrow.
    Define {
        name: String,
        header: Expr,
    },
    Class {
        name: String,
        header: Expr,
    },
    /// `targets = value`; none for a statement that is an expression. With the sign: `+=` keeps what was there.
    Assign {
        targets: Vec<Expr>,
        sign: &'static str,
        value: Expr,
    },
}

/// `name as alias`.
#[derive(Debug)]
pub(super) struct Imported {
    pub at: usize,
    pub name: String,
    pub alias: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Expr {
    pub parts: Vec<Part>,
}

#[derive(Debug)]
pub(super) enum Part {
    Operand(Operand),
    /// Signs and keywords, commas and colons too.
    Sign(&'static str),
}

#[derive(Debug)]
pub(super) struct Operand {
    pub at: usize,
    pub atom: Atom,
    pub after: Vec<After>,
}

#[derive(Debug)]
pub(super) enum Atom {
    Name(String),
    Text(Literal<Expr>),
    Number(Option<i64>),
    /// By its opening bracket.
    Group(u8, Vec<Item>),
}

#[derive(Debug)]
pub(super) enum After {
    Attribute(usize, String),
    Call(usize, Vec<Item>),
    Index(usize, Vec<Item>),
}

/// One of what a bracket holds, between commas.
#[derive(Debug, Default)]
pub(super) struct Item {
    /// Of `name=value`.
    pub name: Option<(usize, String)>,
    pub value: Expr,
}

/// A string; `F` is what the fields of an f-string hold.
#[derive(Debug)]
pub(super) struct Literal<F> {
    pub bytes: bool,
    pub pieces: Vec<Piece<F>>,
}

#[derive(Debug)]
pub(super) enum Piece<F> {
    Known(String),
    Field(F),
    /// A character by its name.
    Unknown,
}
