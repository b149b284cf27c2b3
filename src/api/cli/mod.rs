//! `sandkeep`, the command line: speaks HTTP to the daemon over its Unix socket.

mod client;
mod doctor;
mod exec;
mod explain;
mod pages;
mod show;
mod verify;
mod workspace;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use hyper::Method;
use serde_json::Value;

use crate::config::{DEFAULT_SOCKET, Overrides, Source, keys};
use crate::spec::{Level, WorkspaceName, escape_controls};
use client::{CliError, Client};

/// Names the socket where `--socket` does not.
const SOCKET_VARIABLE: &str = "SANDKEEP_SOCKET";
/// What the unit passes to the front as its credential.
const DEFAULT_KEYS: &str = "/etc/sandkeep/credentials/api-keys";
/// Nothing ran, as with `timeout(1)` and `docker run`.
const EXIT_REFUSED: u8 = 125;
const EXIT_USAGE: u8 = 2;

/// Run commands and code, each in a fresh sandbox.
#[derive(Parser)]
#[command(name = "sandkeep", version, about, max_term_width = 100)]
struct Cli {
    /// The daemon's socket [default: $SANDKEEP_SOCKET, then /run/sandkeep/sandkeep.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Print the daemon's reply as JSON, a failure as well
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a bash script or Python code; output and exit code are the command's own
    Exec(ExecArgs),
    /// Call any tool with parameters given as JSON, and print its result
    Call(CallArgs),
    /// List the tools
    Tools,
    /// Tell what this host and you can have
    Capabilities,
    /// Tell what this host lacks, which levels that costs and what mends it
    ///
    /// Asks the daemon for what its engine found. Where no daemon answers, or with --offline, root can have the same
    /// tried out without one: nothing is left behind, and a daemon that runs is not disturbed.
    Doctor(doctor::DoctorArgs),
    /// List executions that wait or run
    Ps,
    /// End an execution
    Kill {
        /// As `ps` shows it
        id: String,
    },
    /// Work on workspaces: directories that are kept between calls
    #[command(subcommand)]
    Workspace(workspace::WorkspaceCommand),
    /// Tell what a level means
    Explain {
        /// minimal, standard, strict or maximum
        level: Level,
    },
    /// Try every fence of every level on the live daemon; exit code 1 where one does not hold
    Verify(verify::VerifyArgs),
    /// Work on the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Work on API keys, for callers over TCP
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print a shell's completion script
    Completions { shell: pages::CompletionShell },
    /// Write all manual pages below a directory, as `man1/…`
    #[command(hide = true)]
    Man { dir: PathBuf },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Make a key for a [[principals]] entry and print it, once, with the line that lets it in
    New {
        /// Name of the entry
        principal: String,
    },
}

#[derive(Subcommand)]
enum ConfigCommand {
    /// Check a configuration file
    Check {
        /// [default: /etc/sandkeep/sandkeep.toml]
        file: Option<PathBuf>,
    },
}

#[derive(Args)]
struct ContextArgs {
    /// minimal, standard, strict or maximum
    #[arg(long)]
    level: Option<Level>,
    /// Seconds that the command may take
    #[arg(long, value_name = "SECONDS", value_parser = number)]
    timeout: Option<Value>,
    /// A directory that is kept between calls, in place of an empty one
    #[arg(long, value_name = "NAME")]
    workspace: Option<WorkspaceName>,
    /// A limit, such as max_memory_mb=64; may be given several times
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = limit)]
    limits: Vec<(String, Value)>,
}

#[derive(Args)]
struct ExecArgs {
    /// bash or python
    #[arg(value_parser = ["bash", "python"])]
    language: String,
    /// The script or code; `-` reads it from standard input
    code: String,
    /// bash: pass standard input on to the command
    #[arg(long)]
    stdin: bool,
    #[command(flatten)]
    context: ContextArgs,
}

#[derive(Args)]
struct CallArgs {
    tool: String,
    /// An object
    parameters: String,
    #[command(flatten)]
    context: ContextArgs,
}

fn limit(text: &str) -> Result<(String, Value), String> {
    let (name, number) = text.split_once('=').ok_or("must be NAME=NUMBER")?;
    Ok((name.to_owned(), self::number(number)?))
}

/// As written, so that the daemon's complaint repeats what was typed.
fn number(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(number @ Value::Number(_)) => Ok(number),
        _ => Err(format!("{text:?} is not a number")),
    }
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    match run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Where nothing can be written any more, nothing can be told either.
            let told = json && out(&format!("{:#}\n", error.json())).is_ok();
            if !told {
                eprintln!("sandkeep: {}", error.shown());
            }
            ExitCode::from(EXIT_REFUSED)
        }
    }
}

