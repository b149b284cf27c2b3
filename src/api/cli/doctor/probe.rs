//! Running `sandkeep-engine --probe` and reading what it found.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::super::client::CliError;
use super::DoctorArgs;
use crate::spec::capped;
use crate::wire::{PACKET_BYTES_MAX, Probed, decode};

/// It takes milliseconds; a file system that hangs must not take us along.
const WAIT: Duration = Duration::from_secs(60);
const COMPLAINT_CHARS_MAX: usize = 2000;
const ENGINE: &str = "sandkeep-engine";
/// Where an installation puts it, if it does not lie beside this program.
const DIRECTORIES: [&str; 2] = ["/usr/bin", "/usr/local/bin"];

pub(super) fn run(args: &DoctorArgs) -> Result<Probed, CliError> {
    let engine = engine()?;
    let shown = engine.display();
    let mut command = Command::new(&engine);
    command.arg("--probe");
    for (flag, value) in [("--config", &args.config), ("--state-dir", &args.state_dir)] {
        if let Some(value) = value {
            command.arg(flag).arg(value);
        }
    }
    if args.allow_degraded {
        command.arg("--allow-degraded");
    }
    let cannot = |what: String| CliError::Usage(format!("{shown} --probe: {what}"));
    command.env_clear().env("RUST_LOG", "warn").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| cannot(e.to_string()))?;
    let (told, complaint) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let deadline = Instant::now() + WAIT;
    let status = loop {
        match child.try_wait().map_err(|e| cannot(e.to_string()))? {
            Some(status) => break status,
            None if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            None => {
                // It is told below that it did not end; what the kernel says to this adds nothing.
                let _ = child.kill();
                let _ = child.wait();
                return Err(cannot(format!("did not end within {} s", WAIT.as_secs())));
            }
        }
    };
    let left = || deadline.saturating_duration_since(Instant::now());
    let told = told.recv_timeout(left()).unwrap_or_default();
    let complaint = complaint.recv_timeout(left()).unwrap_or_default();
    if !status.success() {
        let complaint = capped(String::from_utf8_lossy(&complaint).trim_end(), COMPLAINT_CHARS_MAX);
        return Err(cannot(format!("{status}: {complaint}")));
    }
    decode(&told).map_err(|e| cannot(format!("{e}; is it of another version than {}?", env!("CARGO_PKG_VERSION"))))
}

fn engine() -> Result<PathBuf, CliError> {
    let own = std::env::current_exe().map_err(|e| CliError::Usage(format!("own program: {e}")))?;
    let beside = own.with_file_name(ENGINE);
    let installed = DIRECTORIES.iter().map(|directory| PathBuf::from(directory).join(ENGINE));
    std::iter::once(beside.clone()).chain(installed).find(|path| path.is_file()).ok_or_else(|| {
        CliError::Usage(format!("there is no {} and none in {}", beside.display(), DIRECTORIES.join(" or ")))
    })
}

/// Everything that is written there, up to a packet and a byte more.
fn collect(stream: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // What came until it failed is shown or refused by the decoder.
            let _ = stream.by_ref().take(PACKET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        let _ = sender.send(bytes);
    });
    receiver
}
