//! What is known of a text before it is made: pieces that are certain beside pieces that are not.

/// A text that a script makes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Text {
    pub pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Known {
        text: String,
        quoted: bool,
    },
    /// Of a variable that nothing has set: empty, unless somebody else sets it.
    Unset,
    Unknown(Origin),
    /// The name of a file with this content: `<(…)`.
    File(Box<Text>),
}

/// Where text comes from that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Origin {
    /// It came over the network.
    pub fetched: bool,
    /// A program printed it that prints commands for `eval`.
    pub for_eval: bool,
}

/// Longer texts are not followed: variables can double themselves.
const TEXT_BYTES_MAX: usize = 256 * 1024;
const PIECES_MAX: usize = 64;

impl Text {
    pub(super) fn known(text: impl Into<String>) -> Self {
        Self { pieces: vec![Piece::Known { text: text.into(), quoted: true }] }
    }

    pub(super) fn unknown(origin: Origin) -> Self {
        Self { pieces: vec![Piece::Unknown(origin)] }
    }

    /// The whole text, where all of it is known.
    pub(super) fn constant(&self) -> Option<String> {
        let mut all = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Known { text, .. } => all.push_str(text),
                Piece::Unset => {}
                Piece::Unknown(_) | Piece::File(_) => return None,
            }
        }
        Some(all)
    }

    /// As [`Text::constant`], where it also does not hang on a variable that nothing here sets.
    pub(super) fn certain(&self) -> Option<String> {
        if self.pieces.contains(&Piece::Unset) { None } else { self.constant() }
    }

    /// What is certain before anything else comes.
    pub(super) fn prefix(&self) -> String {
        let known = self.pieces.iter().map_while(|piece| match piece {
            Piece::Known { text, .. } => Some(text.as_str()),
            _ => None,
        });
        known.collect()
    }

    pub(super) fn is_fetched(&self) -> bool {
        self.pieces.iter().any(|piece| matches!(piece, Piece::Unknown(Origin { fetched: true, .. })))
    }

    /// Whether what is not known of it was printed to be evaluated.
    pub(super) fn is_for_eval(&self) -> bool {
        self.pieces.iter().all(|piece| match piece {
            Piece::Unknown(origin) => origin.for_eval,
            Piece::File(_) | Piece::Unset => false,
            Piece::Known { .. } => true,
        })
    }

    /// Whether an unquoted part of it is a pattern.
    pub(super) fn is_pattern(&self) -> bool {
        let is = |text: &String| text.contains(['*', '?', '[']);
        self.pieces.iter().any(|piece| matches!(piece, Piece::Known { text, quoted: false } if is(text)))
    }

    pub(super) fn append(&mut self, other: &Text) {
        for piece in &other.pieces {
            self.push(piece.clone());
        }
    }

    pub(super) fn push(&mut self, piece: Piece) {
        match (self.pieces.last_mut(), piece) {
            (Some(Piece::Known { text, quoted }), Piece::Known { text: more, quoted: same }) if *quoted == same => {
                text.push_str(&more);
            }
            (Some(Piece::Unknown(origin)), Piece::Unknown(more)) if *origin == more => {}
            (Some(Piece::Unset), Piece::Unset) => {}
            (_, piece) => self.pieces.push(piece),
        }
        let bytes = |piece: &Piece| if let Piece::Known { text, .. } = piece { text.len() } else { 0 };
        let last = self.pieces.last().map_or(0, bytes);
        let is_long = self.pieces.len() > PIECES_MAX
            || (last > 0 && self.pieces.iter().map(bytes).sum::<usize>() > TEXT_BYTES_MAX);
        if is_long {
            *self = Self::unknown(Origin { fetched: self.is_fetched(), for_eval: false });
        }
    }

    /// As `$(…)` takes it.
    pub(super) fn without_trailing_newlines(mut self) -> Self {
        if let Some(Piece::Known { text, .. }) = self.pieces.last_mut() {
            text.truncate(text.trim_end_matches('\n').len());
        }
        self
    }

    /// The text as the value of a variable: how it was quoted once is forgotten.
    pub(super) fn into_value(mut self) -> Self {
        for piece in &mut self.pieces {
            if let Piece::Known { quoted, .. } = piece {
                *quoted = true;
            }
        }
        self
    }

    /// The fields that the shell makes of it where it stands without quotes.
    pub(super) fn split(&self, at: &[char]) -> Vec<Text> {
        let mut fields = vec![Text::default()];
        for piece in &self.pieces {
            let Piece::Known { text, .. } = piece else {
                if let Some(last) = fields.last_mut() {
                    last.pieces.push(piece.clone());
                }
                continue;
            };
            let mut words = text.split(at);
            let first = words.next().unwrap_or_default();
            if let Some(last) = fields.last_mut()
                && !first.is_empty()
            {
                last.pieces.push(Piece::Known { text: first.to_owned(), quoted: false });
            }
            for word in words {
                let known = Piece::Known { text: word.to_owned(), quoted: false };
                fields.push(Text { pieces: if word.is_empty() { Vec::new() } else { vec![known] } });
            }
        }
        fields
    }

    /// As a script that can be read; `$unknown` stands for what is not known.
    pub(super) fn script(&self) -> String {
        let part = |piece: &Piece| match piece {
            Piece::Known { text, .. } => text.clone(),
            Piece::Unset => String::new(),
            Piece::Unknown(_) | Piece::File(_) => format!("${{{UNKNOWN}}}"),
        };
        self.pieces.iter().map(part).collect()
    }
}

