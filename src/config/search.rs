//! Engines of the tool `web_search`: where each is asked, with which key, how long.
//!
//! Keys are read once, at the front's start, while root's directories can still be walked; a reload keeps them.

use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use fluent_uri::Uri;
use serde::{Deserialize, Serialize};

use super::source::is_roots;
use super::{ConfigError, file, keys};

const KEY_BYTES_MAX: u64 = 4096;
const URL_BYTES_MAX: usize = 2048;
const TIMEOUT_MS: u64 = 8_000;
/// The time of a call at its usual level: an engine that may take longer would take the others' answers along.
const TIMEOUT_MS_MAX: u64 = 30_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    Searxng,
    Brave,
    Tavily,
    Google,
    Duckduckgo,
}

impl EngineName {
    pub const ALL: [Self; 5] = [Self::Searxng, Self::Brave, Self::Tavily, Self::Google, Self::Duckduckgo];

    pub fn name(self) -> &'static str {
        match self {
            Self::Searxng => "searxng",
            Self::Brave => "brave",
            Self::Tavily => "tavily",
            Self::Google => "google",
            Self::Duckduckgo => "duckduckgo",
        }
    }

    /// Its table in the file.
    pub fn table(self) -> &'static str {
        match self {
            Self::Searxng => "search.searxng",
            Self::Brave => "search.brave",
            Self::Tavily => "search.tavily",
            Self::Google => "search.google",
            Self::Duckduckgo => "search.duckduckgo",
        }
    }

    /// What the operator must set for it, beside the table itself.
    pub fn needs(self) -> &'static str {
        match self {
            Self::Searxng => "url",
            Self::Brave | Self::Tavily => "key_file",
            Self::Google => "key_file and cx",
            Self::Duckduckgo => "nothing else",
        }
    }

    /// Where it is asked unless the operator says otherwise; nobody's SearXNG is everybody's.
    fn own_url(self) -> Option<&'static str> {
        match self {
            Self::Searxng => None,
            Self::Brave => Some("https://api.search.brave.com/res/v1/web/search"),
            Self::Tavily => Some("https://api.tavily.com/search"),
            Self::Google => Some("https://www.googleapis.com/customsearch/v1"),
            Self::Duckduckgo => Some("https://html.duckduckgo.com/html/"),
        }
    }

    fn has_key(self) -> bool {
        matches!(self, Self::Brave | Self::Tavily | Self::Google)
    }

    /// The credential that a service manager may pass instead of a key file.
    fn credential(self) -> String {
        format!("search-{}", self.name())
    }
}

/// What the operator has set up for `web_search`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Search {
    /// Asked where a call names none; all that are set up where the operator names none.
    default: Vec<EngineName>,
    engines: Vec<SearchEngine>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SearchEngine {
    pub name: EngineName,
    /// Absolute, http or https, without user, query and fragment.
    pub url: String,
    pub timeout_ms: u64,
    /// Google's number of a Programmable Search Engine.
    pub cx: Option<String>,
    pub key: Option<Secret>,
    key_file: Option<PathBuf>,
}

/// A text that nothing prints.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Search {
    /// The engine, where it can be asked: set up, and with its key.
    pub fn engine(&self, name: EngineName) -> Option<&SearchEngine> {
        self.engines.iter().find(|engine| engine.name == name && (engine.key.is_some() || !name.has_key()))
    }

    /// Those that can be asked.
    pub fn ready(&self) -> Vec<EngineName> {
        EngineName::ALL.into_iter().filter(|name| self.engine(*name).is_some()).collect()
    }

    /// Those that a call asks which names none.
    pub fn default_engines(&self) -> Vec<EngineName> {
        if self.default.is_empty() { self.ready() } else { self.default.clone() }
    }

    /// With the keys of all engines that need one. A table without a key is a mistake to hear of at start.
    pub(super) fn with_keys(mut self) -> Result<Self, ConfigError> {
        for engine in self.engines.iter_mut().filter(|engine| engine.name.has_key()) {
            engine.key = Some(engine.read_key()?);
        }
        Ok(self)
    }

    /// `next` with the keys that were read at start; the tables whose keys only a restart can read.
    pub(super) fn adopt(&self, mut next: Self) -> (Self, Vec<&'static str>) {
        let mut differs = Vec::new();
        for engine in next.engines.iter_mut().filter(|engine| engine.name.has_key()) {
            match self.engines.iter().find(|old| old.name == engine.name && old.key_file == engine.key_file) {
                Some(old) => engine.key = old.key.clone(),
                None => differs.push(engine.name.table()),
            }
        }
        (next, differs)
    }
}

