//! What an expression comes to, where that is certain: texts that are put together of constants above all.

/// More is not followed.
const TEXT_MAX: usize = 4096;
const LIST_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unknown,
    Text(String),
    /// Each byte a character.
    Bytes(String),
    Int(i64),
    List(Vec<Value>),
    /// A builtin, by its name.
    Builtin(String),
    /// By its dotted name.
    Module(String),
    /// A dictionary of names: `globals()`, `x.__dict__`.
    Names,
    /// An attribute of something of the above, which may be called.
    Of(Box<Value>, String),
}

use Value::{Builtin, Bytes, Int, List, Module, Names, Of, Text, Unknown};

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it holds, about in bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Text(text) | Bytes(text) | Builtin(text) | Module(text) => 8 + text.len(),
            List(all) => all.iter().map(|one| 8 + one.weight()).sum(),
            Of(value, name) => 8 + value.weight() + name.len(),
            Unknown | Int(_) | Names => 8,
        }
    }

    /// Lists in lists are not followed: they could double with each line.
    pub(super) fn bounded(self) -> Self {
        match &self {
            List(all) if all.len() > LIST_MAX || all.iter().any(|one| matches!(one, List(_))) => Unknown,
            _ if self.weight() > 2 * TEXT_MAX => Unknown,
            _ => self,
        }
    }

    pub(super) fn attribute(self, name: &str) -> Self {
        match self {
            Module(module) => Of(Box::new(Module(module)), name.to_owned()),
            value @ (Text(_) | Bytes(_) | List(_) | Builtin(_) | Names) => Of(Box::new(value), name.to_owned()),
            Of(value, first) if matches!(*value, Module(_)) => Of(value, format!("{first}.{name}")),
            _ => Unknown,
        }
    }

    /// `left sign right`.
    pub(super) fn joined(self, sign: &str, right: Value) -> Self {
        match (self, sign, right) {
            (Text(a), "+", Text(b)) => Text(a + &b).bounded(),
            (Bytes(a), "+", Bytes(b)) => Bytes(a + &b).bounded(),
            (List(mut a), "+", List(b)) => {
                a.extend(b);
                List(a).bounded()
            }
            (Int(a), "+", Int(b)) => a.checked_add(b).map_or(Unknown, Int),
            (Int(a), "-", Int(b)) => a.checked_sub(b).map_or(Unknown, Int),
            (Int(a), "*", Int(b)) => a.checked_mul(b).map_or(Unknown, Int),
            (Int(a), "^", Int(b)) => Int(a ^ b),
            (Text(a), "*", Int(n)) | (Int(n), "*", Text(a)) if (0..64).contains(&n) => {
                if a.len() * n as usize > TEXT_MAX { Unknown } else { Text(a.repeat(n as usize)) }
            }
            (Text(form), "%", right) => percent(&form, right),
            _ => Unknown,
        }
    }

    pub(super) fn index(self, slices: &[Option<Value>]) -> Self {
        let int = |value: &Option<Value>| match value {
            Some(Int(n)) => Some(Some(*n)),
            None => Some(None),
            _ => None,
        };
        let is_text = matches!(self, Text(_));
        let remake = |all: Vec<Value>| if is_text { joined("", &all) } else { List(all) };
        let items: Vec<Value> = match self {
            Text(text) => text.chars().map(|c| Text(c.into())).collect(),
            List(all) => all,
            _ => return Unknown,
        };
        let length = items.len() as i64;
        match slices {
            [Some(Int(n))] => {
                let at = if *n < 0 { length + n } else { *n };
                usize::try_from(at).ok().and_then(|at| items.into_iter().nth(at)).unwrap_or(Unknown)
            }
            [from, to] | [from, to, None] => {
                let (Some(from), Some(to)) = (int(from), int(to)) else { return Unknown };
                let place = |n: i64| if n < 0 { (length + n).max(0) } else { n.min(length) };
                let (from, to) = (from.map_or(0, place), to.map_or(length, place));
                remake(items.into_iter().take(to.max(0) as usize).skip(from as usize).collect())
            }
            [None, None, Some(Int(-1))] => remake(items.into_iter().rev().collect()),
            [from, None, Some(Int(step @ 1..))] => {
                let Some(from) = int(from) else { return Unknown };
                let from = from.unwrap_or(0).max(0) as usize;
                remake(items.into_iter().skip(from).step_by(*step as usize).collect())
            }
            _ => Unknown,
        }
    }

    /// What calling it gives.
    pub(super) fn called(self, arguments: &[Value]) -> Self {
        match self {
            Builtin(name) => builtin(&name, arguments),
            Of(value, name) => method(*value, &name, arguments),
            _ => Unknown,
        }
        .bounded()
    }
}