fn run(cli: Cli) -> Result<u8, CliError> {
    let client = || Client::new(socket(cli.socket.clone()));
    let json = cli.json;
    match cli.command {
        Command::Exec(args) => exec::exec(&client()?, args, json),
        Command::Call(args) => exec::call(&client()?, args, json),
        Command::Tools => {
            let reply = client()?.ask(Method::GET, "/api/v1/tools", None)?;
            print(json, &reply, show::tools)
        }
        Command::Capabilities => {
            let reply = client()?.ask(Method::GET, "/api/v1/capabilities", None)?;
            print(json, &reply, show::capabilities)
        }
        Command::Doctor(args) => doctor::doctor(&socket(cli.socket.clone()), &args, json),
        Command::Ps => {
            let reply = client()?.ask(Method::GET, "/api/v1/executions", None)?;
            print(json, &reply, show::executions)
        }
        Command::Kill { id } => {
            let id = id.parse::<crate::spec::ExecutionId>().map_err(|e| CliError::Usage(format!("ID {e}")))?;
            let reply = client()?.ask(Method::DELETE, &format!("/api/v1/executions/{id}"), None)?;
            print(json, &reply, |reply| format!("{} is being ended\n", show::text(&reply["execution_id"])))
        }
        Command::Explain { level } => {
            let text = explain::explain(level);
            let value = serde_json::json!({ "level": level.name(), "text": text });
            print(json, &value, |_| text.clone())
        }
        Command::Workspace(command) => workspace::workspace(&client()?, command, json),
        Command::Verify(args) => verify::verify(socket(cli.socket), &args, json),
        Command::Config(ConfigCommand::Check { file }) => check(file.as_deref(), json),
        Command::Completions { shell } => {
            out(&String::from_utf8_lossy(&pages::completions(shell)))?;
            Ok(0)
        }
        Command::Man { dir } => {
            pages::write(&dir).map_err(CliError::Output)?;
            Ok(0)
        }
        Command::Key(KeyCommand::New { principal }) => new_key(&principal, json),
    }
}

fn socket(given: Option<PathBuf>) -> PathBuf {
    given
        .or_else(|| std::env::var_os(SOCKET_VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from))
        .unwrap_or_else(|| DEFAULT_SOCKET.into())
}

fn check(file: Option<&Path>, json: bool) -> Result<u8, CliError> {
    // The installed file must be one that both halves take; of any other only the content is looked at.
    let source = Source::new(file.map(Path::to_owned), Overrides::default());
    let result = if file.is_none() { source.read_for_both() } else { source.read() };
    let (code, message) = match result {
        Ok(_) => (0, None),
        Err(error) => (EXIT_USAGE, Some(error.to_string())),
    };
    if json {
        out(&format!("{:#}\n", serde_json::json!({ "ok": code == 0, "error": message })))?;
    } else {
        match message {
            None => out("OK\n")?,
            // The parser's message shows the line it means; line feeds stay.
            Some(message) => message.lines().for_each(|line| eprintln!("{}", escape_controls(line))),
        }
    }
    Ok(code)
}

/// The key goes to standard output alone, so that it can be redirected without being shown.
fn new_key(principal: &str, json: bool) -> Result<u8, CliError> {
    let named = !principal.is_empty() && principal.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if !named {
        return Err(CliError::Usage("PRINCIPAL must be the name of a [[principals]] entry".into()));
    }
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|e| CliError::Runtime(std::io::Error::other(e)))?;
    let key = keys::key_text(random);
    let line = keys::line(principal, &key);
    if json {
        out(&format!("{:#}\n", serde_json::json!({ "key": key, "line": line })))?;
    } else {
        out(&format!("{key}\n"))?;
        eprintln!("Add this line to the file of keys ({DEFAULT_KEYS}) and restart sandkeepd:\n{line}");
    }
    Ok(0)
}

/// `reply` as JSON, or as `table` tells it.
fn print(json: bool, reply: &Value, table: impl FnOnce(&Value) -> String) -> Result<u8, CliError> {
    out(&if json { format!("{reply:#}\n") } else { table(reply) })?;
    Ok(0)
}

fn out(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever reads us has enough, as in `sandkeep ps | head -1`.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.map_err(CliError::Output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn limits_are_numbers() {
        assert_eq!(limit("max_memory_mb=64"), Ok(("max_memory_mb".into(), 64.into())));
        for bad in ["max_memory_mb", "a=b", "a=NaN", "a=\"1\"", "a="] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_journeys_words_are_understood() {
        for words in [
            "exec bash ls",
            "exec python - --level strict --timeout 2.5 --limit max_memory_mb=64 --json",
            "--socket /x call bash {}",
            "ps --json",
            "exec bash ls --workspace a",
            "workspace list",
            "workspace create a --size-mb 64",
            "workspace ls a d -r",
            "workspace get a b c",
            "workspace put a b",
            "workspace rm a b -r",
            "workspace unpack a d",
            "kill exe_1",
            "explain strict",
            "config check /x",
            "capabilities",
            "key new ci",
            "doctor --offline --json",
        ] {
            Cli::try_parse_from(["sandkeep"].into_iter().chain(words.split(' ')))
                .unwrap_or_else(|e| panic!("{words}: {e}"));
        }
        assert!(Cli::try_parse_from(["sandkeep", "explain", "safe"]).is_err());
        assert!(Cli::try_parse_from(["sandkeep", "exec", "perl", "1"]).is_err());
    }
}