impl SearchEngine {
    fn read_key(&self) -> Result<Secret, ConfigError> {
        let wrong =
            |message: String| ConfigError::Value { key: self.name.table(), message: format!("key_file: {message}") };
        let configured = self.key_file.clone();
        let path = configured.clone().or_else(|| keys::credential(&self.name.credential())).ok_or_else(|| {
            wrong(format!("is not set, and no credential {} was passed either", self.name.credential()))
        })?;
        let (text, metadata) =
            file::read(&path, KEY_BYTES_MAX).map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        // A credential's file belongs to whom it was passed to.
        if configured.is_some() && nix::unistd::geteuid().is_root() {
            if !is_roots(&metadata) {
                return Err(ConfigError::Owner { path });
            }
            if metadata.mode() & 0o004 != 0 {
                return Err(wrong(format!("{} can be read by everybody: give it mode 0600", path.display())));
            }
        }
        // It becomes a header. What it holds is in no message.
        match text.trim() {
            key if !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) => Ok(Secret(key.to_owned())),
            _ => Err(wrong(format!("{} holds no key: one line of visible characters is needed", path.display()))),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSearch {
    engines: Vec<EngineName>,
    timeout_ms: Option<u64>,
    searxng: Option<RawEngine>,
    brave: Option<RawEngine>,
    tavily: Option<RawEngine>,
    google: Option<RawEngine>,
    duckduckgo: Option<RawEngine>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawEngine {
    url: Option<String>,
    key_file: Option<PathBuf>,
    cx: Option<String>,
    timeout_ms: Option<u64>,
}

impl RawSearch {
    pub(super) fn validate(self) -> Result<Search, ConfigError> {
        let timeout_ms =
            super::raw::within("search.timeout_ms", self.timeout_ms.unwrap_or(TIMEOUT_MS), 100, TIMEOUT_MS_MAX)?;
        let tables = [self.searxng, self.brave, self.tavily, self.google, self.duckduckgo];
        let engines: Vec<SearchEngine> = EngineName::ALL
            .into_iter()
            .zip(tables)
            .filter_map(|(name, table)| table.map(|table| table.validate(name, timeout_ms)))
            .collect::<Result<_, _>>()?;
        let wrong = |message| Err(ConfigError::Value { key: "search.engines", message });
        for (at, name) in self.engines.iter().enumerate() {
            if self.engines[..at].contains(name) {
                return wrong(format!("{} is there twice", name.name()));
            }
            if engines.iter().all(|engine| engine.name != *name) {
                return wrong(format!("there is no [{}]", name.table()));
            }
        }
        Ok(Search { default: self.engines, engines })
    }
}

impl RawEngine {
    fn validate(self, name: EngineName, timeout_ms: u64) -> Result<SearchEngine, ConfigError> {
        let key = name.table();
        let wrong = |message: &str| Err(ConfigError::Value { key, message: message.to_owned() });
        let Some(url) = self.url.or(name.own_url().map(str::to_owned)) else {
            return wrong("url: is not set, such as \"http://127.0.0.1:8888\"");
        };
        if !is_base(&url) {
            return wrong("url: is no http or https URL without user, query and fragment");
        }
        if self.key_file.is_some() && !name.has_key() {
            return wrong("key_file: this engine takes no key");
        }
        if self.key_file.as_ref().is_some_and(|path| !path.is_absolute()) {
            return wrong("key_file: is no absolute path");
        }
        if self.cx.is_some() != (name == EngineName::Google) {
            return wrong(if name == EngineName::Google { "cx: is not set" } else { "cx: is Google's alone" });
        }
        let printable = |cx: &String| cx.len() <= 200 && !cx.is_empty() && cx.bytes().all(|b| b.is_ascii_graphic());
        if self.cx.as_ref().is_some_and(|cx| !printable(cx)) {
            return wrong("cx: is no number of a search engine");
        }
        let timeout_ms = super::raw::within(key, self.timeout_ms.unwrap_or(timeout_ms), 100, TIMEOUT_MS_MAX)?;
        Ok(SearchEngine { name, url, timeout_ms, cx: self.cx, key: None, key_file: self.key_file })
    }
}

fn is_base(text: &str) -> bool {
    let Ok(uri) = Uri::parse(text) else { return false };
    let http = ["http", "https"].iter().any(|scheme| uri.scheme().as_str().eq_ignore_ascii_case(scheme));
    let place = uri.authority().is_some_and(|authority| authority.userinfo().is_none() && !authority.host().is_empty());
    http && place && uri.query().is_none() && uri.fragment().is_none() && text.len() <= URL_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::*;
    use crate::config::{Config, Overrides};

    fn parse(text: &str) -> Result<Search, String> {
        let config = Config::parse(text, Path::new("t"), &Overrides::default());
        config.map(|config| config.search).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_set_up_is_what_can_be_asked() {
        let none = parse("").unwrap();
        assert_eq!((none.ready(), none.default_engines()), (vec![], vec![]));
        let some =
            parse("[search.duckduckgo]\n[search.searxng]\nurl = 'http://127.0.0.1:8888'\n[search.brave]\n").unwrap();
        // Brave's key was not read.
        assert_eq!(some.ready(), [EngineName::Searxng, EngineName::Duckduckgo]);
        assert_eq!(some.default_engines(), some.ready());
        assert_eq!(some.engine(EngineName::Searxng).unwrap().timeout_ms, TIMEOUT_MS);
        let one = parse("[search]\nengines = ['duckduckgo']\ntimeout_ms = 500\n[search.duckduckgo]\n").unwrap();
        assert_eq!(one.default_engines(), [EngineName::Duckduckgo]);
        assert_eq!(one.engine(EngineName::Duckduckgo).unwrap().timeout_ms, 500);
    }

    #[test]
    fn mistakes_name_their_table() {
        for (text, key) in [
            ("[search]\ntimeout_ms = 1", "search.timeout_ms"),
            ("[search]\nengines = ['brave']", "search.engines"),
            ("[search]\nengines = ['duckduckgo', 'duckduckgo']\n[search.duckduckgo]", "search.engines"),
            ("[search.searxng]", "search.searxng: url"),
            ("[search.searxng]\nurl = 'ftp://a'", "search.searxng: url"),
            ("[search.searxng]\nurl = 'http://a/?q'", "search.searxng: url"),
            ("[search.searxng]\nurl = 'http://user:word@a/'", "search.searxng: url"),
            ("[search.searxng]\nurl = 'http://a'\nkey_file = '/k'", "search.searxng: key_file"),
            ("[search.brave]\nkey_file = 'k'", "search.brave: key_file"),
            ("[search.brave]\ntimeout_ms = 99999", "search.brave"),
            ("[search.google]\nkey_file = '/k'", "search.google: cx"),
            ("[search.tavily]\ncx = '1'", "search.tavily: cx"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.starts_with(key), "{text}: {message}");
        }
        assert!(parse("[search.bing]").unwrap_err().contains("bing"));
    }

    #[test]
    fn keys_are_read_from_files_that_are_roots_alone_and_never_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("brave.key");
        let with = |text: &str, mode| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let search = parse(&format!("[search.brave]\nkey_file = {path:?}\n")).unwrap();
            search.with_keys().map_err(|e| e.to_string())
        };
        let read = with("BSA-secret\n", 0o600).unwrap();
        assert_eq!(read.engine(EngineName::Brave).unwrap().key.as_ref().unwrap().reveal(), "BSA-secret");
        assert!(!format!("{read:?}").contains("BSA"));
        for text in ["", "\n", "two secret words", "two\nsecrets"] {
            let message = with(text, 0o600).unwrap_err();
            assert!(message.starts_with("search.brave: key_file") && !message.contains("secret"), "{message}");
        }
        if nix::unistd::geteuid().is_root() {
            assert!(with("k", 0o644).unwrap_err().contains("0600"));
            assert!(with("k", 0o620).unwrap_err().contains("root"));
        }
        let missing = parse("[search.tavily]").unwrap().with_keys().unwrap_err().to_string();
        assert!(missing.contains("search-tavily"), "{missing}");
    }

    #[test]
    fn a_reload_keeps_keys_and_names_those_that_it_can_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "k").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let brave = format!("[search.brave]\nkey_file = {path:?}\n");
        let old = parse(&brave).unwrap().with_keys().unwrap();
        let next = parse(&format!("{brave}timeout_ms = 700\n[search.tavily]\n[search.duckduckgo]\n")).unwrap();
        let (now, differs) = old.adopt(next);
        assert_eq!(differs, ["search.tavily"]);
        assert_eq!(now.ready(), [EngineName::Brave, EngineName::Duckduckgo]);
        assert_eq!(now.engine(EngineName::Brave).unwrap().timeout_ms, 700);
    }
}
