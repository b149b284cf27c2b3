//! Bytes as text: which encoding they are in, and back.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use data_encoding::BASE64;
use encoding_rs::{CoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// What a caller may ask for: a label of the Encoding Standard, or one of two words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// As found out from the bytes.
    Auto,
    Base64,
    As(&'static Encoding),
}

pub(super) const AUTO: &str = "auto";
pub(super) const BASE64_NAME: &str = "base64";

impl Wanted {
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            AUTO => Some(Self::Auto),
            BASE64_NAME => Some(Self::Base64),
            // The label exists so that decoders refuse.
            label => Encoding::for_label_no_replacement(label.as_bytes()).map(Self::As),
        }
    }
}

/// Bytes as a reply tells them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub content: String,
    /// In lower case; `base64` where they are no text.
    pub encoding: String,
    /// Of the bytes given, those that make up `content`: a character that was cut at their end is left out.
    pub bytes: usize,
}

/// `whole`: nothing comes after `bytes` in their file. `start`: nothing comes before them.
pub(super) fn decode(bytes: &[u8], wanted: Wanted, start: bool, whole: bool) -> Decoded {
    let encoding = match wanted {
        Wanted::Base64 => None,
        Wanted::As(encoding) => Some(encoding),
        Wanted::Auto => detect(bytes, start, whole),
    };
    let Some(encoding) = encoding else {
        return Decoded { content: BASE64.encode(bytes), encoding: BASE64_NAME.into(), bytes: bytes.len() };
    };
    let mark = match Encoding::for_bom(bytes) {
        Some((of, length)) if start && of == encoding => length,
        _ => 0,
    };
    let (content, read) = text(&bytes[mark..], encoding, whole);
    Decoded { content, encoding: encoding.name().to_lowercase(), bytes: mark + read }
}

/// What of `bytes` is whole characters.
fn text(bytes: &[u8], encoding: &'static Encoding, whole: bool) -> (String, usize) {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let room = decoder.max_utf8_buffer_length(bytes.len()).unwrap_or(bytes.len() * 3 + 16);
    let mut content = String::with_capacity(room);
    let (result, read, _) = decoder.decode_to_string(bytes, &mut content, whole);
    debug_assert_eq!(result, CoderResult::InputEmpty);
    if whole {
        return (content, read);
    }
    // The decoder keeps the beginning of a character to itself: it is what decoding shorter input does not change.
    let mut kept = read;
    for cut in 1..=3.min(read) {
        let mut shorter = encoding.new_decoder_without_bom_handling();
        let mut text = String::with_capacity(room);
        let _ = shorter.decode_to_string(&bytes[..read - cut], &mut text, false);
        if text.len() == content.len() {
            kept = read - cut;
        } else {
            break;
        }
    }
    (content, kept)
}

/// By its mark, by being UTF-8, by the zeros of UTF-16, or by what it looks like most; `None` where it is no text.
fn detect(bytes: &[u8], start: bool, whole: bool) -> Option<&'static Encoding> {
    if start && let Some((encoding, _)) = Encoding::for_bom(bytes) {
        return Some(encoding);
    }
    let utf8 = match std::str::from_utf8(bytes) {
        Ok(_) => true,
        // Only its last character is cut.
        Err(e) => !whole && e.error_len().is_none(),
    };
    if utf8 && !bytes.contains(&0) {
        return Some(UTF_8);
    }
    if let Some(encoding) = utf16(bytes) {
        return Some(encoding);
    }
    // Control characters that no text has.
    let is_binary = |b: &u8| matches!(b, 0..=8 | 14..=26 | 28..=31);
    if bytes.iter().filter(|b| is_binary(b)).count() > 0 {
        return None;
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    detector.feed(bytes, whole);
    let found = detector.guess(None, Utf8Detection::Allow);
    let (_, malformed) = found.decode_without_bom_handling(bytes);
    (!malformed || !whole).then_some(found)
}

/// Text in UTF-16 without a mark: in most languages' punctuation, digits and spaces one byte of two is zero, and the zeros
/// are all on the same side.
fn utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    let pairs = bytes.len() / 2;
    if pairs < 2 {
        return None;
    }
    let (pieces, _) = bytes.as_chunks::<2>();
    let first = pieces.iter().filter(|p| p[0] == 0 && p[1] != 0).count();
    let second = pieces.iter().filter(|p| p[0] != 0 && p[1] == 0).count();
    let both = pieces.iter().filter(|p| **p == [0, 0]).count();
    let encoding = match (first, second) {
        _ if both > 0 => return None,
        (0, n) if n * 4 >= pairs => UTF_16LE,
        (n, 0) if n * 4 >= pairs => UTF_16BE,
        _ => return None,
    };
    let (text, malformed) = encoding.decode_without_bom_handling(&bytes[..pairs * 2]);
    let is_text = !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\x0c'));
    (!malformed && is_text).then_some(encoding)
}

