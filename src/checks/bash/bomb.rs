//! Functions that start more of themselves than end.

use std::collections::HashMap;
use std::rc::Rc;

use super::syntax::{Kind, Node};

#[derive(Default)]
struct Calls<'a> {
    /// Names that are called, each with whether its caller goes on beside it.
    names: Vec<(&'a str, bool)>,
}

fn calls<'a>(node: &'a Node, beside: bool, found: &mut Calls<'a>) {
    match node {
        Node::Simple(simple) => {
            found.names.extend(simple.words.first().and_then(|word| word.bare()).map(|name| (name, beside)))
        }
        Node::Pipeline(stages) => stages.iter().for_each(|stage| calls(stage, true, found)),
        Node::Background(node) => calls(node, true, found),
        Node::Compound { body, kind, .. } => {
            // What hangs on a condition may end.
            let body: &[Node] = if *kind == Kind::Perhaps { &[] } else { body };
            body.iter().for_each(|node| calls(node, beside, found));
        }
        Node::For { .. } | Node::Function { .. } | Node::Words(_) => {}
    }
}

/// Names of functions that always call themselves, at once or by way of others, at least twice, at least once of that without
/// waiting.
pub(super) fn bombs(functions: &HashMap<String, Rc<Node>>) -> Vec<&str> {
    const FUNCTIONS_MAX: usize = 64;
    if functions.len() > FUNCTIONS_MAX {
        return Vec::new();
    }
    let called: HashMap<&str, Calls> = functions
        .iter()
        .map(|(name, body)| {
            let mut found = Calls::default();
            calls(body, false, &mut found);
            found.names.retain(|(name, _)| functions.contains_key(*name));
            (name.as_str(), found)
        })
        .collect();
    let reaches = |from: &str, to: &str| {
        let (mut open, mut seen) = (vec![from], Vec::new());
        while let Some(name) = open.pop() {
            if name == to {
                return true;
            }
            if seen.contains(&name) {
                continue;
            }
            seen.push(name);
            open.extend(called.get(name).into_iter().flat_map(|c| c.names.iter().map(|(name, _)| *name)));
        }
        false
    };
    let is_bomb = |(name, calls): (&&str, &Calls)| {
        let back: Vec<bool> =
            calls.names.iter().filter(|(to, _)| reaches(to, name)).map(|(_, beside)| *beside).collect();
        back.len() >= 2 && back.contains(&true)
    };
    let mut found: Vec<&str> =
        called.iter().filter(|(name, calls)| is_bomb((name, calls))).map(|(name, _)| *name).collect();
    found.sort_unstable();
    found
}
