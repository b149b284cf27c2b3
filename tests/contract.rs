//! Golden files: what the public sees may change only together with its file. `UPDATE_GOLDEN=1` writes them.

use std::path::Path;

use sandkeep::policy::explain;
use sandkeep::spec::Level;

fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{name} differs; UPDATE_GOLDEN=1 writes what is now:\n{actual}");
}

#[test]
fn explain_says_what_each_level_means() {
    for level in Level::ALL {
        golden(&format!("explain-{level}.txt"), &explain(level));
    }
}
