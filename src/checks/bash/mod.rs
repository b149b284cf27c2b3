//! Scripts of bash: a parser that forgives, and a walk that follows what is certain.

mod bomb;
mod documents;
mod judge;
mod lex;
mod output;
mod parse;
mod run;
mod syntax;
mod value;
mod walk;

use super::Script;
use super::rules::Rule;
use judge::Judge;
use value::Text;
use walk::Walk;

/// The first of `rules` that `script` meets, and the byte at which it does.
pub(super) fn screen<'a>(script: &Script<'_>, rules: &'a [&'a Rule]) -> Option<(&'a Rule, usize)> {
    let mut walk = Walk::new(Judge::new(rules), script.cwd, script.env);
    walk.whole(script.code, &Text::known(script.stdin));
    walk.judge.verdict()
}
