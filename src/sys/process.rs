//! Birth, signals and death of processes.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// From linux/sched.h; the libc crate's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// A child born by clone3.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// clone3 with `namespaces` (CLONE_NEW* flags), into the cgroup directory `cgroup` where given. The child is a copy of
/// this process, runs `body` and never comes back here: returning is a type error and a panic ends it.
///
/// The caller must be single-threaded: the child runs ordinary code, including the allocator.
pub fn clone(
    namespaces: libc::c_int,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> Infallible,
) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = libc::clone_args {
        flags: namespaces as u64 | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure is passed with its own size; `pidfd` outlives the call. Without CLONE_VM and with no stack
    // given, the child continues on its own copy of this stack, as after fork.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        run_child(body)
    }
    // SAFETY: CLONE_PIDFD stored a fresh descriptor, close-on-exec.
    Ok(Child { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// fork; the same rules as [`clone`].
pub fn fork(body: impl FnOnce() -> Infallible) -> io::Result<i32> {
    // SAFETY: single-threaded callers only, as documented.
    let pid = check(unsafe { libc::fork() }.into())?;
    if pid == 0 {
        run_child(body)
    }
    Ok(pid as i32)
}

/// Starts `body` in a child that is to become another program. Returns once it has, or has ended.
///
/// The child runs on a stack of its own in this process's memory, which is neither copied nor mapped anew, while this
/// process waits (CLONE_VM and CLONE_VFORK, as posix_spawn does it); descriptors and signal actions are its own. A
/// kernel that does not do that across time namespaces (before 6.3) gives it a copy, as fork.
///
/// The caller must be single-threaded. What `body` changes in memory stays changed, so it must give up nothing that the
/// caller still owns: it gets references only.
pub fn start(body: impl Fn() -> Infallible) -> io::Result<i32> {
    extern "C" fn enter<F: Fn() -> Infallible>(body: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `body` is the address of an F that lives on the waiting parent's stack until this process has its own
        // memory; it is only read.
        let body = unsafe { &*body.cast::<F>() };
        run_child(body)
    }
    fn address_of<F: Fn() -> Infallible>(body: &F) -> (extern "C" fn(*mut libc::c_void) -> libc::c_int, *const F) {
        (enter::<F>, body)
    }
    let (entry, argument) = address_of(&body);
    let stack = Stack::map()?;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack is mapped writable, used by nobody else, grows down from its top and stays mapped until the
    // call returns, when the child has left this memory. This process is single-threaded and stopped meanwhile, so the
    // child is the only one to run in it.
    match check(unsafe { libc::clone(entry, stack.top(), flags, argument.cast_mut().cast()) }.into()) {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => fork(body),
        result => result.map(|pid| pid as i32),
    }
}

/// Memory for a child's calls, with a page below that no overflow gets past.
struct Stack {
    start: *mut libc::c_void,
}

impl Stack {
    /// As a main thread's soft limit would be far more than a launch needs; only what is touched is real.
    const BYTES: usize = 1 << 20;
    const GUARD: usize = 4096;

    fn map() -> io::Result<Self> {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice; then its lowest page is made unusable.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), Self::BYTES, access, flags | libc::MAP_STACK, -1, 0);
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let stack = Self { start };
            check(libc::mprotect(start, Self::GUARD, libc::PROT_NONE).into())?;
            Ok(stack)
        }
    }

    fn top(&self) -> *mut libc::c_void {
        // SAFETY: one past the end of the mapping, whose size is a multiple of 16.
        unsafe { self.start.byte_add(Self::BYTES) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing points into it any more.
        unsafe { libc::munmap(self.start, Self::BYTES) };
    }
}

