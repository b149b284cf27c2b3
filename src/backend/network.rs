//! Network namespaces for sandboxes: made for the first ones, and used again where the last sandbox provably left nothing
//! in them.
//!
//! To make and to destroy one costs more than all else about a sandbox. What a process without a capability can leave in
//! a network namespace, it leaves through internet sockets: counters, connections that linger, routes, flow labels. A
//! program on the cgroup subtree notes every such socket, of any family and success, before it can be used; a namespace
//! with a mark is destroyed. Of the other sockets that the profiles allow, netlink's can only ask, and Unix sockets end
//! with their last holder; that none of any family is left is looked up.
//!
//! Only the namespace's number and cookie come again. They tell of nobody.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use super::cgroup::Tree;
use crate::launch::{LaunchError, Step};
use crate::sys::bpf::SocketWatch;
use crate::sys::{net, process};

/// Namespaces that wait. Each holds some 220 KiB of the kernel's memory.
const KEPT: usize = 16;
/// Namespaces with a mark at a time: more than sandboxes can live.
const MARKS_MAX: u32 = 1 << 16;
/// How long the probe's cgroup may take to empty.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// `self` would do, too: the engine has one thread.
const PROC_NET: &str = "/proc/thread-self/net";

/// One that a sandbox has alone, with `lo` up. The host's: nobody inside has a right over it.
#[derive(Debug)]
pub struct NetworkNamespace {
    fd: OwnedFd,
    /// None on kernels that have none: such a namespace is never used again.
    cookie: Option<u64>,
    /// What it counted when it was new.
    counted: String,
}

#[derive(Debug)]
pub struct NetworkNamespaces {
    /// The engine's own.
    own: OwnedFd,
    /// Whether the engine can make them: raising `lo` takes a capability that a container may withhold.
    makes: bool,
    /// None where it can not be had or does not see what it must: then nothing is kept.
    watch: Option<SocketWatch>,
    waiting: RefCell<Vec<NetworkNamespace>>,
}

impl NetworkNamespace {
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl NetworkNamespaces {
    /// Sandboxes are watched through `tree`; without one, every sandbox gets a namespace that is made for it.
    pub fn open(tree: Option<&Tree>) -> Result<Self, LaunchError> {
        let own = File::open("/proc/thread-self/ns/net").step("read namespaces", "net")?.into();
        let mut all = Self { own, makes: true, watch: None, waiting: RefCell::new(Vec::new()) };
        if let Err(e) = all.make() {
            tracing::info!(error = %e, "each sandbox makes a network namespace of its own");
            return Ok(Self { makes: false, ..all });
        }
        match tree.map(|tree| all.watched(tree)) {
            // None is made ahead of the first sandboxes: to make and to end sixteen was half of an engine's start and stop.
            Some(Ok(watch)) => all.watch = Some(watch),
            Some(Err(e)) => tracing::info!(error = %e, "network namespaces are used once"),
            None => {}
        }
        Ok(all)
    }

    /// The engine's own, to return to.
    pub fn own(&self) -> BorrowedFd<'_> {
        self.own.as_fd()
    }

    /// One that nobody else has; none where the sandbox must make its own.
    pub fn take(&self) -> Result<Option<NetworkNamespace>, LaunchError> {
        if !self.makes {
            return Ok(None);
        }
        let waiting = self.waiting.borrow_mut().pop();
        // With a step of its own, so that one that waited can be made to fail as well.
        waiting.map_or_else(|| self.make(), Ok).map(Some).step("network namespace", "")
    }

    /// Of a sandbox of which no process is left.
    pub fn give_back(&self, namespace: NetworkNamespace) {
        // An error is no proof.
        if self.is_untouched(&namespace).unwrap_or(false) {
            return self.keep(namespace);
        }
        if let (Some(watch), Some(cookie)) = (&self.watch, namespace.cookie)
            && let Err(e) = watch.forget(cookie)
        {
            tracing::warn!(error = %e, "a mark of a network namespace could not be taken away");
        }
        drop(namespace);
        self.refill();
    }

