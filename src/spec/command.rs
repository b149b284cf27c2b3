//! A command as a sandbox sees it.

/// The whole environment of a command, names and values together.
pub const ENV_BYTES_MAX: usize = 48 * 1024;
const ARGV_MAX: usize = 256;
const ARGV_BYTES_MAX: usize = 32 * 1024;
const CWD_BYTES_MAX: usize = 4096;
/// Descriptors beyond stdin, stdout and stderr (code, results).
pub const EXTRA_FDS_MAX: usize = 4;

/// What to run: inside paths only, the program looked up in `PATH` of `env` when it holds no slash.
///
/// A caller's code is never in `argv`: it travels as a sealed memfd among the extra descriptors, which the command
/// finds at 3 and up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    cwd: String,
    extra_fds: usize,
}

/// Why a command can not be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("a command needs between 1 and {ARGV_MAX} arguments of {ARGV_BYTES_MAX} bytes in all")]
    Argv,
    #[error("environment variable {0:?} is not a name of letters, digits and '_' that begins with no digit")]
    EnvName(String),
    #[error("the environment is larger than {ENV_BYTES_MAX} bytes")]
    EnvSize,
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    #[error("the working directory must be an absolute path of at most {CWD_BYTES_MAX} bytes")]
    Cwd,
    #[error("at most {EXTRA_FDS_MAX} descriptors can be passed")]
    Fds,
}

impl Command {
    pub fn new(
        argv: Vec<String>,
        env: Vec<(String, String)>,
        cwd: String,
        extra_fds: usize,
    ) -> Result<Self, CommandError> {
        if argv.is_empty()
            || argv[0].is_empty()
            || argv.len() > ARGV_MAX
            || argv.iter().map(String::len).sum::<usize>() > ARGV_BYTES_MAX
        {
            return Err(CommandError::Argv);
        }
        if argv.iter().any(|a| a.contains('\0')) {
            return Err(CommandError::Nul("an argument"));
        }
        for (name, value) in &env {
            if !is_env_name(name) {
                return Err(CommandError::EnvName(super::capped(name, 64)));
            }
            if value.contains('\0') {
                return Err(CommandError::Nul("an environment variable"));
            }
        }
        if env.iter().map(|(n, v)| n.len() + v.len() + 2).sum::<usize>() > ENV_BYTES_MAX {
            return Err(CommandError::EnvSize);
        }
        if !cwd.starts_with('/') || cwd.len() > CWD_BYTES_MAX {
            return Err(CommandError::Cwd);
        }
        if cwd.contains('\0') {
            return Err(CommandError::Nul("the working directory"));
        }
        if extra_fds > EXTRA_FDS_MAX {
            return Err(CommandError::Fds);
        }
        Ok(Self { argv, env, cwd, extra_fds })
    }

    pub fn argv(&self) -> &[String] {
        &self.argv
    }

    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    pub fn cwd(&self) -> &str {
        &self.cwd
    }

    /// How many descriptors follow stdin, stdout and stderr.
    pub fn extra_fds(&self) -> usize {
        self.extra_fds
    }
}

/// POSIX's form of a variable's name (XBD 8.1), so that no shell inside refuses it.
fn is_env_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() <= 256
        && bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(argv: &[&str], env: &[(&str, &str)], cwd: &str) -> Result<Command, CommandError> {
        Command::new(
            argv.iter().map(|s| s.to_string()).collect(),
            env.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect(),
            cwd.into(),
            0,
        )
    }

    #[test]
    fn refuses_what_exec_would_cut_short_or_a_shell_would_misread() {
        assert!(command(&["bash"], &[("A_1", "x=y")], "/workspace").is_ok());
        assert_eq!(command(&[], &[], "/"), Err(CommandError::Argv));
        assert_eq!(command(&["a\0b"], &[], "/"), Err(CommandError::Nul("an argument")));
        assert_eq!(command(&["a"], &[("1A", "")], "/"), Err(CommandError::EnvName("1A".into())));
        assert_eq!(command(&["a"], &[("A=B", "")], "/"), Err(CommandError::EnvName("A=B".into())));
        assert_eq!(command(&["a"], &[("A", "\0")], "/"), Err(CommandError::Nul("an environment variable")));
        assert_eq!(command(&["a"], &[], "workspace"), Err(CommandError::Cwd));
        let big = "x".repeat(ENV_BYTES_MAX);
        assert_eq!(command(&["a"], &[("A", &big)], "/"), Err(CommandError::EnvSize));
    }
}