/// From now on the signal `number` is nothing to this process: a call that raised it tells only its error.
pub fn ignore(number: libc::c_int) -> io::Result<()> {
    // SAFETY: SIG_IGN runs no code.
    let before = unsafe { libc::signal(number, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Status of a child that panicked: nothing of the parent's frames may run a second time.
const PANICKED: i32 = 70;

fn run_child(body: impl FnOnce() -> Infallible) -> ! {
    struct ExitOnUnwind;
    impl Drop for ExitOnUnwind {
        fn drop(&mut self) {
            exit_now(PANICKED);
        }
    }
    let _guard = ExitOnUnwind;
    match body() {}
}

/// _exit: no destructors, no atexit handlers, no buffers flushed twice.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return and touches no memory.
    unsafe { libc::_exit(code) }
}

/// A descriptor of process `pid`, close-on-exec; readable once it has ended.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two numbers and touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0u32) })?;
    // SAFETY: the kernel has just installed it for this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Sends SIGKILL through `pidfd`; a process that is already gone is no error.
pub fn kill_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let null = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is documented as "as kill(2) would".
    match check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, null, 0u32) }) {
        Err(e) if e.raw_os_error() != Some(libc::ESRCH) => Err(e),
        _ => Ok(()),
    }
}

/// Sends SIGKILL to every process that this one may kill but itself: for the first process of a pid namespace, all others
/// in it. One that is being forked meanwhile is not born (kill(2), copy_process in the kernel).
pub fn kill_all_others() -> io::Result<()> {
    // SAFETY: takes two integers.
    match check(unsafe { libc::kill(-1, libc::SIGKILL) }.into()) {
        // There is none.
        Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result.map(drop),
    }
}

/// Waits until no child is left. Orphans are children of their pid namespace's first process.
pub fn reap_all() -> io::Result<()> {
    loop {
        // SAFETY: null pointers are documented as "do not tell".
        match check(unsafe { libc::wait4(-1, std::ptr::null_mut(), libc::__WALL, std::ptr::null_mut()) }.into()) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// How a child ended, with its own use of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    pub pid: i32,
    pub end: WaitEnd,
    /// User and system time of it and the children it waited for.
    pub cpu_us: u64,
    /// Largest resident set among them.
    pub max_rss_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitEnd {
    Exited(i32),
    Signaled(i32),
}

/// Reaps one child that has ended, or `None` where none has (or none is left).
pub fn reap_any() -> io::Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is valid; both structures outlive the call.
    let (pid, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage), usage)
    };
    match check(pid.into()) {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
        Err(e) => return Err(e),
    }
    let end = if libc::WIFSIGNALED(status) {
        WaitEnd::Signaled(libc::WTERMSIG(status))
    } else {
        WaitEnd::Exited(libc::WEXITSTATUS(status))
    };
    let us = |t: libc::timeval| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64;
    Ok(Some(Reaped {
        pid,
        end,
        cpu_us: us(usage.ru_utime) + us(usage.ru_stime),
        max_rss_bytes: usage.ru_maxrss as u64 * 1024,
    }))
}

/// Gives every signal its default action and unblocks all: a program must not inherit what its launcher ignores (the
/// Rust runtime ignores SIGPIPE) or blocks.
pub fn reset_signals() -> io::Result<()> {
    // The kernel's own structure: handler, flags, restorer, mask. All zero is the default action.
    const SET_BYTES: usize = 8;
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: reads one structure of the size that the kernel expects, which outlives the call. The C library's
        // function would refuse the two signals that it keeps for itself, and they would stay ignored; the kernel
        // refuses SIGKILL and SIGSTOP, which can not have been changed.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, &raw const default, std::ptr::null::<u64>(), SET_BYTES);
        }
    }
    // SAFETY: the mask is initialised before use and outlives the call.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        check(libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()).into()).map(drop)
    }
}

/// Replaces the program. Returns only the reason why it could not.
pub fn exec(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both arrays end in a null pointer and hold NUL-terminated strings that outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// setrlimit for both the soft and the hard limit.
pub fn limit(resource: Resource, value: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::setrlimit(resource.number(), &limit) }.into()).map(drop)
}

/// Lowers a limit to `value`; one that the host has set lower stays as it is.
pub fn lower(resource: Resource, value: u64) -> io::Result<()> {
    limit(resource, value.min(hard_limit(resource)?))
}

/// Raises the soft limit to the hard one, and says what it is.
pub fn raise(resource: Resource) -> io::Result<u64> {
    let hard = hard_limit(resource)?;
    limit(resource, hard).map(|()| hard)
}

/// The hard limit of this process.
pub fn hard_limit(resource: Resource) -> io::Result<u64> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    check(unsafe { libc::getrlimit(resource.number(), &mut now) }.into())?;
    Ok(now.rlim_max)
}

