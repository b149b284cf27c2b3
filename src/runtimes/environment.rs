//! The environment of a command.

use std::path::PathBuf;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What every command sees: the contract's variables, with the operator's runtime directories behind the system's in
/// PATH (each directory's `bin`, then the directory itself), and over them the caller's own.
///
/// The caller's names are checked later, by `spec::Command`.
pub fn environment(directories: &[PathBuf], caller: &[(String, String)]) -> Vec<(String, String)> {
    let mut path = PATH.to_owned();
    for directory in directories {
        for dir in [directory.join("bin"), directory.clone()] {
            path.push(':');
            path.push_str(&dir.to_string_lossy());
        }
    }
    let base = [("PATH", path.as_str()), ("HOME", super::WORKSPACE), ("LANG", "C.UTF-8"), ("TMPDIR", "/tmp")];
    let mut env: Vec<(String, String)> = base
        .into_iter()
        .filter(|(name, _)| caller.iter().all(|(own, _)| own != name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    env.extend_from_slice(caller);
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_names_win_and_runtime_directories_come_last() {
        let env = environment(&["/opt/node".into()], &[("HOME".into(), "/tmp".into()), ("A".into(), "1".into())]);
        let get = |n: &str| env.iter().filter(|(k, _)| k == n).map(|(_, v)| v.as_str()).collect::<Vec<_>>();
        assert_eq!(get("PATH"), [format!("{PATH}:/opt/node/bin:/opt/node")]);
        assert_eq!(get("HOME"), ["/tmp"]);
        assert_eq!(get("A"), ["1"]);
        assert_eq!(get("LANG"), ["C.UTF-8"]);
    }
}