fn joined(between: &str, all: &[Value]) -> Value {
    let texts: Option<Vec<&str>> = all.iter().map(Value::text).collect();
    let bytes = between.len() * all.len();
    texts.filter(|_| bytes <= TEXT_MAX).map_or(Unknown, |texts| Text(texts.join(between)))
}

fn shown(value: &Value) -> Option<String> {
    match value {
        Text(text) => Some(text.clone()),
        Int(n) => Some(n.to_string()),
        _ => None,
    }
}

fn percent(form: &str, right: Value) -> Value {
    let all = match right {
        List(all) => all,
        one => vec![one],
    };
    let mut made = String::new();
    let mut rest = form;
    let mut values = all.iter();
    while let Some((before, after)) = rest.split_once('%') {
        if made.len() > TEXT_MAX {
            return Unknown;
        }
        made.push_str(before);
        let mut chars = after.chars();
        match (chars.next(), values.as_slice().first()) {
            (Some('%'), _) => made.push('%'),
            (Some('s' | 'd'), Some(value)) => {
                let Some(text) = shown(value) else { return Unknown };
                made.push_str(&text);
                values.next();
            }
            (Some('c'), Some(Int(n))) => {
                made.extend(u32::try_from(*n).ok().and_then(char::from_u32));
                values.next();
            }
            _ => return Unknown,
        }
        rest = chars.as_str();
    }
    made.push_str(rest);
    Text(made).bounded()
}

fn builtin(name: &str, arguments: &[Value]) -> Value {
    match (name, arguments) {
        ("chr", [Int(n)]) => u32::try_from(*n).ok().and_then(char::from_u32).map_or(Unknown, |c| Text(c.into())),
        ("ord", [Text(text)]) => text.chars().next().map_or(Unknown, |c| Int(i64::from(u32::from(c)))),
        ("str", [value @ (Text(_) | Int(_))]) => shown(value).map_or(Unknown, Text),
        ("str", [Bytes(text), ..]) => Text(text.clone()),
        ("bytes" | "bytearray", [List(all)]) => {
            let byte = |value: &Value| match value {
                Int(n) => u8::try_from(*n).ok().map(char::from),
                _ => None,
            };
            all.iter().map(byte).collect::<Option<String>>().map_or(Unknown, Bytes)
        }
        ("bytes" | "bytearray", [Text(text), ..]) => Bytes(text.clone()),
        ("list" | "tuple" | "iter", [value]) => items(value).map_or(Unknown, List),
        ("reversed", [value]) => items(value).map_or(Unknown, |all| List(all.into_iter().rev().collect())),
        ("map", [function, value]) => {
            let Some(all) = items(value) else { return Unknown };
            if all.len() > LIST_MAX || !matches!(function, Builtin(_)) {
                return Unknown;
            }
            List(all.into_iter().map(|one| function.clone().called(&[one])).collect())
        }
        ("globals" | "locals" | "vars", _) => Names,
        ("repr", [Text(_)]) => Unknown,
        _ => Unknown,
    }
}

/// What a loop over `value` would see.
pub(super) fn items(value: &Value) -> Option<Vec<Value>> {
    match value {
        List(all) => Some(all.clone()),
        Text(text) => Some(text.chars().map(|c| Text(c.into())).collect()),
        Bytes(text) => Some(text.chars().map(|c| Int(i64::from(u32::from(c)))).collect()),
        _ => None,
    }
}

