//! From checked rows to a classic BPF program.
//!
//! A decision graph first: a search tree over the numbers whose leaves are actions or tests of arguments, where equal
//! parts are one part. The kernel translates and compiles a program anew for every process that installs it, so what
//! counts is how many instructions there are: no jump stands before a return, no return before another of its kind,
//! no load where every way here has loaded the same.

use crate::arch::Arch;
use crate::profile::{Action, Condition, Profile, Row};
use seccompiler::{BpfProgram, sock_filter};
use std::collections::{BTreeMap, HashMap};

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

const KILL_PROCESS: u32 = 0x8000_0000;
const ALLOW: u32 = 0x7fff_0000;
const ERRNO: u32 = 0x0005_0000;
/// The kernel asks the listener for the answer and ignores the low bits; here they say what it has to be.
const USER_NOTIF: u32 = 0x7fc0_0000;

/// Offsets in `seccomp_data`: number, architecture, and the low half of the first argument.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGS: u32 = 16;

/// The kernel refuses longer programs.
const LENGTH_MAX: usize = 4096;
/// How many instructions a conditional jump can skip.
const REACH: usize = u8::MAX as usize;

/// What the accumulator holds: a word of `seccomp_data`, of which only these bits are left.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Seen {
    word: u32,
    mask: u32,
}

/// A node's place in the graph.
type Id = usize;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Node {
    Return(u32),
    /// `code` is one of the two comparisons.
    Test {
        seen: Seen,
        code: u16,
        k: u32,
        yes: Id,
        no: Id,
    },
}

/// Equal nodes are one; a node's successors come before it.
#[derive(Default)]
struct Graph {
    nodes: Vec<Node>,
    known: HashMap<Node, Id>,
}

impl Graph {
    fn node(&mut self, node: Node) -> Id {
        if let Node::Test { yes, no, .. } = node
            && yes == no
        {
            return yes;
        }
        *self.known.entry(node.clone()).or_insert_with(|| {
            self.nodes.push(node);
            self.nodes.len() - 1
        })
    }

    fn action(&mut self, action: &Action, record: bool) -> Id {
        self.node(Node::Return(match action {
            Action::Allow => ALLOW,
            Action::Errno { number, .. } if record => USER_NOTIF | u32::from(*number),
            Action::Errno { number, .. } => ERRNO | u32::from(*number),
        }))
    }

    fn test(&mut self, seen: Seen, code: u16, k: u32, yes: Id, no: Id) -> Id {
        // Of a wide argument one half may be masked out as a whole; the reader refuses values outside the mask.
        if seen.mask == 0 && code == JUMP_EQUAL && k == 0 {
            return yes;
        }
        self.node(Node::Test { seen, code, k, yes, no })
    }

    /// The rows of one call: where one neither matches nor says what then, the next decides.
    fn rows(&mut self, rows: &[&Row], default: Id) -> Id {
        rows.iter().rev().fold(default, |next, row| {
            let matched = self.action(&row.action, row.record);
            let mismatch = row.otherwise.as_ref().map_or(next, |action| self.action(action, row.record));
            row.args.iter().rev().fold(matched, |matched, condition| self.condition(condition, matched, mismatch))
        })
    }

    fn condition(&mut self, condition: &Condition, matched: Id, mismatch: Id) -> Id {
        let low = ARGS + 8 * u32::from(condition.arg);
        let mask = condition.mask.unwrap_or(u64::MAX);
        let half = |value: u64, shift: u32| (value >> shift) as u32;
        condition.values.iter().rev().fold(mismatch, |next, (_, value)| {
            let yes = if condition.wide {
                let seen = Seen { word: low + 4, mask: half(mask, 32) };
                self.test(seen, JUMP_EQUAL, half(*value, 32), matched, next)
            } else {
                matched
            };
            self.test(Seen { word: low, mask: half(mask, 0) }, JUMP_EQUAL, half(*value, 0), yes, next)
        })
    }

    /// A search tree over the ranges, each with where it begins and what decides there.
    fn tree(&mut self, ranges: &[(u32, Id)]) -> Id {
        if let [(_, only)] = ranges {
            return *only;
        }
        let (low, high) = ranges.split_at(ranges.len() / 2);
        let begins = high[0].0;
        let (no, yes) = (self.tree(low), self.tree(high));
        self.test(Seen { word: NUMBER, mask: u32::MAX }, JUMP_AT_LEAST, begins, yes, no)
    }
}

