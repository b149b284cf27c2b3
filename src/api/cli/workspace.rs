//! `workspace`: directories that are kept between calls, and their files.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use clap::Subcommand;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{CliError, Client};
use super::{out, print, show};
use crate::spec::WorkspaceName;

const ROOT: &str = "/api/v1/workspaces";

#[derive(Subcommand)]
pub(super) enum WorkspaceCommand {
    /// List your workspaces
    List,
    /// Make one
    Create {
        name: WorkspaceName,
        /// What it may hold; the operator's number unless given
        #[arg(long, value_name = "MIB")]
        size_mb: Option<u32>,
    },
    /// Remove one with all that is in it
    Remove { name: WorkspaceName },
    /// List files
    Ls {
        name: WorkspaceName,
        /// A directory [default: the workspace itself]
        path: Option<String>,
        /// What is in the directories below, too
        #[arg(short, long)]
        recursive: bool,
    },
    /// Print a file, or put it into another
    Get {
        name: WorkspaceName,
        path: String,
        /// Where to [default: standard output]
        to: Option<PathBuf>,
    },
    /// Put a file, or standard input, into a workspace
    Put {
        name: WorkspaceName,
        path: String,
        /// Where from [default: standard input]
        from: Option<PathBuf>,
    },
    /// Remove a file or a directory
    Rm {
        name: WorkspaceName,
        path: String,
        /// A directory with all that is in it
        #[arg(short, long)]
        recursive: bool,
    },
    /// Print a directory as a tar archive
    Pack {
        name: WorkspaceName,
        /// [default: the workspace itself]
        path: Option<String>,
    },
    /// Unpack a tar archive from standard input
    Unpack {
        name: WorkspaceName,
        /// Into this directory [default: the workspace itself]
        path: Option<String>,
    },
}

/// Everything but what a path or a query takes as it is (RFC 3986).
fn escaped(text: &str, slashes: bool) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b) || (slashes && b == b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn file(name: &WorkspaceName, path: &str) -> String {
    format!("{ROOT}/{name}/files/{}", escaped(path.trim_start_matches('/'), true))
}

fn of_directory(name: &WorkspaceName, what: &str, path: Option<&str>) -> String {
    let query = path.map_or_else(String::new, |path| format!("?path={}", escaped(path, false)));
    format!("{ROOT}/{name}/{what}{query}")
}

pub(super) fn workspace(client: &Client, command: WorkspaceCommand, as_json: bool) -> Result<u8, CliError> {
    match command {
        WorkspaceCommand::List => print(as_json, &client.ask(Method::GET, ROOT, None)?, show::workspaces),
        WorkspaceCommand::Create { name, size_mb } => {
            let body = json!({ "name": name.as_str(), "size_mb": size_mb });
            let made = client.ask(Method::POST, ROOT, Some(&body))?;
            print(as_json, &made, |made| format!("{} is there\n", show::text(&made["name"])))
        }
        WorkspaceCommand::Remove { name } => removed(client, &format!("{ROOT}/{name}"), as_json),
        WorkspaceCommand::Ls { name, path, recursive } => {
            let mut at = of_directory(&name, "files", path.as_deref());
            if recursive {
                at += if path.is_some() { "&recursive=true" } else { "?recursive=true" };
            }
            print(as_json, &client.ask(Method::GET, &at, None)?, show::files)
        }
        WorkspaceCommand::Get { name, path, to } => match to {
            Some(to) => {
                // Beside it, so that a download that fails leaves what was there.
                let part = to.with_added_extension("part");
                let mut written = File::create(&part).map_err(CliError::Output)?;
                let done = client.download(&file(&name, &path), &mut written);
                let done = done.and_then(|()| std::fs::rename(&part, &to).map_err(CliError::Output));
                if done.is_err() {
                    // The failure above is what is told.
                    let _ = std::fs::remove_file(&part);
                }
                done.map(|()| 0)
            }
            None => client.download(&file(&name, &path), &mut io::stdout()).map(|()| 0),
        },
        WorkspaceCommand::Put { name, path, from } => {
            let from: Box<dyn Read + Send> = match from {
                Some(from) => Box::new(File::open(from).map_err(CliError::Input)?),
                None => Box::new(io::stdin()),
            };
            let put = client.upload(&file(&name, &path), from)?;
            print(as_json, &put, |put| format!("{} bytes\n", show::text(&put["bytes_written"])))
        }
        WorkspaceCommand::Rm { name, path, recursive } => {
            let query = if recursive { "?recursive=true" } else { "" };
            removed(client, &format!("{}{query}", file(&name, &path)), as_json)
        }
        WorkspaceCommand::Pack { name, path } => {
            client.download(&of_directory(&name, "archive", path.as_deref()), &mut io::stdout()).map(|()| 0)
        }
        WorkspaceCommand::Unpack { name, path } => {
            let taken = client.upload(&of_directory(&name, "archive", path.as_deref()), Box::new(io::stdin()))?;
            print(as_json, &taken, show::unpacked)
        }
    }
}

fn removed(client: &Client, path: &str, as_json: bool) -> Result<u8, CliError> {
    client.ask(Method::DELETE, path, None)?;
    if as_json {
        out(&format!("{:#}\n", Value::Object(serde_json::Map::new())))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped() {
        let name: WorkspaceName = "w".parse().unwrap();
        assert_eq!(file(&name, "/a b/ü?#"), "/api/v1/workspaces/w/files/a%20b/%C3%BC%3F%23");
        assert_eq!(of_directory(&name, "archive", Some("a/b")), "/api/v1/workspaces/w/archive?path=a%2Fb");
    }
}