/// The resource limits that are used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Core,
    Data,
    FileSize,
    LockedMemory,
    MessageQueues,
    Nice,
    OpenFiles,
    Processes,
    RealtimePriority,
    PendingSignals,
}

impl Resource {
    fn number(self) -> libc::__rlimit_resource_t {
        match self {
            Resource::Core => libc::RLIMIT_CORE,
            Resource::Data => libc::RLIMIT_DATA,
            Resource::FileSize => libc::RLIMIT_FSIZE,
            Resource::LockedMemory => libc::RLIMIT_MEMLOCK,
            Resource::MessageQueues => libc::RLIMIT_MSGQUEUE,
            Resource::Nice => libc::RLIMIT_NICE,
            Resource::OpenFiles => libc::RLIMIT_NOFILE,
            Resource::Processes => libc::RLIMIT_NPROC,
            Resource::RealtimePriority => libc::RLIMIT_RTPRIO,
            Resource::PendingSignals => libc::RLIMIT_SIGPENDING,
        }
    }
}

/// A new session without a controlling terminal.
pub fn new_session() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// Where this process's own arguments lie, which /proc/PID/cmdline shows; found once, by the engine.
#[derive(Debug, Clone, Copy)]
pub struct Arguments {
    start: usize,
    end: usize,
}

impl Arguments {
    pub fn find() -> io::Result<Self> {
        let stat = procfs::process::Process::myself().and_then(|p| p.stat()).map_err(io::Error::other)?;
        let (start, end) = (stat.arg_start.unwrap_or(0), stat.arg_end.unwrap_or(0));
        Ok(Self { start: start as usize, end: (end as usize).max(start as usize) })
    }

    /// Overwrites them with `name`, in a fork that has no other use for them.
    pub fn overwrite(self, name: &str) {
        let room = self.end - self.start;
        if self.start == 0 || room == 0 {
            return;
        }
        let length = name.len().min(room - 1);
        // SAFETY: the kernel says that these bytes are the process's argument strings: writable memory at the top of its
        // stack that a fork inherits at the same address. They stay NUL-terminated, so whoever still points at one (the C
        // library's program name) reads a string; no Rust reference into them exists.
        unsafe {
            std::ptr::write_bytes(self.start as *mut u8, 0, room);
            std::ptr::copy_nonoverlapping(name.as_ptr(), self.start as *mut u8, length);
        }
    }
}

/// Landlock's ABI version, 0 where the kernel has none or it is switched off.
pub fn landlock_abi() -> u32 {
    landlock_version().unwrap_or(0)
}

/// Landlock's ABI version. ENOSYS: not built; EOPNOTSUPP: built, but switched off at boot (landlock_create_ruleset(2)).
pub fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    let null = std::ptr::null::<libc::c_void>();
    // SAFETY: with a null attribute, size 0 and this flag the call only answers a number (landlock_create_ruleset(2)).
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, null, 0usize, LANDLOCK_CREATE_RULESET_VERSION) };
    Ok(u32::try_from(check(abi)?).unwrap_or(0))
}

/// Leaves the time namespace for later children: offsets can still be written, this process itself stays.
pub fn unshare_time() -> io::Result<()> {
    // SAFETY: takes one integer.
    check(unsafe { libc::unshare(libc::CLONE_NEWTIME) }.into()).map(drop)
}

/// Seconds and nanoseconds of a clock.
pub fn clock(id: libc::clockid_t) -> io::Result<(i64, i64)> {
    // SAFETY: an all-zero timespec is valid and outlives the call.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        check(libc::clock_gettime(id, &mut now).into())?;
        Ok((now.tv_sec, now.tv_nsec))
    }
}

/// Allocations of `bytes` and more become mappings of their own, whose memory goes back to the kernel when they are freed.
/// glibc starts with 128 KiB and raises that to the largest such allocation ever freed (mallopt(3), "dynamic mmap
/// threshold"), so that a process which once held large texts keeps their memory. Other C libraries are left as they are.
pub fn map_allocations_from(bytes: i32) {
    // SAFETY: sets one number of the allocator's, which any thread may do at any time; it answers 0 for a number that it
    // does not take, and then nothing has changed.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, bytes)
    };
    #[cfg(not(target_env = "gnu"))]
    let _ = bytes;
}
