//! Sources of Python: a parser that forgives, and a walk that follows what is certain.

mod lex;
mod parse;
mod syntax;
mod value;
mod walk;

use super::rules::{Rule, Test};
use walk::Walk;

/// Longer sources are let through unread: a source of the lines that are allowed is seldom a tenth of it.
const BYTES_MAX: usize = 256 * 1024;

/// The first of `rules` that `source` meets, and the byte at which it does; `modules` may be imported beside the rule's own.
pub(super) fn screen<'a>(source: &str, rules: &'a [&'a Rule], modules: &'a [String]) -> Option<(&'a Rule, usize)> {
    let mut walk = Walk::new(rules, modules, source.len());
    if let Some(most) =
        rules.iter().find_map(|rule| if let Test::Lines { most } = rule.test { Some(most) } else { None })
        && let Some(at) = line(source, most)
    {
        walk.meet(at, |test| matches!(test, Test::Lines { .. }));
    }
    if source.len() <= BYTES_MAX {
        for statement in parse::parse(source) {
            walk.statement(&statement);
        }
    }
    walk.verdict()
}

/// Where the line behind the first `most` begins, if there is one.
fn line(source: &str, most: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    let is_end = |at: &usize| bytes[*at] == b'\n' || (bytes[*at] == b'\r' && bytes.get(at + 1) != Some(&b'\n'));
    let begin = (0..bytes.len()).filter(is_end).nth(most.saturating_sub(1))? + 1;
    (begin < bytes.len()).then_some(begin)
}

#[cfg(test)]
mod tests;
