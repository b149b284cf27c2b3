//! Manual pages and shell completions, written from the command line's own definition so that they can not disagree with
//! it.

use std::io;
use std::path::Path;

use clap::{Command, CommandFactory, ValueEnum};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::Cli;
use crate::arguments::{Daemon, Engine};

const MANUAL: &str = "Sandkeep";
/// The configuration with every key and its default, as it is installed.
const EXAMPLE: &str = include_str!("../../../systemd/sandkeep.toml");

/// A section below those that the flags give: a heading, then entries of a term and what it is.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SANDKEEP: &[Section] = &[
    (
        "EXIT STATUS",
        &[
            ("0", "Done. exec and call: the command's own exit code was 0."),
            ("1 to 123", "exec and call: the command's own exit code."),
            ("2", "Also: the command line, or the file of config check, can not be understood."),
            ("124", "exec and call: the time was over."),
            ("125", "Nothing ran: the daemon could not be reached or refused, and says why."),
            ("128 and more", "exec and call: a signal, of this number less 128, ended the command."),
            ("137", "exec and call: also where a limit ended the sandbox, such as its memory."),
        ],
    ),
    ("ENVIRONMENT", &[("SANDKEEP_SOCKET", "The daemon's socket, where --socket is not given.")]),
    (
        "FILES",
        &[
            ("/run/sandkeep/sandkeep.sock", "The daemon's socket. Root and members of group sandkeep may call."),
            ("/etc/sandkeep/sandkeep.toml", "The daemon's settings; see sandkeep.toml(5)."),
        ],
    ),
];

const DAEMON: &[Section] = &[
    (
        "SIGNALS",
        &[
            ("SIGTERM", "Takes no more calls, lets those that run end for a short time, then ends them and says so."),
            ("SIGHUP", "Reads the settings again. Settings that can not be used change nothing; the log says why."),
        ],
    ),
    (
        "FILES",
        &[
            ("/etc/sandkeep/sandkeep.toml", "Settings; see sandkeep.toml(5)."),
            ("/run/sandkeep", "Sockets and journal; gone at reboot."),
            ("/var/lib/sandkeep", "State kept over restarts."),
        ],
    ),
];

/// Whatever a page names, the reader finds the rest from here.
const PAGES: [(&str, &str); 4] =
    [("sandkeep", "1"), ("sandkeep.toml", "5"), ("sandkeep-engine", "8"), ("sandkeepd", "8")];

/// Completions of the shells that Debian has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompletionShell {
    Bash,
    Zsh,
    Fish,
}

/// The completion script of `sandkeep` for `shell`.
pub fn completions(shell: CompletionShell) -> Vec<u8> {
    let shell = match shell {
        CompletionShell::Bash => Shell::Bash,
        CompletionShell::Zsh => Shell::Zsh,
        CompletionShell::Fish => Shell::Fish,
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "sandkeep", &mut script);
    script
}

/// Every page as its file's name and text.
pub fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    commands(&cli, &mut pages)?;
    for command in [Engine::command(), Daemon::command()] {
        pages.push(page(command, "8", DAEMON)?);
    }
    pages.push(("sandkeep.toml.5".into(), settings()?));
    Ok(pages)
}

/// Writes every page below `dir`, in the folders that man(1) expects, such as man1.
pub fn write(dir: &Path) -> io::Result<()> {
    for (name, text) in pages()? {
        let section = name.rsplit('.').next().unwrap_or("1");
        let folder = dir.join(format!("man{section}"));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(&name), text)?;
    }
    Ok(())
}

fn commands(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    // Exit codes and files are of the program as a whole; pages of its commands refer to that page.
    let sections = if command.get_name() == "sandkeep" { SANDKEEP } else { &[] };
    pages.push(page(command.clone(), "1", sections)?);
    command.get_subcommands().filter(|c| !c.is_hide_set()).try_for_each(|c| commands(c, pages))
}

