//! Language tags: as much of BCP 47 as search engines know, a language, a script and a region.

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Language {
    language: String,
    script: Option<String>,
    region: Option<String>,
}

impl Language {
    pub(super) const PATTERN: &str = "^[A-Za-z]{2,3}(-[A-Za-z]{4})?(-[A-Za-z]{2})?$";

    /// Of a text that the pattern fits.
    pub(super) fn parse(tag: &str) -> Option<Self> {
        let mut parts = tag.split('-').peekable();
        let alphabetic = |part: &&str| part.bytes().all(|b| b.is_ascii_alphabetic());
        let language = parts.next().filter(alphabetic).filter(|part| (2..=3).contains(&part.len()))?;
        let script = parts.next_if(|part| part.len() == 4 && alphabetic(part));
        let region = parts.next_if(|part| part.len() == 2 && alphabetic(part));
        if parts.next().is_some() {
            return None;
        }
        Some(Self {
            language: language.to_ascii_lowercase(),
            script: script.map(str::to_ascii_lowercase),
            region: region.map(str::to_ascii_uppercase),
        })
    }

    /// In small letters.
    pub(super) fn language(&self) -> &str {
        &self.language
    }

    /// In capitals.
    pub(super) fn region(&self) -> Option<&str> {
        self.region.as_deref()
    }

    pub(super) fn is_traditional_chinese(&self) -> bool {
        match self.script.as_deref() {
            Some(script) => script == "hant",
            None => matches!(self.region(), Some("TW" | "HK" | "MO")),
        }
    }

    /// For those who know no scripts: where the script makes a difference, the region tells it.
    pub(super) fn with_region(&self, separator: &str) -> String {
        let implied = match (self.language(), self.script.as_deref()) {
            ("zh", Some("hant")) => Some("TW"),
            ("zh", Some("hans")) => Some("CN"),
            _ => None,
        };
        match self.region().or(implied) {
            Some(region) => format!("{}{separator}{region}", self.language),
            None => self.language.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_read_whatever_their_case() {
        let shown = |tag| Language::parse(tag).map(|l| l.with_region("-"));
        for (tag, expected) in
            [("de", "de"), ("EN-us", "en-US"), ("zh-Hant", "zh-TW"), ("zh-hans-HK", "zh-HK"), ("sr-Latn", "sr")]
        {
            assert_eq!(shown(tag).as_deref(), Some(expected), "{tag}");
        }
        for tag in ["", "e", "deutsch", "de_DE", "de-", "de-D", "de-DE-x", "d1", "all", "en-001"] {
            assert_eq!(Language::parse(tag).is_some(), tag == "all", "{tag}");
        }
        assert!(Language::parse("zh-HK").unwrap().is_traditional_chinese());
        assert!(!Language::parse("zh-Hans-HK").unwrap().is_traditional_chinese());
    }
}
