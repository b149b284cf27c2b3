//! What programs print of which the output hangs on nothing but arguments and standard input.

use data_encoding::{BASE32, BASE64, HEXLOWER_PERMISSIVE};

use super::lex::{Escapes, escape};
use super::value::{Origin, Text};

/// `None`: it is not one of these, or does more than is known here.
pub(super) fn printed(program: &str, arguments: &[Text], stdin: &Text) -> Option<Text> {
    let constant: Option<Vec<String>> = arguments.iter().map(Text::constant).collect();
    let made = match program {
        "echo" => return Some(echo(arguments)),
        "printf" => return Some(printf(arguments)),
        "which" => match arguments {
            [name] => {
                name.constant().filter(|name| !name.starts_with(['-', '/'])).map(|name| format!("/usr/bin/{name}\n"))
            }
            _ => None,
        },
        "true" | ":" | "false" | "sleep" | "mkdir" | "touch" | "chmod" => Some(String::new()),
        _ => {
            let text = stdin.constant();
            let arguments = constant?;
            let options: Vec<&str> = arguments.iter().map(String::as_str).collect();
            filtered(program, &options, text?)
        }
    };
    made.map(Text::known)
}

fn joined(arguments: &[Text]) -> Text {
    let mut all = Text::default();
    for (n, argument) in arguments.iter().enumerate() {
        if n > 0 {
            all.append(&Text::known(" "));
        }
        all.append(argument);
    }
    all
}

fn echo(arguments: &[Text]) -> Text {
    let is_option = |a: &&Text| {
        a.constant().is_some_and(|a| a.len() > 1 && a.starts_with('-') && a[1..].bytes().all(|b| b"neE".contains(&b)))
    };
    let options: String = arguments.iter().take_while(is_option).filter_map(Text::constant).collect();
    let count = arguments.iter().take_while(is_option).count();
    let mut all = joined(&arguments[count..]);
    if options.contains('e') {
        all = match all.constant() {
            Some(text) => Text::known(unescaped(&text, Escapes::Echo)),
            None => all,
        };
    }
    if !options.contains('n') {
        all.append(&Text::known("\n"));
    }
    all
}

fn unescaped(text: &str, kind: Escapes) -> String {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        if *byte == b'\\' {
            at += escape(&bytes[at..], kind, &mut out);
        } else {
            out.push(*byte);
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The format is used again for as long as there are arguments.
fn printf(arguments: &[Text]) -> Text {
    let skip = usize::from(arguments.first().and_then(Text::constant).as_deref() == Some("--"));
    let unknown = || Text::unknown(Origin { fetched: joined(arguments).is_fetched(), for_eval: false });
    let Some(format) = arguments.get(skip).and_then(Text::constant) else { return unknown() };
    let mut rest = &arguments[skip + 1..];
    let mut out = Text::default();
    const TURNS_MAX: usize = 256;
    for turn in 0..TURNS_MAX {
        let before = rest.len();
        let bytes = format.as_bytes();
        let (mut at, mut plain) = (0, Vec::new());
        while let Some(byte) = bytes.get(at) {
            at += 1;
            match byte {
                b'\\' => at += escape(&bytes[at..], Escapes::AnsiC, &mut plain),
                b'%' if bytes.get(at) == Some(&b'%') => {
                    plain.push(b'%');
                    at += 1;
                }
                b'%' => {
                    let flags = bytes[at..].iter().take_while(|b| b"-+ #0123456789.'*".contains(b)).count();
                    at += flags;
                    let kind = bytes.get(at).copied().unwrap_or(b's');
                    at += 1;
                    out.append(&Text::known(String::from_utf8_lossy(&std::mem::take(&mut plain))));
                    let Some((first, after)) = rest.split_first() else { continue };
                    rest = after;
                    match (kind, first.constant()) {
                        (b'b', Some(text)) => out.append(&Text::known(unescaped(&text, Escapes::Echo))),
                        (b'c', Some(text)) => {
                            out.append(&Text::known(text.chars().next().map(String::from).unwrap_or_default()));
                        }
                        (b'x', Some(text)) => {
                            out.append(
                                &text.parse::<i64>().map_or_else(|_| unknown(), |n| Text::known(format!("{n:x}"))),
                            );
                        }
                        _ => out.append(first),
                    }
                }
                other => plain.push(*other),
            }
        }
        out.append(&Text::known(String::from_utf8_lossy(&plain)));
        if rest.is_empty() || (rest.len() == before && turn > 0) || rest.len() == before {
            break;
        }
    }
    out
}

fn filtered(program: &str, options: &[&str], text: String) -> Option<String> {
    let bytes = |decoded: Vec<u8>| Some(String::from_utf8_lossy(&decoded).into_owned());
    let is_decoding = options.iter().any(|o| matches!(*o, "-d" | "-D" | "--decode" | "-di" | "-id"));
    let compact = || text.split_ascii_whitespace().collect::<String>();
    match program {
        "base64" if is_decoding => bytes(decoded(&BASE64, &compact())?),
        "base32" if is_decoding => bytes(decoded(&BASE32, &compact())?),
        "openssl" if options.contains(&"-d") && (options.contains(&"base64") || options.contains(&"-base64")) => {
            bytes(decoded(&BASE64, &compact())?)
        }
        "xxd"
            if options.iter().any(|o| o.starts_with('-') && o.contains('r'))
                && options.iter().any(|o| o.contains('p')) =>
        {
            bytes(HEXLOWER_PERMISSIVE.decode(compact().as_bytes()).ok()?)
        }
        "rev" => Some(text.lines().map(|line| line.chars().rev().collect::<String>() + "\n").collect()),
        "tr" => translated(options, &text),
        "cat" | "sort" | "uniq" | "head" | "tail" | "fold" | "xxd" if options.is_empty() => Some(text),
        _ => None,
    }
}

/// The part that can be decoded, as the programs themselves write it before they complain.
fn decoded(encoding: &data_encoding::Encoding, text: &str) -> Option<Vec<u8>> {
    let mut padded = text.to_owned();
    while !padded.len().is_multiple_of(4) {
        padded.push('=');
    }
    encoding.decode(padded.as_bytes()).or_else(|_| encoding.decode(text.as_bytes())).ok()
}

fn translated(options: &[&str], text: &str) -> Option<String> {
    match options {
        ["-d", set] => {
            let gone = set_of(set);
            Some(text.chars().filter(|c| !gone.contains(c)).collect())
        }
        [from, to] if !from.starts_with('-') => {
            let (from, to) = (set_of(from), set_of(to));
            let last = *to.last()?;
            let one = |c: char| from.iter().position(|f| *f == c).map_or(c, |at| to.get(at).copied().unwrap_or(last));
            Some(text.chars().map(one).collect())
        }
        _ => None,
    }
}

/// `a-zX` as the characters that it names.
fn set_of(text: &str) -> Vec<char> {
    let text = text.replace("[:upper:]", "A-Z").replace("[:lower:]", "a-z").replace("[:digit:]", "0-9");
    let chars: Vec<char> = unescaped(&text, Escapes::AnsiC).chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < chars.len() && out.len() < 1024 {
        if at + 2 < chars.len() && chars[at + 1] == '-' && chars[at].is_ascii() && chars[at + 2].is_ascii() {
            out.extend(chars[at]..=chars[at + 2]);
            at += 3;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}