/// The variable of which nothing is known.
pub(super) const UNKNOWN: &str = "__unknown";

/// `{a,b}` of a word that is nothing but unquoted text; the word itself where there is none.
pub(super) fn braces(text: &str) -> Vec<String> {
    const WORDS_MAX: usize = 64;
    let mut open = vec![text.to_owned()];
    let mut done = Vec::new();
    while let Some(word) = open.pop() {
        let alternatives = if done.len() + open.len() < WORDS_MAX { first_brace(&word) } else { None };
        match alternatives {
            Some((before, inside, after)) => {
                for one in inside.into_iter().rev() {
                    open.push(format!("{before}{one}{after}"));
                }
            }
            None => done.push(word),
        }
    }
    done
}

fn first_brace(word: &str) -> Option<(&str, Vec<&str>, &str)> {
    const BYTES_MAX: usize = 4096;
    let bytes = word.as_bytes();
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let from = bytes.iter().position(|b| *b == b'{')?;
    let (mut depth, mut start, mut inside) = (0, from + 1, Vec::new());
    for (at, byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'{' => depth += 1,
            b',' if depth == 1 => {
                inside.push(&word[start..at]);
                start = at + 1;
            }
            b'}' => {
                depth -= 1;
                if depth == 0 {
                    if inside.is_empty() {
                        return None;
                    }
                    inside.push(&word[start..at]);
                    return Some((&word[..from], inside, &word[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether the shell's pattern matches; `*` and `?` do not match a slash, as with file names.
pub(super) fn glob(pattern: &str, name: &str) -> bool {
    const BYTES_MAX: usize = 256;
    fn go(p: &[u8], n: &[u8], budget: &mut u32) -> bool {
        *budget = budget.saturating_sub(1);
        if *budget == 0 {
            return false;
        }
        match p.split_first() {
            None => n.is_empty(),
            Some((b'*', rest)) => {
                let most = n.iter().position(|b| *b == b'/').unwrap_or(n.len());
                (0..=most).any(|skip| go(rest, &n[skip..], budget))
            }
            Some((b'?', rest)) => n.first().is_some_and(|b| *b != b'/') && go(rest, &n[1..], budget),
            Some((b'[', rest)) => {
                let Some(end) = rest.iter().skip(1).position(|b| *b == b']').map(|at| at + 1) else { return false };
                let (negated, set) = match rest[..end].split_first() {
                    Some((b'!' | b'^', set)) => (true, set),
                    _ => (false, &rest[..end]),
                };
                let Some((first, after)) = n.split_first() else { return false };
                let is_in =
                    set.contains(first) || set.windows(3).any(|w| w[1] == b'-' && (w[0]..=w[2]).contains(first));
                is_in != negated && go(&rest[end + 1..], after, budget)
            }
            Some((byte, rest)) => n.first() == Some(byte) && go(rest, &n[1..], budget),
        }
    }
    pattern.len() <= BYTES_MAX && go(pattern.as_bytes(), name.as_bytes(), &mut 10_000)
}

/// `path` from `cwd`, without `.` and `..`; `None` where it is not known from where.
pub(super) fn absolute(path: &str, cwd: Option<&str>) -> Option<String> {
    let whole = if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", cwd?) };
    let mut steps: Vec<&str> = Vec::new();
    for step in whole.split('/') {
        match step {
            "" | "." => {}
            ".." => {
                steps.pop();
            }
            step => steps.push(step),
        }
    }
    Some(format!("/{}", steps.join("/")))
}
