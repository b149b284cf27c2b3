//! Goes through a source once, from top to bottom, and keeps what names stand for where that is certain.

use std::collections::{HashMap, HashSet};

use super::super::rules::{Rule, Test};
use super::syntax::{After, Atom, Expr, Imported, Item, Literal, Operand, Part, Piece, Statement};
use super::value::{Value, items};

/// What reading variables and going through loops once more may cost of any source, and how much more for each byte of it.
const STEPS: usize = 64 * 1024;
const STEPS_PER_BYTE: usize = 16;
/// Expressions in each other: bounds the stack. Brackets have most of it, as many as CPython takes.
const DEPTH_MAX: usize = 256;
/// Turns of a comprehension that are made one by one.
const TURNS_MAX: usize = 256;

pub(super) struct Walk<'a> {
    rules: &'a [&'a Rule],
    /// The operator's, beside those of the rule.
    modules: &'a [String],
    /// Place in `rules`, and in the source.
    found: Option<(usize, usize)>,
    values: HashMap<String, Value>,
    /// Names that the source gives a meaning of its own.
    bound: HashSet<String>,
    /// It took everything that some module has.
    starred: bool,
    steps: usize,
    depth: usize,
}

impl<'a> Walk<'a> {
    pub(super) fn new(rules: &'a [&'a Rule], modules: &'a [String], bytes: usize) -> Self {
        let steps = STEPS + bytes * STEPS_PER_BYTE;
        let (values, bound) = (HashMap::new(), HashSet::new());
        Self { rules, modules, found: None, values, bound, starred: false, steps, depth: 0 }
    }

    pub(super) fn verdict(&self) -> Option<(&'a Rule, usize)> {
        self.found.map(|(rule, at)| (self.rules[rule], at))
    }

    pub(super) fn meet(&mut self, at: usize, meets: impl Fn(&Test) -> bool) {
        let rules = self.rules;
        if let Some(rule) = rules.iter().position(|rule| meets(&rule.test)) {
            let hit = (rule, at);
            self.found = Some(self.found.map_or(hit, |found| found.min(hit)));
        }
    }

    fn charge(&mut self, steps: usize) -> bool {
        self.steps = self.steps.saturating_sub(steps);
        self.steps > 0
    }

    /// `import module`.
    fn imports(&mut self, at: usize, module: &str) {
        let top = module.split('.').next().unwrap_or_default();
        let own = self.modules;
        self.meet(at, |test| match test {
            Test::Modules { seed, more, .. } => {
                !top.is_empty() && !seed.iter().chain(more).chain(own).any(|allowed| allowed == top)
            }
            _ => false,
        });
    }

    /// `name` of a module, or of all that was taken from one.
    fn reaches(&mut self, at: usize, name: &str) {
        let own = self.modules;
        self.meet(at, |test| match test {
            Test::Modules { reached, .. } => reached.iter().any(|r| r == name) && !own.iter().any(|m| m == name),
            _ => false,
        });
    }

    fn attribute(&mut self, at: usize, name: &str) {
        self.meet(at, |test| matches!(test, Test::Attributes { names } if names.iter().any(|n| n == name)));
    }

    fn builtin(&mut self, at: usize, name: &str) {
        self.meet(at, |test| matches!(test, Test::Builtins { names } if names.iter().any(|n| n == name)));
    }

    pub(super) fn statement(&mut self, statement: &Statement) {
        match statement {
            Statement::Import(all) => {
                for Imported { at, name, alias } in all {
                    self.imports(*at, name);
                    let top = name.split('.').next().unwrap_or_default();
                    let (bound, module) = alias.as_deref().map_or((top, top), |alias| (alias, name));
                    self.bind(bound, Value::Module(module.to_owned()));
                }
            }
            Statement::From { at, level, module, names } => {
                // Without a package Python itself refuses what is relative.
                if *level == 0 {
                    self.imports(*at, module);
                }
                for Imported { at, name, alias } in names {
                    self.reaches(*at, name);
                    self.attribute(*at, name);
                    self.starred |= name == "*";
                    let value = Value::Module(module.clone()).attribute(name);
                    self.bind(alias.as_deref().unwrap_or(name), value);
                }
            }
            Statement::Define { name, header } => {
                self.parameters(header);
                self.bind(name, Value::Unknown);
            }
            Statement::Class { name, header } => {
                self.expr(header);
                self.bind(name, Value::Unknown);
            }
            Statement::Assign { targets, sign, value } => {
                let mut value = self.expr(value);
                if let Some(sign) = sign.strip_suffix('=').filter(|sign| !sign.is_empty())
                    && let [target] = targets.as_slice()
                {
                    value = self.expr(target).joined(sign, value).bounded();
                }
                for target in targets {
                    self.assign(&target.parts, value.clone());
                }
            }
        }
    }

    fn bind(&mut self, name: &str, value: Value) {
        self.bound.insert(name.to_owned());
        if self.charge(value.weight()) {
            self.values.insert(name.to_owned(), value);
        } else {
            self.values.remove(name);
        }
    }

    /// The parameters of a `def`, its annotations and its defaults.
    fn parameters(&mut self, header: &Expr) {
        for part in &header.parts {
            match part {
                Part::Operand(Operand { atom: Atom::Group(b'(', items), .. }) => {
                    for item in items {
                        if let Some((_, name)) = &item.name {
                            self.bind(name, Value::Unknown);
                            self.expr(&item.value);
                            continue;
                        }
                        let first = item.value.parts.iter().position(|part| matches!(part, Part::Operand(_)));
                        if let Some(first) = first {
                            self.assign(&item.value.parts[first..=first], Value::Unknown);
                            self.parts(&item.value.parts[first + 1..]);
                        }
                    }
                }
                part => drop(self.parts(std::slice::from_ref(part))),
            }
        }
    }

    /// Gives `value` to what stands there.
    fn assign(&mut self, parts: &[Part], value: Value) {
        let targets: Vec<&[Part]> = parts.split(|part| matches!(part, Part::Sign(","))).collect();
        if targets.len() > 1 {
            let values = items(&value).filter(|values| values.len() >= targets.len()).unwrap_or_default();
            for (n, target) in targets.iter().enumerate() {
                self.assign(target, values.get(n).cloned().unwrap_or(Value::Unknown));
            }
            return;
        }
        for part in parts {
            let Part::Operand(operand) = part else { continue };
            match &operand.atom {
                Atom::Name(name) if operand.after.is_empty() => self.bind(name, value.clone()),
                Atom::Group(_, all) if operand.after.is_empty() => {
                    let values = items(&value).filter(|values| values.len() == all.len()).unwrap_or_default();
                    for (n, item) in all.iter().enumerate() {
                        self.assign(&item.value.parts, values.get(n).cloned().unwrap_or(Value::Unknown));
                    }
                }
                _ => drop(self.operand(operand)),
            }
        }
    }

    fn expr(&mut self, expr: &Expr) -> Value {
        self.parts(&expr.parts)
    }

    fn parts(&mut self, parts: &[Part]) -> Value {
        if self.depth >= DEPTH_MAX {
            return Value::Unknown;
        }
        self.depth += 1;
        let value = self.whole(parts);
        self.depth -= 1;
        value
    }

    fn whole(&mut self, parts: &[Part]) -> Value {
        let is = |sign: &'static str| move |part: &Part| matches!(part, Part::Sign(found) if *found == sign);
        if let [Part::Operand(one)] = parts {
            return self.operand(one);
        }
        if let Some(at) = parts.iter().position(is("for")) {
            return self.comprehension(&parts[..at], &parts[at + 1..]);
        }
        if let Some(at) = parts.iter().position(is("lambda")) {
            self.parts(&parts[..at]);
            let end = parts[at..].iter().position(is(":")).map_or(parts.len(), |end| at + end);
            for one in parts[at + 1..end].split(is(",")) {
                let default = one.iter().position(is("=")).unwrap_or(one.len());
                self.assign(&one[..default], Value::Unknown);
                self.parts(one.get(default + 1..).unwrap_or_default());
            }
            self.parts(parts.get(end + 1..).unwrap_or_default());
            return Value::Unknown;
        }
        if parts.iter().any(is(",")) {
            let all = parts.split(is(",")).filter(|one| !one.is_empty()).map(|one| self.parts(one)).collect();
            return Value::List(all).bounded();
        }
        if let [Part::Operand(Operand { atom: Atom::Name(name), after, .. }), Part::Sign(":="), rest @ ..] = parts
            && after.is_empty()
        {
            let value = self.parts(rest);
            self.bind(name, value.clone());
            return value;
        }
        self.operators(parts)
    }

    /// Operands with signs between them: products before sums, and only where there is nothing else.
    fn operators(&mut self, parts: &[Part]) -> Value {
        let mut sum: Option<(Value, &str)> = None;
        let mut product: Option<(Value, &str)> = None;
        let (mut certain, mut named) = (true, false);
        let mut sign = "";
        for part in parts {
            let operand = match part {
                Part::Sign(found) => {
                    // Two in a row: a sign of a number, say.
                    certain &= matches!(*found, "+" | "*" | "%" | "^" | "-") && (sign.is_empty() && product.is_some());
                    sign = found;
                    named = *found == "as";
                    continue;
                }
                Part::Operand(operand) => operand,
            };
            if named {
                // `with x as y`, `except X as y`, `case X() as y`.
                self.assign(std::slice::from_ref(part), Value::Unknown);
                named = false;
                continue;
            }
            let value = self.operand(operand);
            product = match (product.take(), sign) {
                (None, _) => Some((value, "")),
                (Some((left, _)), "*" | "%") => Some((left.joined(sign, value).bounded(), "")),
                (Some((left, _)), "+" | "-" | "^") => {
                    let whole = sum.take().map_or(left.clone(), |(first, sign)| first.joined(sign, left).bounded());
                    sum = Some((whole, sign));
                    Some((value, ""))
                }
                _ => {
                    certain = false;
                    Some((value, ""))
                }
            };
            sign = "";
        }
        if let ([Part::Sign("-"), Part::Operand(_)], Some((Value::Int(n), _))) = (parts, &product) {
            return n.checked_neg().map_or(Value::Unknown, Value::Int);
        }
        match (product, certain && sign.is_empty()) {
            (Some((value, _)), true) => match sum {
                Some((left, sign)) => left.joined(sign, value).bounded(),
                None => value,
            },
            _ => Value::Unknown,
        }
    }

    /// `head for targets in iter …`, and the header of a loop, whose `head` is empty.
    fn comprehension(&mut self, head: &[Part], rest: &[Part]) -> Value {
        let is = |words: &'static [&str]| move |part: &Part| matches!(part, Part::Sign(found) if words.contains(found));
        let within = rest.iter().position(is(&["in"])).unwrap_or(rest.len());
        let targets = &rest[..within];
        let rest = rest.get(within + 1..).unwrap_or_default();
        let end = rest.iter().position(is(&["for", "if", "async"])).unwrap_or(rest.len());
        let values = self.parts(&rest[..end]);
        let more = &rest[end..];
        let values = items(&values).filter(|all| more.is_empty() && !head.is_empty() && all.len() <= TURNS_MAX);
        let Some(values) = values else {
            self.assign(targets, Value::Unknown);
            // What follows first: a later `for` names what the head holds.
            self.parts(more);
            self.parts(head);
            return Value::Unknown;
        };
        let mut made = Vec::new();
        for value in values {
            if !self.charge(head.len() + 1) {
                break;
            }
            self.assign(targets, value);
            made.push(self.parts(head));
        }
        if made.is_empty() {
            self.assign(targets, Value::Unknown);
            self.parts(head);
            return Value::Unknown;
        }
        Value::List(made).bounded()
    }

    fn operand(&mut self, operand: &Operand) -> Value {
        let mut value = match &operand.atom {
            Atom::Name(name) => self.name(operand.at, name),
            Atom::Number(number) => number.map_or(Value::Unknown, Value::Int),
            Atom::Text(literal) => self.literal(literal),
            Atom::Group(bracket, all) => self.group(*bracket, all),
        };
        for after in &operand.after {
            self.charge(1);
            value = match after {
                After::Attribute(at, name) => {
                    self.attribute(*at, name);
                    match &value {
                        Value::Module(_) => self.reaches(*at, name),
                        Value::Of(of, _) if matches!(**of, Value::Module(_)) => self.reaches(*at, name),
                        _ => {}
                    }
                    if name == "__dict__" { Value::Names } else { value.attribute(name) }
                }
                After::Call(at, all) => self.call(*at, value, all),
                After::Index(at, all) => self.index(*at, value, all),
            };
        }
        value
    }

    fn name(&mut self, at: usize, name: &str) -> Value {
        if let Some(value) = self.values.get(name) {
            let value = value.clone();
            return if self.charge(value.weight()) { value } else { Value::Unknown };
        }
        if self.bound.contains(name) {
            return Value::Unknown;
        }
        self.builtin(at, name);
        if self.starred {
            self.reaches(at, name);
        }
        Value::Builtin(name.to_owned())
    }

    fn literal(&mut self, literal: &Literal<Expr>) -> Value {
        let mut text = Some(String::new());
        for piece in &literal.pieces {
            let more = match piece {
                Piece::Known(more) => Some(more.clone()),
                Piece::Unknown => None,
                Piece::Field(expr) => match self.expr(expr) {
                    Value::Text(more) => Some(more),
                    Value::Int(n) => Some(n.to_string()),
                    _ => None,
                },
            };
            text = text.zip(more).map(|(text, more)| text + &more);
        }
        let made = text.map_or(Value::Unknown, if literal.bytes { Value::Bytes } else { Value::Text });
        made.bounded()
    }

    fn group(&mut self, bracket: u8, all: &[Item]) -> Value {
        let mut values = Vec::new();
        for item in all {
            let value = self.item(item);
            values.push(value);
        }
        let is_comprehension =
            |item: &Item| item.value.parts.iter().any(|part| matches!(part, Part::Sign("for" | ":" | "*" | "**")));
        match values.pop() {
            // What brackets hold alone is what they are, unless it is a list's only one.
            Some(value) if values.is_empty() && (bracket == b'(' || all.iter().any(is_comprehension)) => value,
            Some(last) if bracket != b'{' && !all.iter().any(is_comprehension) => {
                values.push(last);
                Value::List(values).bounded()
            }
            None if bracket != b'{' => Value::List(Vec::new()),
            _ => Value::Unknown,
        }
    }

    fn item(&mut self, item: &Item) -> Value {
        if let Some((at, name)) = &item.name {
            // A pattern's keyword is an attribute.
            self.attribute(*at, name);
        }
        self.expr(&item.value)
    }

    fn call(&mut self, at: usize, of: Value, all: &[Item]) -> Value {
        let mut arguments: Vec<Value> = Vec::new();
        for item in all {
            let value = self.item(item);
            let is_starred = matches!(item.value.parts.first(), Some(Part::Sign("*")));
            if item.name.is_none() {
                match (is_starred, items(&value)) {
                    (true, Some(values)) => arguments.extend(values),
                    _ => arguments.push(value),
                }
            }
        }
        let second = arguments.get(1).and_then(Value::text);
        match (&of, second) {
            (Value::Builtin(name), Some(attribute))
                if matches!(name.as_str(), "getattr" | "setattr" | "delattr" | "hasattr") =>
            {
                self.attribute(at, attribute);
                match arguments.first() {
                    Some(module @ Value::Module(_)) => {
                        self.reaches(at, attribute);
                        return module.clone().attribute(attribute);
                    }
                    Some(other) if attribute != "__dict__" => return other.clone().attribute(attribute),
                    _ => return Value::Names,
                }
            }
            (Value::Of(module, name), _)
                if **module == Value::Module("operator".into()) && (name == "attrgetter" || name == "methodcaller") =>
            {
                for path in arguments.iter().filter_map(Value::text) {
                    path.split('.').for_each(|attribute| self.attribute(at, attribute));
                }
            }
            (Value::Of(form, name), _) if name == "format" || name == "format_map" => {
                if let Value::Text(form) = &**form {
                    self.form(at, form);
                }
            }
            (Value::Builtin(name), _) if name == "format" => {}
            (Value::Of(names, name), _)
                if **names == Value::Names && matches!(name.as_str(), "get" | "pop" | "setdefault" | "__getitem__") =>
            {
                self.key(at, arguments.first());
            }
            _ => {}
        }
        self.charge(arguments.iter().map(Value::weight).sum());
        of.called(&arguments)
    }

    /// The attributes that a format reads of what it is given.
    fn form(&mut self, at: usize, form: &str) {
        for field in form.split('{').skip(1) {
            let field = field.split(['}', ':', '!']).next().unwrap_or_default();
            for attribute in field.split(['.', '[', ']']).skip(1) {
                self.attribute(at, attribute);
            }
        }
    }

    /// A name that is taken out of a dictionary of names.
    fn key(&mut self, at: usize, key: Option<&Value>) {
        if let Some(name) = key.and_then(Value::text) {
            self.builtin(at, name);
            self.attribute(at, name);
            if !self.bound.contains(name) {
                self.reaches(at, name);
            }
        }
    }

    fn index(&mut self, at: usize, of: Value, all: &[Item]) -> Value {
        let [item] = all else {
            for item in all {
                self.item(item);
            }
            return Value::Unknown;
        };
        let mut slices = Vec::new();
        for slice in item.value.parts.split(|part| matches!(part, Part::Sign(":"))) {
            slices.push(if slice.is_empty() { None } else { Some(self.parts(slice)) });
        }
        if of == Value::Names {
            self.key(at, slices.first().and_then(Option::as_ref));
        }
        self.charge(of.weight());
        of.index(&slices)
    }
}
