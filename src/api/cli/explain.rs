//! `explain`: what a level means, from the project's own table.

use crate::policy::table::table;
use crate::spec::Level;

/// The text for `level`. The one place that asks `policy`; nothing else of the command line does.
pub(super) fn explain(level: Level) -> String {
    let t = table(level);
    let mib = |bytes: u64| format!("{} MiB", bytes as f64 / (1024.0 * 1024.0));
    format!(
        "{level} ({})\n  memory {}, no swap\n  processes {}\n  cpu {} %\n  time {} s, at most {} s\n  open files {}\n  \
         one file {}\n  output kept of each stream {}\n",
        level.backend().name(),
        mib(t.memory_bytes.default),
        t.pids.default,
        f64::from(t.cpu_centipercent.default) / 100.0,
        t.wall_ms.default / 1000,
        t.wall_ms.most / 1000,
        t.open_files,
        mib(t.file_size_bytes.default),
        mib(t.output_bytes.default),
    )
}
