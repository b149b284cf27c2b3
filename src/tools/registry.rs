//! Which tools there are, in which versions.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::definition::{AnyTool, FrontTool, Tool, Typed, TypedFront};
use super::version::{Version, Wanted};

/// Versions of all tools together: what a listing holds, and what a caller must read through.
pub const TOOLS_MAX: usize = 1024;

/// One tool in one version. A call keeps the one that it began with.
pub type Registered = Arc<dyn AnyTool>;

/// The tools of this daemon. Readers take the table as it is; whoever changes it puts another in its place.
pub struct Registry {
    table: RwLock<Arc<Table>>,
}

/// The tools at one moment.
#[derive(Default)]
pub struct Table {
    /// Newest first, never empty. Names in the order in which they were first registered are not kept: a listing is sorted.
    by_name: BTreeMap<String, Vec<Registered>>,
    /// Renderings of the whole listing, made when first asked for.
    listings: [OnceLock<Arc<[u8]>>; 5],
}

/// Why a tool was not registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    #[error("{name}@{version} is registered already")]
    Exists { name: String, version: Version },
    #[error("no more than {TOOLS_MAX} tools can be registered")]
    Full,
}

impl Table {
    /// The newest version of what `name` means; one that is deprecated only where no other is meant.
    pub fn get(&self, name: &str) -> Option<&Registered> {
        let wanted = Wanted::parse(name)?;
        let mut fits = self.by_name.get(wanted.name)?.iter().filter(|tool| wanted.fits(tool.about().version));
        let first = fits.next()?;
        if first.about().deprecated.is_none() {
            return Some(first);
        }
        Some(fits.find(|tool| tool.about().deprecated.is_none()).unwrap_or(first))
    }