fn method(of: Value, name: &str, arguments: &[Value]) -> Value {
    match (of, name, arguments) {
        (Text(between), "join", [value]) => items(value).map_or(Unknown, |all| joined(&between, &all)),
        (Text(text), "replace", [Text(from), Text(to)]) if !from.is_empty() => {
            if text.len() * (1 + to.len()) > TEXT_MAX * 4 { Unknown } else { Text(text.replace(from.as_str(), to)) }
        }
        (Text(text), "lower" | "casefold", []) => Text(text.to_lowercase()),
        (Text(text), "upper", []) => Text(text.to_uppercase()),
        (Text(text), "swapcase", []) => Text(
            text.chars()
                .map(|c| if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() })
                .collect(),
        ),
        (Text(text), "strip", []) => Text(text.trim().to_owned()),
        (Text(text), "strip" | "lstrip" | "rstrip", [Text(set)]) => {
            let set: Vec<char> = set.chars().collect();
            Text(match name {
                "strip" => text.trim_matches(set.as_slice()).to_owned(),
                "lstrip" => text.trim_start_matches(set.as_slice()).to_owned(),
                _ => text.trim_end_matches(set.as_slice()).to_owned(),
            })
        }
        (Text(text), "split", []) => List(text.split_whitespace().map(|part| Text(part.into())).collect()),
        (Text(text), "split", [Text(by)]) if !by.is_empty() => {
            List(text.split(by.as_str()).map(|part| Text(part.into())).collect())
        }
        (Text(text), "encode", _) if text.is_ascii() => Bytes(text),
        (Bytes(text), "decode", _) if text.is_ascii() => Text(text),
        (Text(form), "format", values) => formatted(&form, values),
        (Builtin(kind), "fromhex", [Text(text)]) if kind == "bytes" || kind == "bytearray" => {
            let digits: String = text.split_whitespace().collect();
            let made = data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes());
            made.map_or(Unknown, |bytes| Bytes(bytes.into_iter().map(char::from).collect()))
        }
        (Builtin(kind), "join", [Text(between), value]) if kind == "str" => {
            items(value).map_or(Unknown, |all| joined(between, &all))
        }
        (Module(module), name, [Text(text) | Bytes(text)]) if module == "base64" => {
            let text: String = text.split_whitespace().collect();
            let made = match name {
                "b64decode" | "standard_b64decode" | "decodebytes" => {
                    data_encoding::BASE64_NOPAD.decode(text.trim_end_matches('=').as_bytes())
                }
                "urlsafe_b64decode" => data_encoding::BASE64URL_NOPAD.decode(text.trim_end_matches('=').as_bytes()),
                "b32decode" => data_encoding::BASE32.decode(text.as_bytes()),
                "b16decode" => data_encoding::HEXUPPER.decode(text.as_bytes()),
                _ => return Unknown,
            };
            made.map_or(Unknown, |bytes| Bytes(bytes.into_iter().map(char::from).collect()))
        }
        _ => Unknown,
    }
}

/// `form.format(…)` with nothing but `{}` and `{n}`.
fn formatted(form: &str, values: &[Value]) -> Value {
    let mut made = String::new();
    let mut rest = form;
    let mut next = 0;
    while let Some((before, after)) = rest.split_once('{') {
        if made.len() > TEXT_MAX {
            return Unknown;
        }
        made.push_str(before);
        let Some((field, after)) = after.split_once('}') else { return Unknown };
        let at = match field {
            "" => {
                next += 1;
                next - 1
            }
            number => match number.parse() {
                Ok(at) => at,
                Err(_) => return Unknown,
            },
        };
        let Some(text) = values.get(at).and_then(shown) else { return Unknown };
        made.push_str(&text);
        rest = after;
    }
    made.push_str(rest);
    Text(made).bounded()
}