    fn keep(&self, namespace: NetworkNamespace) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() < KEPT {
            waiting.push(namespace);
        }
    }

    /// Makes one in place of one that could not come again, where fewer wait than may.
    pub fn refill(&self) {
        if self.watch.is_none() || self.waiting.borrow().len() >= KEPT {
            return;
        }
        match self.make() {
            Ok(namespace) => self.keep(namespace),
            Err(e) => tracing::warn!(error = %e, "a network namespace could not be made ahead"),
        }
    }

    fn make(&self) -> io::Result<NetworkNamespace> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let made = net::raise_loopback().and_then(|()| {
            let fd = File::open("/proc/thread-self/ns/net")?.into();
            Ok(NetworkNamespace { fd, cookie: net::cookie().ok(), counted: counted() })
        });
        self.leave();
        made
    }

    /// Does `what` in `namespace`.
    fn within<T>(&self, namespace: &NetworkNamespace, what: impl FnOnce() -> T) -> io::Result<T> {
        setns(namespace.fd(), CloneFlags::CLONE_NEWNET)?;
        let done = what();
        self.leave();
        Ok(done)
    }

    fn leave(&self) {
        crate::launch::return_to(self.own());
    }

    fn is_untouched(&self, namespace: &NetworkNamespace) -> io::Result<bool> {
        let (Some(watch), Some(cookie)) = (&self.watch, namespace.cookie) else { return Ok(false) };
        let as_it_was = || Ok::<_, io::Error>(is_empty()? && counted() == namespace.counted);
        Ok(!watch.has_seen(cookie)? && self.within(namespace, as_it_was)??)
    }

    /// The watch, once it was seen to notice what it must and nothing else.
    fn watched(&self, tree: &Tree) -> Result<SocketWatch, LaunchError> {
        let watch = SocketWatch::attach(tree.fd(), MARKS_MAX).step("network namespace", "watch")?;
        for (family, name, noticed) in [
            (AddressFamily::Inet, "inet", true),
            (AddressFamily::Inet6, "inet6", true),
            (AddressFamily::Unix, "unix", false),
        ] {
            let seen = self.seen_opening(&watch, tree, family).step("network namespace", name)?;
            if seen.is_some_and(|seen| seen != noticed) {
                let error = io::Error::other("the watch does not tell sockets apart");
                return Err(error).step("network namespace", name);
            }
        }
        Ok(watch)
    }

    /// Whether `watch` has a mark after a process in a leaf of `tree` made a socket; none where the host has no such
    /// family.
    fn seen_opening(&self, watch: &SocketWatch, tree: &Tree, family: AddressFamily) -> io::Result<Option<bool>> {
        let namespace = self.make()?;
        let cookie = namespace.cookie.ok_or(io::ErrorKind::Unsupported)?;
        let leaf = tree.bare_leaf("probe").map_err(|e| e.source)?;
        let child = self.within(&namespace, || {
            process::clone(0, Some(leaf.fd()), || {
                let made = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
                process::exit_now(made.is_err().into())
            })
        });
        let status = child.and_then(|child| {
            let child = child?;
            Ok(waitid(Id::PIDFd(child.pidfd.as_fd()), WaitPidFlag::WEXITED)?)
        });
        leaf.remove_within(PROBE_WAIT).map_err(|e| e.source)?;
        let made = matches!(status?, nix::sys::wait::WaitStatus::Exited(_, 0));
        let seen = watch.has_seen(cookie)?;
        watch.forget(cookie)?;
        Ok(made.then_some(seen))
    }
}

/// Of the calling process's network namespace: no socket of any family but the kernel's own (those that a message in an
/// unreachable Unix socket still holds are counted, too), no packet ever on `lo` and no other interface.
fn is_empty() -> io::Result<bool> {
    let read = |file: &str| fs::read_to_string(format!("{PROC_NET}/{file}"));
    Ok(no_socket(&read("sockstat")?) && only_silent_lo(&read("dev")?))
}

/// What a question to a route socket changes without any internet socket: routes made for a processor, and, where the kernel
/// keeps statistics of its tries, how often they were asked. A file that the kernel does not have counts nothing.
fn counted() -> String {
    let read = |file: &str| fs::read_to_string(format!("{PROC_NET}/{file}")).unwrap_or_default();
    read("rt6_stats") + &read("fib_triestat")
}

fn no_socket(sockstat: &str) -> bool {
    sockstat.lines().next() == Some("sockets: used 0")
}

fn only_silent_lo(dev: &str) -> bool {
    let mut interfaces = dev.lines().skip(2);
    let lo = interfaces.next().and_then(|line| line.trim_start().strip_prefix("lo:"));
    lo.is_some_and(|counters| counters.split_whitespace().all(|c| c == "0")) && interfaces.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEV: &str = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n    lo: 0 0 0 0\n";

    #[test]
    fn an_interface_that_spoke_or_is_not_lo_is_seen() {
        assert!(only_silent_lo(DEV));
        assert!(!only_silent_lo(&DEV.replace("0 0 0 0", "0 0 1 0")));
        assert!(!only_silent_lo(&format!("{DEV}  eth0: 0 0 0 0\n")));
        assert!(!only_silent_lo("a\nb\n"));
    }

    #[test]
    fn a_socket_that_is_left_is_seen() {
        assert!(no_socket("sockets: used 0\nTCP: inuse 0 orphan 0 tw 0 alloc 5 mem 1\n"));
        assert!(!no_socket("sockets: used 1\nTCP: inuse 0 orphan 0 tw 0 alloc 5 mem 1\n"));
        assert!(!no_socket(""));
    }
}
