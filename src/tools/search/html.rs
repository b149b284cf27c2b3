//! Text out of what may be HTML: tags away, character references read, nothing in it that is not to be seen.

use html5gum::{DefaultEmitter, StartTag, Token, Tokenizer};

/// Their content is for programs.
const HIDDEN: [&str; 3] = ["script", "style", "template"];
/// What a reader sees as a gap.
const GAPS: [&str; 16] =
    ["br", "p", "div", "li", "ul", "ol", "td", "th", "tr", "h1", "h2", "h3", "h4", "hr", "dd", "dt"];
/// HTML's elements and what is left of its past, beside those above: other words in angle brackets are somebody's text, such as
/// the types in `Vec<Option<T>>`.
const ELEMENTS: [&str; 76] = [
    "a",
    "abbr",
    "address",
    "area",
    "article",
    "aside",
    "audio",
    "b",
    "base",
    "bdi",
    "bdo",
    "big",
    "blockquote",
    "body",
    "button",
    "canvas",
    "caption",
    "center",
    "cite",
    "code",
    "del",
    "details",
    "dfn",
    "dialog",
    "dl",
    "em",
    "embed",
    "fieldset",
    "figcaption",
    "figure",
    "font",
    "footer",
    "form",
    "frame",
    "h5",
    "h6",
    "head",
    "header",
    "html",
    "i",
    "iframe",
    "img",
    "input",
    "ins",
    "kbd",
    "label",
    "link",
    "main",
    "mark",
    "math",
    "meta",
    "nav",
    "noscript",
    "object",
    "option",
    "picture",
    "pre",
    "q",
    "s",
    "samp",
    "section",
    "select",
    "small",
    "source",
    "span",
    "strike",
    "strong",
    "sub",
    "summary",
    "sup",
    "svg",
    "table",
    "textarea",
    "u",
    "video",
    "wbr",
];

/// Of text and tags, for each character that is kept: more is not looked at.
const LOOKED_AT: usize = 20;

/// The parts of `html`, as a browser's tokenizer has them.
pub(super) fn tokens(html: &str) -> impl Iterator<Item = Token> + '_ {
    let mut emitter = DefaultEmitter::default();
    emitter.naively_switch_states(true);
    // Reading from memory does not fail.
    Tokenizer::new_with_emitter(html, emitter).map_while(Result::ok)
}

pub(super) fn attribute(tag: &StartTag<()>, name: &str) -> Option<String> {
    let found = tag.attributes.iter().find(|(key, _)| key.0 == name.as_bytes());
    found.map(|(_, value)| String::from_utf8_lossy(&value.0).into_owned())
}

pub(super) fn has_class(tag: &StartTag<()>, class: &str) -> bool {
    attribute(tag, "class").is_some_and(|all| all.split_ascii_whitespace().any(|one| one == class))
}

/// What a reader of `text` would see, in one line of at most `most` characters.
pub(super) fn plain(text: &str, most: usize) -> String {
    let is = |names: &[&str], name: &[u8]| names.iter().any(|one| one.as_bytes() == name);
    let end = text.char_indices().nth(most * LOOKED_AT).map_or(text.len(), |(at, _)| at);
    let mut seen = String::new();
    let mut hidden: Option<Vec<u8>> = None;
    for token in tokens(&text_kept(&text[..end])) {
        match token {
            Token::StartTag(tag) => {
                if hidden.is_none() && is(&HIDDEN, &tag.name.0) {
                    hidden = Some(tag.name.0.clone());
                }
                if is(&GAPS, &tag.name.0) {
                    seen.push(' ');
                }
            }
            Token::EndTag(tag) => {
                if hidden.as_ref() == Some(&tag.name.0) {
                    hidden = None;
                }
                if is(&GAPS, &tag.name.0) {
                    seen.push(' ');
                }
            }
            Token::String(text) if hidden.is_none() => seen += &String::from_utf8_lossy(&text.0),
            _ => {}
        }
    }
    one_line(&seen, most)
}

/// `text` with every `<` that begins no tag of HTML's written as a character reference.
fn text_kept(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let (before, from) = rest.split_at(at);
        kept += before;
        kept += if begins_tag(&from[1..]) { "<" } else { "&lt;" };
        rest = &from[1..];
    }
    kept + rest
}

fn begins_tag(after: &str) -> bool {
    if after.starts_with("!--") {
        return true;
    }
    let name = after.strip_prefix('/').unwrap_or(after);
    let end = name.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(name.len());
    let (name, next) = name.split_at(end);
    let ends = next.starts_with(['>', '/']) || next.starts_with(|c: char| c.is_ascii_whitespace());
    // One capital is the name of a type more often than a tag.
    let is_type = name.len() == 1 && name.bytes().all(|b| b.is_ascii_uppercase());
    let known = || {
        let name = name.to_ascii_lowercase();
        [&HIDDEN[..], &GAPS, &ELEMENTS].iter().any(|names| names.contains(&name.as_str()))
    };
    ends && !is_type && known()
}

/// Without line breaks, control characters, and characters that only change how others are shown or can not be seen at all.
pub(super) fn one_line(text: &str, most: usize) -> String {
    let mut line = String::new();
    let mut count = 0;
    let mut gap = false;
    for c in text.chars() {
        if c.is_whitespace() || c.is_control() {
            gap = count > 0;
            continue;
        }
        if is_unseen(c) {
            continue;
        }
        if count + usize::from(gap) >= most {
            line.push('…');
            break;
        }
        if gap {
            line.push(' ');
            count += 1;
            gap = false;
        }
        line.push(c);
        count += 1;
    }
    line
}

/// Unicode's format characters that such texts have no honest use for: direction, joining, invisible operators, tags.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_a_reader_sees() {
        for (text, expected) in [
            ("plain", "plain"),
            ("  a\n\tb \r\n", "a b"),
            ("The <strong>Brave</strong> &amp; free&nbsp;&#39;web&#x27;", "The Brave & free 'web'"),
            ("one<br>two<p>three</p>", "one two three"),
            ("a<script>alert('<b>')</script>b<style>x{}</style>c", "abc"),
            ("x<!-- hidden -->y", "xy"),
            ("<img src=x onerror=alert(1)>caption", "caption"),
            // Not HTML.
            ("1 < 2 && 3 > 2", "1 < 2 && 3 > 2"),
            ("Vec<Option<T>> and HashMap<K, V>", "Vec<Option<T>> and HashMap<K, V>"),
            ("#include <stdio.h>", "#include <stdio.h>"),
            ("R&D; &copy 2024 &unknown;", "R&D; © 2024 &unknown;"),
            // What can not be seen.
            ("a\u{202e}b\u{200b}c\u{0}d\u{7}\u{e0041}", "abc d"),
            ("<script>never ends", ""),
            ("broken <b", "broken <b"),
            ("<<b>>x", "<>x"),
        ] {
            assert_eq!(plain(text, 100), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        assert_eq!(plain("äöü", 3), "äöü");
        assert_eq!(plain("äöüß", 3), "äöü…");
        assert_eq!(plain("ab cd", 3), "ab…");
        assert_eq!(plain("abc   ", 3), "abc");
        assert_eq!(plain(&"<b>".repeat(100_000), 3), "");
    }
}