/// Compiles one profile.
pub fn compile(profile: &Profile, arch: &Arch) -> Result<BpfProgram, String> {
    let mut graph = Graph::default();
    let default = graph.action(&profile.default, profile.record_default);
    let leaves: BTreeMap<u32, Id> =
        profile.by_number().into_iter().map(|(number, rows)| (number, graph.rows(&rows, default))).collect();
    let other_abi = graph.action(&profile.other_abi, false);
    let native = graph.tree(&ranges(&leaves, default, arch.other_abi_from, other_abi));
    let killed = graph.node(Node::Return(KILL_PROCESS));
    let root = graph.test(Seen { word: ARCH, mask: u32::MAX }, JUMP_EQUAL, arch.audit, native, killed);
    let program = Layout::of(&graph, root);
    if program.len() >= LENGTH_MAX {
        return Err(format!("{}: {} instructions, the kernel takes {LENGTH_MAX}", profile.name, program.len()));
    }
    Ok(program)
}

/// Where each range of numbers begins and what decides there; neighbours differ.
fn ranges(leaves: &BTreeMap<u32, Id>, default: Id, other_abi_from: u32, other_abi: Id) -> Vec<(u32, Id)> {
    let mut all = Vec::new();
    let mut next = 0;
    for (&number, &leaf) in leaves {
        if number > next {
            all.push((next, default));
        }
        all.push((number, leaf));
        next = number + 1;
    }
    all.push((next, default));
    all.push((other_abi_from, other_abi));
    all.dedup_by(|later, earlier| later.1 == earlier.1);
    all
}

/// Instructions, last first: jumps lead forward only, so that whatever one leads to has its place before it.
struct Layout<'a> {
    graph: &'a Graph,
    reversed: BpfProgram,
    /// How many instructions there were with the first of the node, or of what was put down nearer to stand for it.
    placed: HashMap<Id, usize>,
    /// What is in the accumulator on each way to a node.
    ways: HashMap<Id, Vec<Option<Seen>>>,
}

impl Layout<'_> {
    fn of(graph: &Graph, root: Id) -> BpfProgram {
        let mut ways: HashMap<Id, Vec<Option<Seen>>> = HashMap::from([(root, vec![None])]);
        let mut open = vec![root];
        let mut met = vec![false; graph.nodes.len()];
        while let Some(id) = open.pop() {
            let Node::Test { seen, yes, no, .. } = graph.nodes[id] else { continue };
            if std::mem::replace(&mut met[id], true) {
                continue;
            }
            for next in [yes, no] {
                ways.entry(next).or_default().push(Some(seen));
                open.push(next);
            }
        }
        let mut layout = Layout { graph, reversed: Vec::new(), placed: HashMap::new(), ways };
        layout.place(root);
        layout.reversed.reverse();
        layout.reversed
    }

    fn place(&mut self, id: Id) {
        if self.placed.contains_key(&id) {
            return;
        }
        match self.graph.nodes[id] {
            Node::Return(value) => self.reversed.push(plain(RETURN, value)),
            Node::Test { seen, code, k, yes, no } => {
                self.place(yes);
                self.place(no);
                while let Some(far) = [yes, no].into_iter().find(|next| self.distance(*next) > REACH) {
                    self.bring_near(far);
                }
                let [jt, jf] = [yes, no].map(|next| u8::try_from(self.distance(next)).expect("brought near"));
                self.reversed.push(sock_filter { code, jt, jf, k });
                let ways = &self.ways[&id];
                let held = |what: Seen| ways.iter().all(|way| *way == Some(what));
                let whole = Seen { mask: u32::MAX, ..seen };
                let (masked, loaded) = (held(seen), held(seen) || held(whole));
                if !masked && seen != whole {
                    self.reversed.push(plain(AND, seen.mask));
                }
                if !loaded {
                    self.reversed.push(plain(LOAD, seen.word));
                }
            }
        }
        self.placed.insert(id, self.reversed.len());
    }

    fn distance(&self, id: Id) -> usize {
        self.reversed.len() - self.placed[&id]
    }

    /// A conditional jump reaches no further than [`REACH`]: it leads to a copy or to an unconditional jump, which
    /// reaches them all.
    fn bring_near(&mut self, id: Id) {
        let near = match self.graph.nodes[id] {
            Node::Return(value) => plain(RETURN, value),
            Node::Test { .. } => plain(JUMP, u32::try_from(self.distance(id)).expect("programs are short")),
        };
        self.reversed.push(near);
        self.placed.insert(id, self.reversed.len());
    }
}

fn plain(code: u16, k: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k }
}