    /// Every version of `name`, newest first.
    pub fn versions(&self, name: &str) -> &[Registered] {
        self.by_name.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every tool once, as a caller who names no version gets it, by name.
    pub fn newest(&self) -> impl Iterator<Item = &Registered> {
        self.by_name.keys().filter_map(|name| self.get(name))
    }

    pub fn len(&self) -> usize {
        self.by_name.values().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The rendering of the whole listing in the place `slot`, made by `render` for the first who asks.
    pub(super) fn listing(&self, slot: usize, render: impl FnOnce(&Self) -> Vec<u8>) -> Arc<[u8]> {
        Arc::clone(self.listings[slot].get_or_init(|| render(self).into()))
    }

    /// The same tools with `tool`.
    pub fn with(&self, tool: Registered) -> Result<Self, RegisterError> {
        let mut next = self.copy();
        next.add(tool)?;
        Ok(next)
    }

    /// The same tools but those that `goes`.
    pub fn without(&self, goes: impl Fn(&dyn AnyTool) -> bool) -> Self {
        let mut next = self.copy();
        next.by_name.values_mut().for_each(|versions| versions.retain(|tool| !goes(&**tool)));
        next.by_name.retain(|_, versions| !versions.is_empty());
        next
    }

    /// The same tools; renderings are made anew.
    pub(super) fn copy(&self) -> Self {
        Self { by_name: self.by_name.clone(), listings: Default::default() }
    }

    pub(super) fn add(&mut self, tool: Registered) -> Result<(), RegisterError> {
        if self.len() >= TOOLS_MAX {
            return Err(RegisterError::Full);
        }
        let (name, version) = (tool.about().name.clone(), tool.about().version);
        let versions = self.by_name.entry(name.clone()).or_default();
        match versions.binary_search_by(|other| version.cmp(&other.about().version)) {
            Ok(_) => Err(RegisterError::Exists { name, version }),
            Err(at) => {
                versions.insert(at, tool);
                Ok(())
            }
        }
    }
}

impl Registry {
    /// Everything that this version offers by itself.
    pub fn built_in() -> Self {
        let mut table = Table::default();
        let mut add = |tool| table.add(tool).expect("built-in tools have names of their own");
        add(typed(super::bash::Bash));
        add(typed(super::python::Python));
        add(typed(super::code::PythonCodeExecutor));
        add(typed(super::code::CodeExecutor));
        add(typed(super::files::ReadFile));
        add(typed(super::files::WriteFile));
        add(typed(super::files::ListDirectory));
        add(in_front(super::hash::HashText));
        add(in_front(super::analyze::DataAnalyzer));
        add(in_front(super::http::HttpRequest));
        add(in_front(super::search::WebSearch));
        Self { table: RwLock::new(Arc::new(table)) }
    }

    /// The tools as they are now.
    pub fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn get(&self, name: &str) -> Option<Registered> {
        self.table().get(name).cloned()
    }

    /// Puts what `change` makes of the table in its place; nobody else changes it meanwhile.
    pub fn change<E>(&self, change: impl FnOnce(&Table) -> Result<Table, E>) -> Result<(), E> {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        *table = Arc::new(change(&table)?);
        Ok(())
    }

    pub fn register(&self, tool: Registered) -> Result<(), RegisterError> {
        self.change(|table| table.with(tool))
    }
}

/// A tool in its own types as one of the registry's.
pub fn typed<T: Tool>(tool: T) -> Registered {
    Arc::new(Typed::new(tool))
}

/// The same of one that needs no sandbox.
pub fn in_front<T: FrontTool>(tool: T) -> Registered {
    Arc::new(TypedFront::new(tool))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::definition::{About, Deprecated};
    use serde_json::{Value, json};

    fn violations(tool: &str, parameters: Value) -> Vec<(String, String)> {
        let Value::Object(parameters) = parameters else { panic!() };
        let tool = Registry::built_in().get(tool).unwrap();
        let found = match tool.schema().accept(parameters) {
            Ok(parameters) => tool.work(parameters).err().unwrap_or_default(),
            Err(found) => found,
        };
        found.into_iter().map(|v| (v.pointer, v.message)).collect()
    }

    struct Other(Version, Option<Deprecated>);

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nothing {}

    impl Tool for Other {
        type Input = Nothing;
        type Output = Value;

        fn about(&self) -> About {
            About { deprecated: self.1.clone(), ..About::new("other", "Another one.", self.0) }
        }

        fn job(&self, _: Nothing) -> crate::tools::plan::Job {
            unreachable!("it is not run here")
        }

        fn shape(&self, _: crate::tools::finish::Finished) -> crate::tools::Shaped<Value> {
            unreachable!("it is not run here")
        }
    }

    #[test]
    fn versions_stand_side_by_side_and_the_newest_is_meant() {
        let registry = Registry::built_in();
        for version in [Version(1, 9, 0), Version(1, 10, 0), Version(2, 0, 0)] {
            registry.register(typed(Other(version, None))).unwrap();
        }
        let again = registry.register(typed(Other(Version(1, 9, 0), None)));
        assert!(matches!(again, Err(RegisterError::Exists { .. })));
        let found = |name: &str| registry.get(name).map(|tool| tool.about().version.to_string());
        assert_eq!(found("other").as_deref(), Some("2.0.0"));
        assert_eq!(found("other@1").as_deref(), Some("1.10.0"));
        assert_eq!(found("other@1.9").as_deref(), Some("1.9.0"));
        assert_eq!(found("other@1.9.1"), None);
        assert_eq!(found("other@3"), None);
        assert_eq!(registry.table().newest().filter(|tool| tool.about().name == "other").count(), 1);
        // A newer one that nobody should use yet, or any more, is had by its number alone.
        let deprecated = Deprecated { since: "2026-01-01".parse().unwrap(), sunset: None, message: None };
        registry.register(typed(Other(Version(3, 0, 0), Some(deprecated)))).unwrap();
        assert_eq!(found("other").as_deref(), Some("2.0.0"));
        assert_eq!(found("other@3").as_deref(), Some("3.0.0"));
        registry.change::<()>(|table| Ok(table.without(|tool| tool.about().version < Version(3, 0, 0)))).unwrap();
        assert_eq!(found("other").as_deref(), Some("3.0.0"));
        assert_eq!(found("bash"), None);
    }

    #[test]
    fn a_listing_is_of_its_own_table() {
        use crate::tools::listing::Format;
        let registry = Registry::built_in();
        for format in Format::ALL {
            let before = format.listing(&registry.table());
            let text = String::from_utf8(before.to_vec()).unwrap();
            assert!(text.contains("bash") && !text.contains("Another one."), "{text}");
        }
        registry.register(typed(Other(Version(1, 0, 0), None))).unwrap();
        for format in Format::ALL {
            let text = String::from_utf8(format.listing(&registry.table()).to_vec()).unwrap();
            assert!(text.contains("Another one."), "{text}");
        }
    }

    #[test]
    fn every_violation_is_named_in_the_contracts_words() {
        let found = violations("bash", json!({ "command": "df", "timeout": 301, "tiemout": 1, "env": {"A": 1} }));
        assert!(found.contains(&("/parameters/timeout".into(), "301 is greater than the maximum of 300".into())));
        assert!(found.contains(&("/parameters/tiemout".into(), "is not a parameter".into())));
        assert!(found.iter().any(|(p, _)| p == "/parameters/env/A"), "{found:?}");
        assert_eq!(found.len(), 3);
        assert_eq!(violations("bash", json!({})), [("/parameters/command".into(), "is required".into())]);
        for timeout in [json!(0), json!(-1), json!(1e308), json!("5"), json!([1]), json!(true)] {
            let found = violations("python", json!({ "code": "1", "timeout": timeout }));
            assert_eq!(found.len(), 1, "{timeout}");
            assert_eq!(found[0].0, "/parameters/timeout");
        }
    }

    #[test]
    fn what_exec_could_not_carry_is_refused_by_name() {
        let long = "x".repeat(5000);
        for (parameters, pointer) in [
            (json!({ "command": "a\0b" }), "/parameters/command"),
            (json!({ "command": "x".repeat(1024 * 1024 + 1) }), "/parameters/command"),
            (json!({ "command": "é".repeat(1024 * 1024 - 1) }), "/parameters/command"),
            (json!({ "command": "a", "working_dir": "a\0" }), "/parameters/working_dir"),
            (json!({ "command": "a", "working_dir": "" }), "/parameters/working_dir"),
            (json!({ "command": "a", "working_dir": long }), "/parameters/working_dir"),
            (json!({ "command": "a", "env": { "A": "\0" } }), "/parameters/env/A"),
            (json!({ "command": "a", "env": { "A": "x".repeat(49_152) } }), "/parameters/env"),
            (json!({ "command": "a", "env": { "A=B": "" } }), "/parameters/env/A=B"),
            (json!({ "command": "a", "env": { "a/~": "" } }), "/parameters/env/a~1~0"),
        ] {
            let found = violations("bash", parameters);
            assert_eq!(found.len(), 1, "{pointer}: {found:?}");
            assert_eq!(found[0].0, pointer, "{found:?}");
            assert!(found[0].1.len() < 300);
        }
        let found = violations("bash", json!({ "command": "a", "env": { long: "" } }));
        assert!(found[0].0.len() < 300, "{found:?}");
        assert_eq!(violations("python", json!({ "code": "a\0" }))[0].0, "/parameters/code");
    }

    #[test]
    fn a_message_never_repeats_a_long_value() {
        let found = violations("bash", json!({ "command": "a", "timeout": "x".repeat(100_000) }));
        assert!(found[0].1.len() < 300, "{}", found[0].1.len());
    }
}