/// `content` in what was asked for; `Err`: why not.
pub(super) fn encode(content: &str, wanted: Wanted) -> Result<Vec<u8>, String> {
    match wanted {
        Wanted::Auto => Ok(content.as_bytes().to_vec()),
        Wanted::Base64 => BASE64.decode(content.as_bytes()).map_err(|e| format!("is not base64: {e}")),
        // Those two the Encoding Standard decodes and never encodes.
        Wanted::As(encoding) if encoding == UTF_16LE => Ok(content.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        Wanted::As(encoding) if encoding == UTF_16BE => Ok(content.encode_utf16().flat_map(u16::to_be_bytes).collect()),
        Wanted::As(encoding) => {
            let (bytes, _, unmappable) = encoding.encode(content);
            if unmappable {
                return Err(format!("holds a character that {} has not", encoding.name().to_lowercase()));
            }
            Ok(bytes.into_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUSSIAN: &str =
        "Съешь же ещё этих мягких французских булок, да выпей чаю. Широкая электрификация южных губерний.";
    const JAPANESE: &str =
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。";
    const CHINESE: &str = "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。";
    const TRADITIONAL: &str =
        "人人生而自由，在尊嚴和權利上一律平等。他們賦有理性和良心，並應以兄弟關係的精神互相對待。";
    const KOREAN: &str = "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 천부적으로 이성과 양심을 부여받았으며";
    const FRENCH: &str =
        "Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis. Élève à l'école, où êtes-vous ?";
    const POLISH: &str =
        "Zażółć gęślą jaźń. Pchnąć w tę łódź jeża lub ośm skrzyń fig. Wszyscy ludzie rodzą się wolni i równi.";
    const GREEK: &str = "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι.";

    #[test]
    fn ten_encodings_and_more_are_recognised() {
        for (label, sample) in [
            ("utf-8", RUSSIAN),
            ("utf-16le", FRENCH),
            ("utf-16be", FRENCH),
            ("windows-1252", FRENCH),
            ("windows-1251", RUSSIAN),
            ("koi8-u", RUSSIAN),
            ("shift_jis", JAPANESE),
            ("euc-jp", JAPANESE),
            ("gbk", CHINESE),
            ("big5", TRADITIONAL),
            ("euc-kr", KOREAN),
            ("windows-1250", POLISH),
            ("windows-1253", GREEK),
        ] {
            let bytes = encode(sample, Wanted::parse(label).unwrap()).unwrap();
            let decoded = decode(&bytes, Wanted::Auto, true, true);
            assert_eq!((decoded.encoding.as_str(), decoded.content.as_str()), (label, sample));
            assert_eq!(decoded.bytes, bytes.len());
        }
        for (mark, label) in [(&b"\xef\xbb\xbf"[..], "utf-8"), (b"\xff\xfe", "utf-16le"), (b"\xfe\xff", "utf-16be")] {
            let bytes = [mark, &encode(RUSSIAN, Wanted::parse(label).unwrap()).unwrap()].concat();
            let decoded = decode(&bytes, Wanted::Auto, true, true);
            assert_eq!((decoded.encoding.as_str(), decoded.content.as_str()), (label, RUSSIAN));
        }
    }

    #[test]
    fn what_is_no_text_is_base64() {
        for bytes in [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], b"\0\0\0\0", b"\x7fELF\x02\x01\x01\0", b"a\0b"] {
            assert_eq!(decode(bytes, Wanted::Auto, true, true).encoding, "base64", "{bytes:?}");
        }
        assert_eq!(
            decode(b"", Wanted::Auto, true, true),
            Decoded { content: "".into(), encoding: "utf-8".into(), bytes: 0 }
        );
        assert_eq!(decode(b"abc", Wanted::Base64, true, true).content, "YWJj");
    }

    #[test]
    fn a_character_that_is_cut_is_left_for_the_next_part() {
        for (label, sample) in [("utf-8", "añ€😀"), ("shift_jis", "吾輩"), ("utf-16le", "a😀b"), ("gb18030", "人a㐀")]
        {
            let wanted = Wanted::parse(label).unwrap();
            let bytes = encode(sample, wanted).unwrap();
            for cut in 0..=bytes.len() {
                let first = decode(&bytes[..cut], wanted, true, cut == bytes.len());
                let rest = decode(&bytes[first.bytes..], wanted, first.bytes == 0, true);
                assert_eq!(format!("{}{}", first.content, rest.content), sample, "{label} at {cut}");
                assert!(cut - first.bytes < 4);
            }
        }
    }

    #[test]
    fn what_can_not_be_written_is_refused() {
        let latin = Wanted::parse("iso-8859-1").unwrap();
        assert_eq!(encode("é", latin).unwrap(), [0xe9]);
        assert!(encode("吾", latin).is_err() && encode("!", Wanted::Base64).is_err());
        assert_eq!(
            (Wanted::parse("nonesuch"), Wanted::parse("replacement"), Wanted::parse("utf-7")),
            (None, None, None)
        );
    }
}