fn page(command: Command, section: &str, sections: &[Section]) -> io::Result<(String, Vec<u8>)> {
    let has_subcommands = command.get_subcommands().any(|c| !c.is_hide_set());
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let man = Man::new(command)
        .section(section)
        .manual(MANUAL)
        // An empty one would be left out, and those after it move up.
        .date(" ")
        .source(concat!("Sandkeep ", env!("CARGO_PKG_VERSION")))
        .title(&title);
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if has_subcommands {
        man.render_subcommands_section(&mut text)?;
    }
    let mut rest = Roff::new();
    for (heading, entries) in sections {
        rest.control("SH", [*heading]);
        for (term, meaning) in *entries {
            rest.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
        }
    }
    see_also(&mut rest, &title);
    rest.to_writer(&mut text)?;
    Ok((format!("{title}.{section}"), text))
}

/// sandkeep.toml(5): the example with its comments is the reference.
fn settings() -> io::Result<Vec<u8>> {
    let mut roff = Roff::new();
    roff.control("TH", ["sandkeep.toml", "5", " ", concat!("Sandkeep ", env!("CARGO_PKG_VERSION")), MANUAL]);
    roff.control("SH", ["NAME"]).text([roman("sandkeep.toml - settings of Sandkeep")]);
    roff.control("SH", ["SYNOPSIS"]).text([bold("/etc/sandkeep/sandkeep.toml")]);
    roff.control("SH", ["DESCRIPTION"]).text([roman(
        "A TOML file that front and engine read. No key is required, and an unknown one is an error. \
         `sandkeep config check` tells whether a file can be used. Every key with its default:",
    )]);
    roff.control("PP", []).control("nf", []);
    for line in EXAMPLE.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    see_also(&mut roff, "sandkeep.toml");
    let mut text = Vec::new();
    roff.to_writer(&mut text)?;
    Ok(text)
}

fn see_also(roff: &mut Roff, this: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let others: Vec<_> = PAGES.into_iter().filter(|(name, _)| *name != this).collect();
    for (n, (name, section)) in others.iter().enumerate() {
        let end = if n + 1 < others.len() { ", " } else { "" };
        roff.text([bold(*name), roman(format!("({section}){end}"))]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Depth first, hidden ones left out: what a user can type.
    fn visible(command: &Command, prefix: &str, found: &mut Vec<String>) {
        for sub in command.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
            let name = format!("{prefix}-{}", sub.get_name());
            visible(sub, &name, found);
            found.push(name);
        }
    }

    #[test]
    fn every_command_has_a_page_and_every_flag_is_on_it() {
        let pages = pages().unwrap();
        let mut names = Vec::new();
        visible(&Cli::command(), "sandkeep", &mut names);
        assert!(
            names.contains(&"sandkeep-exec".into()) && names.contains(&"sandkeep-config-check".into()),
            "{names:?}"
        );
        let expected = names.iter().map(|n| format!("{n}.1"));
        let fixed = PAGES.iter().map(|(name, section)| format!("{name}.{section}"));
        let mut expected: Vec<String> = expected.chain(fixed).collect();
        let mut found: Vec<String> = pages.iter().map(|(name, _)| name.clone()).collect();
        expected.sort();
        found.sort();
        assert_eq!(found, expected);
        for command in [Cli::command(), Engine::command(), Daemon::command()] {
            let name = command.get_name().to_owned();
            let (_, text) = pages.iter().find(|(n, _)| n.rsplit_once('.').unwrap().0 == name).unwrap();
            let text = String::from_utf8_lossy(text).replace("\\-", "-");
            for flag in command.get_arguments().filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()) {
                assert!(text.contains(&format!("--{flag}")), "{name}: {flag}");
            }
            for flag in command.get_arguments().filter(|a| a.is_hide_set()).filter_map(|a| a.get_long()) {
                assert!(!text.contains(&format!("--{flag}")), "{name}: {flag} is hidden");
            }
        }
    }

    #[test]
    fn the_settings_page_holds_the_example() {
        let page = String::from_utf8(settings().unwrap()).unwrap();
        let plain: Vec<String> =
            page.lines().map(|l| l.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\&", "")).collect();
        for line in EXAMPLE.lines().filter(|l| !l.is_empty()) {
            assert!(plain.iter().any(|p| p == line), "{line}");
        }
    }
}
